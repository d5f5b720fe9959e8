//! Server-Sent Events: the same pushes, one way. `GET /sse?channels=ticker:BTCUSDT,orders`; a browser that reconnects
//! sends `Last-Event-ID`, and gets what it missed.
//!
//! Events are encoded once for all readers, so none has an id of its own; after each piece of the stream comes an
//! event without data whose id holds the reader's cursors, in the order of the channels it asked for: all of them or
//! none. Never keeps a TCP connection whose reader takes nothing.

use std::{
    convert::Infallible,
    fmt::Write,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::BytesMut;
use hyper::{
    StatusCode,
    body::Frame,
    header::{self, HeaderMap, HeaderValue},
    http::request::Parts,
};
use tickgate_wire::{
    code::CloseCode,
    frame,
    model::{Class, Start, StreamId},
};
use tokio::sync::oneshot;

use super::{
    accept::HangUp,
    admission::{Admitted, Endpoint},
    gateway::Gateway,
    handshake,
    link::Link,
    problem::Problem,
    pulse::Pulse,
    query,
    subscriptions::Subscriptions,
};
use crate::{
    hub::{Close, FormKind, Outbox, ReplayLimits, Socket},
    metrics::{Disconnect, Handshake as Outcome},
    session::{Refused, Session, Wanted},
};

const LAST_EVENT_ID: &str = "last-event-id";

/// How long an ended stream may take to be read to its end.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a stream, or refuses it as plain HTTP: an `EventSource` can't see a reason either way.
pub(super) async fn open(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let refuse = |status, detail: &str| Problem::new(status, detail).into_response();
    let origins = &endpoint.gateway.config.server.allowed_origins;
    let origin = parts.headers.get(header::ORIGIN).cloned();
    if origin.as_ref().is_some_and(|origin| !origin.to_str().is_ok_and(|origin| handshake::is_allowed(origin, origins)))
    {
        endpoint.gateway.metrics.handshakes_total.of(Outcome::Origin).inc();
        return refuse(StatusCode::FORBIDDEN, "the origin is not allowed");
    }
    let channels = query::channels(parts.uri.query().unwrap_or_default());
    if channels.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "name the channels: ?channels=ticker:BTCUSDT,trades:BTCUSDT");
    }
    let max = endpoint.gateway.config.limits.subscriptions_max;
    if channels.len() > max {
        return refuse(StatusCode::BAD_REQUEST, &format!("a connection has at most {max} subscriptions"));
    }
    let Some(cursors) = cursors(&parts) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "Last-Event-ID holds cursors of this endpoint, such as 1763700000000-42",
        );
    };
    let credential = match handshake::http_credential(&parts) {
        Ok(credential) => credential,
        Err(malformed) => return refuse(malformed.status(), &malformed.to_string()),
    };
    let address = endpoint.gateway.address(peer.ip(), &parts.headers);
    match endpoint.admit(&credential, None, address).await {
        Ok(admitted) => {
            endpoint.gateway.metrics.handshakes_total.of(Outcome::Accepted).inc();
            let hang_up = parts.extensions.get::<HangUp>().cloned().unwrap_or_default();
            stream(endpoint, admitted, Asked { channels, cursors, origin, hang_up })
        }
        Err(refused) => {
            endpoint.gateway.metrics.handshakes_total.of(refused.outcome).inc();
            refused.into_response()
        }
    }
}

/// The cursors a reader comes back with; none for a new one, `None` when they are malformed.
fn cursors(parts: &Parts) -> Option<Vec<StreamId>> {
    match parts.headers.get(LAST_EVENT_ID) {
        None => Some(Vec::new()),
        Some(value) if value.is_empty() => Some(Vec::new()),
        Some(value) => value.to_str().ok()?.split(',').map(|cursor| cursor.parse().ok()).collect(),
    }
}

/// What a reader asked for, and how to be rid of it.
struct Asked {
    channels: Vec<String>,
    cursors: Vec<StreamId>,
    origin: Option<HeaderValue>,
    hang_up: HangUp,
}

fn stream(endpoint: Endpoint, admitted: Admitted, asked: Asked) -> Response {
    let Asked { channels, cursors, origin, hang_up } = asked;
    let gateway = endpoint.gateway.clone();
    let tasks = gateway.tasks.clone();
    let mut reader = Reader::new(endpoint, admitted);
    let (wanted, refused) = reader.resolve(&channels, &cursors, &gateway);
    if !cursors.is_empty() && cursors.len() != reader.counted {
        gateway.registry.closed(reader.link.session, reader.link.user());
        return Problem::new(StatusCode::BAD_REQUEST, "Last-Event-ID is of another list of channels").into_response();
    }
    let (ended, end) = oneshot::channel();
    let body = EventBody { link: reader.link.clone(), counted: reader.counted, _ended: ended };
    tasks.spawn("event stream", async move {
        reader.run(wanted, refused).await;
        // What is not read to its end now never will be.
        if tokio::time::timeout(LAST_WORDS_TIMEOUT, end).await.is_err() {
            hang_up.now();
        }
    });
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    allow(headers, origin);
    response
}

/// The origin was checked before; a page may read what it asked for.
fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// The task behind one stream.
struct Reader {
    endpoint: Endpoint,
    link: Arc<Link>,
    session: Session,
    subscriptions: Subscriptions,
    /// Cursors that each piece of the stream must tell.
    counted: usize,
    /// When it came.
    since: Instant,
    _permit: super::address::Permit,
}

