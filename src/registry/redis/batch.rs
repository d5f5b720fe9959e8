//! One pipeline towards Redis: what the registry's queue and its renewals turn into, and what the answers mean.
//!
//! Every command in a batch may run twice: after a time-out the whole batch is sent again. And any of its commands may
//! be the last one that Redis gets, when this replica is killed: a session is put into the index before its lease is
//! extended, and taken out of it after its lease has ended, so that a sweep by the index misses no lease.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU64,
};

use redis::{Cmd, Pipeline, RedisResult, Value};
use tickgate_wire::model::{ReplicaId, SessionId, UserId};

use super::{
    Inner, issued_text,
    queue::Op,
    scripts::call,
    sessions::{Ended, Entry, Lease, Write},
    wire::{Message, Owner, Slot, member},
};

/// Commands, and for each what to do with its answer.
#[derive(Default)]
pub(super) struct Batch {
    commands: Vec<(Cmd, After)>,
    /// Fields of this replica's index to set, in one command before the others.
    index_set: HashMap<SessionId, String>,
    /// Fields of this replica's index to remove, in one command after the others.
    index_del: HashSet<SessionId>,
}

/// A batch that is ready to be sent, as often as it takes.
pub(super) struct Sealed {
    pub pipeline: Pipeline,
    after: Vec<After>,
}

/// What an answer is for.
enum After {
    Nothing,
    /// Null: there is a record already, so whose the session is has to be settled.
    First(Contested),
    /// 0: the session lives elsewhere, so the connection of that stamp closes. An owner: it gave way, and is told to
    /// close.
    Fence(SessionId, u64),
    /// 1: in; 0: the connection of that stamp gave way; -1: its token was revoked.
    Readmit(SessionId, u64),
    /// 0: the member is gone, and has to be admitted again.
    Renew(SessionId),
}

/// A session's record that met another one.
#[derive(Clone)]
pub(super) struct Contested {
    session: SessionId,
    write: Write,
    life_ms: u64,
}

/// What the answers ask for.
#[derive(Default)]
pub(super) struct Outcome {
    /// Records that have to be written by stamp.
    pub contested: Vec<Contested>,
    /// Sessions whose members were gone.
    pub missing: Vec<SessionId>,
    /// Connections that live elsewhere now, or lost their slot.
    pub superseded: Vec<(SessionId, u64)>,
    /// Connections whose token was revoked, which they did not hear.
    pub revoked: Vec<(SessionId, u64)>,
    /// Former owners of sessions that were taken over here.
    pub former: Vec<(SessionId, Owner)>,
}

impl Batch {
    fn push(&mut self, cmd: Cmd, after: After) {
        self.commands.push((cmd, after));
    }

    /// Adds one queued operation.
    pub(super) fn op(&mut self, inner: &Inner, op: &Op) {
        match op {
            Op::Opened(session) => {
                if let Some(entry) = inner.sessions.get(*session) {
                    let indexed = self.index(inner, *session, &entry);
                    if let Some(user) = entry.user.as_ref().filter(|_| indexed) {
                        self.extend(inner, *session, user, entry.stamp);
                    }
                }
            }
            Op::Record(session) => {
                if let Some(write) = inner.sessions.take_record(*session) {
                    self.record(inner, *session, &write, inner.record_ttl_ms());
                }
            }
            Op::Closed(session, ended) => self.closed(inner, *session, ended),
            Op::Release { session, user, stamp } => {
                let key = inner.keys().user_sessions(user);
                self.zrem(&key, &member(*stamp, &inner.local.replica, *session));
            }
            Op::Tell(replica, message) => self.tell(inner, replica, message),
            Op::Flushed(_) => {}
        }
    }

    fn closed(&mut self, inner: &Inner, session: SessionId, ended: &Ended) {
        self.index_set.remove(&session);
        self.index_del.insert(session);
        if let Some(user) = &ended.user {
            let key = inner.keys().user_sessions(user);
            self.zrem(&key, &member(ended.stamp, &inner.local.replica, session));
        }
        let life = inner.resume_ttl_ms();
        match &ended.unwritten {
            Some(write) => self.record(inner, session, write, life),
            None if ended.had_record => {
                let owner = Owner::new(ended.stamp, &inner.local.replica).to_string();
                let mut cmd = call(&inner.scripts.record, &[&inner.keys().session(session)]);
                cmd.arg(owner).arg("").arg(life);
                self.push(cmd, After::Nothing);
            }
            None => {}
        }
    }

    fn zrem(&mut self, key: &str, member: &str) {
        let mut cmd = redis::cmd("ZREM");
        cmd.arg(key).arg(member);
        self.push(cmd, After::Nothing);
    }

    fn record(&mut self, inner: &Inner, session: SessionId, write: &Write, life_ms: u64) {
        if !write.first {
            return self.contest(inner, &Contested { session, write: write.clone(), life_ms });
        }
        // Nearly every session is new: a plain command costs Redis a third of the script.
        let owner = Owner::new(write.stamp, &inner.local.replica);
        let mut cmd = redis::cmd("SET");
        cmd.arg(inner.keys().session(session)).arg(format!("{owner} {}", write.record));
        cmd.arg("PX").arg(life_ms).arg("NX");
        self.push(cmd, After::First(Contested { session, write: write.clone(), life_ms }));
    }

    /// Adds a record of a session that may live elsewhere.
    pub(super) fn contest(&mut self, inner: &Inner, contested: &Contested) {
        let Contested { session, write, life_ms } = contested;
        let owner = Owner::new(write.stamp, &inner.local.replica).to_string();
        let mut cmd = call(&inner.scripts.record, &[&inner.keys().session(*session)]);
        cmd.arg(owner).arg(&*write.record).arg(*life_ms);
        self.push(cmd, After::Fence(*session, write.stamp));
    }

