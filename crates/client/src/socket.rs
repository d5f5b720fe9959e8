//! One WebSocket connection to a gateway: opened with a token, read and written as text. Does not decide whether to
//! reconnect.

use std::time::Duration;

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::HeaderMap;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_with_config, connect_async_with_config,
    tungstenite::{
        Error as Broken, Message,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    defect::{OmittedRule, is},
    error::{Closed, Error, HttpRefusal},
    headers::Headers,
};

/// Silence after which the connection counts as lost, unless [`Opening::silence_max`] sets another time: three
/// heartbeats of the gateway's default.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the peer may take to respond to a Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

type Tungstenite = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Maximum message size, in bytes. Messages of a gateway have at most 1 MiB; those of other servers may be larger.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

fn config() -> WebSocketConfig {
    let most = if is(OmittedRule::SmallMessages) { 64 << 10 } else { MESSAGE_BYTES_MAX };
    WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most))
}

/// What arrived on a connection.
#[derive(Debug)]
pub(crate) enum IncomingFrame {
    Text(String),
    /// A ping, which is answered, or a pong.
    SignOfLife,
    Binary,
}

/// A WebSocket connection to open.
#[derive(Clone, Debug)]
pub struct Opening {
    url: String,
    headers: Headers,
    silence_max: Duration,
}

impl Opening {
    /// To an endpoint, such as `wss://gateway.example.com/ws/trading`.
    #[must_use]
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: url.into(), headers: Headers::default(), silence_max: SILENCE_MAX }
    }

    /// With a token. It is sent in a header, because addresses end up in logs.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.headers.push_bearer(token);
        self
    }

    /// With a header of the handshake.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    pub(crate) fn headers(mut self, headers: &Headers) -> Self {
        self.headers = headers.clone();
        self
    }

    /// Opens the connection, without a time limit.
    pub(crate) async fn connect(&self) -> Result<ClientSocket, Error> {
        let handshake = connect_async_with_config(self.request()?, Some(config()), true);
        handshake.await.map_err(refused).map(|opened| self.socket(opened))
    }

    fn socket(&self, (inner, response): (Tungstenite, Response)) -> ClientSocket {
        ClientSocket { inner, headers: response.into_parts().0.headers, silence_max: self.silence_max }
    }

    /// Sets how long the gateway may be silent before the connection counts as lost. Heartbeats and pings are signs of
    /// life.
    #[must_use]
    pub fn silence_max(mut self, silence_max: Duration) -> Self {
        self.silence_max = silence_max;
        self
    }

    /// Opens the connection, within 10 seconds.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unreachable`], [`Error::Refused`], or [`Error::Timeout`].
    pub async fn open(&self) -> Result<ClientSocket, Error> {
        self.opened(connect_async_with_config(self.request()?, Some(config()), true)).await
    }

    /// Opens the connection over an existing TCP connection, without TLS.
    ///
    /// # Errors
    /// As [`Opening::open`].
    pub async fn open_over(&self, stream: TcpStream) -> Result<ClientSocket, Error> {
        let stream = MaybeTlsStream::Plain(stream);
        self.opened(client_async_with_config(self.request()?, stream, Some(config()))).await
    }

    async fn opened(
        &self,
        handshake: impl Future<Output = Result<(Tungstenite, Response), Broken>>,
    ) -> Result<ClientSocket, Error> {
        let limit = CONNECT_TIMEOUT;
        match timeout(limit, handshake).await {
            Ok(opened) => opened.map_err(refused).map(|opened| self.socket(opened)),
            Err(_) => Err(Error::Timeout { what: "cannot connect", limit }),
        }
    }

    fn request(&self) -> Result<Request, Error> {
        let wrong =
            || Error::Invalid(format!("{:?} is not an address such as ws://127.0.0.1:8000/ws/market", self.url));
        let mut request = self.url.as_str().into_client_request().map_err(|_| wrong())?;
        if !matches!(request.uri().scheme_str(), Some("ws" | "wss")) {
            return Err(wrong());
        }
        self.headers.put(request.headers_mut())?;
        Ok(request)
    }
}

fn refused(error: Broken) -> Error {
    match error {
        Broken::Http(response) => Error::Refused(Box::new(refusal(*response))),
        Broken::Url(error) => Error::Invalid(error.to_string()),
        error => Error::Unreachable(error.to_string()),
    }
}

fn refusal(response: Response) -> HttpRefusal {
    let (parts, body) = response.into_parts();
    let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    HttpRefusal { status: parts.status, headers: parts.headers, body }
}

/// An open connection. Dropping it closes it without a Close frame.
#[derive(Debug)]
pub struct ClientSocket {
    inner: Tungstenite,
    headers: HeaderMap,
    silence_max: Duration,
}

