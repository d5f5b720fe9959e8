//! Server-Sent Events: the same pushes in one direction, at `GET /sse?channels=ticker:BTCUSDT,orders`. A browser that
//! reconnects sends `Last-Event-ID` and receives what it missed.
//!
//! Events are encoded once for all readers, so none has its own id. Instead, an event without data follows each batch;
//! its id contains the reader's cursors in the order of the requested channels, all of them or none. Never keeps a TCP
//! connection open if the reader does not read.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use hyper::{
    body::Frame,
    header::{self, HeaderMap, HeaderValue},
    http::request::Parts,
};
use tickgate_wire::{
    code::{CloseCode, ErrorCode, ProblemKind},
    command::SubscribeOptions,
    event_stream,
    model::{Class, StartAt, StreamId},
};
use tokio::sync::oneshot;

use super::{
    abort::AbortHandle,
    admission::{Admitted, Endpoint, no_descriptor},
    attempt::{self, Attempt, ConnectionId},
    echo::CommandEcho,
    ending,
    event_cursors::EventCursors,
    handle::ConnectionHandle,
    handshake::{self, Credential},
    http_stream::Backpressure,
    opening, query,
    spares::SpareConnection,
    state::Connection,
};
use crate::{
    hub::{Close, OutboxSocket},
    metrics::{DisconnectReason, HandshakeResult},
    problem::{self, Problem},
    session::{ChannelContext, ChannelRefusal, RequestedChannel},
};

const LAST_EVENT_ID: &str = "last-event-id";

/// How long a client may take to read the rest of an ended stream.
const LAST_EVENTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a stream, or refuses it with an HTTP response. An `EventSource` cannot read the reason.
pub(super) async fn open(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let address = endpoint.replica.address(peer.ip(), &parts.headers);
    let attempt = Attempt { connection_id: ConnectionId::random(), address };
    if parts.extensions.get::<SpareConnection>().is_some() {
        return endpoint.refuse(attempt, &parts.headers, no_descriptor());
    }
    let place = match endpoint.take_place(attempt) {
        Ok(place) => place,
        Err(refused) => return endpoint.refuse(attempt, &parts.headers, refused),
    };
    let asked = match StreamQuery::read(&parts, &endpoint) {
        Ok(asked) => asked,
        Err(problem) => {
            let foreign = problem.kind == ProblemKind::Policy;
            let outcome = if foreign { HandshakeResult::Origin } else { HandshakeResult::BadRequest };
            let reason = if foreign { attempt::foreign_origin(&parts.headers) } else { problem.detail.to_string() };
            endpoint.note_refusal(attempt, outcome, reason);
            return problem.respond(&parts.headers);
        }
    };
    match endpoint.admit(&asked.credential, None, attempt, place).await {
        Ok(admitted) => {
            endpoint.replica.metrics.handshakes_total.of(HandshakeResult::Accepted).inc();
            stream(endpoint, admitted, asked, &parts)
        }
        Err(refused) => endpoint.refuse(attempt, &parts.headers, refused),
    }
}

/// The parameters of a request.
struct StreamQuery {
    channels: Vec<query::Name>,
    /// The cursors of a resuming client; empty for a new one.
    cursors: Vec<StreamId>,
    /// The path parameter.
    param: Option<Box<str>>,
    origin: Option<HeaderValue>,
    credential: Credential,
    /// Names of parameters without a meaning here, bounded.
    ignored: Vec<String>,
}

/// The parameters of a stream.
const PARAMETERS: [&str; 3] = ["channels", "token", "ticket"];

