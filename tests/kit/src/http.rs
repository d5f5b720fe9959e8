//! Plain HTTP requests, one connection each. Fails the test where there is no whole answer.

use std::net::SocketAddr;

use hyper::Method;
use serde_json::Value;
use tickgate_client::http::{HeaderMap, Request};

use crate::PATIENCE;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<String>,
) -> Answer {
    answer(request(address, method, path, headers).body(body.unwrap_or_default())).await
}

/// The whole answer to a request.
pub async fn answer(request: Request) -> Answer {
    match request.send().await {
        Ok(answer) => Answer { status: answer.status.as_u16(), headers: answer.headers, body: answer.body },
        Err(error) => panic!("no answer: {error}"),
    }
}

/// A request with a test's patience.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    to(&format!("http://{address}{path}"), method, headers)
}

/// The same by https.
pub fn secure_request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    to(&format!("https://{address}{path}"), method, headers)
}

fn to(url: &str, method: &str, headers: &[(&str, &str)]) -> Request {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = Request::new(method, url).timeout(PATIENCE);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}