impl ClientSocket {
    /// The headers of the handshake response.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection has ended.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), Error> {
        self.inner.send(Message::text(text.into())).await.map_err(|error| lost(&error))
    }

    /// The next text message. Pings are answered; a binary message, which no gateway sends, is ignored. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Lost`], or [`Error::Timeout`] after [`Opening::silence_max`].
    pub async fn next(&mut self) -> Result<String, Error> {
        next(&mut self.inner, self.silence_max).await
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Lost`].
    pub(crate) async fn frame(&mut self) -> Result<IncomingFrame, Error> {
        match self.inner.next().await {
            Some(Ok(message)) => frame(message),
            Some(Err(error)) => Err(lost(&error)),
            None => Err(end_of_stream()),
        }
    }

    /// Sends a Close frame with 1000, and waits up to 5 seconds for the gateway's.
    ///
    /// # Errors
    /// The connection was lost, or the response did not arrive in time.
    pub async fn close(self) -> Result<(), Error> {
        self.close_within(CLOSE_TIMEOUT).await
    }

    pub(crate) async fn close_within(mut self, limit: Duration) -> Result<(), Error> {
        let goodbye = async {
            let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            self.inner.close(Some(normal)).await.map_err(|error| lost(&error))?;
            while let Some(Ok(_)) = self.inner.next().await {}
            Ok(())
        };
        timeout(limit, goodbye).await.unwrap_or(Err(Error::Timeout { what: "no response to the Close frame", limit }))
    }

    /// Two halves, for reading in one task and writing in another.
    #[must_use]
    pub fn split(self) -> (SocketSender, SocketReceiver) {
        let (sender, receiver) = self.inner.split();
        (SocketSender(sender), SocketReceiver { inner: receiver, silence_max: self.silence_max })
    }
}

/// The writing half of a [`ClientSocket`].
#[derive(Debug)]
pub struct SocketSender(SplitSink<Tungstenite, Message>);

impl SocketSender {
    /// As [`ClientSocket::send`].
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection has ended.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), Error> {
        self.0.send(Message::text(text.into())).await.map_err(|error| lost(&error))
    }

    /// Sends a Close frame; the other half receives the remaining messages, then the gateway's Close frame.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection has ended.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.0.close().await.map_err(|error| lost(&error))
    }
}

/// The reading half of a [`ClientSocket`]. It also answers pings: keep reading.
#[derive(Debug)]
pub struct SocketReceiver {
    inner: SplitStream<Tungstenite>,
    silence_max: Duration,
}

impl SocketReceiver {
    /// As [`ClientSocket::next`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Lost`], or [`Error::Timeout`] after [`Opening::silence_max`].
    pub async fn next(&mut self) -> Result<String, Error> {
        next(&mut self.inner, self.silence_max).await
    }
}

async fn next<S>(stream: &mut S, limit: Duration) -> Result<String, Error>
where
    S: StreamExt<Item = Result<Message, Broken>> + Unpin,
{
    loop {
        let message = match timeout(limit, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(lost(&error)),
            Ok(None) => return Err(end_of_stream()),
            Err(_) => return Err(Error::Timeout { what: "nothing received", limit }),
        };
        if let IncomingFrame::Text(text) = frame(message)? {
            return Ok(text);
        }
    }
}

fn frame(message: Message) -> Result<IncomingFrame, Error> {
    match message {
        Message::Text(text) => Ok(IncomingFrame::Text(text.as_str().to_owned())),
        Message::Binary(_) => Ok(IncomingFrame::Binary),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(IncomingFrame::SignOfLife),
        Message::Close(frame) => {
            let code = frame.as_ref().map(|frame| frame.code.into());
            let reason = frame.map(|frame| frame.reason.as_str().to_owned()).unwrap_or_default();
            Err(Error::Closed(Closed { code, reason }))
        }
    }
}

fn end_of_stream() -> Error {
    Error::Lost("end of stream".into())
}

fn lost(error: &Broken) -> Error {
    Error::Lost(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_in_a_header_and_never_shown() {
        let opening = Opening::to("ws://127.0.0.1:9/ws/trading").token("a.b.c");
        let request = opening.request().unwrap();
        assert_eq!(request.headers()["authorization"], "Bearer a.b.c");
        assert!(!request.uri().to_string().contains("a.b.c") && !format!("{request:?}{opening:?}").contains("a.b.c"));
    }

    #[test]
    fn an_invalid_input_is_an_error() {
        for opening in [Opening::to("127.0.0.1"), Opening::to(""), Opening::to("ws://a/").token("a\nb")] {
            assert!(matches!(opening.request(), Err(Error::Invalid(_))), "{opening:?}");
        }
    }
}
