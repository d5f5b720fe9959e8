//! Refusals of handshakes as plain HTTP: problem details (RFC 9457). For clients that can read a status; browsers get a
//! close code instead.

use axum::response::Response;
use hyper::{HeaderMap, StatusCode, header};

/// One refusal.
#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub(super) status: StatusCode,
    /// What a WebSocket would have been closed with, and its name.
    pub(super) code: Option<(u16, &'static str)>,
    pub(super) detail: &'a str,
    pub(super) retry_after_s: Option<u64>,
    pub(super) headers: HeaderMap,
}

impl<'a> Problem<'a> {
    pub(super) fn new(status: StatusCode, detail: &'a str) -> Self {
        Self { status, code: None, detail, retry_after_s: None, headers: HeaderMap::new() }
    }

    pub(super) fn into_response(self) -> Response {
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some((number, name)) = self.code {
            body["code"] = number.into();
            body["error"] = name.into();
        }
        if let Some(seconds) = self.retry_after_s {
            body["retry_after_ms"] = (seconds * 1_000).into();
        }
        let mut response = Response::new(axum::body::Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        headers.extend(self.headers);
        response
    }
}
