//! One user: the connections over all replicas, and whether the platform says that the user is active. Never touches a
//! socket: the registry carries the word to the replicas.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    Problem, Shared, access, body,
    sessions::{Listing, Of, audited, list, user_id},
};
use crate::{audit::Target, auth::ApiKey};

/// How long a user stays inactive unless the report says so, and at the most: nothing is kept for ever.
const INACTIVE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Which page of a user's connections.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    cursor: Option<String>,
    limit: Option<usize>,
}

/// Live connections of one user, over all replicas. A user without any has an empty list.
pub(super) async fn user(
    State(shared): State<Arc<Shared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    Path(user): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Page { cursor, limit }) = page.map_err(|error| Problem::invalid(error.body_text()))?;
    let user = user_id(&user)?;
    let active = !shared.registry.is_inactive(&user).await?;
    list(&shared, &key, Listing::of(&user, cursor, limit), Some(Of { user, active })).await
}

/// What the platform says of a user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    active: bool,
    /// How long the user is inactive, unless reported as active before.
    seconds: Option<u64>,
}

/// Refuses all tokens of a user who is not active, whenever they were issued, and closes the user's connections wherever
/// they are; or lets the user in again.
pub(super) async fn report(
    State(shared): State<Arc<Shared>>,
    Path(user): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let user = user_id(&user)?;
    let Report { active, seconds } = body::json(&shared, request).await?;
    if active && seconds.is_some() {
        return Err(Problem::invalid("`seconds` goes with `active: false`"));
    }
    let ttl = seconds.map_or(INACTIVE_MAX, Duration::from_secs);
    if ttl.is_zero() || ttl > INACTIVE_MAX {
        return Err(Problem::invalid("`seconds` is 1 to 31536000 (365 days)"));
    }
    let carried = shared.registry.report(&user, !active, ttl).await;
    let action = if active { "reported a user as active" } else { "reported a user as inactive" };
    audited(&shared, &caller, action, Target { user: Some(&user), seconds, ..Target::default() }, carried)?;
    Ok(StatusCode::ACCEPTED.into_response())
}
