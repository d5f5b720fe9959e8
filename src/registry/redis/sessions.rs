//! This replica's sessions as the registry needs them: what to renew, what to write again after Redis lost it. Compact,
//! since it holds an entry per connection.
//!
//! The buckets are locks and wheel slots at once: one bucket is renewed per tick, and because sessions fall into
//! buckets by a random hash, renewals of all replicas spread evenly over time by themselves.
//!
//! Never talks to Redis.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tickgate_wire::model::{SessionId, Topic, UserId};

use crate::registry::{
    Admission, ConnectionInfo,
    audience::{Audience, follows},
};

/// Buckets of the index: ticks in one round of renewals.
pub(super) const BUCKETS: usize = 64;

#[derive(Debug)]
pub(super) struct Sessions {
    /// The entries are on the heap: a table has up to twice the places that it uses.
    buckets: [Mutex<HashMap<SessionId, Box<Entry>>>; BUCKETS],
    hasher: RandomState,
    /// One copy of each profile's name.
    profiles: Mutex<Vec<Arc<str>>>,
    /// The limit of the last admission: the replica has one for all users.
    connections_max: AtomicU32,
}

/// One session of this replica.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub user: Option<UserId>,
    /// `None` until a connection is opened.
    pub profile: Option<ProfileIndex>,
    /// As the operator sees it, milliseconds since 1970.
    pub connected_ms: u64,
    /// Tells the connections of one session apart; microseconds by Redis's clock as far as it is known.
    pub stamp: u64,
    /// When the token was issued, in seconds since 1970, as far as it is known.
    pub issued_at: Option<NonZeroU64>,
    /// Connections that were admitted and not yet opened.
    pending: u16,
    /// Whether the record in Redis was taken over for this connection.
    pub claimed: bool,
    /// Whether the record waits to be written.
    pub record_queued: bool,
    /// The last record, as JSON.
    pub record: Option<Box<str>>,
}

/// Which of the replica's profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProfileIndex(u16);

/// What is left to do when the last connection of a session closed.
#[derive(Debug)]
pub(super) struct Ended {
    pub user: Option<UserId>,
    pub stamp: u64,
    pub had_record: bool,
    /// The record that had not been written yet.
    pub unwritten: Option<Write>,
}