    fn tell(&mut self, inner: &Inner, replica: &ReplicaId, message: &Message) {
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(inner.keys().control(replica)).arg(message.encode());
        self.push(cmd, After::Nothing);
    }

    /// Adds the session to the index, when it is open.
    pub(super) fn index(&mut self, inner: &Inner, session: SessionId, entry: &Entry) -> bool {
        if let Some(profile) = entry.profile {
            self.index_del.remove(&session);
            self.index_set.insert(session, Slot::encode(entry, &inner.sessions.profile_name(profile)));
        }
        entry.profile.is_some()
    }

    /// Adds what Redis should know of a session that is in the index.
    pub(super) fn whole(&mut self, inner: &Inner, session: SessionId, entry: &Entry) {
        self.readmit(inner, session, entry);
        if let Some(record) = entry.record.clone().filter(|_| entry.claimed) {
            let write = Write { stamp: entry.stamp, record, first: false };
            self.record(inner, session, &write, inner.record_ttl_ms());
        }
    }

    /// Adds the session to its user's set where it is missing.
    pub(super) fn readmit(&mut self, inner: &Inner, session: SessionId, entry: &Entry) {
        if let Some(user) = &entry.user {
            let keys = inner.keys();
            let mut cmd = call(&inner.scripts.readmit, &[&keys.user_sessions(user), &keys.user_revoked(user)]);
            cmd.arg(member(entry.stamp, &inner.local.replica, session)).arg(inner.session_ttl_ms());
            cmd.arg(inner.member_ttl_ms()).arg(inner.sessions.connections_max());
            cmd.arg(issued_text(entry.issued_at.map(NonZeroU64::get)));
            self.push(cmd, After::Readmit(session, entry.stamp));
        }
    }

    /// Has the lease of a session in the index run for its full time from now on.
    fn extend(&mut self, inner: &Inner, session: SessionId, user: &UserId, stamp: u64) {
        let mut cmd = redis::cmd("ZADD");
        cmd.arg(inner.keys().user_sessions(user)).arg("XX").arg("CH");
        cmd.arg(inner.clock.now_ms() + inner.session_ttl_ms()).arg(member(stamp, &inner.local.replica, session));
        self.push(cmd, After::Renew(session));
    }

    /// Renews the lease of a session and the life of its record.
    pub(super) fn renew(&mut self, inner: &Inner, lease: &Lease) {
        if let Some(user) = &lease.user {
            self.extend(inner, lease.session, user, lease.stamp);
            self.expire(&inner.keys().user_sessions(user), inner.member_ttl_ms());
        }
        if lease.recorded {
            self.expire(&inner.keys().session(lease.session), inner.record_ttl_ms());
        }
    }

    /// Removes a whole key.
    pub(super) fn remove(&mut self, key: &str) {
        let mut cmd = redis::cmd("UNLINK");
        cmd.arg(key);
        self.push(cmd, After::Nothing);
    }

    /// Puts one key in the place of another.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let mut cmd = redis::cmd("RENAME");
        cmd.arg(from).arg(to);
        self.push(cmd, After::Nothing);
    }

    fn expire(&mut self, key: &str, life_ms: u64) {
        let mut cmd = redis::cmd("PEXPIRE");
        cmd.arg(key).arg(life_ms);
        self.push(cmd, After::Nothing);
    }

    /// Completes the batch with the commands on the index of that key. `None` when there is nothing to send.
    pub(super) fn seal(mut self, inner: &Inner, key: &str) -> Option<Sealed> {
        let mut first = Self::default();
        if !self.index_set.is_empty() {
            let mut cmd = redis::cmd("HSET");
            cmd.arg(key);
            for (session, slot) in self.index_set.drain() {
                cmd.arg(session.to_string()).arg(slot);
            }
            first.push(cmd, After::Nothing);
            first.expire(key, inner.index_ttl_ms());
        }
        if !self.index_del.is_empty() {
            let mut cmd = redis::cmd("HDEL");
            cmd.arg(key);
            for session in self.index_del.drain() {
                cmd.arg(session.to_string());
            }
            self.push(cmd, After::Nothing);
        }
        let (mut pipeline, mut after) = (Pipeline::new(), Vec::new());
        for (cmd, what) in first.commands.into_iter().chain(self.commands) {
            pipeline.add_command(cmd);
            after.push(what);
        }
        pipeline.ignore_errors();
        (!after.is_empty()).then_some(Sealed { pipeline, after })
    }
}

impl Sealed {
    /// Reads the answers of a batch that ran.
    pub(super) fn outcome(&self, answers: Vec<RedisResult<Value>>) -> Outcome {
        let mut outcome = Outcome::default();
        for (after, answer) in self.after.iter().zip(answers) {
            let Ok(answer) = answer else { continue };
            match after {
                After::Nothing => {}
                After::First(contested) => {
                    if answer == Value::Nil {
                        outcome.contested.push(contested.clone());
                    }
                }
                After::Fence(session, stamp) => match answer {
                    Value::Int(0) => outcome.superseded.push((*session, *stamp)),
                    Value::BulkString(owner) => {
                        let owner = std::str::from_utf8(&owner).ok().and_then(Owner::parse);
                        outcome.former.extend(owner.map(|owner| (*session, owner)));
                    }
                    _ => {}
                },
                After::Readmit(session, stamp) => match answer {
                    Value::Int(0) => outcome.superseded.push((*session, *stamp)),
                    Value::Int(-1) => outcome.revoked.push((*session, *stamp)),
                    _ => {}
                },
                After::Renew(session) => {
                    if answer == Value::Int(0) {
                        outcome.missing.push(*session);
                    }
                }
            }
        }
        outcome
    }
}
