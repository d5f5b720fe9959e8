//! A refusal: its HTTP response or Close frame, and its log line. Never decides.

use std::{borrow::Cow, fmt, time::Duration};

use axum::response::Response;
use hyper::{HeaderMap, StatusCode};
use tickgate_wire::code::{CloseCode, ProblemKind};

use crate::{
    metrics::{AuthFailure, HandshakeResult},
    problem::Problem,
};

/// A refusal of a client.
pub(super) struct ClientRefusal {
    pub(super) status: StatusCode,
    pub(super) code: CloseCode,
    pub(super) reason: Cow<'static, str>,
    /// The invalid parameter.
    pub(super) field: Option<&'static str>,
    pub(super) outcome: HandshakeResult,
    pub(super) retry_after_s: Option<u64>,
    /// What is wrong with the token: only logged, not sent to the client.
    pub(super) detail: Option<AuthFailure>,
    /// Details for the client, where there is more room than in a Close frame.
    pub(super) cause: Option<String>,
}

impl ClientRefusal {
    pub(super) fn new(
        status: StatusCode,
        code: CloseCode,
        reason: impl Into<Cow<'static, str>>,
        outcome: HandshakeResult,
    ) -> Self {
        Self {
            status,
            code,
            reason: reason.into(),
            field: None,
            outcome,
            retry_after_s: None,
            detail: None,
            cause: None,
        }
    }

    /// The refusal of an invalid parameter.
    pub(super) fn malformed(reason: impl Into<Cow<'static, str>>, field: Option<&'static str>) -> Self {
        let refused =
            Self::new(StatusCode::BAD_REQUEST, CloseCode::InvalidMessage, reason, HandshakeResult::BadRequest);
        Self { field, ..refused }
    }

    pub(super) fn after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    pub(super) fn for_log(self, detail: AuthFailure) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// The text for the client, where there is room.
    pub(super) fn told(&self) -> Cow<'static, str> {
        self.cause.as_ref().map_or_else(|| self.reason.clone(), |cause| format!("{}: {cause}", self.reason).into())
    }

    /// The refusal as an HTTP response.
    pub(super) fn respond(self, request: &HeaderMap) -> Response {
        let retry_after = self.retry_after_s.map(Duration::from_secs);
        let problem = Problem::new(ProblemKind::of_close(self.code), self.told());
        Problem { status: self.status, retry_after, ..problem }.respond(request)
    }
}

/// The form in logs.
impl fmt::Display for ClientRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.detail.map_or(Ok(()), |detail| write!(f, " ({})", detail.as_str()))
    }
}
