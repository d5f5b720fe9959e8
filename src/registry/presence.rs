//! Counts the subscribers of a topic: connections add up, and a user counts once on any number of replicas. Pure.
//!
//! Exact up to a bound, beyond which only "more" is known; so an answer between replicas is bounded too, whatever the
//! user ids are: each user is a digest of 16 bytes, and with [`USERS_MAX`] of them an answer takes less than 22 KB.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use tickgate_wire::model::UserId;

/// Maximum number of distinct users of a topic that are counted.
pub const USERS_MAX: usize = 1_024;

/// The subscribers of a topic on all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicPresence {
    /// Subscribed connections on all replicas that answered.
    pub connections: u64,
    /// Distinct users, at most [`USERS_MAX`].
    pub users: u64,
    /// Whether there are more users.
    pub more: bool,
}

/// Equal on every replica, and collision-resistant.
type Digest = [u8; 16];

/// The subscribers of a topic on one replica, or on several after [`TopicAudience::merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub(super) struct TopicAudience {
    connections: u64,
    /// At most [`USERS_MAX`]; empty when there are more.
    users: BTreeSet<Digest>,
    more: bool,
}

/// The encoding of an answer between replicas.
#[derive(Serialize, Deserialize)]
struct Encoded {
    connections: u64,
    /// The concatenated digests, as base64.
    users: String,
    #[serde(default)]
    more: bool,
}

impl TopicAudience {
    /// Counts one connection.
    pub(super) fn add(&mut self, user: Option<&UserId>) {
        self.connections += 1;
        if let Some(user) = user.filter(|_| !self.more) {
            self.insert(digest(user));
        }
    }

    /// Adds the subscribers on another replica.
    pub(super) fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        if other.more {
            self.set_more();
        }
        for user in &other.users {
            self.insert(*user);
        }
    }

    fn insert(&mut self, user: Digest) {
        if !self.more && self.users.insert(user) && self.users.len() > USERS_MAX {
            self.set_more();
        }
    }

    fn set_more(&mut self) {
        self.more = true;
        self.users.clear();
    }

    pub(super) fn presence(&self) -> TopicPresence {
        let users = if self.more { USERS_MAX } else { self.users.len() };
        TopicPresence { connections: self.connections, users: users as u64, more: self.more }
    }
}

fn digest(user: &UserId) -> Digest {
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, user.as_str().as_bytes());
    let mut digest = Digest::default();
    digest.copy_from_slice(&sum.as_ref()[..16]);
    digest
}

impl From<TopicAudience> for Encoded {
    fn from(audience: TopicAudience) -> Self {
        let users: Vec<u8> = audience.users.into_iter().flatten().collect();
        Self { connections: audience.connections, users: STANDARD_NO_PAD.encode(users), more: audience.more }
    }
}

impl TryFrom<Encoded> for TopicAudience {
    type Error = &'static str;

    fn try_from(encoded: Encoded) -> Result<Self, Self::Error> {
        let bytes = STANDARD_NO_PAD.decode(encoded.users).map_err(|_| "the users are not base64")?;
        let (users, rest) = bytes.as_chunks();
        if !rest.is_empty() || users.len() > USERS_MAX {
            return Err("the users are not a list of digests");
        }
        Ok(Self { connections: encoded.connections, users: users.iter().copied().collect(), more: encoded.more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audience(users: std::ops::Range<usize>) -> TopicAudience {
        let mut audience = TopicAudience::default();
        for index in users {
            audience.add(Some(&UserId::new(&format!("user-{index}")).unwrap()));
        }
        audience
    }

    fn merged(parts: impl IntoIterator<Item = TopicAudience>) -> TopicPresence {
        let mut all = TopicAudience::default();
        parts.into_iter().for_each(|part| all.merge(&part));
        all.presence()
    }

    #[test]
    fn a_user_on_two_replicas_counts_once_and_each_connection_counts() {
        let mut anonymous = TopicAudience::default();
        anonymous.add(None);
        let seen = merged([audience(0..100), audience(50..150), anonymous]);
        assert_eq!(seen, TopicPresence { connections: 201, users: 150, more: false });
    }

    #[test]
    fn users_are_counted_exactly_up_to_the_bound() {
        let full = TopicPresence { connections: 1_024, users: 1_024, more: false };
        assert_eq!(audience(0..1_024).presence(), full);
        assert_eq!(merged([audience(0..1_000), audience(1_000..1_024)]), full);
        assert_eq!(merged([audience(0..1_024), audience(0..1_024)]), TopicPresence { connections: 2_048, ..full });
        for parts in [[audience(0..1_025), audience(0..0)], [audience(0..600), audience(500..1_025)]] {
            let connections = parts.iter().map(|part| part.connections).sum();
            assert_eq!(merged(parts), TopicPresence { connections, users: 1_024, more: true });
        }
        // It does not become exact again.
        assert_eq!(
            merged([audience(0..2_000), audience(0..5)]),
            TopicPresence { connections: 2_005, users: 1_024, more: true }
        );
    }

    #[test]
    fn an_answer_survives_encoding_and_is_bounded() {
        for audience in [audience(0..0), audience(0..3), audience(0..1_024), audience(0..5_000)] {
            let json = serde_json::to_string(&audience).unwrap();
            assert!(json.len() < 22_000, "{}", json.len());
            assert_eq!(serde_json::from_str::<TopicAudience>(&json).unwrap(), audience);
        }
        let users = STANDARD_NO_PAD.encode([7; 16 * (USERS_MAX + 1)]);
        for users in [&*users, "AAAA", "not base64"] {
            let json = format!(r#"{{"connections":1,"users":"{users}"}}"#);
            assert!(serde_json::from_str::<TopicAudience>(&json).is_err());
        }
    }
}
