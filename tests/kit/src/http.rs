//! Plain HTTP requests, one connection each. Fails the test unless a complete response arrives.

use std::net::SocketAddr;

use hyper::Method;
use serde_json::Value;
use tickgate_client::http::{HeaderMap, HttpRequest};

use crate::PATIENCE;

/// A server's response.
#[derive(Debug)]
pub struct TestResponse {
    /// The HTTP status.
    pub status: u16,
    /// The response headers.
    pub headers: HeaderMap,
    /// The complete body.
    pub body: String,
}

impl TestResponse {
    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The value of a header, if present and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends a request and reads the complete response.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<String>,
) -> TestResponse {
    answer(request(address, method, path, headers).body(body.unwrap_or_default())).await
}

/// The complete response to a request.
pub async fn answer(request: HttpRequest) -> TestResponse {
    match request.send().await {
        Ok(answer) => TestResponse { status: answer.status.as_u16(), headers: answer.headers, body: answer.body },
        Err(error) => panic!("no answer: {error}"),
    }
}

/// A request with a test's timeout.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    to(&format!("http://{address}{path}"), method, headers)
}

/// The same over https.
pub fn secure_request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    to(&format!("https://{address}{path}"), method, headers)
}

fn to(url: &str, method: &str, headers: &[(&str, &str)]) -> HttpRequest {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = HttpRequest::new(method, url).timeout(PATIENCE);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}
