//! One HTTP request to a gateway, for client verbs. Bounded in time and size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::Failure;

/// An answer is no larger.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A request to send.
pub(super) struct Call<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub api_key: Option<&'a str>,
    /// JSON; empty: none.
    pub body: String,
    pub timeout: Duration,
}

impl Call<'_> {
    /// Sends it and reads the answer.
    pub(super) async fn send(self) -> Result<(StatusCode, String), Failure> {
        let (url, timeout) = (self.url.to_owned(), self.timeout);
        let failed = |why: String| Failure::new(format!("{url}: {why}"));
        match tokio::time::timeout(timeout, self.exchange()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(failed(format!("no answer within {timeout:?}"))),
        }
    }

    async fn exchange(self) -> Result<(StatusCode, String), String> {
        let connector = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
        let mut request = Request::builder().method(self.method).uri(self.url);
        if let Some(key) = self.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::from(self.body))
            .map_err(|_| "wants an address such as http://127.0.0.1:8001".to_owned())?;
        let response = client.request(request).await.map_err(|error| cause(&error))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }
}

/// The innermost reason: "connection refused" says more than "client error".
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
