//! One user: the connections on all replicas, and whether the platform reported the user as active. Never touches a
//! socket: the registry notifies the replicas.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ApiShared, Problem, access, body,
    sessions::{ConnectionQuery, ListedUser, audited, list, user_id},
};
use crate::{audit::AuditTarget, auth::ApiKey};

/// Default and maximum duration of inactivity: no record is kept for ever.
const INACTIVE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Page of a user's connections.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPage {
    cursor: Option<String>,
    limit: Option<usize>,
}

/// Lists live connections of one user on all replicas; an empty list if there are none.
pub(super) async fn user(
    State(shared): State<Arc<ApiShared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    Path(user): Path<String>,
    page: Result<Query<UserPage>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(UserPage { cursor, limit }) = page.map_err(|error| Problem::invalid(error.body_text()))?;
    let user = user_id(&user)?;
    let active = !shared.registry.is_inactive(&user).await?;
    list(&shared, &key, ConnectionQuery::of(&user, cursor, limit), Some(ListedUser { user, active })).await
}

/// The platform's report about a user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandingReport {
    active: bool,
    /// How long the user is inactive, unless reported as active earlier.
    seconds: Option<u64>,
}

/// Refuses all tokens of an inactive user, whenever they were issued, and closes the user's connections on all
/// replicas; or admits the user again.
pub(super) async fn report(
    State(shared): State<Arc<ApiShared>>,
    Path(user): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let user = user_id(&user)?;
    let StandingReport { active, seconds } = body::json(&shared, request).await?;
    if active && seconds.is_some() {
        return Err(Problem::invalid("`seconds` requires `active: false`"));
    }
    let ttl = seconds.map_or(INACTIVE_MAX, Duration::from_secs);
    if ttl.is_zero() || ttl > INACTIVE_MAX {
        return Err(Problem::invalid("`seconds` must be from 1 to 31536000 (365 days)"));
    }
    let carried = shared.registry.report(&user, !active, ttl).await;
    let action = if active { "reported a user as active" } else { "reported a user as inactive" };
    audited(&shared, &caller, action, AuditTarget { user: Some(&user), seconds, ..AuditTarget::default() }, carried)?;
    Ok(StatusCode::ACCEPTED.into_response())
}
