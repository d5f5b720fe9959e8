//! The forms in which the registry's values lie in Redis.
//!
//! Never spells a key.

use std::fmt;

use serde::{Deserialize, Serialize};
use tickgate_wire::model::{ReplicaId, SessionId, UserId};

use super::sessions::Entry;
use crate::registry::{ConnectionInfo, Control, audience::Audience};

/// A member of a user's set. Up to 64 bytes, which Redis keeps in its compact form.
pub(super) fn member(stamp: u64, replica: &ReplicaId, session: SessionId) -> String {
    format!("{stamp}:{replica}:{}", session.compact())
}

/// Takes a member apart.
pub(super) fn split_member(member: &str) -> Option<(Owner, SessionId)> {
    let (owner, session) = member.rsplit_once(':')?;
    Some((Owner::parse(owner)?, SessionId::parse(session)?))
}

/// One connection of a session: where it is, and which of several.
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

    /// Takes a record's value apart into its owner and its JSON.
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

/// A session in its replica's index: what sweeping and the operator's view need.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Slot {
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(rename = "p")]
    pub profile: String,
    #[serde(rename = "c")]
    pub connected_ms: u64,
    #[serde(rename = "s")]
    pub stamp: u64,
}

impl Slot {
    pub(super) fn encode(entry: &Entry, profile: &str) -> String {
        let slot = Self {
            user: entry.user.as_ref().map(ToString::to_string),
            profile: profile.to_owned(),
            connected_ms: entry.connected_ms,
            stamp: entry.stamp,
        };
        serde_json::to_string(&slot).unwrap_or_default()
    }

    pub(super) fn user(&self) -> Option<UserId> {
        self.user.as_deref().and_then(|user| UserId::new(user).ok())
    }

    pub(super) fn into_info(self, session: String, replica: &ReplicaId) -> ConnectionInfo {
        ConnectionInfo {
            session,
            replica: replica.to_string(),
            user: self.user,
            profile: self.profile,
            connected_ms: self.connected_ms,
        }
    }
}

/// What goes over the control channels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    Told(Told),
    Ask(Ask),
    Answer(Answer),
}

/// A control message on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub control: Control,
    /// Only the connection of this stamp is meant, not a newer one of the same session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<u64>,
}

/// A question to all replicas: who follows the topic?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub number: u64,
    /// Who asks.
    pub replica: String,
    pub topic: String,
}

/// One replica's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub number: u64,
    pub audience: Audience,
}

impl Message {
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_comes_apart_as_it_was_put_together_and_fits_the_compact_form() {
        let (replica, session) = (ReplicaId::random(), SessionId::random());
        let text = member(1_763_700_000_000_000, &replica, session);
        assert!(text.len() <= 64, "{} bytes", text.len());
        assert_eq!(split_member(&text), Some((Owner::new(1_763_700_000_000_000, &replica), session)));
        assert_eq!(split_member("1763700000000000:nobody"), None);
    }

    #[test]
    fn a_record_names_its_owner_before_its_json() {
        let owner = Owner::new(7, &ReplicaId::new("r1").unwrap());
        let value = format!("{owner} {{\"profile\":\"a b\"}}");
        assert_eq!(Owner::split(&value), Some((owner, "{\"profile\":\"a b\"}")));
        assert_eq!(Owner::split("{}"), None);
    }
}
