//! The lease table: this replica's sessions, what to renew, and what to write again after Redis lost it; and the forms
//! in which leases are stored. Pure, and compact, because it has an entry per connection.
//!
//! The buckets are both locks and the slots of a wheel: one bucket is renewed per tick, and because a random hash
//! assigns sessions to buckets, the renewals of all replicas are spread evenly over time.
//!
//! Never builds a key.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    num::NonZeroU64,
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tickgate_wire::model::{IssuedAt, ReplicaId, SessionId, UserId};

use super::{
    own_count::{OwnCount, OwnVerdict, UserSlot},
    profiles::{ProfileIndex, Profiles},
};
use crate::registry::{Admission, ConnectionInfo, UserPlaces, presence::TopicAudience};

/// Number of buckets: ticks per round of renewals.
pub(super) const BUCKETS: usize = 64;

/// The sessions for which this replica holds leases.
#[derive(Debug)]
pub(super) struct LeaseTable {
    /// Boxed, because a table has up to twice as many slots as entries.
    buckets: [Mutex<HashMap<SessionId, Box<LeaseEntry>>>; BUCKETS],
    hasher: RandomState,
    profiles: Profiles,
    /// The sessions of each user here.
    pub(super) own: OwnCount,
}

/// One session of this replica.
#[derive(Clone, Debug)]
pub(super) struct LeaseEntry {
    pub user: Option<UserId>,
    /// `None` until a connection is opened.
    pub profile: Option<ProfileIndex>,
    /// The profile, if it has a separate limit for each user.
    pub apart: Option<ProfileIndex>,
    /// For operators, in milliseconds since 1970.
    pub connected_ms: u64,
    /// Distinguishes the connections of one session; microseconds by Redis's clock, as far as it is known.
    pub stamp: u64,
    /// The earliest time at which the token was issued, in milliseconds since 1970, if known.
    pub issued_ms: Option<NonZeroU64>,
    /// Connections that were admitted and not yet opened.
    pending: u16,
    /// Whether the record in Redis was taken over for this connection.
    pub owns_record: bool,
    /// Whether the record is queued for writing.
    pub record_queued: bool,
    /// The last record, as JSON.
    pub record: Option<Box<str>>,
}

/// The result of opening a connection.
#[derive(Debug)]
pub(super) struct OpenedSession {
    pub user: Option<UserId>,
    /// The session had an anonymous connection here until now.
    pub was_anonymous: bool,
}

/// What is left to do when the last connection of a session has closed.
#[derive(Clone, Debug)]
pub(super) struct EndedSession {
    pub places: Option<UserPlaces>,
    pub stamp: u64,
    pub had_record: bool,
    /// The record, if it was not written yet.
    pub unwritten: Option<PendingRecord>,
    /// Whether the record stays for the resume window. Not for anonymous sessions, which have no place that could be
    /// lost.
    pub leaves_record: bool,
}

/// A session's record to write to Redis.
#[derive(Clone, Debug)]
pub(super) struct PendingRecord {
    pub stamp: u64,
    pub record: Box<str>,
    /// Nothing was written for this connection yet.
    pub first: bool,
}

