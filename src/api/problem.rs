//! Every refusal as problem details (RFC 9457), with the names of the wire contract. Never a token, a payload or an
//! internal message in it.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tickgate_wire::code::ProblemKind;

use crate::{backplane::Refusal, registry};

/// A refusal on its way out.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) kind: ProblemKind,
    /// What was wrong and what would be right, one sentence.
    pub(super) detail: String,
    /// How long to wait before the same request may succeed.
    pub(super) retry_after: Option<Duration>,
    /// The publication whose outcome is not known, to be sent again as it is.
    pub(super) msg_id: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, msg_id: None }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::InvalidMessage, detail)
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// A publication that was certainly not stored.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self::new(ProblemKind::TryAgainLater, format!("the publication was not stored: {refusal}"))
            .retry_after(Duration::from_secs(refusal_wait_secs(refusal)))
    }
}

/// How long each refusal usually lasts, in seconds: a full queue drains at once, a data set loads for a while, a full
/// memory or disk needs a person.
const fn refusal_wait_secs(refusal: Refusal) -> u64 {
    match refusal {
        Refusal::Overloaded | Refusal::Busy | Refusal::Disconnected | Refusal::NoReplicas => 1,
        Refusal::Loading | Refusal::ReadOnly => 5,
        Refusal::OutOfMemory | Refusal::Disk | Refusal::Denied => 30,
    }
}

impl From<registry::Unavailable> for Problem {
    fn from(error: registry::Unavailable) -> Self {
        tracing::debug!(%error, "the registry did not answer an api request");
        Self::new(ProblemKind::TryAgainLater, "the registry can't be reached now").retry_after(Duration::from_secs(1))
    }
}

impl From<crate::backplane::Unavailable> for Problem {
    fn from(error: crate::backplane::Unavailable) -> Self {
        tracing::debug!(%error, "a stream could not be read for an api request");
        Self::new(ProblemKind::TryAgainLater, "the history can't be read now").retry_after(Duration::from_secs(1))
    }
}

/// The document of RFC 9457 with our members.
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

impl Problem {
    /// The complete response. Called by the outermost layer, which knows the request's id.
    pub(super) fn render(&self, request_id: &str) -> Response {
        let (error, status) = (self.kind.name(), self.status());
        let document = Document {
            r#type: self.kind.urn(),
            title: status.canonical_reason().unwrap_or(error),
            status: status.as_u16(),
            detail: &self.detail,
            error,
            code: self.kind.code(),
            retry_after_ms: self.retry_after.map(millis),
            msg_id: self.msg_id.as_deref(),
            request_id,
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // The header counts whole seconds, and 0 would mean "at once".
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
        }
        if self.kind == ProblemKind::AuthRequired {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tickgate\""));
        }
        response
    }
}

/// A duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Leaves the problem in the response's extensions: the outermost layer renders it, with the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
