//! Whose tokens were revoked, as this replica heard it: what holds whatever becomes of Redis. Pure.
//!
//! Never forgets a revocation before its time, up to a bound; a later call never shortens or takes back an earlier one.

use std::collections::HashMap;

use parking_lot::Mutex;
use tickgate_wire::model::{IssuedAt, UserId};

/// Users remembered. Past it those go first whose time is over next.
const KEPT_MAX: usize = 65_536;

/// A user's tokens that were issued at this time or before are refused until that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    /// Milliseconds since 1970, by the clock of the replica that was asked.
    pub(super) at_ms: u64,
    /// The same.
    pub(super) until_ms: u64,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It was issued before.
    Surely,
    /// It was issued in the very second of the revocation and does not say when in it: one that is issued a second later is
    /// accepted.
    Perhaps,
}

impl Revoked {
    /// What becomes of a token, where its user's were revoked at this time. A token that does not say when it was issued
    /// counts as older.
    pub(super) fn judge(issued_at: Option<IssuedAt>, at_ms: u64) -> Option<Self> {
        match issued_at {
            Some(issued_at) if issued_at.earliest_ms() > at_ms => None,
            Some(issued_at) if issued_at.may_be_later_than(at_ms) => Some(Self::Perhaps),
            _ => Some(Self::Surely),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Revocations(Mutex<HashMap<UserId, Revocation>>);

impl Revocations {
    /// Takes a revocation over, where it says more than is known. Returns what holds from now on.
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
    pub(super) fn refuses(&self, user: &UserId, issued_at: Option<IssuedAt>, now_ms: u64) -> Option<Revoked> {
        let known = self.0.lock().get(user).copied().filter(|known| known.until_ms > now_ms)?;
        Revoked::judge(issued_at, known.at_ms)
    }

    /// Those whose time is not over.
    pub(super) fn all(&self, now_ms: u64) -> Vec<(UserId, Revocation)> {
        let users = self.0.lock();
        let running = users.iter().filter(|(_, revocation)| revocation.until_ms > now_ms);
        running.map(|(user, revocation)| (user.clone(), *revocation)).collect()
    }
}

/// Makes room for one more user where there are too many, whose time ends as `until` says.
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
    fn a_fraction_proves_a_token_later() {
        let (second, exact) = (|s| Some(IssuedAt::in_second(s)), |ms| Some(IssuedAt::at_ms(ms)));
        for (issued_at, expected) in [
            (None, Some(Revoked::Surely)),
            (second(11), Some(Revoked::Surely)),
            (second(12), Some(Revoked::Perhaps)),
            (second(13), None),
            (exact(12_400), Some(Revoked::Surely)),
            (exact(12_500), Some(Revoked::Surely)),
            (exact(12_501), None),
        ] {
            assert_eq!(Revoked::judge(issued_at, 12_500), expected, "{issued_at:?}");
        }
    }

    #[test]
    fn what_was_said_is_never_taken_back() {
        let revocations = Revocations::default();
        let says = |at_ms, until_ms| Revocation { at_ms, until_ms };
        let alice = user("alice");
        assert_eq!(revocations.add(&alice, says(10, 100), 10), says(10, 100));
        assert_eq!(revocations.add(&alice, says(20, 50), 20), says(20, 100), "later, and as long as before");
        assert_eq!(revocations.add(&alice, says(15, 40), 20), says(20, 100));
        let refused = |now_ms| revocations.refuses(&alice, Some(IssuedAt::at_ms(20)), now_ms);
        assert_eq!((refused(99), refused(100)), (Some(Revoked::Surely), None));
        assert_eq!(revocations.refuses(&user("bob"), None, 20), None);
        assert_eq!(revocations.add(&alice, says(5, 200), 150), says(5, 200), "the former one is over");
        assert_eq!(revocations.all(199), [(alice, says(5, 200))]);
        assert_eq!(revocations.all(200), []);
    }

    #[test]
    fn past_the_bound_the_one_that_is_over_next_goes() {
        let revocations = Revocations::default();
        for n in 0..=KEPT_MAX as u64 {
            revocations.add(&user(&format!("u{n}")), Revocation { at_ms: 1, until_ms: 100 + n }, 1);
        }
        assert_eq!(revocations.all(1).len(), KEPT_MAX);
        assert_eq!(revocations.refuses(&user("u0"), None, 1), None);
        assert_eq!(revocations.refuses(&user("u1"), None, 1), Some(Revoked::Surely));
    }
}