/// A session's record on its way to Redis.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub stamp: u64,
    pub record: Box<str>,
    /// Nothing of this connection's was written yet.
    pub first: bool,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            profiles: Mutex::default(),
            connections_max: AtomicU32::new(u32::MAX),
        }
    }

    fn bucket(&self, session: SessionId) -> &Mutex<HashMap<SessionId, Box<Entry>>> {
        // The low bits choose the place inside of the bucket's map, under another key; any bits serve here.
        let index = usize::try_from(self.hasher.hash_one(session) % BUCKETS as u64).unwrap_or_default();
        &self.buckets[index]
    }

    /// An admission was granted under `stamp`.
    pub(super) fn admitted(&self, admission: &Admission, stamp: u64) {
        self.connections_max.store(admission.connections_max, Ordering::Relaxed);
        let mut bucket = self.bucket(admission.session).lock();
        let entry = bucket.entry(admission.session).or_insert_with(|| Entry::new(stamp));
        entry.user = Some(admission.user.clone());
        entry.stamp = stamp;
        entry.issued_at = admission.issued_at.and_then(NonZeroU64::new);
        entry.claimed = false;
        entry.pending += 1;
    }

    /// A connection was opened. `stamp` is used when it was not admitted before.
    pub(super) fn opened(&self, session: SessionId, info: &ConnectionInfo, stamp: u64) {
        let profile = self.profile(&info.profile);
        let mut bucket = self.bucket(session).lock();
        let entry = bucket.entry(session).or_insert_with(|| Entry::new(stamp));
        if entry.pending > 0 {
            entry.pending -= 1;
        } else {
            entry.stamp = stamp;
            entry.issued_at = None;
            entry.user = info.user.as_deref().and_then(|user| UserId::new(user).ok());
            entry.claimed = false;
        }
        entry.profile = Some(profile);
        entry.connected_ms = info.connected_ms;
    }

    /// A connection closed. `None` while another one of the session is about to open here.
    pub(super) fn closed(&self, session: SessionId) -> Option<Ended> {
        let mut bucket = self.bucket(session).lock();
        let entry = bucket.get_mut(&session)?;
        // Whoever is left to come keeps the session: the open one goes first.
        if entry.profile.take().is_none() {
            entry.pending = entry.pending.saturating_sub(1);
        }
        if entry.pending > 0 {
            return None;
        }
        let entry = bucket.remove(&session)?;
        if bucket.len() * 4 < bucket.capacity() {
            bucket.shrink_to_fit();
        }
        let had_record = entry.record.is_some();
        let (stamp, first) = (entry.stamp, !entry.claimed);
        let unwritten = entry.record.filter(|_| entry.record_queued).map(|record| Write { stamp, record, first });
        Some(Ended { user: entry.user, stamp, had_record, unwritten })
    }

    /// Keeps a session's record. True when it has to be queued for writing.
    pub(super) fn record(&self, session: SessionId, record: Box<str>) -> bool {
        let mut bucket = self.bucket(session).lock();
        let Some(entry) = bucket.get_mut(&session) else { return false };
        if entry.claimed && entry.record.as_ref() == Some(&record) {
            return false;
        }
        entry.record = Some(record);
        !std::mem::replace(&mut entry.record_queued, true)
    }

    /// The session's record for writing; it is no longer queued.
    pub(super) fn take_record(&self, session: SessionId) -> Option<Write> {
        let mut bucket = self.bucket(session).lock();
        let entry = bucket.get_mut(&session)?;
        entry.record_queued = false;
        let first = !std::mem::replace(&mut entry.claimed, true);
        Some(Write { stamp: entry.stamp, record: entry.record.clone()?, first })
    }

    pub(super) fn get(&self, session: SessionId) -> Option<Entry> {
        self.bucket(session).lock().get(&session).map(|entry| Entry::clone(entry))
    }

    /// Greatest number of a user's connections.
    pub(super) fn connections_max(&self) -> u32 {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Whether the connection of that stamp is the session's newest here.
    pub(super) fn is_newest(&self, session: SessionId, stamp: u64) -> bool {
        self.bucket(session).lock().get(&session).is_some_and(|entry| entry.stamp == stamp)
    }

    /// The sessions that are open, as far as they are no newer than that stamp.
    pub(super) fn open(&self, newest: u64) -> Vec<SessionId> {
        let mut open = Vec::new();
        for bucket in &self.buckets {
            let bucket = bucket.lock();
            let old = bucket.iter().filter(|(_, entry)| entry.profile.is_some() && entry.stamp <= newest);
            open.extend(old.map(|(session, _)| *session));
        }
        open
    }

    /// What a round of renewals needs of one bucket, without copying records.
    pub(super) fn leases(&self, index: usize) -> Vec<Lease> {
        let bucket = self.buckets[index].lock();
        let lease = |(session, entry): (&SessionId, &Entry)| {
            let recorded = entry.claimed && entry.record.is_some();
            let user = entry.user.clone();
            let lease = Lease { session: *session, user, stamp: entry.stamp, recorded, opening: entry.pending > 0 };
            (lease.user.is_some() || recorded).then_some(lease)
        };
        bucket.iter().map(|(session, entry)| (session, &**entry)).filter_map(lease).collect()
    }

    /// The followers of a topic here, by their records.
    pub(super) fn audience(&self, topic: &Topic) -> Audience {
        let mut audience = Audience::default();
        // Most records do not name the topic at all, and are not parsed.
        let quoted = serde_json::to_string(topic.as_str()).unwrap_or_default();
        for bucket in &self.buckets {
            for entry in bucket.lock().values() {
                let record = entry.record.as_deref().filter(|record| record.contains(&quoted));
                if let Some(record) = record
                    && serde_json::from_str(record).is_ok_and(|record| follows(&record, topic))
                {
                    audience.add(entry.user.as_ref());
                }
            }
        }
        audience
    }

    fn profile(&self, name: &str) -> ProfileIndex {
        let mut profiles = self.profiles.lock();
        let known = profiles.iter().position(|known| **known == *name);
        let index = known.unwrap_or_else(|| {
            profiles.push(name.into());
            profiles.len() - 1
        });
        // A configuration has some tens of profiles.
        ProfileIndex(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// The name of a profile.
    pub(super) fn profile_name(&self, profile: ProfileIndex) -> Arc<str> {
        self.profiles.lock().get(usize::from(profile.0)).cloned().unwrap_or_default()
    }
}

/// One session's part in a round of renewals.
#[derive(Debug)]
pub(super) struct Lease {
    pub session: SessionId,
    pub user: Option<UserId>,
    pub stamp: u64,
    /// Whether a record of it is kept in Redis.
    pub recorded: bool,
    /// Whether its newest connection was admitted and not yet opened.
    pub opening: bool,
}

impl Entry {
    fn new(stamp: u64) -> Box<Self> {
        Box::new(Self {
            user: None,
            profile: None,
            connected_ms: 0,
            stamp,
            issued_at: None,
            pending: 0,
            claimed: false,
            record_queued: false,
            record: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        // A size class of the allocator.
        assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    }
}
