//! Routes for machines, without a key: health, liveness, readiness, metrics and the OpenAPI document. Never waits for
//! Redis.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{ApiShared, Facts, NotReady, Problem, ProblemKind, ReadinessReport, live, nothing_here, status::timestamp};

/// The OpenAPI document of the HTTP API.
pub(super) const OPENAPI: &str = include_str!("../../docs/openapi.json");

impl ApiShared {
    fn readiness(&self) -> ReadinessReport {
        let facts = Facts {
            phase: self.lifecycle.phase(),
            held: self.lifecycle.is_held(),
            connections: self.figures.connections(),
            connections_max: self.config.limits.connections_max,
            awaits_keys: self.verifier.awaits_keys(),
            backplane: self.backplane.health(),
            queue_wait: self.figures.queue_wait(),
        };
        ReadinessReport::decide(&facts, &self.config.readiness)
    }
}

/// The service's name and links; in development mode, a page for browsers.
pub(super) async fn root(State(shared): State<Arc<ApiShared>>, headers: HeaderMap) -> Result<Response, Problem> {
    if !shared.config.server.service_information {
        return Err(nothing_here());
    }
    if shared.config.development && live::is_wanted(&headers) {
        return Ok(live::page(&shared, SystemTime::now()));
    }
    let endpoints: Vec<_> = shared.config.profiles.iter().map(|profile| profile.path.as_str()).collect();
    Ok(Json(json!({
        "service": "tickgate",
        "version": env!("CARGO_PKG_VERSION"),
        "status": shared.lifecycle.phase().as_str(),
        "endpoints": endpoints,
        "links": { "health": "/health", "liveness": "/livez", "readiness": "/readyz", "status": "/ws/status" },
    }))
    .into_response())
}

/// A one-line health status for people, load balancers and container engines.
pub(super) async fn health(State(shared): State<Arc<ApiShared>>) -> Response {
    let connections = shared.connections_of_all().await;
    match shared.readiness().reason() {
        None => Json(json!({
            "status": "healthy",
            "active_connections": connections,
            "timestamp": timestamp(),
        }))
        .into_response(),
        Some(reason) => {
            let body = json!({
                "status": "unhealthy",
                "reason": reason.name(),
                "message": reason.to_string(),
                "active_connections": connections,
                "timestamp": timestamp(),
            });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// Alive while no vital task has failed. Nothing outside the process matters, or an outage of Redis would restart
/// replicas.
pub(super) async fn livez(State(shared): State<Arc<ApiShared>>) -> (StatusCode, String) {
    match shared.lifecycle.failed() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(task) => (StatusCode::SERVICE_UNAVAILABLE, format!("not alive: the task \"{task}\" panicked\n")),
    }
}

/// Whether the replica accepts new clients.
pub(super) async fn readyz(State(shared): State<Arc<ApiShared>>, RawQuery(query): RawQuery) -> Response {
    let readiness = shared.readiness();
    let reason = readiness.reason();
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|query| query.split('&').any(|part| matches!(part, "verbose" | "verbose=true")));
    if verbose { (status, Json(verdict(&readiness))).into_response() } else { (status, line(reason)).into_response() }
}

fn line(reason: Option<NotReady>) -> String {
    reason.map_or_else(|| "ready\n".to_owned(), |reason| format!("not ready: {reason}\n"))
}

fn verdict(readiness: &ReadinessReport) -> serde_json::Value {
    let check = |check: &super::Check| {
        json!({
            "name": check.name,
            "ok": check.failed.is_none(),
            "reason": check.failed.as_ref().map(NotReady::name),
            "message": check.failed.as_ref().map(ToString::to_string),
        })
    };
    json!({
        "ready": readiness.reason().is_none(),
        "reason": readiness.reason().as_ref().map(NotReady::name),
        "checks": readiness.checks.iter().map(check).collect::<Vec<_>>(),
    })
}

/// All metrics of this replica.
pub(super) async fn metrics(State(shared): State<Arc<ApiShared>>) -> Response {
    match shared.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            Problem::new(ProblemKind::InternalError, "metrics cannot be encoded").into_response()
        }
    }
}

/// The OpenAPI document.
pub(super) async fn openapi() -> Response {
    let kind = HeaderValue::from_static("application/vnd.oai.openapi+json;version=3.1");
    ([(header::CONTENT_TYPE, kind)], OPENAPI).into_response()
}
