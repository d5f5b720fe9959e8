//! Operator actions on this replica: drain and undrain, rebalance, log level, trace, inspection. Each call is written
//! to the audit log. Never acts on another replica.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tickgate_wire::model::{Topic, UserId};
use tokio::sync::mpsc;

use super::{ApiShared, LifecyclePhase, Problem, ProblemKind, access, body};
use crate::audit::AuditTarget;

/// Maximum duration of a rebalance, a changed log filter or a trace, in seconds.
const SECONDS_MAX: u64 = 3_600;

/// The user or topic to trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceSubject {
    /// Everything that this replica's connections of the user do.
    User(UserId),
    /// Everything that happens to the topic on this replica.
    Topic(Topic),
}

/// What an operator can do with a replica.
pub trait Operator: Send + Sync {
    /// Makes the replica not ready and moves its clients away over `drain.delay` and `drain.spread`.
    fn drain(&self);
    /// Makes the replica ready again, unless another check fails.
    fn undrain(&self);
    /// Asks this share of the clients to reconnect within `spread`. Returns their number.
    fn rebalance(&self, share: f64, spread: Duration) -> usize;
    /// Applies a log filter for `time`, then restores the configured one.
    ///
    /// # Errors
    /// A message if the filter is invalid or the log is not controlled by this replica.
    fn log(&self, filter: &str, time: Duration) -> Result<(), String>;
    /// Reports what happens to a user or a topic for `time`, as one JSON object per line. `None` if the maximum number
    /// of traces is running.
    fn trace(&self, subject: TraceSubject, time: Duration) -> Option<mpsc::Receiver<Bytes>>;
    /// The effective configuration, with secrets hidden, and the origin of each value.
    fn configuration(&self) -> serde_json::Value;
    /// The open connection of this replica with this id.
    fn connection(&self, id: &str) -> Option<ConnectionDetail>;
}

/// The details of one open connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionDetail {
    /// The connection's id, unique in the cluster.
    pub connection_id: String,
    /// The user, once known.
    pub user: Option<String>,
    /// The first digits of the session id.
    pub session: String,
    /// The name of the profile.
    pub endpoint: String,
    /// The client's address, behind proxies as they report it.
    pub address: String,
    /// Seconds since the connection opened.
    pub age_seconds: u64,
    /// Time since the client's last message.
    pub silent_seconds: u64,
    /// Number of subscribed channels.
    pub subscriptions: usize,
    /// Messages queued in the outbox.
    pub waiting_messages: usize,
    /// Bytes queued in the outbox.
    pub waiting_bytes: usize,
    /// Bytes written to the socket since the connection opened.
    pub written_bytes: u64,
    /// The socket accepts less than is queued.
    pub behind: bool,
    /// A subscription is catching up from the stream.
    pub lagging: bool,
}

/// Drains this replica.
pub(super) async fn drain(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    still_running(&shared)?;
    shared.operator.drain();
    shared.audit.action(&access::caller(request.extensions()), "drained this replica", AuditTarget::default(), None);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Undrains this replica.
pub(super) async fn undrain(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    still_running(&shared)?;
    shared.operator.undrain();
    shared.audit.action(&access::caller(request.extensions()), "undrained this replica", AuditTarget::default(), None);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Fails if the replica is shutting down.
fn still_running(shared: &ApiShared) -> Result<(), Problem> {
    if shared.lifecycle.phase() == LifecyclePhase::Draining {
        return Err(access::overloaded("the replica is shutting down; this cannot be undone"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebalance {
    share: f64,
    seconds: u64,
}

/// Asks a share of this replica's clients to reconnect through the load balancer.
pub(super) async fn rebalance(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let Rebalance { share, seconds } = body::json(&shared, request).await?;
    if !(share > 0.0 && share <= 1.0) {
        return Err(Problem::invalid("`share` must be greater than 0 and at most 1"));
    }
    let spread = seconds_of(seconds)?;
    let asked = shared.operator.rebalance(share, spread);
    let (value, seconds) = (share.to_string(), Some(seconds));
    let target = AuditTarget { value: Some(&value), seconds, ..AuditTarget::default() };
    shared.audit.action(&caller, "moved a share of the clients", target, None);
    Ok((StatusCode::ACCEPTED, Json(json!({ "connections": asked }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogFor {
    filter: String,
    seconds: u64,
}

/// Changes the log filter for a limited time.
pub(super) async fn log(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let LogFor { filter, seconds } = body::json(&shared, request).await?;
    let time = seconds_of(seconds)?;
    let done = shared.operator.log(&filter, time);
    let target = AuditTarget { value: Some(&filter), seconds: Some(seconds), ..AuditTarget::default() };
    let failure = done.as_ref().err().map(|text| text as &dyn std::fmt::Display);
    shared.audit.action(&caller, "changed the log filter", target, failure);
    done.map_err(Problem::invalid)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) fn seconds_of(seconds: u64) -> Result<Duration, Problem> {
    if (1..=SECONDS_MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(Problem::invalid(format!("`seconds` must be from 1 to {SECONDS_MAX}")))
}

/// The effective configuration.
pub(super) async fn configuration(State(shared): State<Arc<ApiShared>>, request: Request) -> Response {
    shared.audit.action(&access::caller(request.extensions()), "read the configuration", AuditTarget::default(), None);
    Json(shared.operator.configuration()).into_response()
}

/// One connection of this replica.
pub(super) async fn connection(
    State(shared): State<Arc<ApiShared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let target = AuditTarget { connection_id: Some(&id), ..AuditTarget::default() };
    let found = shared.operator.connection(&id);
    shared.audit.action(&access::caller(request.extensions()), "inspected a connection", target, None);
    let found =
        found.ok_or_else(|| Problem::new(ProblemKind::NotFound, "this replica has no open connection with this id"))?;
    Ok(Json(found).into_response())
}
