//! A request for one of a user's places, and its result. Values only.

use std::sync::Arc;

use tickgate_wire::model::{IssuedAt, SessionId, UserId};

use super::RevokedToken;

/// A request to count a connection against its user's limit.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Whose limit counts.
    pub user: UserId,
    /// The session of the connection.
    pub session: SessionId,
    /// The session that this one replaces but that could not be looked up: its place is taken with the admission, or as
    /// soon as Redis responds.
    pub replaces: Option<SessionId>,
    /// The endpoint, if it has a separate limit: then only the user's connections there count against
    /// `connections_max`, and they do not count elsewhere.
    pub apart: Option<Arc<str>>,
    /// Maximum number of the user's connections that count, including the new one.
    pub connections_max: u32,
    /// Whether the oldest connection is closed at the limit (otherwise the new one is refused).
    pub evict_oldest: bool,
    /// When the token was issued; refused if not later than the user's revocation. A token without this time counts as
    /// older.
    pub issued_at: Option<IssuedAt>,
}

impl Admission {
    /// The places of which it takes one.
    #[must_use]
    pub fn places(&self) -> UserPlaces {
        UserPlaces { user: self.user.clone(), apart: self.apart.clone() }
    }
}

/// The slots for which a user's connections compete: all of them, except those at an endpoint with a separate limit,
/// which has its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserPlaces {
    /// Whose connections compete.
    pub user: UserId,
    /// Name of that endpoint's profile.
    pub apart: Option<Arc<str>>,
}

/// The result of [`Registry::admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionVerdict {
    /// `connections` includes the new one. The registry itself closes `evicted` (4501).
    Admitted {
        /// The user's connections that compete for the limit.
        connections: u32,
        /// The oldest one, if it had to make room.
        evicted: Option<SessionId>,
    },
    /// Over the limit (4003); `connections` are open elsewhere.
    Refused {
        /// The user's connections that compete for the limit, without the refused one.
        connections: u32,
    },
    /// The request may have waited while this replica's process was suspended, and a connection that it would end is newer
    /// (1013): if its client is still there, it tries again.
    Late,
    /// The user's tokens of this age were revoked (4002), or may have been.
    Revoked(RevokedToken),
}
