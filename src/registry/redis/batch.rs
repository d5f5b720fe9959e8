//! Turns queued changes, renewals and rewrites into the steps for one shard, and evaluates the responses. Pure:
//! `writer` sends.
//!
//! Every step is idempotent: after a timeout the whole batch is sent again. And any step may be the last one that
//! arrives, if this replica is killed: a session is indexed before its lease is extended, and removed from the index
//! after its lease has ended, so that a sweep by the index misses no lease.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU64,
};

use tickgate_wire::model::{ReplicaId, SessionId, UserId};

use super::{
    leases::{EndedSession, IndexEntry, LeaseEntry, LeaseTable, PendingRecord, SessionRenewal},
    owner::{Owner, split_member},
};
use crate::{
    redis_link::Placement,
    registry::{UserPlaces, revocations::Revocation, standings::UserStanding},
};

/// A queued change.
///
/// A session's data stay in the table and are read when the change is written, so a session is queued at most once for
/// its opening and once for its record, however often they change.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Add the session to this replica's index where it belongs, and remove it where it no longer does.
    Opened(SessionId),
    /// Write the session's record.
    Record(SessionId),
    /// Remove the session from everything.
    Closed(SessionId, EndedSession),
    /// Remove a member whose admission ended without a response.
    Release { session: SessionId, places: UserPlaces, stamp: u64 },
    /// Send a message to one replica.
    Tell(ReplicaId, String),
    /// End the record that a connection of the session left.
    EndRecord(SessionId, u64),
    /// Store the revocation of a user's tokens.
    Revoke(UserId, Revocation),
    /// Store whether a user is inactive.
    Stand(UserId, UserStanding),
    /// Send a message to all replicas, and store it for those that are disconnected.
    TellAll(Broadcast),
}

/// A message to all replicas.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    /// As published.
    pub(super) message: String,
    /// As stored: the field and the text.
    pub(super) field: &'static str,
    pub(super) kept: String,
    /// Its position in the order.
    pub(super) sent: u64,
}

/// One shard's share of the names. A session belongs to its user's shard, or to that of its own id if it is anonymous;
/// its record belongs to the shard of the session id, by which it is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardPart {
    placement: Placement,
    shard: usize,
}

impl ShardPart {
    pub(super) const fn new(placement: Placement, shard: usize) -> Self {
        Self { placement, shard }
    }

    pub(super) fn has_user(self, user: &UserId) -> bool {
        self.placement.shard(user.as_str()) == self.shard
    }

    pub(super) fn has_record(self, session: SessionId) -> bool {
        record_shard(self.placement, session) == self.shard
    }

    /// Whether the session's lease and index entry are on this shard.
    pub(super) fn has_session(self, session: SessionId, user: Option<&UserId>) -> bool {
        session_shard(self.placement, session, user) == self.shard
    }
}

/// The shard of a session's lease and index entry.
pub(super) fn session_shard(placement: Placement, session: SessionId, user: Option<&UserId>) -> usize {
    user.map_or_else(|| record_shard(placement, session), |user| placement.shard(user.as_str()))
}

/// The shard of a session's record.
pub(super) fn record_shard(placement: Placement, session: SessionId) -> usize {
    if placement == Placement::ONE { 0 } else { placement.shard(&session.to_string()) }
}

/// One of this replica's indexes on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    Current,
    /// The one that is being rewritten, until it replaces the current one.
    Next,
}

