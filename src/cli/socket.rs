//! A WebSocket to a gateway, for client verbs: opened with a token, read as text, its end told by the rule of the
//! contract's codes. Never decides whether to come back.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tickgate_wire::code::{Reconnect, lookup, may_reconnect};
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

use super::Failure;

/// Without a sign of life for so long the connection counts as lost: three heartbeats of the default.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side may take to answer a Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It would end the same way again.
    Refused(Failure),
    /// It may be tried again, after the hinted time where there is one.
    Lost { why: String, hint: Option<Duration> },
}

impl End {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(Failure::new(why))
    }

    fn lost(why: impl Into<String>) -> Self {
        Self::Lost { why: why.into(), hint: None }
    }
}

/// What fails on this side fails again.
impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// For whoever does not come back.
impl From<End> for Failure {
    fn from(end: End) -> Self {
        match end {
            End::Refused(failure) => failure,
            End::Lost { why, .. } => Self::new(why),
        }
    }
}

/// An open connection.
pub(super) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Connects to an endpoint. The token goes in a header, since addresses end up in logs.
    pub(super) async fn open(url: &str, token: Option<&str>) -> Result<Self, End> {
        let request = request(url, token)?;
        match tokio::time::timeout(CONNECT_TIMEOUT, connect_async(request)).await {
            Ok(Ok((socket, _))) => Ok(Self(socket)),
            Ok(Err(Error::Http(response))) => Err(refusal(&response)),
            Ok(Err(Error::Url(error))) => Err(End::Refused(Failure::usage(error.to_string()))),
            Ok(Err(error)) => Err(End::lost(format!("can't connect: {error}"))),
            Err(_) => Err(End::lost(format!("can't connect within {CONNECT_TIMEOUT:?}"))),
        }
    }

    pub(super) async fn send(&mut self, text: String) -> Result<(), End> {
        self.0.send(Message::text(text)).await.map_err(|error| End::lost(format!("connection lost: {error}")))
    }

    /// The next message. Pings are answered by the library.
    pub(super) async fn next(&mut self) -> Result<String, End> {
        loop {
            let message = match tokio::time::timeout(SILENCE_MAX, self.0.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(End::lost(format!("connection lost: {error}"))),
                Ok(None) => return Err(End::lost("connection lost")),
                Err(_) => return Err(End::lost(format!("nothing heard for {SILENCE_MAX:?}"))),
            };
            match message {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(close) => return Err(closed(close.as_ref())),
                _ => {}
            }
        }
    }

    /// Says goodbye, and waits for the answer.
    pub(super) async fn close(mut self) -> Result<(), End> {
        let goodbye = async {
            self.0.close(None).await.map_err(|error| End::lost(format!("connection lost: {error}")))?;
            while let Some(Ok(_)) = self.0.next().await {}
            Ok(())
        };
        let late = |_| End::lost(format!("no answer to a close within {CLOSE_TIMEOUT:?}"));
        tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await.map_err(late)?
    }
}

fn request(url: &str, token: Option<&str>) -> Result<Request, Failure> {
    let wrong = |_| Failure::usage(format!("{url:?} is no address such as ws://127.0.0.1:8000/ws/market"));
    let mut request = url.into_client_request().map_err(wrong)?;
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|_| Failure::usage("the token holds characters that no token has"))?;
        value.set_sensitive(true);
        request.headers_mut().insert("authorization", value);
    }
    Ok(request)
}

/// What a closed connection means: the rule of the contract's codes.
fn closed(close: Option<&CloseFrame>) -> End {
    let Some(close) = close else { return End::lost("connection closed") };
    let number = u16::from(close.code);
    let name = lookup(number).map_or("unknown", |code| code.name);
    let reason = close.reason.as_str();
    let why = format!("closed {number} {name}{}{reason}", if reason.is_empty() { "" } else { ": " });
    let needs_token = lookup(number).is_some_and(|code| code.reconnect == Reconnect::WithNewToken);
    if may_reconnect(number) && !needs_token { End::lost(why) } else { End::refused(why) }
}

/// What a refused handshake means.
fn refusal(response: &Response) -> End {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = problem["detail"].as_str().map_or_else(String::new, |detail| format!(": {detail}"));
    let why = format!("refused with HTTP {status}{detail}");
    if status != 429 && !status.is_server_error() {
        return End::refused(why);
    }
    let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    End::Lost { why, hint: seconds.map(Duration::from_secs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_a_header_and_never_in_the_address() {
        let request = request("ws://127.0.0.1:9/ws/trading", Some("a.b.c")).unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer a.b.c");
        assert!(!request.uri().to_string().contains("a.b.c") && !format!("{request:?}").contains("a.b.c"));
    }

    fn after(number: u16) -> End {
        closed(Some(&CloseFrame { code: number.into(), reason: "so".into() }))
    }

    #[test]
    fn the_rule_of_the_codes_decides_whether_to_come_back() {
        for number in [1001, 1011, 1012, 1013, 4003, 4100, 4101, 4102, 4103, 4104] {
            assert!(matches!(after(number), End::Lost { .. }), "{number}");
        }
        for number in [1000, 1002, 1003, 1007, 1008, 1009, 4001, 4002, 4004, 4500, 4501, 4999] {
            assert!(matches!(after(number), End::Refused(_)), "{number}");
        }
        assert_eq!(Failure::from(after(4501)), Failure::new("closed 4501 superseded: so"));
    }

    #[test]
    fn a_refused_handshake_is_tried_again_when_the_gateway_says_so() {
        let response = |status: u16| {
            let mut response = Response::new(Some(br#"{"detail":"full"}"#.to_vec()));
            *response.status_mut() = status.try_into().unwrap();
            response.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
            response
        };
        assert!(matches!(refusal(&response(503)), End::Lost { hint: Some(hint), .. } if hint.as_secs() == 7));
        assert!(matches!(refusal(&response(429)), End::Lost { .. }));
        for status in [400, 401, 403, 404] {
            let why = Failure::from(refusal(&response(status))).text;
            assert!(why.ends_with(": full"), "{status}");
        }
    }
}
