//! The sessions of each user on this replica, by which the limit is enforced while Redis is unavailable. Pure.
//!
//! Does not count a user's sessions on other replicas.

use std::{
    collections::{HashMap, hash_map::Entry, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tickgate_wire::model::{SessionId, UserId};

use super::profiles::ProfileIndex;
use crate::registry::Admission;

/// Number of locks of the table.
const PARTS: usize = 16;

/// The sessions of each user on this replica.
#[derive(Debug)]
pub(super) struct OwnCount {
    parts: [Mutex<HashMap<UserId, UserSessions>>; PARTS],
    hasher: RandomState,
    /// Sessions that could not take the place of another one while Redis was unavailable, with that other one.
    replacing: Mutex<HashMap<SessionId, SessionId>>,
    /// The limits of the last admissions: of an endpoint with its own, and of all others.
    limits: Mutex<HashMap<Option<Arc<str>>, u32>>,
    /// Whether the oldest is evicted at the limit.
    evicts_oldest: AtomicBool,
}

/// A user's sessions. Nearly every user has one, which takes no extra memory.
#[derive(Debug)]
enum UserSessions {
    One(UserSlot),
    Several(Vec<UserSlot>),
}

/// The place of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserSlot {
    pub(super) session: SessionId,
    pub(super) stamp: u64,
    /// The profile, if its sessions compete only with each other.
    pub(super) apart: Option<ProfileIndex>,
}

/// The decision of the replica's own count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OwnVerdict {
    /// `connections` includes the new one; the evicted must be closed.
    Admitted {
        connections: usize,
        evicted: Vec<SessionId>,
    },
    Refused {
        connections: usize,
    },
}

impl Default for OwnCount {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            replacing: Mutex::default(),
            limits: Mutex::default(),
            evicts_oldest: AtomicBool::new(false),
        }
    }
}

impl OwnCount {
    fn part(&self, user: &UserId) -> &Mutex<HashMap<UserId, UserSessions>> {
        &self.parts[usize::try_from(self.hasher.hash_one(user) % PARTS as u64).unwrap_or_default()]
    }

    /// Records an admission.
    pub(super) fn admitted(&self, admission: &Admission, apart: Option<ProfileIndex>, stamp: u64) {
        self.limits.lock().insert(admission.apart.clone(), admission.connections_max);
        self.evicts_oldest.store(admission.evict_oldest, Ordering::Relaxed);
        if let Some(place) = admission.replaces {
            self.replacing.lock().insert(admission.session, place);
        }
        self.add(&admission.user, UserSlot { session: admission.session, stamp, apart });
    }

    /// The limit of a user's connections, at an endpoint with its own or at all others. None is known before the first
    /// admission.
    pub(super) fn connections_max(&self, apart: Option<&str>) -> u32 {
        self.limits.lock().get(&apart.map(Arc::from)).copied().unwrap_or(u32::MAX)
    }

    /// Whether a user's oldest connection is evicted at the limit.
    pub(super) fn evicts_oldest(&self) -> bool {
        self.evicts_oldest.load(Ordering::Relaxed)
    }

    /// The session whose place this one should take.
    pub(super) fn replaces(&self, session: SessionId) -> Option<SessionId> {
        self.replacing.lock().get(&session).copied()
    }

    /// Records that the session has its place among all of its user's.
    pub(super) fn placed(&self, session: SessionId) {
        self.replacing.lock().remove(&session);
    }

