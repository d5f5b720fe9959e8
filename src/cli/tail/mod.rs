//! `tickgate tail`: subscribes and prints, and after a broken connection gets what it missed. Also the shortest example
//! of a client that follows the contract: cursors, the reconnect rule, jittered back-off.

mod backoff;
mod cursors;
mod frame;
mod show;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        http::HeaderValue,
        protocol::CloseFrame,
    },
};

use self::{backoff::Backoff, cursors::Cursors, frame::Frame, show::Show};
use super::Failure;
use crate::{
    model::StreamId,
    protocol::code::{Reconnect, lookup, may_reconnect},
};

const EXAMPLES: &str = r#"Examples:
  tickgate tail ticker:BTCUSDT trades:BTCUSDT
  tickgate tail --url ws://127.0.0.1:8000/ws
  tickgate tail --url wss://gw.example.com/ws/trading --token "$TOKEN" orders
  tickgate tail trades:BTCUSDT --last 10 --count 10 --json

A line a message: channel, id, the JSON object. Notices go to standard error.
After a broken connection it comes back by itself and gets what it missed, from
the last id it has seen; close codes from 4500 on end it."#;

/// Without a sign of life for so long the connection counts as lost: three heartbeats of the default.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Subscribe to channels and print what arrives
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Channels of the endpoint; left out: those it subscribes by itself
    channels: Vec<String>,
    /// The endpoint
    #[arg(long, default_value = "ws://127.0.0.1:8000/ws/market")]
    url: String,
    /// Token
    #[arg(long, env = "TICKGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Begin after this id
    #[arg(long, value_name = "ID", conflicts_with = "last")]
    since: Option<StreamId>,
    /// Begin with the last messages of event channels
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End with the connection
    #[arg(long)]
    once: bool,
    /// Print every frame as it came, for programs
    #[arg(long)]
    json: bool,
}

/// How a connection ended.
enum End {
    /// As many messages as were asked for.
    Done,
    /// It would end the same way again.
    Refused(String),
    /// It may be tried again, after the hinted time where there is one.
    Lost { why: String, hint: Option<Duration> },
}

impl End {
    fn lost(why: impl Into<String>) -> Self {
        Self::Lost { why: why.into(), hint: None }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut tail = Tail::new(args);
    loop {
        let (why, hint) = match tail.follow().await? {
            End::Done => return Ok(()),
            End::Refused(why) => return Err(Failure::new(why)),
            End::Lost { why, .. } if tail.args.once => return Err(Failure::new(why)),
            End::Lost { why, hint } => (why, hint),
        };
        let wait = tail.backoff.next(hint, uuid::Uuid::new_v4().as_u128());
        eprintln!("{why}; again in {:.1} s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }
}

/// What outlives a connection.
struct Tail {
    args: Args,
    cursors: Cursors,
    show: Show,
    backoff: Backoff,
}

impl Tail {
    fn new(args: Args) -> Self {
        let cursors = Cursors::new(&args.channels, args.since);
        let show = Show::new(args.json, args.count);
        Self { args, cursors, show, backoff: Backoff::default() }
    }

    /// One connection, from its handshake to its end.
    async fn follow(&mut self) -> Result<End, Failure> {
        let request = self.request()?;
        let mut socket = match tokio::time::timeout(CONNECT_TIMEOUT, connect_async(request)).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(Error::Http(response))) => return Ok(refusal(&response)),
            Ok(Err(Error::Url(error))) => return Err(Failure::usage(error.to_string())),
            Ok(Err(error)) => return Ok(End::lost(format!("can't connect: {error}"))),
            Err(_) => return Ok(End::lost(format!("can't connect within {CONNECT_TIMEOUT:?}"))),
        };
        let mut hint = None;
        loop {
            let message = match tokio::time::timeout(SILENCE_MAX, socket.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Ok(End::Lost { why: format!("connection lost: {error}"), hint }),
                Ok(None) => return Ok(End::Lost { why: "connection lost".into(), hint }),
                Err(_) => return Ok(End::lost(format!("nothing heard for {SILENCE_MAX:?}"))),
            };
            match message {
                Message::Text(text) => {
                    let frame = Frame::read(&text);
                    hint = frame.reconnect_after().or(hint);
                    if let Some(end) = self.heard(&mut socket, &text, &frame).await? {
                        return Ok(end);
                    }
                }
                Message::Close(close) => return Ok(closed(close.as_ref(), hint)),
                // Pings are answered by the library.
                _ => {}
            }
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        let wrong =
            |_| Failure::usage(format!("{:?} is no address such as ws://127.0.0.1:8000/ws/market", self.args.url));
        let mut request = self.args.url.as_str().into_client_request().map_err(wrong)?;
        if let Some(token) = &self.args.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| Failure::usage("the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request.headers_mut().insert("authorization", value);
        }
        Ok(request)
    }

    /// Acts on one message of the gateway.
    async fn heard(&mut self, socket: &mut Socket, text: &str, frame: &Frame<'_>) -> Result<Option<End>, Failure> {
        match frame.kind() {
            "connection_established" => {
                self.backoff = Backoff::default();
                if let Some(subscribe) = self.cursors.subscribe(self.args.last)
                    && let Err(error) = socket.send(Message::text(subscribe)).await
                {
                    return Ok(Some(End::lost(format!("connection lost: {error}"))));
                }
            }
            "subscribed" => {
                if frame.nothing_subscribed() {
                    return Ok(Some(End::Refused(format!("nothing subscribed: {}", frame.refusals()))));
                }
                self.cursors.subscribed(frame);
            }
            _ => self.cursors.heard(frame),
        }
        let done = self.show.message(text, frame)?;
        Ok(done.then_some(End::Done))
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a closed connection means: the rule of the contract's codes.
fn closed(close: Option<&CloseFrame>, hint: Option<Duration>) -> End {
    let Some(close) = close else { return End::Lost { why: "connection closed".into(), hint } };
    let number = u16::from(close.code);
    let name = lookup(number).map_or("unknown", |code| code.name);
    let reason = close.reason.as_str();
    let why = format!("closed {number} {name}{}{reason}", if reason.is_empty() { "" } else { ": " });
    let needs_token = lookup(number).is_some_and(|code| code.reconnect == Reconnect::WithNewToken);
    if may_reconnect(number) && !needs_token { End::Lost { why, hint } } else { End::Refused(why) }
}

/// What a refused handshake means.
fn refusal(response: &Response) -> End {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = problem["detail"].as_str().map_or_else(String::new, |detail| format!(": {detail}"));
    let why = format!("refused with HTTP {status}{detail}");
    if status != 429 && !status.is_server_error() {
        return End::Refused(why);
    }
    let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    End::Lost { why, hint: seconds.map(Duration::from_secs) }
}
