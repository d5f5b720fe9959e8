//! The operator's view of connections over all replicas, and the way to end them. Never touches a socket: the registry
//! carries the word to the replica that owns it.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tickgate_wire::{
    code::CloseCode,
    model::{SessionId, UserId},
    time::Timestamp,
};

use super::{Problem, Shared, access, body};
use crate::{
    audit::{Caller, Target},
    registry::{Carried, ConnectionInfo, Control},
};

/// Connections listed unless asked otherwise, and at the most.
const LISTED_DEFAULT: usize = 1_000;
const LISTED_MAX: usize = 100_000;
/// Longest reason of a close: a Close frame holds 125 bytes, 2 of them the code.
const REASON_BYTES_MAX: usize = 123;
/// Longest revocation; tokens that live longer are a mistake of their issuer.
const REVOCATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Deserialize)]
pub(super) struct Listing {
    limit: Option<usize>,
}

impl Listing {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(LISTED_DEFAULT).min(LISTED_MAX)
    }
}

#[derive(Serialize)]
struct Connection {
    session: String,
    replica: String,
    user: Option<String>,
    endpoint: String,
    connected_at: Timestamp,
}

impl From<ConnectionInfo> for Connection {
    fn from(info: ConnectionInfo) -> Self {
        Self {
            session: info.session,
            replica: info.replica,
            user: info.user,
            endpoint: info.profile,
            connected_at: Timestamp::from_ms(info.connected_ms),
        }
    }
}

#[derive(Serialize)]
struct Connections {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    connections: Vec<Connection>,
}

/// Live connections of all replicas.
pub(super) async fn connections(
    State(shared): State<Arc<Shared>>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(listing) = listing.map_err(|error| Problem::invalid(error.body_text()))?;
    let connections = shared.registry.connections(listing.limit()).await?;
    let connections = connections.into_iter().map(Connection::from).collect();
    Ok(Json(Connections { user: None, connections }).into_response())
}

/// Live connections of one user, over all replicas. A user without any has an empty list.
pub(super) async fn user(State(shared): State<Arc<Shared>>, Path(user): Path<String>) -> Result<Response, Problem> {
    let user = UserId::new(&user).map_err(|error| Problem::invalid(error.to_string()))?;
    let own = shared.registry.connections_of(&user, LISTED_MAX).await?;
    let connections = own.into_iter().map(Connection::from).collect();
    Ok(Json(Connections { user: Some(user.to_string()), connections }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    user: Option<String>,
    session: Option<String>,
    reason: Option<String>,
    /// Refuses the user's tokens issued until now for so many seconds.
    revoke_seconds: Option<u64>,
}

/// Closes a session, or all connections of a user, wherever they are; with `revoke_seconds` the user can't come back
/// with an old token.
pub(super) async fn disconnect(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let asked: Disconnect = body::json(&shared, request).await?;
    let reason = asked.reason.unwrap_or_else(|| CloseCode::Disconnected.name().to_owned());
    if reason.len() > REASON_BYTES_MAX {
        return Err(Problem::invalid(format!("`reason` may have {REASON_BYTES_MAX} bytes")));
    }
    let code = CloseCode::Disconnected.number();
    match (asked.user, asked.session, asked.revoke_seconds) {
        (Some(user), None, revoke) => {
            let user = UserId::new(&user).map_err(|error| Problem::invalid(error.to_string()))?;
            if let Some(seconds) = revoke {
                let ttl = Duration::from_secs(seconds);
                if ttl.is_zero() || ttl > REVOCATION_MAX {
                    return Err(Problem::invalid("`revoke_seconds` is 1 to 2592000 (30 days)"));
                }
                let carried = shared.registry.revoke(&user, ttl).await;
                let target = Target { user: Some(&user), seconds: revoke, ..Target::default() };
                audited(&shared, &caller, "revoked a user's tokens", target, carried)?;
            } else {
                let control = Control::CloseUser { user: user.to_string(), code, reason };
                let carried = shared.registry.control(control).await;
                let target = Target { user: Some(&user), ..Target::default() };
                audited(&shared, &caller, "disconnected a user", target, carried)?;
            }
        }
        (None, Some(session), None) => {
            let session = SessionId::parse(&session).ok_or_else(|| Problem::invalid("`session` is a UUID"))?;
            let carried = shared.registry.control(Control::Close { session: session.to_string(), code, reason }).await;
            let target = Target { session: Some(session), ..Target::default() };
            audited(&shared, &caller, "disconnected a session", target, carried)?;
        }
        (None, Some(_), Some(_)) => return Err(Problem::invalid("tokens are revoked by `user`, not by `session`")),
        _ => return Err(Problem::invalid("name either a `user` or a `session`")),
    }
    // The owning replicas act within a second; there is nothing to wait for here.
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Writes down what an operator did, whatever became of it.
fn audited(
    shared: &Shared,
    caller: &Caller,
    action: &str,
    target: Target<'_>,
    carried: Carried,
) -> Result<(), Problem> {
    let left = left_to_do(carried);
    shared.audit.action(caller, action, target, left.as_ref().map(|left| left as &dyn fmt::Display));
    left.map_or(Ok(()), |left| Err(access::overloaded(left)))
}

/// What was done and what was not, where that is not all.
fn left_to_do(carried: Carried) -> Option<String> {
    match (carried.told, carried.stored) {
        (Ok(()), Ok(())) => None,
        (Ok(()), Err(error)) => Some(format!(
            "done on every replica that is linked, and not stored for others ({error}); repeat it until it is"
        )),
        (Err(error), _) => {
            Some(format!("done on this replica alone: the others could not be told ({error}); repeat it"))
        }
    }
}
