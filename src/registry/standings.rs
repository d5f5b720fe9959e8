//! The users whom the platform reported as inactive, as this replica received it; applies even while Redis is
//! unavailable and after it lost the report. Pure.
//!
//! The last report about a user counts, in the order of sending, not of receiving. Never removes one before its time,
//! up to a bound.

use std::collections::HashMap;

use parking_lot::Mutex;
use tickgate_wire::model::UserId;

use super::revocations::make_room;

/// The platform's report about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserStanding {
    /// Whether all tokens of the user are refused.
    pub(super) inactive: bool,
    /// When the report expires, in milliseconds since 1970, by the clock of the replica that was asked. A report that a
    /// user is active again lives as long as the previous one could, which another replica may still have.
    pub(super) until_ms: u64,
    /// Its stamp, by which reports are ordered.
    pub(super) sent: u64,
}

/// All reports.
#[derive(Debug, Default)]
pub(super) struct Standings(Mutex<HashMap<UserId, UserStanding>>);

impl Standings {
    /// Adds a report, unless a later one is known. Returns whether it counts.
    pub(super) fn add(&self, user: &UserId, heard: UserStanding, now_ms: u64) -> bool {
        let mut users = self.0.lock();
        let known = users.get(user).copied().filter(|known| known.until_ms > now_ms);
        if known.is_some_and(|known| known.sent >= heard.sent) {
            return false;
        }
        make_room(&mut users, user, |standing| standing.until_ms, now_ms);
        let until_ms = match known {
            Some(known) if !heard.inactive => known.until_ms.max(heard.until_ms),
            _ => heard.until_ms,
        };
        users.insert(user.clone(), UserStanding { until_ms, ..heard });
        true
    }

    /// Whether the user is inactive; `None` if nothing is known.
    pub(super) fn is_inactive(&self, user: &UserId, now_ms: u64) -> Option<bool> {
        let known = self.0.lock().get(user).copied().filter(|known| known.until_ms > now_ms)?;
        Some(known.inactive)
    }

    /// Reports that have not expired.
    pub(super) fn all(&self, now_ms: u64) -> Vec<(UserId, UserStanding)> {
        let users = self.0.lock();
        let running = users.iter().filter(|(_, standing)| standing.until_ms > now_ms);
        running.map(|(user, standing)| (user.clone(), *standing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_counts_in_any_order_of_arrival() {
        let (standings, alice) = (Standings::default(), UserId::new("alice").unwrap());
        let says = |inactive, until_ms, sent| UserStanding { inactive, until_ms, sent };
        assert_eq!(standings.is_inactive(&alice, 1), None);
        assert!(standings.add(&alice, says(true, 100, 10), 1));
        assert_eq!((standings.is_inactive(&alice, 99), standings.is_inactive(&alice, 100)), (Some(true), None));
        assert!(standings.add(&alice, says(false, 50, 30), 1));
        assert!(!standings.add(&alice, says(true, 500, 20), 1), "sent before, received after");
        assert_eq!(standings.is_inactive(&alice, 99), Some(false), "as long as the report that it replaces");
        assert!(standings.add(&alice, says(true, 60, 40), 1), "for a shorter time than before");
        assert_eq!((standings.is_inactive(&alice, 59), standings.is_inactive(&alice, 60)), (Some(true), None));
        assert_eq!(standings.all(59), [(alice.clone(), says(true, 60, 40))]);
        assert!(standings.all(60).is_empty());
        assert!(standings.add(&alice, says(true, 90, 5), 70), "the former one has expired");
    }
}
