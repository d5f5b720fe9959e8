//! Single-use tickets, which keep tokens out of URLs and logs. Never stores a token that it did not verify.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::rand;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{ApiShared, Problem, ProblemKind, access};
use crate::{
    auth::TokenError,
    metrics::{AuthFailure, RateScope},
    registry::RevokedToken,
};

/// Random bytes of a ticket: 128 bits cannot be guessed within its lifetime.
const TICKET_BYTES: usize = 16;

/// Issues a ticket for the token in the `Authorization` header.
pub(super) async fn issue(State(shared): State<Arc<ApiShared>>, headers: HeaderMap) -> Result<Response, Problem> {
    let Some(token) = access::bearer(&headers) else {
        shared.metrics.auth_failures_total.of(AuthFailure::Missing).inc();
        return Err(Problem::new(ProblemKind::AuthRequired, "a token is required, as `Authorization: Bearer <token>`"));
    };
    let identity = shared.verifier.verify(token, SystemTime::now()).await.map_err(|error| refused(&shared, error))?;
    shared.metrics.tokens_accepted_total.inc();
    if let Some(revoked) = shared.registry.is_revoked(&identity.user, identity.issued_at).await? {
        shared.metrics.auth_failures_total.of(AuthFailure::Revoked).inc();
        return Err(match revoked {
            RevokedToken::Surely => {
                Problem::new(ProblemKind::UserInactive, "the user's tokens were revoked, or the user is not active")
            }
            RevokedToken::Perhaps => {
                let detail = "the token was issued in the same second as a revocation; request a new one";
                Problem::new(ProblemKind::AuthRequired, detail).retry_after(Duration::from_secs(1))
            }
        });
    }
    let taken = shared.tickets.lock().take(&identity.user, Instant::now());
    if let Err(wait) = taken {
        shared.metrics.rate_limited_total.of(RateScope::Api).inc();
        return Err(Problem::new(ProblemKind::RateLimited, "too many tickets requested").retry_after(wait));
    }
    let mut bytes = [0; TICKET_BYTES];
    rand::fill(&mut bytes)
        .map_err(|_| Problem::new(ProblemKind::InternalError, "the random number generator failed"))?;
    let ticket = URL_SAFE_NO_PAD.encode(bytes);
    let ttl = shared.config.auth.ticket_ttl;
    shared.registry.put_ticket(&ticket, token, ttl).await?;
    let body = Json(json!({ "ticket": ticket, "expires_in": ttl.as_secs() }));
    Ok((StatusCode::CREATED, body).into_response())
}

fn refused(shared: &ApiShared, error: TokenError) -> Problem {
    shared.metrics.auth_failures_total.of(error.reason()).inc();
    if error.is_ours() {
        access::overloaded(error.to_string())
    } else {
        Problem::new(ProblemKind::AuthRequired, error.to_string())
    }
}
