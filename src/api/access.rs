//! Who may use the API, and how many at once. Never compares a key other than in constant time.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{Extensions, HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use tower_http::request_id::RequestId;

use super::{Problem, ProblemKind, Shared};
use crate::metrics::AuthFailure;

/// Lets requests with an API key through.
pub(super) async fn require_key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (reason, detail) = match api_key(request.headers()) {
        Some(key) if shared.verifier.is_api_key(key) => return next.run(request).await,
        Some(_) => (AuthFailure::ApiKey, "the api key is not one of this gateway's"),
        None => {
            let needed = "an api key is needed, as `Authorization: Bearer <key>` or `X-API-Key: <key>`";
            (AuthFailure::Missing, needed)
        }
    };
    shared.metrics.auth_failures_total.of(reason).inc();
    if let Some(left_out) = shared.refusals.admit(Instant::now()) {
        let left_out = Some(left_out).filter(|count| *count > 0);
        let Caller { address, request_id } = Caller::of(request.extensions());
        tracing::info!(address, request_id, reason = reason.as_str(), left_out, "api request refused");
    }
    Problem::new(ProblemKind::AuthRequired, detail).into_response()
}

/// Who sent a request, for the log.
#[derive(Debug)]
pub(super) struct Caller {
    /// The peer's address; none where the request did not come by TCP.
    pub(super) address: Option<String>,
    pub(super) request_id: Option<String>,
}

impl Caller {
    pub(super) fn of(extensions: &Extensions) -> Self {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let id = extensions.get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
        Self { address: peer.map(|peer| peer.0.ip().to_canonical().to_string()), request_id: id.map(str::to_owned) }
    }
}

/// Whether the request carries a valid API key; nothing is counted when it does not.
pub(super) fn has_key(shared: &Shared, headers: &HeaderMap) -> bool {
    api_key(headers).is_some_and(|key| shared.verifier.is_api_key(key))
}

/// Bounds the requests under way, so that a flood of them is refused instead of queued.
pub(super) async fn limit_requests(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = shared.requests.try_acquire() else {
        return overloaded("too many requests are under way").into_response();
    };
    next.run(request).await
}

/// The refusal of a replica that has enough to do.
pub(super) fn overloaded(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(ProblemKind::TryAgainLater, detail).retry_after(Duration::from_secs(1))
}

/// The text after `Bearer` in the `Authorization` header. The scheme is case-insensitive.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

fn api_key(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| headers.get("x-api-key")?.to_str().ok().filter(|key| !key.is_empty()))
}
