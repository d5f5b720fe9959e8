//! HTTP requests to a gateway: one connection each, bounded in time and size, without redirects.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
pub use hyper::{HeaderMap, Method, StatusCode};
use hyper::{
    Uri,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, HeaderValue},
    http::uri::InvalidUri,
};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Builder, Client, Error as ClientError, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

use crate::{
    error::{Error, HttpRefusal},
    headers::Headers,
    trust::{ServerTrust, Servers},
};

/// Maximum size of a complete response, unless [`HttpRequest::body_bytes_max`] sets another: 4 MiB.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Timeout of an exchange, unless [`HttpRequest::timeout`] sets another.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// A request to send.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    method: Method,
    url: String,
    headers: Headers,
    body: Bytes,
    timeout: Duration,
    body_bytes_max: usize,
    trust: ServerTrust,
    connect_to: Option<SocketAddr>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Any status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The complete body, as text; invalid UTF-8 is replaced.
    pub body: String,
}

impl Response {
    /// This response if its status is a success (200 to 299).
    ///
    /// # Errors
    /// [`Error::Refused`] with any other status.
    pub fn success(self) -> Result<Self, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(Error::Refused(Box::new(HttpRefusal { status: self.status, headers: self.headers, body: self.body })))
    }
}

impl HttpRequest {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Headers::default(),
            body: Bytes::new(),
            timeout: TIMEOUT,
            body_bytes_max: BODY_BYTES_MAX,
            trust: ServerTrust::default(),
            connect_to: None,
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// A `POST` of JSON.
    #[must_use]
    pub fn post(url: impl Into<String>, json: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, url).header(CONTENT_TYPE.as_str(), "application/json").body(json)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Adds an API key or a token, as `Authorization: Bearer <key>`.
    #[must_use]
    pub fn bearer(mut self, key: &str) -> Self {
        self.headers.push_bearer(key);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the timeout of the exchange.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the maximum size of the response body, in bytes.
    #[must_use]
    pub fn body_bytes_max(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }

    /// For `https`, trusts only these authorities (certificates in PEM form). By default, those of the operating
    /// system.
    #[must_use]
    pub fn authorities(mut self, pem: impl Into<Bytes>) -> Self {
        self.trust.servers = Servers::SignedBy(pem.into());
        self
    }

    /// For `https`, trusts exactly the first of these certificates (PEM), regardless of its names and dates. For a
    /// server on this machine whose files are known.
    #[must_use]
    pub fn pinned(mut self, pem: impl Into<Bytes>) -> Self {
        self.trust.servers = Servers::Pinned(pem.into());
        self
    }

    /// Presents this certificate chain and its key (both PEM) to servers that request one.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Bytes>, key: impl Into<Bytes>) -> Self {
        self.trust.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Connects to this address (IP and port) instead of resolving the host, which the request still names. Only for
    /// `http`.
    #[must_use]
    pub fn connect_to(mut self, address: SocketAddr) -> Self {
        self.connect_to = Some(address);
        self
    }

    /// Sends it and reads the complete response, regardless of its status.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the request is invalid; [`Error::Unreachable`] if no connection could be established;
    /// [`Error::Lost`] or [`Error::Timeout`] if the response did not arrive, was incomplete, or too large: then the
    /// request may have been executed.
    pub async fn send(self) -> Result<Response, Error> {
        let (limit, bytes_max) = (self.timeout, self.body_bytes_max);
        let exchange = async {
            let (parts, body) = self.exchange().await?.into_parts();
            let body = Limited::new(body, bytes_max).collect().await;
            let body = body.map_err(|error| Error::Lost(error.to_string()))?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Response { status: parts.status, headers: parts.headers, body })
        };
        timeout(limit, exchange).await.unwrap_or(Err(Error::Timeout { what: "no answer", limit }))
    }

    /// Sends it and returns the response as soon as its head arrives, for bodies without an end.
    ///
    /// # Errors
    /// As [`HttpRequest::send`]; the timeout covers only the head.
    pub async fn stream(self) -> Result<Streaming, Error> {
        let limit = self.timeout;
        let response = timeout(limit, self.exchange()).await;
        let (parts, body) = response.unwrap_or(Err(Error::Timeout { what: "no answer", limit }))?.into_parts();
        Ok(Streaming { status: parts.status, headers: parts.headers, body })
    }

