//! Remembers users whose connections were just closed, so that a connection that is being admitted at that moment is
//! closed too. Never affects connections admitted later.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tickgate_wire::model::UserId;

/// Upper bound on the duration of an admission.
const KEPT: Duration = Duration::from_secs(30);
/// Maximum number of entries; the oldest are removed first.
const KEPT_MAX: usize = 4_096;

/// Users whose connections were closed recently, oldest first.
#[derive(Debug, Default)]
pub(super) struct EndedUsers(Mutex<VecDeque<EndedUser>>);

#[derive(Debug)]
struct EndedUser {
    at: Instant,
    user: String,
    code: u16,
    reason: String,
}

impl EndedUsers {
    /// Records that all connections of the user are closed at `now`.
    pub(super) fn add(&self, user: &str, (code, reason): (u16, &str), now: Instant) {
        let mut all = self.0.lock();
        while all.len() >= KEPT_MAX || all.front().is_some_and(|ended| now - ended.at > KEPT) {
            all.pop_front();
        }
        all.push_back(EndedUser { at: now, user: user.to_owned(), code, reason: reason.to_owned() });
    }

    /// The code and reason with which the user's connections were closed after `then`, if they were.
    pub(super) fn since(&self, user: &UserId, then: Instant) -> Option<(u16, String)> {
        let all = self.0.lock();
        let mut later = all.iter().rev().take_while(|ended| ended.at >= then);
        later.find(|ended| ended.user == user.as_str()).map(|ended| (ended.code, ended.reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_being_admitted_are_affected() {
        let (ended, alice, start) = (EndedUsers::default(), UserId::new("alice").unwrap(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        ended.add("alice", (4002, "revoked"), at(10));
        ended.add("bob", (4500, "maintenance"), at(11));
        assert_eq!(ended.since(&alice, at(9)), Some((4002, "revoked".to_owned())));
        assert_eq!(ended.since(&alice, at(11)), None);
        assert_eq!(ended.since(&UserId::new("carol").unwrap(), at(0)), None);
        ended.add("bob", (4500, ""), at(99));
        assert_eq!(ended.0.lock().len(), 1, "older entries are removed");
        for _ in 0..KEPT_MAX {
            ended.add("bob", (4500, ""), at(100));
        }
        assert_eq!(ended.0.lock().len(), KEPT_MAX);
    }
}