/// One command.
#[derive(Clone, Debug)]
pub(super) enum RegistryCommand {
    /// Add sessions to an index.
    Index(Index, Vec<(SessionId, String)>),
    /// Extend the lifetime of an index.
    KeepIndex(Index),
    /// Remove sessions from the current index.
    Unindex(Vec<SessionId>),
    /// Remove a whole index.
    DropIndex(Index),
    /// Replace the current index with the next one.
    ReplaceIndex,
    /// Remove a lease from its user's set.
    Leave { places: UserPlaces, session: SessionId, stamp: u64 },
    /// Renew a lease for its full time, if it still exists.
    Extend { places: UserPlaces, session: SessionId, stamp: u64 },
    /// Extend the lifetime of a user's set.
    KeepMembers(UserPlaces),
    /// Add a lease to its user's set if it is missing.
    Readmit { places: UserPlaces, session: SessionId, stamp: u64, issued_ms: Option<u64> },
    /// Store the revocation of a user's tokens.
    Revoke { user: UserId, revocation: Revocation },
    /// Store whether a user is inactive, unless a later report is stored.
    Stand { user: UserId, standing: UserStanding },
    /// Send a message to all replicas, and store it for those that are disconnected.
    TellAll(Broadcast),
    /// Write a record unless the session has one. Nearly every session is new, and a plain command costs Redis a third
    /// of the script.
    Claim(RecordWrite),
    /// Write a record unless the session has a newer connection elsewhere.
    Write(RecordWrite),
    /// Extend the lifetime of a record while its session is connected.
    KeepRecord(SessionId),
    /// Keep a record for the resume window, or end it, unless the session has a newer connection elsewhere.
    EndRecord { session: SessionId, stamp: u64, stays: bool },
    /// Send a message to a replica.
    Tell(ReplicaId, String),
}

/// A session's record to write.
#[derive(Clone, Debug)]
pub(super) struct RecordWrite {
    pub(super) session: SessionId,
    pub(super) stamp: u64,
    pub(super) record: Box<str>,
    /// The session is closed: the record stays only for the resume window.
    pub(super) is_last: bool,
}

/// A shard's response to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CommandAnswer {
    Nil,
    Number(i64),
    Text(String),
    /// The session is in its user's set, and these members are removed: its previous connection, and those over the
    /// limit.
    GaveWay {
        replaced: Vec<String>,
        over: Vec<String>,
    },
    /// Anything else, or an error that a retry would not fix.
    Other,
}

/// The consequences of the responses.
#[derive(Debug, Default)]
pub(super) struct BatchOutcome {
    /// Records of sessions that already have one: the stamps decide whose the session is.
    pub(super) contested: Vec<RecordWrite>,
    /// Sessions whose leases were missing.
    pub(super) missing: Vec<SessionId>,
    /// Users about whom Redis has a later report.
    pub(super) standings: Vec<(UserId, String)>,
    /// Connections whose session continues elsewhere, or that lost their place.
    pub(super) superseded: Vec<(SessionId, u64)>,
    /// Connections for which there was no more room when they could be counted.
    pub(super) too_many: Vec<(SessionId, u64)>,
    /// Sessions that are in their user's set again.
    pub(super) counted: Vec<SessionId>,
    /// Connections whose token was revoked without their replica having been notified.
    pub(super) revoked: Vec<(SessionId, u64)>,
    /// Previous owners of sessions that were taken over here.
    pub(super) former: Vec<(SessionId, Owner)>,
    /// Connections that were evicted for one that was counted late.
    pub(super) made_room: Vec<(SessionId, Owner)>,
}

/// Steps for one shard.
#[derive(Debug, Default)]
pub(super) struct ShardBatch {
    steps: Vec<RegistryCommand>,
    /// Sessions to index before the other steps.
    index: HashMap<SessionId, String>,
    /// Sessions to remove from the index after the other steps.
    unindex: HashSet<SessionId>,
}

impl ShardBatch {
    /// A batch of steps that are already in order.
    pub(super) fn of(steps: impl IntoIterator<Item = RegistryCommand>) -> Self {
        Self { steps: steps.into_iter().collect(), ..Self::default() }
    }

