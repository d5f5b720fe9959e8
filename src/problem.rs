//! HTTP refusals as problem details (RFC 9457), with the names of the wire contract. Never contains a token, a payload
//! or an internal message.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tickgate_wire::code::ProblemKind;
use uuid::Uuid;

/// The header that carries a request's id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of an id accepted from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// A refusal to send.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Names the document.
    pub kind: ProblemKind,
    /// The kind's default, unless the refusal has another one.
    pub status: StatusCode,
    /// What is wrong and what is expected, in one sentence.
    pub detail: Cow<'static, str>,
    /// How long to wait before the same request may succeed.
    pub retry_after: Option<Duration>,
    /// The publication whose outcome is unknown, which should be retried unchanged.
    pub msg_id: Option<String>,
    /// Additional headers of the response.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Problem {
    /// A refusal with its kind's default status.
    pub fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { kind, status, detail: detail.into(), retry_after: None, msg_id: None, headers: &[] }
    }

    /// An invalid request.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::InvalidMessage, detail)
    }

    /// The same request may succeed after this time.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The complete response to the request with this id.
    #[must_use]
    pub fn render(&self, request_id: &str) -> Response {
        let name = self.kind.name();
        let document = Document {
            r#type: self.kind.urn(),
            title: self.status.canonical_reason().unwrap_or(name),
            status: self.status.as_u16(),
            detail: &self.detail,
            error: name,
            code: self.kind.code(),
            retry_after_ms: self.retry_after.map(millis),
            msg_id: self.msg_id.as_deref(),
            request_id,
        };
        let mut response = (self.status, Json(document)).into_response();
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        keep_private(headers);
        if let Some(wait) = self.retry_after {
            // The header has whole seconds, and 0 would mean "immediately".
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tickgate\""));
        }
        response
    }

    /// The response to a request with these headers, outside the layer that assigns request ids.
    #[must_use]
    pub fn respond(&self, request: &HeaderMap) -> Response {
        let own = request.get(REQUEST_ID).filter(|id| is_plain(id)).cloned();
        let id = own.or_else(fresh_id).unwrap_or_else(|| HeaderValue::from_static(""));
        let mut response = self.render(id.to_str().unwrap_or_default());
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
}

/// Prevents caching of the response, and content sniffing in browsers.
pub fn keep_private(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Whether a client's id can safely be repeated in a log or a document.
#[must_use]
pub fn is_plain(id: &HeaderValue) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(plain)
}

/// An id for a request without one.
#[must_use]
pub fn fresh_id() -> Option<HeaderValue> {
    HeaderValue::from_str(&Uuid::new_v4().simple().to_string()).ok()
}

/// A duration in whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The document of RFC 9457 with our extension members.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_id: Option<&'a str>,
    request_id: &'a str,
}

/// Leaves the problem in the response's extensions: the outermost layer renders it, with the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
