//! Authorization of API requests, and the limit on concurrent ones. Keys are only compared in constant time.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{Extensions, HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use tower_http::request_id::RequestId;

use super::{ApiShared, Problem, ProblemKind};
use crate::{
    audit::Caller,
    auth::ApiKey,
    config::Right,
    connection::accept::ClientCertificate,
    metrics::{AuthFailure, KeyUse, RateScope},
    tls,
};

/// What a group of routes requires of a key.
#[derive(Clone)]
pub(super) struct RouteGuard {
    pub(super) shared: Arc<ApiShared>,
    pub(super) right: Right,
}

/// Passes on requests whose key or client certificate has the right, and attaches the key to the request.
pub(super) async fn require_key(State(guard): State<RouteGuard>, mut request: Request, next: Next) -> Response {
    let RouteGuard { shared, right } = guard;
    let key = match key_of(&shared, request.headers(), request.extensions()) {
        Ok(key) => key,
        Err((reason, detail)) => {
            shared.metrics.auth_failures_total.of(reason).inc();
            shared.audit.refused_request(&caller(request.extensions()), reason);
            return Problem::new(ProblemKind::AuthRequired, detail).into_response();
        }
    };
    if !key.may(right) {
        shared.metrics.api_key_requests_total.of(&key.name, KeyUse::Forbidden).inc();
        let (name, right) = (&key.name, right.as_str());
        let caller = Caller { key: Some(name.clone()), ..caller(request.extensions()) };
        shared.audit.forbidden(&caller, right);
        let detail = format!("the API key {name} lacks the right {right}");
        return Problem::new(ProblemKind::Forbidden, detail).into_response();
    }
    // `?user=alice` next to a body would otherwise have no effect, and the publication would be another one.
    if request.method() != Method::GET && request.uri().query().is_some_and(|query| !query.is_empty()) {
        return Problem::invalid("this request has no parameters in its URL: everything is in the body")
            .into_response();
    }
    // Publications are counted individually.
    if right != Right::Publish
        && let Err(refused) = spend(&shared, &key)
    {
        return refused.into_response();
    }
    shared.metrics.api_key_requests_total.of(&key.name, KeyUse::Accepted).inc();
    request.extensions_mut().insert(key);
    next.run(request).await
}

/// The key of the request's `Authorization` or `X-API-Key` header or client certificate.
fn key_of(
    shared: &ApiShared,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Arc<ApiKey>, (AuthFailure, &'static str)> {
    if let Some(text) = api_key(headers) {
        return shared.verifier.api_key(text).ok_or((AuthFailure::ApiKey, "the API key is unknown"));
    }
    let certificate = extensions.get::<ClientCertificate>();
    let by_certificate =
        certificate.and_then(|shown| shared.verifier.certificate_key(|name| tls::names(&shown.0, name)));
    let needed = "an API key is required, as `Authorization: Bearer <key>` or `X-API-Key: <key>`";
    by_certificate.ok_or((AuthFailure::Missing, needed))
}

/// Counts one publication or request against the rate of its key.
pub(super) fn spend(shared: &ApiShared, key: &ApiKey) -> Result<(), Problem> {
    key.spend(Instant::now()).map_err(|wait| {
        shared.metrics.rate_limited_total.of(RateScope::Api).inc();
        shared.metrics.api_key_requests_total.of(&key.name, KeyUse::RateLimited).inc();
        let detail = format!("the API key {} exceeds its rate limit", key.name);
        Problem::new(ProblemKind::RateLimited, detail).retry_after(wait)
    })
}

/// The key with which the request was authorized.
pub(super) fn admitted_by(extensions: &Extensions) -> Result<Arc<ApiKey>, Problem> {
    // Every route that calls this is behind `require_key`.
    extensions.get().cloned().ok_or_else(|| Problem::new(ProblemKind::InternalError, "the request has no key"))
}

/// The sender of a request, for the audit log.
pub(super) fn caller(extensions: &Extensions) -> Caller {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let id = extensions.get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    Caller {
        key: extensions.get::<Arc<ApiKey>>().map(|key| key.name.clone()),
        address: peer.map(|peer| peer.0.ip().to_canonical()),
        request_id: id.map(str::to_owned),
    }
}

/// Whether the request carries a key with the right to read. A failure is not counted.
pub(super) fn may_read(shared: &ApiShared, headers: &HeaderMap) -> bool {
    api_key(headers).and_then(|text| shared.verifier.api_key(text)).is_some_and(|key| key.may(Right::Read))
}

/// Limits concurrent requests, so that a flood is refused instead of queued.
pub(super) async fn limit_requests(State(shared): State<Arc<ApiShared>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = shared.requests.try_acquire() else {
        return overloaded("too many concurrent requests").into_response();
    };
    next.run(request).await
}

/// The response of an overloaded replica.
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