    async fn exchange(self) -> Result<hyper::Response<Incoming>, Error> {
        let url: Uri = self.url.parse().map_err(|_| no_address(&self.url))?;
        let secure = match (url.scheme_str(), url.host()) {
            (Some("http"), Some(_)) => false,
            (Some("https"), Some(_)) => true,
            _ => return Err(no_address(&self.url)),
        };
        let mut request = hyper::Request::new(Full::<Bytes>::from(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = url;
        self.headers.put(request.headers_mut())?;
        if let Some(address) = self.connect_to.filter(|_| !secure) {
            redirect(&mut request, address)?;
        }
        let response = if secure {
            let connector = HttpsConnectorBuilder::new().with_tls_config(self.trust.config()?);
            client().build(connector.https_only().enable_http1().build()).request(request).await
        } else {
            client().build(HttpConnector::new()).request(request).await
        };
        response.map_err(|error| failed(&error))
    }
}

/// A response whose body is still arriving. Dropping it closes the connection.
#[derive(Debug)]
pub struct Streaming {
    /// Any status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
}

impl Streaming {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection ended before the body.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| Error::Lost(innermost(&error)))?;
            // Trailers are ignored.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// Sends the request to an address, although it names its host.
fn redirect<B>(request: &mut hyper::Request<B>, address: SocketAddr) -> Result<(), Error> {
    let invalid = |error: &dyn std::fmt::Display| Error::Invalid(error.to_string());
    let mut parts = request.uri().clone().into_parts();
    let host = parts.authority.replace(address.to_string().parse().map_err(|error: InvalidUri| invalid(&error))?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| invalid(&error))?;
    let host =
        HeaderValue::from_str(host.as_ref().map_or("", |host| host.as_str())).map_err(|error| invalid(&error))?;
    request.headers_mut().entry(HOST).or_insert(host);
    Ok(())
}

/// A client that does not reuse connections.
fn client() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(0).retry_canceled_requests(false);
    builder
}

fn no_address(url: &str) -> Error {
    Error::Invalid(format!("{url:?} is not an address such as http://127.0.0.1:8001"))
}

fn failed(error: &ClientError) -> Error {
    let why = innermost(error);
    if error.is_connect() { Error::Unreachable(why) } else { Error::Lost(why) }
}

/// The innermost reason: "connection refused" is more useful than "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Responds to one request with these bytes, and returns the request.
    async fn exchanged(answer: &str, request: impl FnOnce(String) -> HttpRequest) -> (String, Result<Response, Error>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/path", listener.local_addr().unwrap());
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let len = socket.read(&mut asked).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..len]).into_owned()
        };
        tokio::join!(server, request(url).send())
    }

    #[tokio::test]
    async fn a_request_is_sent_as_built() {
        let answer = "HTTP/1.1 201 Created\r\nX-Marked: yes\r\nContent-Length: 2\r\n\r\nok";
        let (asked, response) = exchanged(answer, |url| HttpRequest::post(url, "{}").bearer("key")).await;
        let response = response.unwrap();
        assert_eq!((response.status.as_u16(), &*response.body), (201, "ok"));
        assert_eq!(response.headers["x-marked"], "yes");
        let asked = asked.to_lowercase();
        for line in ["post /path http/1.1\r\n", "content-type: application/json\r\n", "authorization: bearer key\r\n"] {
            assert!(asked.contains(line), "{line:?} in {asked}");
        }
    }

    #[tokio::test]
    async fn an_unsuccessful_response_is_an_error_if_requested() {
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n{\"detail\":\"no one\"}";
        let (_, response) = exchanged(answer, HttpRequest::get).await;
        let error = response.unwrap().success().unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
    }

    #[tokio::test]
    async fn an_incomplete_response_is_lost_and_a_missing_one_times_out() {
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
        let (_, response) = exchanged(half, HttpRequest::get).await;
        assert!(matches!(response, Err(Error::Lost(_))), "{response:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let response = HttpRequest::get(url).timeout(Duration::from_millis(20)).send().await;
        assert!(matches!(response, Err(Error::Timeout { .. })), "{response:?}");
    }

    #[tokio::test]
    async fn an_invalid_request_is_not_sent() {
        for url in ["", "localhost:1", "ftp://host/", "http://"] {
            assert!(matches!(HttpRequest::get(url).send().await, Err(Error::Invalid(_))), "{url:?}");
        }
        let request = HttpRequest::get("http://127.0.0.1:9/").header("x", "a\nb");
        assert!(matches!(request.send().await, Err(Error::Invalid(_))));
    }
}
