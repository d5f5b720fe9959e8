//! The sessions of each user on this replica, by which the limit is enforced while Redis is unavailable. Pure.
//!
//! Never knows a user's sessions on other replicas.

use std::{
    collections::{HashMap, hash_map::Entry, hash_map::RandomState},
    hash::BuildHasher,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use parking_lot::Mutex;
use tickgate_wire::model::{SessionId, UserId};

use crate::registry::Admission;

/// Number of locks of the table.
const PARTS: usize = 16;

/// The sessions of each user on this replica.
#[derive(Debug)]
pub(super) struct OwnCount {
    parts: [Mutex<HashMap<UserId, Sessions>>; PARTS],
    hasher: RandomState,
    /// Sessions that could not take the place of another one while Redis was unavailable, with that other one.
    replacing: Mutex<HashMap<SessionId, SessionId>>,
    /// The limit of the last admission: a replica has one limit for all users.
    connections_max: AtomicU32,
    /// Whether the oldest is evicted at the limit.
    evicts_oldest: AtomicBool,
}

/// A user's sessions. Nearly every user has one, which takes no extra memory.
#[derive(Debug)]
enum Sessions {
    One(Slot),
    Several(Vec<Slot>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    session: SessionId,
    stamp: u64,
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
            // No limit is known before the first admission.
            connections_max: AtomicU32::new(u32::MAX),
            evicts_oldest: AtomicBool::new(false),
        }
    }
}

impl OwnCount {
    fn part(&self, user: &UserId) -> &Mutex<HashMap<UserId, Sessions>> {
        &self.parts[usize::try_from(self.hasher.hash_one(user) % PARTS as u64).unwrap_or_default()]
    }

    /// Records an admission.
    pub(super) fn admitted(&self, admission: &Admission, stamp: u64) {
        self.connections_max.store(admission.connections_max, Ordering::Relaxed);
        self.evicts_oldest.store(admission.evict_oldest, Ordering::Relaxed);
        if let Some(place) = admission.replaces {
            self.replacing.lock().insert(admission.session, place);
        }
        self.add(&admission.user, admission.session, stamp);
    }

    /// The limit of a user's connections, as far as it is known.
    pub(super) fn connections_max(&self) -> u32 {
        self.connections_max.load(Ordering::Relaxed)
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
    pub(super) fn add(&self, user: &UserId, session: SessionId, stamp: u64) {
        let slot = Slot { session, stamp };
        match self.part(user).lock().entry(user.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Sessions::One(slot));
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
    pub(super) fn admit(&self, admission: &Admission, stamp: u64) -> OwnVerdict {
        let (session, max) = (admission.session, admission.connections_max as usize);
        let mut part = self.part(&admission.user).lock();
        let mut others: Vec<Slot> =
            part.get(&admission.user).map_or_else(Vec::new, |sessions| sessions.slots().to_vec());
        others.retain(|slot| slot.session != session);
        let over = (others.len() + 1).saturating_sub(max);
        if over > 0 && (max == 0 || !admission.evict_oldest) {
            return OwnVerdict::Refused { connections: others.len() };
        }
        others.sort_unstable_by_key(|slot| slot.stamp);
        let evicted = others.drain(..over).map(|slot| slot.session).collect();
        others.push(Slot { session, stamp });
        let connections = others.len();
        part.insert(admission.user.clone(), Sessions::Several(others));
        OwnVerdict::Admitted { connections, evicted }
    }
}

impl Sessions {
    fn slots(&self) -> &[Slot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Several(slots) => slots,
        }
    }

    fn put(&mut self, slot: Slot) {
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
        Admission { user, session, replaces: None, connections_max, evict_oldest, issued_at: None }
    }

    #[test]
    fn the_limit_is_enforced_and_a_session_counts_once() {
        let (own, alice) = (OwnCount::default(), UserId::new("alice").unwrap());
        let sessions: Vec<SessionId> = (0..3).map(|_| SessionId::random()).collect();
        own.add(&alice, sessions[0], 1);
        let admitted = |connections| OwnVerdict::Admitted { connections, evicted: Vec::new() };
        assert_eq!(own.admit(&admission(sessions[0], 2, false), 2), admitted(1), "its own previous connection");
        assert_eq!(own.admit(&admission(sessions[1], 2, false), 3), admitted(2));
        assert_eq!(own.admit(&admission(sessions[2], 2, false), 4), OwnVerdict::Refused { connections: 2 });
        own.remove(&alice, sessions[0]);
        own.remove(&alice, sessions[0]);
        assert_eq!(own.admit(&admission(sessions[2], 2, false), 5), admitted(2));
        assert_eq!(own.admit(&admission(sessions[0], 0, true), 6), OwnVerdict::Refused { connections: 2 });
        for session in sessions {
            own.remove(&alice, session);
        }
        assert!(own.parts.iter().all(|part| part.lock().is_empty()), "nothing is left of a user without sessions");
    }

    #[test]
    fn the_oldest_is_evicted_if_configured() {
        let (own, alice) = (OwnCount::default(), UserId::new("alice").unwrap());
        let [old, older, new] = [(); 3].map(|()| SessionId::random());
        own.add(&alice, old, 20);
        own.add(&alice, older, 10);
        let evicted = |session| OwnVerdict::Admitted { connections: 2, evicted: vec![session] };
        assert_eq!(own.admit(&admission(new, 2, true), 30), evicted(older));
        own.add(&alice, old, 40);
        assert_eq!(own.admit(&admission(older, 2, true), 50), evicted(new), "it is newer since it returned");
    }
}
