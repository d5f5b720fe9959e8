//! The revocations that this replica received, which apply even while Redis is unavailable and after it lost them.
//! Pure.
//!
//! Never removes a revocation before its time, up to a bound; a later call never shortens or revokes an earlier one.

use std::collections::HashMap;

use parking_lot::Mutex;
use tickgate_wire::model::{IssuedAt, UserId};

/// Maximum number of remembered users. Beyond it those that expire next are removed.
const KEPT_MAX: usize = 65_536;

/// A user's tokens issued not later than `at_ms` are refused until `until_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    /// Milliseconds since 1970, by the clock of the replica that was asked.
    pub(super) at_ms: u64,
    /// In the same unit.
    pub(super) until_ms: u64,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedToken {
    /// It was issued before.
    Surely,
    /// It was issued in the same second as the revocation, without a fraction: one issued a second later is accepted.
    Perhaps,
}

impl RevokedToken {
    /// Whether a token is refused if its user's tokens were revoked at this time. A token without `iat` counts as
    /// older.
    pub(super) fn judge(issued_at: Option<IssuedAt>, at_ms: u64) -> Option<Self> {
        match issued_at {
            Some(issued_at) if issued_at.earliest_ms() > at_ms => None,
            Some(issued_at) if issued_at.may_be_later_than(at_ms) => Some(Self::Perhaps),
            _ => Some(Self::Surely),
        }
    }
}

/// All revocations.
#[derive(Debug, Default)]
pub(super) struct Revocations(Mutex<HashMap<UserId, Revocation>>);

impl Revocations {
    /// Adds a revocation if it extends the known one. Returns the effective one.
    pub(super) fn add(&self, user: &UserId, heard: Revocation, now_ms: u64) -> Revocation {
        let mut users = self.0.lock();
        make_room(&mut users, user, |revocation| revocation.until_ms, now_ms);
        let known = users.entry(user.clone()).or_insert(heard);
        if known.until_ms <= now_ms {
            *known = heard;
        }
        known.at_ms = known.at_ms.max(heard.at_ms);
        known.until_ms = known.until_ms.max(heard.until_ms);
        *known
    }

    /// Whether a token of the user is refused.
    pub(super) fn refuses(&self, user: &UserId, issued_at: Option<IssuedAt>, now_ms: u64) -> Option<RevokedToken> {
        let known = self.0.lock().get(user).copied().filter(|known| known.until_ms > now_ms)?;
        RevokedToken::judge(issued_at, known.at_ms)
    }

    /// Revocations that have not expired.
    pub(super) fn all(&self, now_ms: u64) -> Vec<(UserId, Revocation)> {
        let users = self.0.lock();
        let running = users.iter().filter(|(_, revocation)| revocation.until_ms > now_ms);
        running.map(|(user, revocation)| (user.clone(), *revocation)).collect()
    }
}

/// Makes room for one more user by removing the one that expires next, as given by `until`.
pub(super) fn make_room<V>(users: &mut HashMap<UserId, V>, user: &UserId, until: impl Fn(&V) -> u64, now_ms: u64) {
    if users.len() < KEPT_MAX || users.contains_key(user) {
        return;
    }
    users.retain(|_, kept| until(kept) > now_ms);
    if users.len() >= KEPT_MAX
        && let Some((next, _)) = users.iter().min_by_key(|(_, kept)| until(kept))
    {
        let next = next.clone();
        users.remove(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn a_fraction_of_a_second_proves_that_a_token_is_later() {
        let (second, exact) = (|s| Some(IssuedAt::in_second(s)), |ms| Some(IssuedAt::at_ms(ms)));
        for (issued_at, expected) in [
            (None, Some(RevokedToken::Surely)),
            (second(11), Some(RevokedToken::Surely)),
            (second(12), Some(RevokedToken::Perhaps)),
            (second(13), None),
            (exact(12_400), Some(RevokedToken::Surely)),
            (exact(12_500), Some(RevokedToken::Surely)),
            (exact(12_501), None),
        ] {
            assert_eq!(RevokedToken::judge(issued_at, 12_500), expected, "{issued_at:?}");
        }
    }

    #[test]
    fn a_revocation_is_never_shortened() {
        let revocations = Revocations::default();
        let says = |at_ms, until_ms| Revocation { at_ms, until_ms };
        let alice = user("alice");
        assert_eq!(revocations.add(&alice, says(10, 100), 10), says(10, 100));
        assert_eq!(revocations.add(&alice, says(20, 50), 20), says(20, 100), "a later time with the same end");
        assert_eq!(revocations.add(&alice, says(15, 40), 20), says(20, 100));
        let refused = |now_ms| revocations.refuses(&alice, Some(IssuedAt::at_ms(20)), now_ms);
        assert_eq!((refused(99), refused(100)), (Some(RevokedToken::Surely), None));
        assert_eq!(revocations.refuses(&user("bob"), None, 20), None);
        assert_eq!(revocations.add(&alice, says(5, 200), 150), says(5, 200), "the former one has expired");
        assert_eq!(revocations.all(199), [(alice, says(5, 200))]);
        assert_eq!(revocations.all(200), []);
    }

    #[test]
    fn beyond_the_bound_the_one_that_expires_next_is_removed() {
        let revocations = Revocations::default();
        for n in 0..=KEPT_MAX as u64 {
            revocations.add(&user(&format!("u{n}")), Revocation { at_ms: 1, until_ms: 100 + n }, 1);
        }
        assert_eq!(revocations.all(1).len(), KEPT_MAX);
        assert_eq!(revocations.refuses(&user("u0"), None, 1), None);
        assert_eq!(revocations.refuses(&user("u1"), None, 1), Some(RevokedToken::Surely));
    }
}
