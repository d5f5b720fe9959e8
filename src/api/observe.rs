//! The outermost layer: a request id, counting, panics caught, problems rendered. Never the query or a header in a log.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use uuid::Uuid;

use super::{Problem, ProblemKind, Shared};
use crate::metrics::{Route, StatusClass};

/// The header that carries the id, both ways.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

pub(super) async fn observe(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| Route::ALL.iter().find(|route| route.as_str() == path.as_str()))
        .copied()
        .unwrap_or(Route::Other);
    let id = request_id(request.headers());

    // A panic is a defect of one route; it must not take the connection of other requests with it.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        tracing::error!(route = route.as_str(), request_id = %id, "a request panicked");
        Problem::new(ProblemKind::InternalError, "the gateway failed; it is not your fault").into_response()
    });
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem.render(&id);
        if let Some(methods) = allow {
            response.headers_mut().insert(header::ALLOW, methods);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }

    let status = response.status();
    let elapsed = begun.elapsed();
    shared.metrics.http_requests_total.of((route, StatusClass::of(status.as_u16()))).inc();
    shared.metrics.http_request_duration_seconds.of(route).observe(elapsed.as_secs_f64());
    tracing::debug!(route = route.as_str(), status = status.as_u16(), request_id = %id, ?elapsed, "request");
    response
}

/// The client's own id where it is one we can repeat safely, a fresh one otherwise.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain))
        .map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned)
}