impl Reader {
    fn new(endpoint: Endpoint, admitted: Admitted) -> Self {
        let Admitted { since, identity, session: id, permit, .. } = admitted;
        let gateway = &endpoint.gateway;
        let now_ms = gateway.clock.now_ms();
        let outbox = Outbox::new(Socket::Body(futures_util::task::AtomicWaker::new()), gateway.outboxes.clone());
        let mut pulse = Pulse::new(&gateway.config.session, now_ms, id.low_byte());
        let mut session = Session::new(id, endpoint.profile.clone(), None);
        if let Some(identity) = &identity {
            pulse.set_expiry(identity.expires_at, id.low_byte());
        }
        let link = Arc::new(Link::new(outbox, id, endpoint.profile.dialect, pulse, now_ms));
        if let Some(identity) = identity {
            link.set_user(identity.user.clone());
            // A new session has no user yet to differ from.
            let _ = session.identify(identity);
        }
        let limits = &gateway.config.limits;
        let replay = ReplayLimits::new(limits.replay_entries_max, limits.replay_bytes_max);
        let subscriptions = Subscriptions::new(FormKind::EventStream, replay);
        Self { endpoint, link, session, subscriptions, counted: 0, since, _permit: permit }
    }

    /// What the channels stand for. Cursors belong to those that have one, in the same order.
    fn resolve(&mut self, channels: &[String], cursors: &[StreamId], gateway: &Gateway) -> (Vec<Wanted>, Vec<Refused>) {
        let view = self.session.view(&gateway.rules);
        let (mut wanted, mut refused): (Vec<Wanted>, Vec<Refused>) = (Vec::new(), Vec::new());
        let mut cursors = cursors.iter().copied();
        let (mut private, mut counted) = (None, 0);
        let mut next = || {
            counted += 1;
            cursors.next()
        };
        let since = |cursor: Option<StreamId>| cursor.map_or(Start::Live, Start::Since);
        for channel in channels {
            let resolved = match view.resolve(channel) {
                Ok(resolved) => resolved,
                Err(reason) => {
                    refused.push(reason);
                    continue;
                }
            };
            let start = match resolved.rule.class {
                Class::State if resolved.rule.retain_max == 0 => Start::Snapshot { least: StreamId::ZERO },
                Class::State => Start::Snapshot { least: next().unwrap_or_default() },
                _ if resolved.rule.retain_max == 0 => Start::Live,
                _ if resolved.in_user_stream => *private.get_or_insert_with(|| since(next())),
                _ => since(next()),
            };
            wanted.push(Wanted { resolved, start, max_rate: None });
        }
        self.counted = counted;
        (wanted, refused)
    }

    async fn run(mut self, wanted: Vec<Wanted>, refused: Vec<Refused>) {
        let gateway = self.endpoint.gateway.clone();
        gateway.links.add(&self.link, self.since);
        self.endpoint.gauge.inc();
        gateway.registry.opened(super::upgrade::info(&self.link, &gateway.replica, &self.endpoint.profile.name));
        gateway.wheel.add(&self.link, 1_000);
        self.subscriptions.subscribe(&gateway.hub, &self.link, None, wanted, refused).await;
        // Cursors are told by their place: with one missing, the reader had better come again.
        if self.link.outbox.cursors().len() != self.counted {
            self.link.close(CloseCode::TryAgainLater, Disconnect::Internal, "a channel can't be followed now");
        } else if self.counted > 0 {
            // The cursors follow whatever is sent: a reader that is lost before the first push comes back to here.
            let mut nothing = BytesMut::new();
            frame::sse_comment(&mut nothing);
            self.link.outbox.send(nothing.freeze());
        }
        let close = self.serve().await;
        self.link.outbox.shut(None, true);
        if gateway.links.remove(&self.link) {
            gateway.registry.closed(self.link.session, self.link.user());
        }
        self.subscriptions.clear(&self.link.outbox);
        gateway.metrics.disconnects_total.of(close.cause).inc();
        self.endpoint.gauge.dec();
    }

    async fn serve(&mut self) -> Close {
        loop {
            let outbox = &self.link.outbox;
            let look = poll_fn(|cx| {
                outbox.register(cx);
                let look = outbox.look();
                if look.asked.is_some() || look.shut || look.lagging { Poll::Ready(look) } else { Poll::Pending }
            })
            .await;
            if let Some(close) = look.asked {
                return close;
            }
            if look.shut {
                return Close { code: 0, reason: String::new(), cause: Disconnect::IoError };
            }
            self.subscriptions.catch_up(&self.link.outbox).await;
        }
    }
}

/// The response body: pulls what waits. Its end is the reader's end.
struct EventBody {
    link: Arc<Link>,
    /// Cursors that are told together.
    counted: usize,
    /// Closes when the body is gone.
    _ended: oneshot::Sender<()>,
}

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(events) = std::task::ready!(self.link.outbox.poll_body(cx)) else { return Poll::Ready(None) };
        let mut piece = BytesMut::from(events);
        let cursors = self.link.outbox.cursors();
        // While subscriptions begin there are fewer: what a reader sent back of them could not be told apart.
        if !cursors.is_empty() && cursors.len() == self.counted {
            let mut id = String::from("id: ");
            for (at, cursor) in cursors.iter().enumerate() {
                // Writing into a string does not fail.
                let _ = write!(id, "{}{cursor}", if at > 0 { "," } else { "" });
            }
            id.push_str("\n\n");
            piece.extend_from_slice(id.as_bytes());
        }
        Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.link.outbox.ask_close(Close { code: 0, reason: String::new(), cause: Disconnect::Client });
    }
}