    /// Adds one queued change, as far as it concerns the shard.
    pub(super) fn op(&mut self, part: ShardPart, leases: &LeaseTable, op: &Op) {
        match op {
            Op::Opened(session) => self.opened(part, leases, *session),
            Op::Record(session) => {
                if let Some(PendingRecord { stamp, record, first }) = leases.take_record(*session) {
                    self.record(RecordWrite { session: *session, stamp, record, is_last: false }, first);
                }
            }
            Op::Closed(session, ended) => self.closed(part, *session, ended),
            Op::Release { session, places, stamp } => {
                self.steps.push(RegistryCommand::Leave { places: places.clone(), session: *session, stamp: *stamp });
            }
            Op::Tell(replica, message) => self.steps.push(RegistryCommand::Tell(replica.clone(), message.clone())),
            Op::EndRecord(session, stamp) => {
                self.steps.push(RegistryCommand::EndRecord { session: *session, stamp: *stamp, stays: false });
            }
            Op::Revoke(user, revocation) => self.revoke(user.clone(), *revocation),
            Op::Stand(user, standing) => self.stand(user.clone(), *standing),
            Op::TellAll(word) => self.steps.push(RegistryCommand::TellAll(word.clone())),
        }
    }

    /// Adds a revocation.
    pub(super) fn revoke(&mut self, user: UserId, revocation: Revocation) {
        self.steps.push(RegistryCommand::Revoke { user, revocation });
    }

    /// Adds whether a user is inactive.
    pub(super) fn stand(&mut self, user: UserId, standing: UserStanding) {
        self.steps.push(RegistryCommand::Stand { user, standing });
    }

    fn opened(&mut self, part: ShardPart, leases: &LeaseTable, session: SessionId) {
        let entry = leases.get(session);
        let Some(entry) = entry.filter(|entry| part.has_session(session, entry.user.as_ref())) else {
            // Closed since, or the anonymous session now has a user on another shard.
            return self.remove(session);
        };
        if self.index(leases, session, &entry)
            && let Some(places) = leases.places(&entry)
        {
            self.steps.push(RegistryCommand::Extend { places, session, stamp: entry.stamp });
        }
    }

    fn closed(&mut self, part: ShardPart, session: SessionId, ended: &EndedSession) {
        if part.has_session(session, ended.user()) {
            self.remove(session);
            if let Some(places) = ended.places.clone() {
                self.steps.push(RegistryCommand::Leave { places, session, stamp: ended.stamp });
            }
        }
        if part.has_record(session) {
            match &ended.unwritten {
                Some(PendingRecord { first: true, .. }) if !ended.leaves_record => {}
                Some(PendingRecord { stamp, record, first }) if ended.leaves_record => {
                    let write = RecordWrite { session, stamp: *stamp, record: record.clone(), is_last: true };
                    self.record(write, *first);
                }
                None if !ended.had_record => {}
                _ => {
                    let (stamp, stays) = (ended.stamp, ended.leaves_record);
                    self.steps.push(RegistryCommand::EndRecord { session, stamp, stays });
                }
            }
        }
    }

    fn remove(&mut self, session: SessionId) {
        self.index.remove(&session);
        self.unindex.insert(session);
    }

    fn record(&mut self, write: RecordWrite, first: bool) {
        self.steps.push(if first { RegistryCommand::Claim(write) } else { RegistryCommand::Write(write) });
    }

    /// Adds the session to the index, if it is open.
    pub(super) fn index(&mut self, leases: &LeaseTable, session: SessionId, entry: &LeaseEntry) -> bool {
        if let Some(profile) = entry.profile {
            self.unindex.remove(&session);
            self.index.insert(session, IndexEntry::encode(entry, &leases.profile_name(profile)));
        }
        entry.profile.is_some()
    }

    /// Renews the lease of a session and the lifetime of its record, as far as they are on this shard.
    pub(super) fn renew(&mut self, part: ShardPart, renewal: &SessionRenewal) {
        let SessionRenewal { session, stamp, recorded, .. } = *renewal;
        if let Some(places) = renewal.places.as_ref().filter(|places| part.has_user(&places.user)) {
            self.steps.push(RegistryCommand::Extend { places: places.clone(), session, stamp });
            self.steps.push(RegistryCommand::KeepMembers(places.clone()));
        }
        if recorded && part.has_record(session) {
            self.steps.push(RegistryCommand::KeepRecord(session));
        }
    }

