//! A client's place among its user's connections: which session it has, and whether its user may have one more. Never
//! answers: callers do. Never hands on a session's secret: from here on, and in Redis, its digest names the session.

use aws_lc_rs::digest::{SHA256, digest};
use tickgate_wire::{
    code::CloseCode,
    model::{SessionId, SessionSecret, UserId},
};

use super::replica::Replica;
use crate::{
    auth::Identity,
    config::{OverLimit, Profile},
    metrics::{AuthFailure, Disconnect},
    registry::{Admission, Revoked, SessionRecord, Verdict},
};

/// Why a user's connection is not admitted.
#[derive(Clone, Copy, Debug)]
pub(super) enum UserRefusal {
    TooManyConnections,
    /// The token was revoked.
    Revoked,
    /// The token was issued in the second of a revocation, before it or after it.
    Doubtful,
}

impl UserRefusal {
    pub(super) const fn code(self) -> CloseCode {
        match self {
            Self::TooManyConnections => CloseCode::TooManyConnections,
            Self::Revoked => CloseCode::UserInactive,
            // Also where a token is refused for good otherwise: the next one is accepted.
            Self::Doubtful => CloseCode::AuthRequired,
        }
    }

    pub(super) const fn cause(self) -> Disconnect {
        match self {
            Self::TooManyConnections => Disconnect::UserLimit,
            Self::Revoked | Self::Doubtful => Disconnect::Revoked,
        }
    }
}

/// Which session a connection has.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionChoice {
    pub(super) session: SessionId,
    /// What its client knows of it.
    pub(super) secret: SessionSecret,
    /// It is the one that the client named.
    pub(super) resumed: bool,
    /// The one that the client named, and that could not be looked up.
    replaces: Option<SessionId>,
}

impl SessionChoice {
    fn new() -> Self {
        let secret = SessionSecret::random();
        Self { session: session_of(secret), secret, resumed: false, replaces: None }
    }
}

/// The session of a connection: the one that its client wants to take over, where that is its own, otherwise a new one.
/// No data depends on it, so when it can't be looked up the client gets a new one too.
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
            tracing::debug!(%error, "can't read a session's record now");
            SessionChoice { replaces: Some(session), ..SessionChoice::new() }
        }
    }
}

/// The session of a secret. The digest needs no salt: nobody can guess 122 random bits.
fn session_of(secret: SessionSecret) -> SessionId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(&SHA256, secret.as_bytes()).as_ref()[..16]);
    SessionId::of_digest(bytes)
}

/// Counts a connection among its user's, over all replicas.
pub(super) async fn admit_user(
    replica: &Replica,
    identity: &Identity,
    chosen: SessionChoice,
) -> Result<(), UserRefusal> {
    let limits = &replica.config.limits;
    let admission = Admission {
        user: identity.user.clone(),
        session: chosen.session,
        replaces: chosen.replaces,
        connections_max: limits.connections_per_user_max,
        evict_oldest: limits.over_limit == OverLimit::EvictOldest,
        issued_at: identity.issued_at,
    };
    match replica.registry.admit(&admission).await {
        Verdict::Admitted { .. } => Ok(()),
        Verdict::Refused { .. } => Err(UserRefusal::TooManyConnections),
        Verdict::Revoked(revoked) => {
            replica.metrics.auth_failures_total.of(AuthFailure::Revoked).inc();
            Err(revoked.into())
        }
    }
}

impl From<Revoked> for UserRefusal {
    fn from(revoked: Revoked) -> Self {
        match revoked {
            Revoked::Surely => Self::Revoked,
            Revoked::Perhaps => Self::Doubtful,
        }
    }
}
