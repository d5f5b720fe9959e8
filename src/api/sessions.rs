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
    registry::{ConnectionInfo, Control},
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
                let done = shared.registry.revoke(&user, ttl).await;
                let target = Target { user: Some(&user), seconds: revoke, ..Target::default() };
                audited(&shared, &caller, "revoked a user's tokens", target, done)?;
            } else {
                let done = shared.registry.control(Control::CloseUser { user: user.to_string(), code, reason }).await;
                let target = Target { user: Some(&user), ..Target::default() };
                audited(&shared, &caller, "disconnected a user", target, done)?;
            }
        }
        (None, Some(session), None) => {
            let session = SessionId::parse(&session).ok_or_else(|| Problem::invalid("`session` is a UUID"))?;
            let done = shared.registry.control(Control::Close { session: session.to_string(), code, reason }).await;
            let target = Target { session: Some(session), ..Target::default() };
            audited(&shared, &caller, "disconnected a session", target, done)?;
        }
        (None, Some(_), Some(_)) => return Err(Problem::invalid("tokens are revoked by `user`, not by `session`")),
        _ => return Err(Problem::invalid("name either a `user` or a `session`")),
    }
    // The owning replicas act within a second; there is nothing to wait for here.
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Writes down what an operator did, whatever became of it.
fn audited<T, E: fmt::Display>(
    shared: &Shared,
    caller: &Caller,
    action: &str,
    target: Target<'_>,
    done: Result<T, E>,
) -> Result<T, E> {
    let failure = done.as_ref().err().map(|error| error as &dyn fmt::Display);
    shared.audit.action(caller, action, target, failure);
    done
}