    /// Writes again what the shard should contain about a session that has its index entry or record there.
    pub(super) fn restore(&mut self, part: ShardPart, leases: &LeaseTable, session: SessionId, entry: &LeaseEntry) {
        self.readmit(part, leases, session, entry);
        if let Some(record) = entry.record.clone().filter(|_| entry.owns_record && part.has_record(session)) {
            self.steps.push(RegistryCommand::Write(RecordWrite {
                session,
                stamp: entry.stamp,
                record,
                is_last: false,
            }));
        }
    }

    /// Adds the session to its user's set if it is missing.
    pub(super) fn readmit(&mut self, part: ShardPart, leases: &LeaseTable, session: SessionId, entry: &LeaseEntry) {
        if let Some(places) = leases.places(entry).filter(|places| part.has_user(&places.user)) {
            let (stamp, issued_ms) = (entry.stamp, entry.issued_ms.map(NonZeroU64::get));
            self.steps.push(RegistryCommand::Readmit { places, session, stamp, issued_ms });
        }
    }

    /// The steps in order. `index`: where sessions are added.
    pub(super) fn seal(self, index: Index) -> Vec<RegistryCommand> {
        let Self { steps, index: indexed, unindex } = self;
        let mut all = Vec::with_capacity(steps.len() + 3);
        if !indexed.is_empty() {
            all.push(RegistryCommand::Index(index, indexed.into_iter().collect()));
            all.push(RegistryCommand::KeepIndex(index));
        }
        all.extend(steps);
        if !unindex.is_empty() {
            all.push(RegistryCommand::Unindex(unindex.into_iter().collect()));
        }
        all
    }
}

impl BatchOutcome {
    /// Evaluates the responses to the steps.
    pub(super) fn of(steps: &[RegistryCommand], answers: impl IntoIterator<Item = CommandAnswer>) -> Self {
        let mut outcome = Self::default();
        for (step, answer) in steps.iter().zip(answers) {
            match (step, answer) {
                (RegistryCommand::Claim(write), CommandAnswer::Nil) => outcome.contested.push(write.clone()),
                (RegistryCommand::Write(write), CommandAnswer::Number(0)) => {
                    outcome.superseded.push((write.session, write.stamp));
                }
                (RegistryCommand::Write(write), CommandAnswer::Text(owner)) => {
                    outcome.former.extend(Owner::parse(&owner).map(|owner| (write.session, owner)));
                }
                (RegistryCommand::Readmit { session, stamp, .. }, CommandAnswer::Number(0)) => {
                    outcome.superseded.push((*session, *stamp));
                }
                (RegistryCommand::Readmit { session, stamp, .. }, CommandAnswer::Number(-1)) => {
                    outcome.revoked.push((*session, *stamp));
                }
                (RegistryCommand::Readmit { session, stamp, .. }, CommandAnswer::Number(2)) => {
                    outcome.too_many.push((*session, *stamp));
                }
                (RegistryCommand::Readmit { session, .. }, CommandAnswer::Number(1)) => outcome.counted.push(*session),
                (RegistryCommand::Readmit { session, .. }, CommandAnswer::GaveWay { replaced, over }) => {
                    outcome.counted.push(*session);
                    outcome.former.extend(owners(&replaced));
                    outcome.made_room.extend(owners(&over));
                }
                (RegistryCommand::Extend { session, .. }, CommandAnswer::Number(0)) => outcome.missing.push(*session),
                (RegistryCommand::Stand { user, .. }, CommandAnswer::Text(later)) => {
                    outcome.standings.push((user.clone(), later));
                }
                _ => {}
            }
        }
        outcome
    }