impl StreamQuery {
    fn read(parts: &Parts, endpoint: &Endpoint) -> Result<Self, Problem> {
        let config = &endpoint.replica.config;
        let mut origins = parts.headers.get_all(header::ORIGIN).iter();
        let origin = origins.next().cloned();
        if origins.next().is_some() {
            return Err(Problem::invalid("the request has more than one Origin header"));
        }
        let is_allowed = |origin: &str| handshake::is_allowed(origin, &parts.headers, &config.server.allowed_origins);
        if origin.as_ref().is_some_and(|origin| !origin.to_str().is_ok_and(is_allowed)) {
            return Err(Problem::new(ProblemKind::Policy, "the origin is not allowed"));
        }
        let invalid_param = |reason| Problem::new(ProblemKind::NotFound, reason);
        let param = endpoint.param(parts.uri.path()).map_err(invalid_param)?;
        let max = config.limits.subscriptions_max;
        let text = parts.uri.query().unwrap_or_default();
        if let Some((name, _)) = query::pairs(text).find(|(name, _)| matches!(*name, "since" | "last")) {
            let detail = format!("`{name}` cannot apply to an event stream: resume with Last-Event-ID");
            return Err(Problem::invalid(detail));
        }
        let channels = query::channels(text, max)
            .ok_or_else(|| Problem::invalid(format!("a connection has at most {max} subscriptions")))?;
        if channels.is_empty() {
            return Err(Problem::invalid("name the channels: ?channels=ticker:BTCUSDT,trades:BTCUSDT"));
        }
        let cursors = cursors(&parts.headers, max).ok_or_else(|| {
            Problem::invalid("Last-Event-ID holds cursors of this endpoint, such as 1763700000000-42")
        })?;
        let credential = handshake::http_credential(parts)
            .map_err(|malformed| Problem::new(malformed.kind(), malformed.to_string()))?;
        let credential = match credential {
            // A reader sends nothing after its request, so no token can follow.
            Credential::Deferred => Credential::None,
            other => other,
        };
        let ignored = query::others(text, &PARAMETERS);
        Ok(Self { channels, cursors, param, origin, credential, ignored })
    }
}

/// The cursors of a resuming reader. `None` if they are malformed or more than `max`.
fn cursors(headers: &HeaderMap, max: usize) -> Option<Vec<StreamId>> {
    match headers.get(LAST_EVENT_ID) {
        None => Some(Vec::new()),
        Some(value) if value.is_empty() => Some(Vec::new()),
        Some(value) => {
            let read = |cursor: &str| cursor.parse().ok();
            let cursors: Vec<_> = value.to_str().ok()?.split(',').take(max + 1).map(read).collect::<Option<_>>()?;
            (cursors.len() <= max).then_some(cursors)
        }
    }
}

fn stream(endpoint: Endpoint, admitted: Admitted, asked: StreamQuery, parts: &Parts) -> Response {
    let hang_up = parts.extensions.get::<AbortHandle>().cloned().unwrap_or_default();
    let backpressure = parts.extensions.get::<Backpressure>().cloned().unwrap_or_default();
    let replica = endpoint.replica.clone();
    let view = ChannelContext {
        profile: &endpoint.profile,
        param: asked.param.as_deref(),
        identity: admitted.identity.as_ref(),
        topics: &replica.rules.topics,
        development: replica.rules.development,
    };
    let selection = SelectedChannels::new(view, &asked);
    let cursors = EventCursors::new(selection.of_values.clone());
    if !asked.cursors.is_empty() && asked.cursors.len() != cursors.count() {
        endpoint.withdraw(&admitted);
        return Problem::invalid("Last-Event-ID belongs to another list of channels").respond(&parts.headers);
    }
    if selection.wanted.iter().any(|wanted| wanted.resolved.rule.class == Class::State) {
        backpressure.limit();
    }
    let ignored = Vec::new();
    let request =
        opening::OpenParameters { param: asked.param, begin: SubscribeOptions::default(), ignored, explicit: false };
    let connection = opening::open(endpoint, admitted, request, OutboxSocket::Body(AtomicWaker::new()));
    let (ended, end) = oneshot::channel();
    let body = EventBody { handle: connection.handle.clone(), backpressure, cursors, _ended: ended };
    replica.tasks.spawn("event stream", async move {
        serve(connection, selection, CommandEcho { id: None, ignored: asked.ignored }).await;
        // After the timeout, the rest is discarded.
        if tokio::time::timeout(LAST_EVENTS_TIMEOUT, end).await.is_err() {
            hang_up.now();
        }
    });
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    problem::keep_private(headers);
    // Disables buffering in nginx.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    allow(headers, asked.origin);
    response
}

/// Allows the page to read the response: its origin is already checked.
fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// The resolved channels of a request.
#[derive(Debug, Default)]
struct SelectedChannels {
    wanted: Vec<RequestedChannel>,
    refused: Vec<ChannelRefusal>,
    /// For each of the reader's cursors, whether its channel has values.
    of_values: Vec<bool>,
}