impl LeaseTable {
    pub(super) fn new() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            profiles: Profiles::default(),
            own: OwnCount::default(),
        }
    }

    fn bucket(&self, session: SessionId) -> &Mutex<HashMap<SessionId, Box<LeaseEntry>>> {
        // The low bits choose the slot inside the bucket's map, under another key; any bits serve here.
        let index = usize::try_from(self.hasher.hash_one(session) % BUCKETS as u64).unwrap_or_default();
        &self.buckets[index]
    }

    /// Records an admission under `stamp`. True if the session had an anonymous connection here until now.
    pub(super) fn admitted(&self, admission: &Admission, stamp: u64) -> bool {
        let mut bucket = self.bucket(admission.session).lock();
        // Under the bucket's lock, so that the session cannot end meanwhile.
        let apart = admission.apart.as_deref().map(|profile| self.profiles.index_of(profile));
        self.own.admitted(admission, apart, stamp);
        let entry = bucket.entry(admission.session).or_insert_with(|| LeaseEntry::new(stamp));
        let was_anonymous = entry.is_anonymous();
        entry.user = Some(admission.user.clone());
        entry.apart = apart;
        entry.stamp = stamp;
        entry.issued_ms = earliest(admission.issued_at);
        entry.owns_record = false;
        entry.pending += 1;
        was_anonymous
    }

    /// Takes a place by this replica's count only.
    pub(super) fn admit_alone(&self, admission: &Admission, stamp: u64) -> OwnVerdict {
        let apart = admission.apart.as_deref().map(|profile| self.profiles.index_of(profile));
        self.own.admit(admission, apart, stamp)
    }

    /// Records a newer token of the session's client.
    pub(super) fn reissued(&self, session: SessionId, issued_at: Option<IssuedAt>) {
        if let Some(entry) = self.bucket(session).lock().get_mut(&session) {
            entry.issued_ms = earliest(issued_at);
        }
    }

    /// The user's sessions here.
    pub(super) fn of_user(&self, user: &UserId) -> Vec<(SessionId, LeaseEntry)> {
        let sessions = self.own.sessions(user).into_iter();
        sessions.filter_map(|session| Some((session, self.get(session)?))).collect()
    }

    /// Records an opened connection. `stamp` is used if it was not admitted before.
    pub(super) fn opened(&self, session: SessionId, info: &ConnectionInfo, stamp: u64) -> OpenedSession {
        let profile = self.profiles.index_of(&info.profile);
        let mut bucket = self.bucket(session).lock();
        let entry = bucket.entry(session).or_insert_with(|| LeaseEntry::new(stamp));
        let was_anonymous = entry.is_anonymous();
        if entry.pending > 0 {
            entry.pending -= 1;
        } else {
            entry.stamp = stamp;
            entry.issued_ms = None;
            entry.user = info.user.as_deref().and_then(|user| UserId::new(user).ok());
            entry.apart = None;
            entry.owns_record = false;
            if let Some(user) = &entry.user {
                self.own.add(user, UserSlot { session, stamp, apart: None });
            }
        }
        entry.profile = Some(profile);
        entry.connected_ms = info.connected_ms;
        OpenedSession { user: entry.user.clone(), was_anonymous }
    }

    /// Records a closed connection. `None` while another one of the session is about to open here.
    pub(super) fn closed(&self, session: SessionId) -> Option<EndedSession> {
        let mut bucket = self.bucket(session).lock();
        let entry = bucket.get_mut(&session)?;
        // A connection that is about to open keeps the session: the open one is removed first.
        if entry.profile.take().is_none() {
            entry.pending = entry.pending.saturating_sub(1);
        }
        if entry.pending > 0 {
            return None;
        }
        let entry = bucket.remove(&session)?;
        if let Some(user) = &entry.user {
            self.own.remove(user, session);
        }
        if bucket.len() * 4 < bucket.capacity() {
            bucket.shrink_to_fit();
        }
        let had_record = entry.record.is_some();
        let (stamp, first) = (entry.stamp, !entry.owns_record);
        let leaves_record = had_record && entry.user.is_some();
        let unwritten =
            entry.record.filter(|_| entry.record_queued).map(|record| PendingRecord { stamp, record, first });
        let apart = entry.apart.map(|profile| self.profile_name(profile));
        let places = entry.user.map(|user| UserPlaces { user, apart });
        Some(EndedSession { places, stamp, had_record, unwritten, leaves_record })
    }

    /// Stores a session's record. True if it must be queued for writing.
    pub(super) fn record(&self, session: SessionId, record: Box<str>) -> bool {
        let mut bucket = self.bucket(session).lock();
        let Some(entry) = bucket.get_mut(&session) else { return false };
        if entry.owns_record && entry.record.as_ref() == Some(&record) {
            return false;
        }
        entry.record = Some(record);
        !std::mem::replace(&mut entry.record_queued, true)
    }

    /// Takes the session's record for writing; it is no longer queued.
    pub(super) fn take_record(&self, session: SessionId) -> Option<PendingRecord> {
        let mut bucket = self.bucket(session).lock();
        let entry = bucket.get_mut(&session)?;
        entry.record_queued = false;
        let first = !std::mem::replace(&mut entry.owns_record, true);
        Some(PendingRecord { stamp: entry.stamp, record: entry.record.clone()?, first })
    }

    pub(super) fn get(&self, session: SessionId) -> Option<LeaseEntry> {
        self.bucket(session).lock().get(&session).map(|entry| LeaseEntry::clone(entry))
    }

    /// The session's last record.
    pub(super) fn own_record(&self, session: SessionId) -> Option<Box<str>> {
        self.bucket(session).lock().get(&session)?.record.clone()
    }

    pub(super) fn has(&self, session: SessionId) -> bool {
        self.bucket(session).lock().contains_key(&session)
    }

    /// Whether the connection with this stamp is the session's newest here.
    pub(super) fn is_newest(&self, session: SessionId, stamp: u64) -> bool {
        self.bucket(session).lock().get(&session).is_some_and(|entry| entry.stamp == stamp)
    }

    /// The open sessions that are not newer than this stamp.
    pub(super) fn open(&self, newest: u64) -> Vec<SessionId> {
        let mut open = Vec::new();
        for bucket in &self.buckets {
            let bucket = bucket.lock();
            let old = bucket.iter().filter(|(_, entry)| entry.profile.is_some() && entry.stamp <= newest);
            open.extend(old.map(|(session, _)| *session));
        }
        open
    }

    /// The data for renewing one bucket, without copying records.
    pub(super) fn renewals(&self, index: usize) -> Vec<SessionRenewal> {
        let bucket = self.buckets[index].lock();
        let renewal = |(session, entry): (&SessionId, &LeaseEntry)| {
            let recorded = entry.owns_record && entry.record.is_some();
            let places = self.places(entry);
            let renewal =
                SessionRenewal { session: *session, places, stamp: entry.stamp, recorded, opening: entry.pending > 0 };
            (renewal.places.is_some() || recorded).then_some(renewal)
        };
        bucket.iter().map(|(session, entry)| (session, &**entry)).filter_map(renewal).collect()
    }

    /// Counts those of these sessions that are open here.
    pub(super) fn audience(&self, sessions: &[SessionId]) -> TopicAudience {
        let mut audience = TopicAudience::default();
        for session in sessions {
            if let Some(entry) = self.bucket(*session).lock().get(session) {
                audience.add(entry.user.as_ref());
            }
        }
        audience
    }

    /// The name of a profile.
    pub(super) fn profile_name(&self, profile: ProfileIndex) -> Arc<str> {
        self.profiles.name(profile)
    }

    /// The places among which a session has one; `None` for an anonymous one.
    pub(super) fn places(&self, entry: &LeaseEntry) -> Option<UserPlaces> {
        let apart = entry.apart.map(|profile| self.profile_name(profile));
        Some(UserPlaces { user: entry.user.clone()?, apart })
    }
}

