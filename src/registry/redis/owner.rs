//! The owner of a session, and a lease as a member of its user's set: their forms in Redis.

use std::fmt;

use tickgate_wire::model::{ReplicaId, SessionId};

/// A lease as a member of its user's set. At most 64 bytes, which Redis stores in its compact form.
pub(super) fn member(stamp: u64, replica: &ReplicaId, session: SessionId) -> String {
    format!("{stamp}:{replica}:{}", session.compact())
}

/// Parses a member.
pub(super) fn split_member(member: &str) -> Option<(Owner, SessionId)> {
    let (owner, session) = member.rsplit_once(':')?;
    Some((Owner::parse(owner)?, SessionId::parse(session)?))
}

/// One connection of a session: its replica and its stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub stamp: u64,
    pub replica: ReplicaId,
}

impl Owner {
    pub(super) fn new(stamp: u64, replica: &ReplicaId) -> Self {
        Self { stamp, replica: replica.clone() }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (stamp, replica) = text.split_once(':')?;
        Some(Self { stamp: stamp.parse().ok()?, replica: ReplicaId::new(replica).ok()? })
    }

    /// Splits a record's value into its owner and its JSON.
    pub(super) fn split(value: &str) -> Option<(Self, &str)> {
        let (owner, json) = value.split_once(' ')?;
        Some((Self::parse(owner)?, json))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stamp, self.replica)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_survives_encoding_and_fits_the_compact_form() {
        let (replica, session) = (ReplicaId::random(), SessionId::random());
        let text = member(1_763_700_000_000_000, &replica, session);
        assert!(text.len() <= 64, "{} bytes", text.len());
        assert_eq!(split_member(&text), Some((Owner::new(1_763_700_000_000_000, &replica), session)));
        assert_eq!(split_member("1763700000000000:nobody"), None);
    }

    #[test]
    fn a_record_starts_with_its_owner() {
        let owner = Owner::new(7, &ReplicaId::new("r1").unwrap());
        let value = format!("{owner} {{\"profile\":\"a b\"}}");
        assert_eq!(Owner::split(&value), Some((owner, "{\"profile\":\"a b\"}")));
        assert_eq!(Owner::split("{}"), None);
    }
}
