//! What an operator does to this one replica while it runs: takes it out and back, moves clients away, looks closer. Each
//! call is written into the audit log. Never acts on another replica.

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

use super::{Phase, Problem, ProblemKind, Shared, access, body};
use crate::audit::Target;

/// The longest time for which clients are moved away, and for which the log says more.
const SECONDS_MAX: u64 = 3_600;

/// Whom or what is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceSubject {
    User(UserId),
    Topic(Topic),
}

/// What a replica lets its operator do.
pub trait Operator: Send + Sync {
    /// Not ready from now on; its clients move away over `drain.delay` and `drain.spread`.
    fn drain(&self);
    /// Ready again, if nothing else speaks against it.
    fn undrain(&self);
    /// Asks a share of the clients to move within so much time. Returns how many there are.
    fn rebalance(&self, share: f64, spread: Duration) -> usize;
    /// Logs what this filter says for so long, and then what is configured.
    ///
    /// # Errors
    /// A sentence, when the filter can't be read or the log is not this replica's.
    fn log(&self, filter: &str, time: Duration) -> Result<(), String>;
    /// Tells what happens to a user or a topic from now on, for so long: an object a line. `None` where there are as many
    /// traces as there may be.
    fn trace(&self, subject: TraceSubject, time: Duration) -> Option<mpsc::Receiver<Bytes>>;
    /// The configuration in force, with secrets hidden, and where each value came from.
    fn configuration(&self) -> serde_json::Value;
    /// An open connection of this replica, by its id.
    fn connection(&self, id: &str) -> Option<ConnectionDetail>;
}

/// One open connection, as far as an operator may see it.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionDetail {
    pub connection_id: String,
    pub user: Option<String>,
    /// The first digits of its session.
    pub session: String,
    pub endpoint: String,
    pub address: String,
    pub age_seconds: u64,
    /// Since the client last sent something.
    pub silent_seconds: u64,
    pub subscriptions: usize,
    pub waiting_messages: usize,
    pub waiting_bytes: usize,
    pub written_bytes: u64,
    /// Its socket takes less than there is.
    pub behind: bool,
    /// A subscription is being caught up from the stream.
    pub lagging: bool,
}

/// Takes this replica out.
pub(super) async fn drain(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    still_running(&shared)?;
    shared.operator.drain();
    shared.audit.action(&access::caller(request.extensions()), "drained this replica", Target::default(), None);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Takes it back.
pub(super) async fn undrain(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    still_running(&shared)?;
    shared.operator.undrain();
    shared.audit.action(&access::caller(request.extensions()), "undrained this replica", Target::default(), None);
    Ok(StatusCode::ACCEPTED.into_response())
}

/// A replica that was told to end does so.
fn still_running(shared: &Shared) -> Result<(), Problem> {
    if shared.lifecycle.phase() == Phase::Draining {
        return Err(access::overloaded("the replica ends; that can't be taken back"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebalance {
    share: f64,
    seconds: u64,
}

/// Asks a share of this replica's clients to connect again, to wherever the balancer sends them.
pub(super) async fn rebalance(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let Rebalance { share, seconds } = body::json(&shared, request).await?;
    if !(share > 0.0 && share <= 1.0) {
        return Err(Problem::invalid("`share` is more than 0 and at most 1"));
    }
    let spread = seconds_of(seconds)?;
    let asked = shared.operator.rebalance(share, spread);
    let (value, seconds) = (share.to_string(), Some(seconds));
    let target = Target { value: Some(&value), seconds, ..Target::default() };
    shared.audit.action(&caller, "moved a share of the clients", target, None);
    Ok((StatusCode::ACCEPTED, Json(json!({ "connections": asked }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogFor {
    filter: String,
    seconds: u64,
}

/// Logs more, or less, for a while.
pub(super) async fn log(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let LogFor { filter, seconds } = body::json(&shared, request).await?;
    let time = seconds_of(seconds)?;
    let done = shared.operator.log(&filter, time);
    let target = Target { value: Some(&filter), seconds: Some(seconds), ..Target::default() };
    let failure = done.as_ref().err().map(|text| text as &dyn std::fmt::Display);
    shared.audit.action(&caller, "changed the log filter", target, failure);
    done.map_err(Problem::invalid)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) fn seconds_of(seconds: u64) -> Result<Duration, Problem> {
    if (1..=SECONDS_MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(Problem::invalid(format!("`seconds` is 1 to {SECONDS_MAX}")))
}

/// The configuration in force.
pub(super) async fn configuration(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.audit.action(&access::caller(request.extensions()), "read the configuration", Target::default(), None);
    Json(shared.operator.configuration()).into_response()
}

/// One connection of this replica.
pub(super) async fn connection(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let target = Target { connection_id: Some(&id), ..Target::default() };
    let found = shared.operator.connection(&id);
    shared.audit.action(&access::caller(request.extensions()), "looked at a connection", target, None);
    let found =
        found.ok_or_else(|| Problem::new(ProblemKind::NotFound, "this replica has no open connection of this id"))?;
    Ok(Json(found).into_response())
}