    /// The follow-up steps: contested records by stamp, and missing leases again.
    pub(super) fn rest(&self, part: ShardPart, leases: &LeaseTable) -> ShardBatch {
        let mut rest = ShardBatch::of(self.contested.iter().cloned().map(RegistryCommand::Write));
        for session in &self.missing {
            if let Some(entry) = leases.get(*session) {
                rest.readmit(part, leases, *session, &entry);
            }
        }
        rest
    }
}

fn owners(members: &[String]) -> impl Iterator<Item = (SessionId, Owner)> {
    members.iter().filter_map(|member| split_member(member)).map(|(owner, session)| (session, owner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Admission, ConnectionInfo, redis::leases::BUCKETS};

    const ONE: ShardPart = ShardPart::new(Placement::ONE, 0);

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn places(name: &str) -> UserPlaces {
        UserPlaces { user: user(name), apart: None }
    }

    fn open(leases: &LeaseTable, name: Option<&str>, session: SessionId) {
        if let Some(name) = name {
            let admission = Admission {
                user: user(name),
                session,
                replaces: None,
                apart: None,
                connections_max: 5,
                evict_oldest: false,
                issued_at: Some(tickgate_wire::model::IssuedAt::in_second(3)),
            };
            leases.admitted(&admission, 10);
        }
        let info = ConnectionInfo {
            session: session.to_string(),
            replica: "r1".into(),
            user: name.map(Into::into),
            profile: "trading".into(),
            connected_ms: 7,
        };
        leases.opened(session, &info, 10);
    }

    fn steps(part: ShardPart, leases: &LeaseTable, ops: &[Op]) -> Vec<RegistryCommand> {
        let mut batch = ShardBatch::default();
        ops.iter().for_each(|op| batch.op(part, leases, op));
        batch.seal(Index::Current)
    }

    /// The kinds of the steps, in order.
    fn kinds(steps: &[RegistryCommand]) -> Vec<String> {
        let name = |step| format!("{step:?}").split(|char: char| !char.is_alphanumeric()).next().unwrap().to_owned();
        steps.iter().map(name).collect()
    }

    #[test]
    fn a_session_is_indexed_for_longer_than_its_lease() {
        let (leases, session) = (LeaseTable::new(), SessionId::random());
        open(&leases, Some("alice"), session);
        leases.record(session, "{}".into());
        let ops = [Op::Opened(session), Op::Record(session)];
        assert_eq!(kinds(&steps(ONE, &leases, &ops)), ["Index", "KeepIndex", "Extend", "Claim"]);
        leases.record(session, "{1}".into());
        assert_eq!(kinds(&steps(ONE, &leases, &[Op::Record(session)])), ["Write"]);
        let ended = leases.closed(session).unwrap();
        let ops = [Op::Opened(session), Op::Closed(session, ended)];
        assert_eq!(kinds(&steps(ONE, &leases, &ops)), ["Leave", "EndRecord", "Unindex"]);
    }

    #[test]
    fn each_shard_gets_its_share_of_a_session() {
        let (placement, leases) = (Placement::over(2), LeaseTable::new());
        let parts = [0, 1].map(|shard| ShardPart::new(placement, shard));
        let session = loop {
            let session = SessionId::random();
            if record_shard(placement, session) != placement.shard("alice") {
                break session;
            }
        };
        let (of_user, of_record) = (parts[placement.shard("alice")], parts[record_shard(placement, session)]);
        // Anonymous first: the index is on the record's shard. Then the user is known.
        open(&leases, None, session);
        assert_eq!(kinds(&steps(of_record, &leases, &[Op::Opened(session)])), ["Index", "KeepIndex"]);
        open(&leases, Some("alice"), session);
        assert_eq!(kinds(&steps(of_user, &leases, &[Op::Opened(session)])), ["Index", "KeepIndex", "Extend"]);
        assert_eq!(kinds(&steps(of_record, &leases, &[Op::Opened(session)])), ["Unindex"]);
        leases.record(session, "{}".into());
        assert_eq!(kinds(&steps(of_record, &leases, &[Op::Record(session)])), ["Claim"]);
        let renewed = |part| {
            let mut batch = ShardBatch::default();
            let renewals = (0..BUCKETS).flat_map(|bucket| leases.renewals(bucket));
            renewals.for_each(|renewal| batch.renew(part, &renewal));
            kinds(&batch.seal(Index::Current))
        };
        assert_eq!(renewed(of_user), ["Extend", "KeepMembers"]);
        assert_eq!(renewed(of_record), ["KeepRecord"]);
        let restored = |part| {
            let mut batch = ShardBatch::default();
            batch.restore(part, &leases, session, &leases.get(session).unwrap());
            kinds(&batch.seal(Index::Next))
        };
        assert_eq!(restored(of_user), ["Readmit"]);
        assert_eq!(restored(of_record), ["Write"]);
        let closed = [Op::Closed(session, leases.closed(session).unwrap())];
        assert_eq!(kinds(&steps(of_user, &leases, &closed)), ["Leave", "Unindex"]);
        assert_eq!(kinds(&steps(of_record, &leases, &closed)), ["EndRecord"]);
    }

    #[test]
    fn the_responses_contain_who_was_evicted() {
        let (leases, [kept, lost, revoked, moved, gone, late, over]) =
            (LeaseTable::new(), [(); 7].map(|()| SessionId::random()));
        let r2 = |stamp| Owner::new(stamp, &ReplicaId::new("r2").unwrap());
        let of = |stamp, session: SessionId| format!("{}:{}", r2(stamp), session.compact());
        let write = |session| RecordWrite { session, stamp: 10, record: "{}".into(), is_last: false };
        let readmit =
            |session| RegistryCommand::Readmit { places: places("alice"), session, stamp: 10, issued_ms: None };
        open(&leases, Some("bob"), gone);
        let steps = [
            (RegistryCommand::Claim(write(kept)), CommandAnswer::Text("OK".into())),
            (RegistryCommand::Claim(write(moved)), CommandAnswer::Nil),
            (RegistryCommand::Write(write(moved)), CommandAnswer::Text("7:r2".into())),
            (RegistryCommand::Write(write(lost)), CommandAnswer::Number(0)),
            (readmit(kept), CommandAnswer::Number(1)),
            (readmit(lost), CommandAnswer::Number(0)),
            (readmit(revoked), CommandAnswer::Number(-1)),
            (readmit(over), CommandAnswer::Number(2)),
            (
                readmit(late),
                CommandAnswer::GaveWay { replaced: vec![of(8, gone)], over: vec![of(12, over), of(11, moved)] },
            ),
            (RegistryCommand::Extend { places: places("bob"), session: gone, stamp: 10 }, CommandAnswer::Number(0)),
            (RegistryCommand::Extend { places: places("bob"), session: kept, stamp: 10 }, CommandAnswer::Number(1)),
            (RegistryCommand::KeepMembers(places("bob")), CommandAnswer::Number(0)),
            (RegistryCommand::Write(write(kept)), CommandAnswer::Other),
        ];
        let (steps, answers): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let outcome = BatchOutcome::of(&steps, answers);
        assert_eq!(outcome.superseded, [(lost, 10), (lost, 10)]);
        assert_eq!((outcome.revoked.clone(), outcome.missing.clone()), (vec![(revoked, 10)], vec![gone]));
        assert_eq!(outcome.former, [(moved, r2(7)), (gone, r2(8))]);
        assert_eq!(outcome.made_room, [(over, r2(12)), (moved, r2(11))]);
        assert_eq!((outcome.too_many.clone(), outcome.counted.clone()), (vec![(over, 10)], vec![kept, late]));
        let rest = outcome.rest(ONE, &leases).seal(Index::Current);
        assert_eq!(kinds(&rest), ["Write", "Readmit"]);
    }
}
