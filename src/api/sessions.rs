//! Listing and closing connections of all replicas. Never touches a socket: the registry sends the request to the
//! owning replica.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tickgate_wire::{
    code::CloseCode,
    model::{SessionId, UserId, check_name},
    time::Timestamp,
};

use super::{ApiShared, Problem, access, body, topics};
use crate::{
    audit::{AuditTarget, Caller},
    auth::ApiKey,
    connection::attempt::is_connection_id,
    registry::{ConnectionFilter, ConnectionPage, ControlInstruction, Inquiry, OpenConnection, OperationOutcome},
};

/// Default and maximum number of connections per page.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Maximum of `idle_seconds`.
const IDLE_MAX: u64 = 30 * 24 * 3600;
/// Maximum length of a close reason: a Close frame holds 125 bytes, 2 of them the code.
const REASON_BYTES_MAX: usize = 123;
/// Maximum duration of a revocation; tokens that live longer are a mistake of their issuer.
const REVOCATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Filter of a listing: connections must match all given fields.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConnectionQuery {
    connection_id: Option<String>,
    user: Option<String>,
    endpoint: Option<String>,
    param: Option<String>,
    /// A public topic, or with `user` the user's private channel.
    topic: Option<String>,
    idle_seconds: Option<u64>,
    /// Where the previous page ended.
    cursor: Option<String>,
    limit: Option<usize>,
}

impl ConnectionQuery {
    /// Lists the connections of one user.
    pub(super) fn of(user: &UserId, cursor: Option<String>, limit: Option<usize>) -> Self {
        Self { user: Some(user.to_string()), cursor, limit, ..Self::default() }
    }

    fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::invalid(format!("`limit` must be from 1 to {PAGE_MAX}")));
        }
        Ok(limit)
    }

    fn matching(&self, shared: &ApiShared, key: &ApiKey) -> Result<ConnectionFilter, Problem> {
        if let Some(name) = &self.topic {
            topics::may_read(shared, key, name)?;
        }
        let user = self.user.as_deref().map(user_id).transpose()?;
        let audience = |name: &String| {
            let audience = shared.publisher.audience(name, user.as_ref().map(UserId::as_str));
            audience.ok_or_else(|| Problem::invalid("`topic` is not a valid name"))
        };
        let topic = self.topic.as_ref().map(audience).transpose()?;
        if let Some(param) = &self.param {
            check_name(param).map_err(|error| Problem::invalid(format!("`param` is {error}")))?;
        }
        Ok(ConnectionFilter {
            connection_id: self.connection_id.clone().map(connection_id).transpose()?,
            user: user.map(|user| user.to_string()),
            endpoint: endpoint(shared, self.endpoint.clone())?,
            param: self.param.clone(),
            topic: topic.map(|topic| topic.to_string()),
            idle_seconds: self.idle_seconds.map(idle).transpose()?,
        })
    }
}

pub(super) fn user_id(user: &str) -> Result<UserId, Problem> {
    UserId::new(user).map_err(|error| Problem::invalid(error.to_string()))
}

/// Checks that the endpoint exists.
fn endpoint(shared: &ApiShared, name: Option<String>) -> Result<Option<String>, Problem> {
    let profiles = &shared.config.profiles;
    match &name {
        Some(wrong) if !profiles.iter().any(|profile| profile.name == *wrong) => {
            let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
            Err(Problem::invalid(format!("`endpoint` must be one of {}", names.join(", "))))
        }
        _ => Ok(name),
    }
}

fn idle(seconds: u64) -> Result<u64, Problem> {
    if (1..=IDLE_MAX).contains(&seconds) {
        return Ok(seconds);
    }
    Err(Problem::invalid(format!("`idle_seconds` must be from 1 to {IDLE_MAX} (30 days)")))
}

/// Checks the form of a connection id as the welcome contains it.
pub(super) fn connection_id(text: String) -> Result<String, Problem> {
    if is_connection_id(&text) {
        return Ok(text);
    }
    Err(Problem::invalid("`connection_id` must be 16 hexadecimal digits, as in `connection_established`"))
}

