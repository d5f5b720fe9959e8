//! Middleware for every HTTP request: a request id, metrics, rendered problems, and a response even if the route
//! panics.

use std::{any::Any, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::request_id::{MakeRequestId, RequestId};

use super::{ApiShared, LifecyclePhase, Problem, ProblemKind};
use crate::{
    connection::query,
    metrics::{RouteLabel, StatusClass},
    problem::{self, REQUEST_ID},
};

/// Creates an id for a request that has none.
#[derive(Clone, Copy)]
pub(super) struct FreshId;

impl MakeRequestId for FreshId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        problem::fresh_id().map(RequestId::new)
    }
}

/// Removes a client's request id that is not safe to repeat in logs or responses.
pub(super) async fn keep_plain_id(mut request: Request) -> Request {
    if request.headers().get(REQUEST_ID).is_some_and(|id| !problem::is_plain(id)) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Refuses a URL whose percent-encoding is not valid UTF-8: replacement characters would make it name something else.
pub(super) async fn check_text(request: Request, next: Next) -> Response {
    let uri = request.uri();
    let problem = if !query::is_text(uri.path()) {
        "the path is not valid UTF-8"
    } else if !query::is_text(uri.query().unwrap_or_default()) {
        "the query is not valid UTF-8"
    } else {
        return next.run(request).await;
    };
    Problem::invalid(problem).into_response()
}

/// The response for a route that panicked, so that other requests on the connection continue.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::new(ProblemKind::InternalError, "internal error of the gateway").into_response()
}

pub(super) async fn observe(State(shared): State<Arc<ApiShared>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| RouteLabel::ALL.iter().find(|route| route.as_str() == path.as_str()))
        .copied()
        .unwrap_or(RouteLabel::Other);
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or("");
    let id = id.to_owned();

    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if problem.kind == ProblemKind::InternalError {
            let (route, detail) = (route.as_str(), &problem.detail);
            tracing::error!(route, request_id = %id, %detail, "request failed with an internal error");
        }
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem.render(&id);
        if let Some(methods) = allow {
            response.headers_mut().insert(header::ALLOW, methods);
        }
    }

    problem::keep_private(response.headers_mut());
    if shared.lifecycle.phase() == LifecyclePhase::Draining {
        // A kept-alive connection would keep its publisher on this draining replica.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status();
    let elapsed = begun.elapsed();
    shared.metrics.http_requests_total.of((route, StatusClass::of(status.as_u16()))).inc();
    shared.metrics.http_request_duration_seconds.of(route).observe(elapsed.as_secs_f64());
    tracing::debug!(route = route.as_str(), status = status.as_u16(), request_id = %id, ?elapsed, "request");
    response
}
