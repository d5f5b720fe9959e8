//! One connection to the exchange: opened at one of its addresses; reading never waits for the processing of frames.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{Error as SocketError, Message, Utf8Bytes, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{ladder::ConnectFailure, recording::Recording};
use crate::metrics::Metrics;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of sending to the exchange.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The exchange does not respond to a Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum frame size; a list of all subscriptions takes a quarter of it.
const FRAME_BYTES_MAX: usize = 128 << 10;
/// Disconnected for breaking the rules.
const POLICY_VIOLATION: u16 = 1008;
/// Wait after a refusal that does not give one.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// An event of a connection.
#[derive(Debug)]
pub(super) enum SocketEvent {
    Opened,
    Text(Utf8Bytes),
    Binary,
    /// A ping, which was answered immediately.
    Ping,
    Ended(ConnectFailure, String),
}

/// The destination of a connection, and the receiver of its events.
pub(super) struct ConnectionParts {
    pub id: u64,
    pub url: String,
    /// Index of the address, modulo the number of addresses.
    pub address: usize,
    pub events: mpsc::Sender<(u64, SocketEvent)>,
    pub recording: Option<Recording>,
    pub metrics: Arc<Metrics>,
    pub sent: LastSent,
}

/// When a message or a pong was last written.
pub(super) type LastSent = Arc<Mutex<Option<Instant>>>;

type ExchangeStream = WebSocketStream<MaybeTlsStream<TcpStream>>;
type FailureReport = (ConnectFailure, String);

/// Runs a connection until it ends, or until the sender of `messages` is dropped.
pub(super) async fn run(line: ConnectionParts, mut messages: mpsc::Receiver<String>) {
    let opened = tokio::select! {
        opened = timeout(CONNECT_TIMEOUT, open(&line)) => opened,
        // Nothing is sent before it is open.
        _ = messages.recv() => return,
    };
    let end = match opened.unwrap_or_else(|_| Err(ordinary("could not connect within 10 s"))) {
        Ok(mut socket) => {
            let _ = line.events.send((line.id, SocketEvent::Opened)).await;
            let end = serve(&line, &mut socket, &mut messages).await;
            if end.is_none() {
                let _ = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
            }
            end
        }
        Err(end) => Some(end),
    };
    if let Some((failure, why)) = end {
        let _ = line.events.send((line.id, SocketEvent::Ended(failure, why))).await;
    }
}

/// `None` if the connection was closed on purpose.
async fn serve(
    line: &ConnectionParts,
    socket: &mut ExchangeStream,
    messages: &mut mpsc::Receiver<String>,
) -> Option<FailureReport> {
    loop {
        let frame = tokio::select! {
            message = messages.recv() => {
                let text = message?;
                if let Err(end) = within(SEND_TIMEOUT, socket.send(Message::text(text))).await {
                    return Some(end);
                }
                *line.sent.lock() = Some(Instant::now());
                continue;
            }
            frame = socket.next() => frame,
        };
        let event = match frame {
            Some(Ok(Message::Text(text))) => {
                if let Some(recording) = &line.recording {
                    recording.frame(&text);
                }
                SocketEvent::Text(text)
            }
            Some(Ok(Message::Binary(_))) => SocketEvent::Binary,
            Some(Ok(Message::Ping(_))) => {
                // The library has queued the pong; it must not wait for the next write.
                if let Err(end) = within(SEND_TIMEOUT, socket.flush()).await {
                    return Some(end);
                }
                *line.sent.lock() = Some(Instant::now());
                SocketEvent::Ping
            }
            Some(Ok(Message::Close(frame))) => {
                let is_rules = frame.as_ref().is_some_and(|frame| u16::from(frame.code) == POLICY_VIOLATION);
                let failure = if is_rules { ConnectFailure::Rules } else { ConnectFailure::Ordinary };
                return Some((failure, frame.map_or_else(|| "closed".into(), |frame| format!("closed: {frame}"))));
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Some(ordinary(error)),
            None => return Some(ordinary("the connection ended")),
        };
        hand_on(line, event);
    }
}

/// Never waits: what does not fit is dropped, and the ids reveal it.
fn hand_on(line: &ConnectionParts, event: SocketEvent) {
    if line.events.try_send((line.id, event)).is_err() {
        line.metrics.feed_frames_dropped_total.inc();
    }
}

async fn within(time: Duration, sent: impl Future<Output = Result<(), SocketError>>) -> Result<(), FailureReport> {
    match timeout(time, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ordinary(error)),
        Err(_) => Err(ordinary("the exchange is not reading")),
    }
}

fn ordinary(why: impl std::fmt::Display) -> FailureReport {
    (ConnectFailure::Ordinary, why.to_string())
}

async fn open(line: &ConnectionParts) -> Result<ExchangeStream, FailureReport> {
    let request = line.url.as_str().into_client_request().map_err(ordinary)?;
    let uri = request.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    // Resolved for each attempt: an outdated address may be the cause of the failure.
    let addresses: Vec<_> = lookup_host((host, port))
        .await
        .map_err(|error| ordinary(format_args!("cannot resolve the host: {error}")))?
        .collect();
    let address = addresses.get(line.address % addresses.len().max(1)).ok_or_else(|| ordinary("no address"))?;
    let stream = TcpStream::connect(address).await.map_err(ordinary)?;
    let _ = stream.set_nodelay(true);
    let limits =
        WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
    let opened = client_async_tls_with_config(request, stream, Some(limits), None).await;
    opened.map(|(socket, _)| socket).map_err(|error| refusal(&error))
}

fn refusal(error: &SocketError) -> FailureReport {
    let SocketError::Http(response) = error else { return ordinary(error) };
    let status = response.status();
    let demanded = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let failure = match status.as_u16() {
        451 | 403 => ConnectFailure::Restricted,
        429 | 418 => ConnectFailure::Limited(demanded.map_or(RETRY_AFTER, Duration::from_secs)),
        _ => ConnectFailure::Ordinary,
    };
    (failure, format!("refused with HTTP {status}"))
}