#[derive(Serialize)]
struct ListedConnection {
    connection_id: String,
    session: String,
    replica: String,
    user: Option<String>,
    endpoint: String,
    param: Option<String>,
    connected_at: Timestamp,
    last_seen: Timestamp,
    channels: Vec<String>,
}

impl ListedConnection {
    /// The fields that the key may see.
    fn shown(open: OpenConnection, key: &ApiKey) -> Self {
        let OpenConnection { connection_id, session, replica, user, endpoint, param, .. } = open;
        let channels = open.channels.into_iter().filter(|channel| key.reaches(channel)).collect();
        let (connected_at, last_seen) = (Timestamp::from_ms(open.connected_ms), Timestamp::from_ms(open.heard_ms));
        Self { connection_id, session, replica, user, endpoint, param, connected_at, last_seen, channels }
    }
}

/// The user of the listed connections.
#[derive(Serialize)]
pub(super) struct ListedUser {
    pub(super) user: UserId,
    /// False if the platform reported the user as inactive.
    pub(super) active: bool,
}

#[derive(Serialize)]
struct ConnectionList {
    #[serde(flatten)]
    of: Option<ListedUser>,
    connections: Vec<ListedConnection>,
    /// `null` on the last page.
    cursor: Option<String>,
    /// Whether all replicas responded.
    complete: bool,
}

/// Lists live connections of all replicas.
pub(super) async fn connections(
    State(shared): State<Arc<ApiShared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    listing: Result<Query<ConnectionQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(listing) = listing.map_err(|error| Problem::invalid(error.body_text()))?;
    list(&shared, &key, listing, None).await
}

