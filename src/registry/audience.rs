//! Who of many replicas follows a topic: connections add up, users are counted once wherever they are.
//!
//! Never grows with the number of users: beyond a bound only the smallest of their hashes are kept, from which the
//! number of all follows.

use serde::{Deserialize, Serialize};
use tickgate_wire::model::{Topic, UserId};

use super::{Presence, SessionRecord};

/// Distinct users that are counted one by one.
pub const USERS_EXACT_MAX: usize = 1_024;

/// The followers of a topic on one replica, or on several after [`Audience::merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Audience {
    connections: u64,
    /// The smallest hashes of the users, ascending, each once.
    users: Vec<u64>,
}

impl Audience {
    /// Counts one connection.
    pub(super) fn add(&mut self, user: Option<&UserId>) {
        self.connections += 1;
        if let Some(user) = user {
            self.insert(hash(user.as_str()));
        }
    }

    /// Adds the followers on another replica.
    pub(super) fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        for user in &other.users {
            self.insert(*user);
        }
    }

    fn insert(&mut self, user: u64) {
        if let Err(place) = self.users.binary_search(&user)
            && place < USERS_EXACT_MAX
        {
            self.users.insert(place, user);
            self.users.truncate(USERS_EXACT_MAX);
        }
    }

    pub(super) fn presence(&self) -> Presence {
        let users = match self.users.last() {
            // Of n hashes spread evenly, the k-th smallest lies at about k/n of the whole range.
            Some(largest) if self.users.len() == USERS_EXACT_MAX => {
                (u128::from(u64::MAX) * (USERS_EXACT_MAX as u128 - 1) / u128::from((*largest).max(1))) as u64
            }
            _ => self.users.len() as u64,
        };
        Presence { connections: self.connections, users: users.max(self.users.len() as u64) }
    }
}

/// Whether a session with that record follows the topic.
pub(super) fn follows(record: &SessionRecord, topic: &Topic) -> bool {
    record.subscriptions.iter().any(|own| own.topic.as_deref().unwrap_or(&own.channel) == topic.as_str())
}

/// The same on every replica, whatever its build: FNV-1a, then mixed so that all bits are spread evenly.
fn hash(text: &str) -> u64 {
    let fnv = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53) ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audience(users: std::ops::Range<usize>) -> Audience {
        let mut audience = Audience::default();
        for index in users {
            audience.add(Some(&UserId::new(&format!("user-{index}")).unwrap()));
        }
        audience
    }

    #[test]
    fn a_user_on_two_replicas_counts_once_and_each_connection_counts() {
        let mut all = audience(0..100);
        all.merge(&audience(50..150));
        all.add(None);
        assert_eq!(all.presence(), Presence { connections: 201, users: 150 });
    }

    #[test]
    fn many_users_are_estimated_in_bounded_space() {
        let mut all = audience(0..30_000);
        all.merge(&audience(20_000..50_000));
        let Presence { connections, users } = all.presence();
        assert_eq!(connections, 60_000);
        assert!((45_000..55_000).contains(&users), "{users}");
        assert_eq!(all.users.len(), USERS_EXACT_MAX);
    }
}