    /// Adds a session, or its newer connection.
    pub(super) fn add(&self, user: &UserId, slot: UserSlot) {
        match self.part(user).lock().entry(user.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(UserSessions::One(slot));
            }
            Entry::Occupied(mut occupied) => occupied.get_mut().put(slot),
        }
    }

    /// The user's sessions.
    pub(super) fn sessions(&self, user: &UserId) -> Vec<SessionId> {
        let part = self.part(user).lock();
        part.get(user).map_or_else(Vec::new, |sessions| sessions.slots().iter().map(|slot| slot.session).collect())
    }

    /// Removes a session.
    pub(super) fn remove(&self, user: &UserId, session: SessionId) {
        self.placed(session);
        let mut part = self.part(user).lock();
        let Entry::Occupied(mut occupied) = part.entry(user.clone()) else { return };
        if occupied.get_mut().take(session) {
            occupied.remove();
            if part.len() * 4 < part.capacity() {
                part.shrink_to_fit();
            }
        }
    }

    /// Takes a place for a session by this replica's count only, in one step.
    pub(super) fn admit(&self, admission: &Admission, apart: Option<ProfileIndex>, stamp: u64) -> OwnVerdict {
        let (session, max) = (admission.session, admission.connections_max as usize);
        let mut part = self.part(&admission.user).lock();
        let known = part.get(&admission.user).map_or(&[][..], UserSessions::slots);
        let (mut others, mut elsewhere): (Vec<UserSlot>, Vec<UserSlot>) =
            known.iter().copied().filter(|slot| slot.session != session).partition(|slot| slot.apart == apart);
        let over = (others.len() + 1).saturating_sub(max);
        if over > 0 && (max == 0 || !admission.evict_oldest) {
            return OwnVerdict::Refused { connections: others.len() };
        }
        others.sort_unstable_by_key(|slot| slot.stamp);
        let evicted = others.drain(..over).map(|slot| slot.session).collect();
        others.push(UserSlot { session, stamp, apart });
        let connections = others.len();
        others.append(&mut elsewhere);
        part.insert(admission.user.clone(), UserSessions::Several(others));
        OwnVerdict::Admitted { connections, evicted }
    }
}

impl UserSessions {
    fn slots(&self) -> &[UserSlot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Several(slots) => slots,
        }
    }

    fn put(&mut self, slot: UserSlot) {
        match self {
            Self::One(only) if only.session == slot.session => *only = slot,
            Self::One(only) => *self = Self::Several(vec![*only, slot]),
            Self::Several(slots) => match slots.iter_mut().find(|known| known.session == slot.session) {
                Some(known) => *known = slot,
                None => slots.push(slot),
            },
        }
    }

    /// Removes a session. True if none is left.
    fn take(&mut self, session: SessionId) -> bool {
        match self {
            Self::One(only) => only.session == session,
            Self::Several(slots) => {
                slots.retain(|slot| slot.session != session);
                if let [only] = slots[..] {
                    *self = Self::One(only);
                }
                self.slots().is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(session: SessionId, connections_max: u32, evict_oldest: bool) -> Admission {
        let user = UserId::new("alice").unwrap();
        Admission { user, session, replaces: None, apart: None, connections_max, evict_oldest, issued_at: None }
    }

    #[test]
    fn the_limit_is_enforced_and_a_session_counts_once() {
        let (own, alice) = (OwnCount::default(), UserId::new("alice").unwrap());
        let sessions: Vec<SessionId> = (0..3).map(|_| SessionId::random()).collect();
        own.add(&alice, UserSlot { session: sessions[0], stamp: 1, apart: None });
        let admitted = |connections| OwnVerdict::Admitted { connections, evicted: Vec::new() };
        assert_eq!(own.admit(&admission(sessions[0], 2, false), None, 2), admitted(1), "its own previous connection");
        assert_eq!(own.admit(&admission(sessions[1], 2, false), None, 3), admitted(2));
        assert_eq!(own.admit(&admission(sessions[2], 2, false), None, 4), OwnVerdict::Refused { connections: 2 });
        own.remove(&alice, sessions[0]);
        own.remove(&alice, sessions[0]);
        assert_eq!(own.admit(&admission(sessions[2], 2, false), None, 5), admitted(2));
        assert_eq!(own.admit(&admission(sessions[0], 0, true), None, 6), OwnVerdict::Refused { connections: 2 });
        for session in sessions {
            own.remove(&alice, session);
        }
        assert!(own.parts.iter().all(|part| part.lock().is_empty()), "nothing is left of a user without sessions");
    }

    #[test]
    fn the_oldest_is_evicted_if_configured() {
        let (own, alice) = (OwnCount::default(), UserId::new("alice").unwrap());
        let [old, older, new] = [(); 3].map(|()| SessionId::random());
        own.add(&alice, UserSlot { session: old, stamp: 20, apart: None });
        own.add(&alice, UserSlot { session: older, stamp: 10, apart: None });
        let evicted = |session| OwnVerdict::Admitted { connections: 2, evicted: vec![session] };
        assert_eq!(own.admit(&admission(new, 2, true), None, 30), evicted(older));
        own.add(&alice, UserSlot { session: old, stamp: 40, apart: None });
        assert_eq!(own.admit(&admission(older, 2, true), None, 50), evicted(new), "it is newer since it returned");
    }
}