pub(super) async fn list(
    shared: &ApiShared,
    key: &ApiKey,
    listing: ConnectionQuery,
    of: Option<ListedUser>,
) -> Result<Response, Problem> {
    let (matching, limit) = (listing.matching(shared, key)?, listing.limit()?);
    if !listing.cursor.as_deref().is_none_or(is_connection_id) {
        return Err(Problem::invalid("`cursor` must be that of the previous page"));
    }
    let answers = shared.registry.inquire(&Inquiry::List { matching, after: listing.cursor, limit }).await?;
    let ConnectionPage { connections, cursor, complete } = answers.page(limit);
    let connections = connections.into_iter().map(|open| ListedConnection::shown(open, key)).collect();
    Ok(Json(ConnectionList { of, connections, cursor, complete }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    user: Option<String>,
    session: Option<String>,
    connection_id: Option<String>,
    /// Closes connections whose clients have sent nothing for this time.
    idle_seconds: Option<u64>,
    /// Limits `idle_seconds` to this endpoint.
    endpoint: Option<String>,
    reason: Option<String>,
    /// Refuses the user's tokens issued until now, for this time.
    revoke_seconds: Option<u64>,
}

/// Closes a session, a connection, all connections of a user, or idle connections, on all replicas; with
/// `revoke_seconds`, the user cannot reconnect with an old token.
pub(super) async fn disconnect(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let asked: Disconnect = body::json(&shared, request).await?;
    let reason = asked.reason.unwrap_or_else(|| CloseCode::Disconnected.name().to_owned());
    if reason.len() > REASON_BYTES_MAX {
        return Err(Problem::invalid(format!("`reason` must not exceed {REASON_BYTES_MAX} bytes")));
    }
    let code = CloseCode::Disconnected.number();
    let named =
        [asked.user.is_some(), asked.session.is_some(), asked.connection_id.is_some(), asked.idle_seconds.is_some()];
    if named.into_iter().filter(|named| *named).count() != 1 {
        return Err(Problem::invalid(
            "exactly one of `user`, `session`, `connection_id` and `idle_seconds` is required",
        ));
    }
    if asked.revoke_seconds.is_some() && asked.user.is_none() {
        return Err(Problem::invalid("`revoke_seconds` requires `user`"));
    }
    if asked.endpoint.is_some() && asked.idle_seconds.is_none() {
        return Err(Problem::invalid("`endpoint` requires `idle_seconds`"));
    }
    if asked.connection_id.is_some() || asked.idle_seconds.is_some() {
        let matching = ConnectionFilter {
            connection_id: asked.connection_id.map(connection_id).transpose()?,
            idle_seconds: asked.idle_seconds.map(idle).transpose()?,
            endpoint: endpoint(&shared, asked.endpoint)?,
            ..ConnectionFilter::default()
        };
        return close(&shared, &caller, matching, reason).await;
    }
    match (asked.user, asked.session, asked.revoke_seconds) {
        (Some(user), None, revoke) => {
            let user = user_id(&user)?;
            if let Some(seconds) = revoke {
                let ttl = Duration::from_secs(seconds);
                if ttl.is_zero() || ttl > REVOCATION_MAX {
                    return Err(Problem::invalid("`revoke_seconds` must be from 1 to 2592000 (30 days)"));
                }
                let carried = shared.registry.revoke(&user, ttl).await;
                let target = AuditTarget { user: Some(&user), seconds: revoke, ..AuditTarget::default() };
                audited(&shared, &caller, "revoked a user's tokens", target, carried)?;
            } else {
                let control = ControlInstruction::CloseUser { user: user.to_string(), code, reason };
                let carried = shared.registry.control(control).await;
                let target = AuditTarget { user: Some(&user), ..AuditTarget::default() };
                audited(&shared, &caller, "disconnected a user", target, carried)?;
            }
        }
        (None, Some(session), _) => {
            let session = SessionId::parse(&session).ok_or_else(|| Problem::invalid("`session` must be a UUID"))?;
            let carried =
                shared.registry.control(ControlInstruction::Close { session: session.to_string(), code, reason }).await;
            let target = AuditTarget { session: Some(session), ..AuditTarget::default() };
            audited(&shared, &caller, "disconnected a session", target, carried)?;
        }
        // Exactly one is present.
        _ => {}
    }
    // The owning replicas act within a second; there is nothing to wait for.
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Closes the matching connections and returns their number.
async fn close(
    shared: &ApiShared,
    caller: &Caller,
    matching: ConnectionFilter,
    reason: String,
) -> Result<Response, Problem> {
    let (id, endpoint) = (matching.connection_id.clone(), matching.endpoint.clone());
    let (action, seconds) = match &id {
        Some(_) => ("disconnected a connection", None),
        None => ("disconnected idle connections", matching.idle_seconds),
    };
    let outcome = shared.registry.inquire(&Inquiry::Close { matching, reason }).await;
    let (closed, left) = match &outcome {
        Ok(answers) if answers.complete => (answers.closed(), None),
        Ok(answers) => {
            let closed = answers.closed();
            (closed, Some(format!("{closed} closed, but not all replicas responded; retry")))
        }
        Err(error) => (0, Some(format!("done on this replica only: the others could not be reached ({error}); retry"))),
    };
    let target =
        AuditTarget { connection_id: id.as_deref(), seconds, value: endpoint.as_deref(), ..AuditTarget::default() };
    shared.audit.action(caller, action, target, left.as_ref().map(|left| left as &dyn fmt::Display));
    match left {
        Some(left) => Err(access::overloaded(left)),
        None => Ok((StatusCode::ACCEPTED, Json(json!({ "connections": closed }))).into_response()),
    }
}

/// Writes an operator's action to the audit log, whether it succeeded or not.
pub(super) fn audited(
    shared: &ApiShared,
    caller: &Caller,
    action: &str,
    target: AuditTarget<'_>,
    carried: OperationOutcome,
) -> Result<(), Problem> {
    let left = left_to_do(carried);
    shared.audit.action(caller, action, target, left.as_ref().map(|left| left as &dyn fmt::Display));
    left.map_or(Ok(()), |left| Err(access::overloaded(left)))
}

/// What was not done, if not everything was.
fn left_to_do(carried: OperationOutcome) -> Option<String> {
    match (carried.told, carried.stored) {
        (Ok(()), Ok(())) => None,
        (Ok(()), Err(error)) => {
            Some(format!("done on every connected replica, but not stored for others ({error}); retry until it is"))
        }
        (Err(error), _) => Some(format!("done on this replica only: the others could not be reached ({error}); retry")),
    }
}
