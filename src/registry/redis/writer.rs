//! The one task that tells Redis about this replica's sessions: it writes the queue in batches, renews leases bucket by
//! bucket, and writes everything anew after Redis or this replica lost it. One task, so that these never overtake each
//! other.
//!
//! Never decides: who may stay is the scripts' answer.

use std::{sync::Arc, time::Duration};

use redis::{RedisResult, Value};
use tickgate_wire::model::SessionId;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Inner, Told,
    batch::{Batch, Outcome, Sealed},
    controls::{self, Kept},
    queue::Op,
    scripts::Scripts,
    sessions::BUCKETS,
};
use crate::{
    redis_link::Failure,
    registry::{Control, SUPERSEDED, USER_INACTIVE},
    tasks::Stop,
};

/// Operations, or renewals, of one batch.
const BATCH_MAX: usize = 200;
/// A lone operation waits so long for company: thousands of events per second become a few hundred batches.
const GATHER: Duration = Duration::from_millis(4);
/// Pause between two batches when everything is written anew, so that others get their turn.
const REWRITE_PAUSE: Duration = Duration::from_millis(5);
/// Pause before a batch is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Writer {
    inner: Arc<Inner>,
    ops: mpsc::Receiver<Op>,
    stop: Stop,
    /// The bucket whose leases are renewed next.
    bucket: usize,
    /// Key of this replica's index.
    index: String,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, ops: mpsc::Receiver<Op>, stop: Stop) -> Self {
        let index = inner.keys().replica_sessions(&inner.local.replica);
        Self { inner, ops, stop, bucket: 0, index }
    }

    /// Runs until the replica stops.
    pub(super) async fn run(mut self) {
        let inner = Arc::clone(&self.inner);
        let mut stop = self.stop.clone();
        let round = inner.local.session.session_ttl / 3;
        let mut tick = interval((round / BUCKETS as u32).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::with_capacity(BATCH_MAX);
        let mut generations = inner.link.generations();
        let mut pubsub_links = inner.link.pubsub_links();
        while !stop.stopping() {
            tokio::select! {
                count = self.ops.recv_many(&mut waiting, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    self.gather(&mut waiting).await;
                    self.write(&mut waiting).await;
                }
                _ = tick.tick() => self.renew().await,
                () = inner.queue.stale() => self.rewrite().await,
                // Another server may have lost anything.
                Ok(()) = generations.changed() => inner.queue.mark_stale(),
                // Control messages may have been missed: what was said is read, and the scripts tell who gave way.
                Ok(()) = pubsub_links.changed() => inner.queue.mark_stale(),
                () = stop.wait() => {}
            }
        }
    }

    /// Lets a small batch grow.
    async fn gather(&mut self, waiting: &mut Vec<Op>) {
        if waiting.len() < BATCH_MAX / 4 && !waiting.iter().any(|op| matches!(op, Op::Flushed(_))) {
            sleep(GATHER).await;
        }
        while waiting.len() < BATCH_MAX
            && let Ok(op) = self.ops.try_recv()
        {
            waiting.push(op);
        }
    }

    async fn write(&mut self, waiting: &mut Vec<Op>) {
        let mut batch = Batch::default();
        for op in waiting.iter() {
            batch.op(&self.inner, op);
        }
        self.settle(batch).await;
        for op in waiting.drain(..) {
            if let Op::Flushed(told) = op {
                // Whoever asked may have given up.
                let _ = told.send(());
            }
        }
    }

    /// Renews one bucket's leases.
    async fn renew(&mut self) {
        let leases = self.inner.sessions.leases(self.bucket);
        self.bucket = (self.bucket + 1) % BUCKETS;
        if self.inner.has_left() {
            return;
        }
        for chunk in leases.chunks(BATCH_MAX) {
            let mut batch = Batch::default();
            // The lease of a connection that is still opening gets its full time when it is in the index.
            for lease in chunk.iter().filter(|lease| !lease.opening) {
                batch.renew(&self.inner, lease);
            }
            self.settle(batch).await;
        }
    }

    /// Sends a batch, and what its answers ask for.
    async fn settle(&self, batch: Batch) {
        let outcome = self.send(batch).await;
        let mut rest = Batch::default();
        for contested in &outcome.contested {
            rest.contest(&self.inner, contested);
        }
        for session in outcome.missing {
            if let Some(entry) = self.inner.sessions.get(session) {
                rest.readmit(&self.inner, session, &entry);
            }
        }
        self.send(rest).await;
    }

    /// Writes everything anew, a bit at a time. Not what comes in meanwhile: that has met this Redis already.
    async fn rewrite(&mut self) {
        self.inner.queue.begin_rewrite();
        let begun = self.inner.clock.stamp();
        if self.inner.has_left() {
            return;
        }
        let kept = self.kept().await;
        let indexed = self.rewrite_index(begun).await;
        for chunk in indexed.chunks(BATCH_MAX) {
            let mut batch = Batch::default();
            for session in chunk {
                let entry = self.inner.sessions.get(*session).filter(|entry| entry.stamp <= begun);
                let Some(entry) = entry else { continue };
                if let Some(told) = kept.of(*session, &entry) {
                    self.inner.deliver(told);
                }
                batch.whole(&self.inner, *session, &entry);
            }
            self.send(batch).await;
            sleep(REWRITE_PAUSE).await;
        }
        if !indexed.is_empty() {
            tracing::info!(sessions = indexed.len(), "told redis about all sessions again");
        }
    }

    /// Writes the index anew, and tells whom it names. A new index takes the place of the old one when it is whole: what
    /// is no longer connected goes, and at no moment would a sweep find less than all sessions.
    async fn rewrite_index(&self, begun: u64) -> Vec<SessionId> {
        let next = self.inner.keys().replica_sessions_next(&self.inner.local.replica);
        let mut clean = Batch::default();
        clean.remove(&next);
        self.send(clean).await;
        let mut indexed = Vec::new();
        for chunk in self.inner.sessions.open(begun).chunks(BATCH_MAX) {
            let mut batch = Batch::default();
            for session in chunk {
                let entry = self.inner.sessions.get(*session);
                if entry.is_some_and(|entry| batch.index(&self.inner, *session, &entry)) {
                    indexed.push(*session);
                }
            }
            self.send_indexing(batch, &next).await;
            sleep(REWRITE_PAUSE).await;
        }
        let mut swap = Batch::default();
        if indexed.is_empty() {
            swap.remove(&self.index);
        } else {
            swap.rename(&next, &self.index);
        }
        self.send(swap).await;
        indexed
    }

    /// What operators said lately, once Redis tells it; nothing when the replica stops.
    async fn kept(&self) -> Kept {
        let mut stop = self.stop.clone();
        loop {
            match controls::kept(&self.inner).await {
                Ok(kept) => return kept,
                Err(failure) => tracing::debug!(%failure, "what operators said waits for redis"),
            }
            tokio::select! {
                () = sleep(RETRY_PAUSE) => {}
                () = stop.wait() => return Kept::default(),
            }
        }
    }

    async fn send(&self, batch: Batch) -> Outcome {
        self.send_indexing(batch, &self.index).await
    }

    /// Sends a batch until Redis has answered, or the replica stops, and acts on the answers. `index` is the key that
    /// its index entries go to.
    async fn send_indexing(&self, batch: Batch, index: &str) -> Outcome {
        let Some(batch) = batch.seal(&self.inner, index) else { return Outcome::default() };
        let mut stop = self.stop.clone();
        loop {
            match self.attempt(&batch).await {
                Ok(answers) => {
                    let outcome = batch.outcome(answers);
                    self.act(&outcome);
                    return outcome;
                }
                Err(failure) => tracing::debug!(%failure, "a batch of session changes waits for redis"),
            }
            tokio::select! {
                () = sleep(RETRY_PAUSE) => {}
                () = stop.wait() => return Outcome::default(),
            }
        }
    }

    /// One attempt; fails when the batch has to be sent again.
    async fn attempt(&self, batch: &Sealed) -> Result<Vec<RedisResult<Value>>, Failure> {
        let mut commands = self.inner.commands()?;
        let answers: RedisResult<Vec<RedisResult<Value>>> = batch.pipeline.query_async(&mut commands).await;
        let answers = answers.map_err(|error| self.inner.failed(&error))?;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            match self.inner.failed(error) {
                Failure::NoScript => {
                    for script in Scripts::TEXTS {
                        let _: Value = self.inner.ask(redis::cmd("SCRIPT").arg("LOAD").arg(*script)).await?;
                    }
                    return Err(Failure::NoScript);
                }
                failure @ (Failure::Denied(_) | Failure::Other(_) | Failure::TooOld(_)) => {
                    tracing::warn!(%failure, "redis refused a session change");
                }
                passing => return Err(passing),
            }
        }
        Ok(answers)
    }

    fn act(&self, outcome: &Outcome) {
        let close = |ended: &[(SessionId, u64)], code: u16, reason: &str| {
            for (session, stamp) in ended {
                let control = Control::Close { session: session.to_string(), code, reason: reason.to_owned() };
                self.inner.deliver(Told { control, stamp: Some(*stamp) });
            }
        };
        close(&outcome.superseded, SUPERSEDED, "the session continues elsewhere");
        close(&outcome.revoked, USER_INACTIVE, "the user's tokens were revoked");
        for (session, owner) in &outcome.former {
            self.inner.supersede(*session, owner);
        }
    }
}
