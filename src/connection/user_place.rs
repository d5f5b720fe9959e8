//! A client's place among its user's connections: which session it has, and whether the user may have one more. Never
//! responds: callers do. Never passes on a session's secret: here and in Redis, its digest identifies the session.

use aws_lc_rs::digest::{SHA256, digest};
use tickgate_wire::{
    code::CloseCode,
    model::{SessionId, SessionSecret, UserId},
};

use super::replica::Replica;
use crate::{
    auth::TokenIdentity,
    config::{OverLimit, Profile},
    metrics::{AuthFailure, DisconnectReason},
    registry::{Admission, AdmissionVerdict, RevokedToken, SessionRecord},
};

/// Why a user's connection is not admitted.
#[derive(Clone, Copy, Debug)]
pub(super) enum UserRefusal {
    TooManyConnections,
    /// The client may have a newer connection.
    Late,
    /// The token was revoked.
    Revoked,
    /// The token was issued in the same second as a revocation, before or after it.
    Doubtful,
}

impl UserRefusal {
    pub(super) const fn code(self) -> CloseCode {
        match self {
            Self::TooManyConnections => CloseCode::TooManyConnections,
            Self::Late => CloseCode::TryAgainLater,
            Self::Revoked => CloseCode::UserInactive,
            // The same even if the endpoint otherwise refuses tokens permanently: the next token is accepted.
            Self::Doubtful => CloseCode::AuthRequired,
        }
    }

    pub(super) const fn cause(self) -> DisconnectReason {
        match self {
            Self::TooManyConnections => DisconnectReason::UserLimit,
            Self::Late => DisconnectReason::Superseded,
            Self::Revoked | Self::Doubtful => DisconnectReason::Revoked,
        }
    }
}

/// The session of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionChoice {
    pub(super) session: SessionId,
    /// The session's secret, which only the client keeps.
    pub(super) secret: SessionSecret,
    /// Whether it is the session that the client named.
    pub(super) resumed: bool,
    /// The session that the client named, if it could not be looked up.
    replaces: Option<SessionId>,
}

impl SessionChoice {
    fn new() -> Self {
        let secret = SessionSecret::random();
        Self { session: session_of(secret), secret, resumed: false, replaces: None }
    }
}

/// The session of a connection: the one that the client named, if it belongs to the user, else a new one. No data
/// depends on it, so the client also gets a new one if the lookup fails.
pub(super) async fn session_for(
    replica: &Replica,
    profile: &Profile,
    wanted: Option<SessionSecret>,
    user: Option<&UserId>,
) -> SessionChoice {
    let Some(secret) = wanted else { return SessionChoice::new() };
    let session = session_of(secret);
    let user = user.map(UserId::as_str);
    let own = |record: &SessionRecord| record.profile == profile.name && record.user.as_deref() == user;
    match replica.registry.recall(session).await {
        Ok(Some(record)) if own(&record) => SessionChoice { session, secret, resumed: true, replaces: None },
        Ok(_) => SessionChoice::new(),
        Err(error) => {
            tracing::debug!(%error, "cannot read a session's record now");
            SessionChoice { replaces: Some(session), ..SessionChoice::new() }
        }
    }
}

/// The session id of a secret. The digest needs no salt: 122 random bits cannot be guessed.
fn session_of(secret: SessionSecret) -> SessionId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(&SHA256, secret.as_bytes()).as_ref()[..16]);
    SessionId::of_digest(bytes)
}

/// Counts a connection against its user's limit on all replicas: the endpoint's own, or the one over all others.
pub(super) async fn admit_user(
    replica: &Replica,
    profile: &Profile,
    identity: &TokenIdentity,
    chosen: SessionChoice,
) -> Result<(), UserRefusal> {
    let limits = &replica.config.limits;
    let admission = Admission {
        user: identity.user.clone(),
        session: chosen.session,
        replaces: chosen.replaces,
        apart: profile.connections_per_user_max.map(|_| profile.name.as_str().into()),
        connections_max: profile.connections_per_user_max.unwrap_or(limits.connections_per_user_max),
        evict_oldest: limits.over_limit == OverLimit::EvictOldest,
        issued_at: identity.issued_at,
    };
    match replica.registry.admit(&admission).await {
        AdmissionVerdict::Admitted { .. } => Ok(()),
        AdmissionVerdict::Refused { .. } => Err(UserRefusal::TooManyConnections),
        AdmissionVerdict::Late => Err(UserRefusal::Late),
        AdmissionVerdict::Revoked(revoked) => {
            replica.metrics.auth_failures_total.of(AuthFailure::Revoked).inc();
            Err(revoked.into())
        }
    }
}

impl From<RevokedToken> for UserRefusal {
    fn from(revoked: RevokedToken) -> Self {
        match revoked {
            RevokedToken::Surely => Self::Revoked,
            RevokedToken::Perhaps => Self::Doubtful,
        }
    }
}
