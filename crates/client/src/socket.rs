//! One WebSocket connection to a gateway: opened with a token, read and written as text. Never decides whether to come
//! back.

use std::time::Duration;

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::HeaderMap;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{
        Error as Broken, Message,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
    },
};

use crate::{
    error::{Closed, Error, Refusal},
    headers::Headers,
};

/// Without a sign of life for so long the connection counts as lost, unless [`Opening::silence_max`] says otherwise:
/// three heartbeats of the gateway's default.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side may take to answer a Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

type Tungstenite = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A WebSocket connection to be opened.
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

    /// How long the gateway may be silent: then the connection counts as lost. Heartbeats and pings are signs of life.
    #[must_use]
    pub fn silence_max(mut self, silence_max: Duration) -> Self {
        self.silence_max = silence_max;
        self
    }

    /// Opens the connection, within 10 seconds.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unreachable`], [`Error::Refused`], or [`Error::Timeout`].
    pub async fn open(&self) -> Result<Socket, Error> {
        self.opened(connect_async(self.request()?)).await
    }

    /// Opens the connection over a TCP connection that stands already, without TLS.
    ///
    /// # Errors
    /// As [`Opening::open`].
    pub async fn open_over(&self, stream: TcpStream) -> Result<Socket, Error> {
        self.opened(client_async(self.request()?, MaybeTlsStream::Plain(stream))).await
    }

    async fn opened(
        &self,
        handshake: impl Future<Output = Result<(Tungstenite, Response), Broken>>,
    ) -> Result<Socket, Error> {
        let limit = CONNECT_TIMEOUT;
        match timeout(limit, handshake).await {
            Ok(Ok((inner, response))) => {
                let headers = response.into_parts().0.headers;
                Ok(Socket { inner, headers, silence_max: self.silence_max })
            }
            Ok(Err(Broken::Http(response))) => Err(Error::Refused(Box::new(refusal(*response)))),
            Ok(Err(Broken::Url(error))) => Err(Error::Invalid(error.to_string())),
            Ok(Err(error)) => Err(Error::Unreachable(error.to_string())),
            Err(_) => Err(Error::Timeout { what: "can't connect", limit }),
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

fn refusal(response: Response) -> Refusal {
    let (parts, body) = response.into_parts();
    let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    Refusal { status: parts.status, headers: parts.headers, body }
}

/// An open connection. Dropped, it is gone without a Close frame.
#[derive(Debug)]
pub struct Socket {
    inner: Tungstenite,
    headers: HeaderMap,
    silence_max: Duration,
}

impl Socket {
    /// The headers of the answer to the handshake.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection has ended.
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

    /// Sends a Close frame, and waits up to 5 seconds for the gateway's.
    ///
    /// # Errors
    /// The connection was lost, or the answer did not come in time.
    pub async fn close(mut self) -> Result<(), Error> {
        let limit = CLOSE_TIMEOUT;
        let goodbye = async {
            self.inner.close(None).await.map_err(|error| lost(&error))?;
            while let Some(Ok(_)) = self.inner.next().await {}
            Ok(())
        };
        timeout(limit, goodbye).await.unwrap_or(Err(Error::Timeout { what: "no answer to a close", limit }))
    }

    /// Two halves, for reading in one task and writing in another.
    #[must_use]
    pub fn split(self) -> (SocketSender, SocketReceiver) {
        let (sender, receiver) = self.inner.split();
        (SocketSender(sender), SocketReceiver { inner: receiver, silence_max: self.silence_max })
    }
}

/// The half of a [`Socket`] that writes.
#[derive(Debug)]
pub struct SocketSender(SplitSink<Tungstenite, Message>);

impl SocketSender {
    /// As [`Socket::send`].
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection has ended.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), Error> {
        self.0.send(Message::text(text.into())).await.map_err(|error| lost(&error))
    }

    /// Sends a Close frame; the other half receives what still comes, then the gateway's.
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection has ended.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.0.close().await.map_err(|error| lost(&error))
    }
}

/// The half of a [`Socket`] that reads. It also answers pings: keep reading.
#[derive(Debug)]
pub struct SocketReceiver {
    inner: SplitStream<Tungstenite>,
    silence_max: Duration,
}

impl SocketReceiver {
    /// As [`Socket::next`].
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
            Ok(None) => return Err(Error::Lost("the end of the stream".into())),
            Err(_) => return Err(Error::Timeout { what: "nothing received", limit }),
        };
        match message {
            Message::Text(text) => return Ok(text.as_str().to_owned()),
            Message::Close(frame) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                let reason = frame.map(|frame| frame.reason.as_str().to_owned()).unwrap_or_default();
                return Err(Error::Closed(Closed { code, reason }));
            }
            _ => {}
        }
    }
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
    fn what_can_not_be_sent_is_said() {
        for opening in [Opening::to("127.0.0.1"), Opening::to(""), Opening::to("ws://a/").token("a\nb")] {
            assert!(matches!(opening.request(), Err(Error::Invalid(_))), "{opening:?}");
        }
    }
}