/// The data for renewing one session.
#[derive(Debug)]
pub(super) struct SessionRenewal {
    pub session: SessionId,
    pub places: Option<UserPlaces>,
    pub stamp: u64,
    /// Whether it has a record in Redis.
    pub recorded: bool,
    /// Whether its newest connection was admitted and not yet opened.
    pub opening: bool,
}

impl EndedSession {
    pub(super) fn user(&self) -> Option<&UserId> {
        self.places.as_ref().map(|places| &places.user)
    }
}

impl LeaseEntry {
    const fn is_anonymous(&self) -> bool {
        self.profile.is_some() && self.user.is_none()
    }

    fn new(stamp: u64) -> Box<Self> {
        Box::new(Self {
            user: None,
            profile: None,
            apart: None,
            connected_ms: 0,
            stamp,
            issued_ms: None,
            pending: 0,
            owns_record: false,
            record_queued: false,
            record: None,
        })
    }
}

fn earliest(issued_at: Option<IssuedAt>) -> Option<NonZeroU64> {
    NonZeroU64::new(issued_at?.earliest_ms())
}

/// A session in its replica's index: the data for sweeping and for operators.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IndexEntry {
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(rename = "p")]
    pub profile: String,
    /// Whether the profile has a separate limit for each user.
    #[serde(rename = "a", default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
    #[serde(rename = "c")]
    pub connected_ms: u64,
    #[serde(rename = "s")]
    pub stamp: u64,
}