impl SelectedChannels {
    /// Cursors are in the order of the channels that have one; private channels share a cursor.
    fn new(view: ChannelContext<'_>, asked: &StreamQuery) -> Self {
        let mut selection = Self::default();
        let mut cursors = asked.cursors.iter().copied();
        let mut private = None;
        let since = |cursor: Option<StreamId>| cursor.map_or(StartAt::Live, StartAt::Since);
        for channel in &asked.channels {
            let resolved = match channel {
                Ok(name) => view.resolve(name),
                Err(raw) => {
                    Err(ChannelRefusal::new(raw, ErrorCode::InvalidMessage, "not a name: it is not valid UTF-8"))
                }
            };
            let resolved = match resolved {
                Ok(resolved) => resolved,
                Err(reason) => {
                    selection.refused.push(reason);
                    continue;
                }
            };
            let is_state = resolved.rule.class == Class::State;
            let mut next = || {
                selection.of_values.push(is_state);
                cursors.next()
            };
            let start = match resolved.rule.class {
                Class::State if resolved.rule.retain_max == 0 => StartAt::Snapshot { least: StreamId::ZERO },
                Class::State => StartAt::Snapshot { least: next().unwrap_or_default() },
                _ if resolved.rule.retain_max == 0 => StartAt::Live,
                _ if resolved.in_user_stream => *private.get_or_insert_with(|| since(next())),
                _ => since(next()),
            };
            selection.wanted.push(RequestedChannel { resolved, start, max_rate: None, restarts: false });
        }
        selection
    }
}

/// The task of one stream.
async fn serve(mut connection: Connection, selection: SelectedChannels, echo: CommandEcho) {
    let SelectedChannels { wanted, refused, of_values } = selection;
    let counted = of_values.len();
    connection.subscribe(&echo, wanted, refused).await;
    drop(echo);
    let handle = connection.handle.clone();
    // Cursors are identified by their position: if one is missing, the reader has to retry.
    if handle.outbox.cursors().len() != counted {
        handle.close(CloseCode::TryAgainLater, DisconnectReason::Internal, "a channel is currently unavailable");
    } else if counted > 0 {
        // Cursors are sent even without events: a reader that disconnects before the first push can resume from here.
        let mut nothing = BytesMut::new();
        event_stream::comment(&mut nothing);
        handle.outbox.send(nothing.freeze());
    }
    let close = until_closed(&mut connection).await;
    // Sends what is queued, then the reason for closing.
    handle.outbox.shut(Some(handle.closing(&close)).filter(|notice| !notice.is_empty()), true);
    ending::end(connection, close.cause);
}

async fn until_closed(connection: &mut Connection) -> Close {
    loop {
        let outbox = &connection.handle.outbox;
        let status = poll_fn(|cx| {
            outbox.register(cx);
            let status = outbox.status();
            if status.asked.is_some() || status.shut || status.lagging { Poll::Ready(status) } else { Poll::Pending }
        })
        .await;
        if let Some(close) = status.asked {
            return close;
        }
        if status.shut {
            return Close::none(DisconnectReason::IoError);
        }
        connection.catch_up().await;
    }
}

/// The response body, which takes events from the outbox. Dropped when the client disconnects.
struct EventBody {
    handle: Arc<ConnectionHandle>,
    backpressure: Backpressure,
    cursors: EventCursors,
    /// Closes the connection when the body is dropped.
    _ended: oneshot::Sender<()>,
}

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes_max = ready!(self.backpressure.poll_room(cx));
        let polled = self.handle.outbox.poll_body(cx, bytes_max);
        self.backpressure.handed(matches!(polled, Poll::Ready(Some(_))));
        let Some(events) = ready!(polled) else { return Poll::Ready(None) };
        let mut piece = BytesMut::from(events);
        let outbox = &self.handle.outbox;
        let (cursors, more) = (outbox.cursors(), outbox.waiting_bytes() > 0);
        self.cursors.append(&mut piece, &cursors, more);
        Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.handle.outbox.ask_close(Close::none(DisconnectReason::Client));
    }
}