impl IndexEntry {
    pub(super) fn encode(entry: &LeaseEntry, profile: &str) -> String {
        let slot = Self {
            user: entry.user.as_ref().map(ToString::to_string),
            profile: profile.to_owned(),
            apart: entry.apart.is_some(),
            connected_ms: entry.connected_ms,
            stamp: entry.stamp,
        };
        serde_json::to_string(&slot).unwrap_or_default()
    }

    /// The places among which the session has one.
    pub(super) fn places(&self) -> Option<UserPlaces> {
        let user = UserId::new(self.user.as_deref()?).ok()?;
        Some(UserPlaces { user, apart: self.apart.then(|| self.profile.as_str().into()) })
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

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "6f1e0e5e-7f1c-4a43-9f5f-0b8a4ab5a0f1";

    fn session() -> SessionId {
        SessionId::parse(SESSION).unwrap()
    }

    fn info(user: Option<&str>) -> ConnectionInfo {
        ConnectionInfo {
            session: SESSION.into(),
            replica: "r1".into(),
            user: user.map(Into::into),
            profile: "trading".into(),
            connected_ms: 7,
        }
    }

    fn admission(user: &str) -> Admission {
        let user = UserId::new(user).unwrap();
        Admission {
            user,
            session: session(),
            replaces: None,
            apart: None,
            connections_max: 5,
            evict_oldest: false,
            issued_at: Some(IssuedAt::in_second(3)),
        }
    }

    fn renewals(leases: &LeaseTable) -> Vec<SessionRenewal> {
        (0..BUCKETS).flat_map(|bucket| leases.renewals(bucket)).collect()
    }

    #[test]
    fn an_entry_is_small() {
        // A size class of the allocator.
        assert!(size_of::<LeaseEntry>() <= 64, "{}", size_of::<LeaseEntry>());
    }

    #[test]
    fn a_lease_is_renewed_from_opening_to_closing() {
        let leases = LeaseTable::new();
        leases.admitted(&admission("alice"), 10);
        assert!(renewals(&leases)[0].opening, "admitted, and not in the index yet");
        leases.opened(session(), &info(Some("alice")), 99);
        let renewal = &renewals(&leases)[0];
        assert_eq!((renewal.stamp, renewal.opening, renewal.recorded), (10, false, false));
        assert!(leases.record(session(), "{}".into()));
        assert!(!renewals(&leases)[0].recorded, "not written yet");
        let write = leases.take_record(session()).unwrap();
        assert!((write.stamp, write.first) == (10, true) && renewals(&leases)[0].recorded);
        assert!(!leases.record(session(), "{}".into()), "unchanged");
        assert!(leases.record(session(), "{1}".into()) && !leases.record(session(), "{2}".into()), "queued once");
        let ended = leases.closed(session()).unwrap();
        assert!(ended.had_record && ended.unwritten.is_some_and(|write| &*write.record == "{2}" && !write.first));
        assert!(renewals(&leases).is_empty() && leases.closed(session()).is_none());
    }

    #[test]
    fn the_newest_connection_of_a_session_keeps_it() {
        let leases = LeaseTable::new();
        leases.admitted(&admission("alice"), 10);
        leases.opened(session(), &info(Some("alice")), 99);
        leases.admitted(&admission("alice"), 20);
        assert!(leases.closed(session()).is_none(), "the old connection ends while the new one is about to open");
        assert!(leases.is_newest(session(), 20) && !leases.is_newest(session(), 10));
        leases.opened(session(), &info(Some("alice")), 99);
        assert_eq!(leases.open(20), [session()]);
        assert!(leases.open(19).is_empty(), "opened since");
        assert_eq!(leases.closed(session()).unwrap().stamp, 20);
    }

    #[test]
    fn an_anonymous_session_is_reported_when_it_gets_a_user() {
        let leases = LeaseTable::new();
        let opened = |user, stamp| leases.opened(session(), &info(user), stamp).was_anonymous;
        assert!(!opened(None, 10));
        assert!(leases.admitted(&admission("alice"), 20), "counted");
        assert!(!opened(Some("alice"), 99));
        leases.closed(session()).unwrap();
        assert!(!opened(None, 30));
        assert!(opened(Some("alice"), 40), "admitted without being counted");
        assert!(!opened(Some("alice"), 50));
    }
}
