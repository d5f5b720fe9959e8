//! The task that keeps one shard up to date with this replica's sessions: writes queued changes in batches, renews
//! leases bucket by bucket, and writes everything again after Redis or this replica lost it. One task per shard, so
//! that operations never overtake each other there, and a dead shard delays no other.
//!
//! Never decides: `batch` and the scripts do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{RedisResult, Value};
use tickgate_wire::model::{SessionId, UserId};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    RedisRegistryShared,
    batch::{BatchOutcome, Index, Op, RegistryCommand, ShardBatch, ShardPart},
    commands::{self, Scripts},
    control::{self, KeptInstructions},
    leases::BUCKETS,
};
use crate::{
    clock,
    redis_link::{RedisCommand, RedisFailure, RedisLink},
    registry::{REVOKED_REASON, SUPERSEDED, TOO_MANY, TOO_MANY_REASON, USER_INACTIVE, superseded, too_many},
    tasks::Stop,
};

/// Maximum number of queued changes. Beyond it they are dropped, and everything is written again when Redis has caught
/// up.
const QUEUE_MAX: usize = 65_536;
/// Maximum number of changes or renewals per batch.
const BATCH_MAX: usize = 200;
/// How long a single change waits for others, so that thousands of events per second become a few hundred batches.
const GATHER: Duration = Duration::from_millis(4);
/// Pause between two batches of a rewrite, so that other work gets a turn.
const REWRITE_PAUSE: Duration = Duration::from_millis(5);
/// Pause before a batch is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// An element of a shard's queue.
#[derive(Debug)]
pub(super) enum QueuedChange {
    Op(Op),
    /// Answered when everything before is written.
    Flush(oneshot::Sender<()>),
}

/// The queued changes of one shard. Bounded; adding never waits.
#[derive(Debug)]
pub(super) struct ShardQueue {
    sender: mpsc::Sender<QueuedChange>,
    /// Whether something was dropped or may have been lost, so that everything must be written again.
    stale: AtomicBool,
    rewrite: Notify,
}

impl ShardQueue {
    pub(super) fn new() -> (Self, mpsc::Receiver<QueuedChange>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        (Self { sender, stale: AtomicBool::new(false), rewrite: Notify::new() }, receiver)
    }

    /// Adds an element.
    pub(super) fn push(&self, queued: QueuedChange) {
        if self.sender.try_send(queued).is_err() {
            self.mark_stale();
        }
    }

    /// Requests a complete rewrite.
    pub(super) fn mark_stale(&self) {
        if !self.stale.swap(true, Ordering::AcqRel) {
            self.rewrite.notify_one();
        }
    }

    /// Starts a rewrite; later events may request another one.
    fn begin_rewrite(&self) {
        self.stale.store(false, Ordering::Release);
    }
}

pub(super) struct ShardWriter {
    inner: Arc<RedisRegistryShared>,
    queued: mpsc::Receiver<QueuedChange>,
    stop: Stop,
    shard: usize,
    part: ShardPart,
    link: RedisLink,
    /// The bucket whose leases are renewed next.
    bucket: usize,
}

impl ShardWriter {
    pub(super) fn new(
        inner: Arc<RedisRegistryShared>,
        shard: usize,
        queued: mpsc::Receiver<QueuedChange>,
        stop: Stop,
    ) -> Self {
        let part = ShardPart::new(inner.topology.placement(), shard);
        let link = inner.topology.links()[shard].clone();
        Self { inner, queued, stop, shard, part, link, bucket: 0 }
    }

    /// Runs until the replica stops.
    pub(super) async fn run(mut self) {
        let inner = Arc::clone(&self.inner);
        let queue = &inner.queues[self.shard];
        let mut stop = self.stop.clone();
        let round = inner.local.session.session_ttl / 3;
        let mut tick = interval((round / BUCKETS as u32).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::with_capacity(BATCH_MAX);
        let mut changes = self.link.changes();
        let mut pubsub_links = inner.control_link().pubsub_links();
        let mut tightness = self.link.tightness();
        while !stop.stopping() {
            tokio::select! {
                count = self.queued.recv_many(&mut waiting, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    self.gather(&mut waiting).await;
                    self.write(&mut waiting).await;
                }
                _ = tick.tick() => self.renew().await,
                () = queue.rewrite.notified() => self.rewrite().await,
                // Another server may have lost anything.
                Ok(()) = changes.changed() => queue.mark_stale(),
                // Control messages may have been missed: they are read again, and the scripts report who was evicted.
                Ok(()) = pubsub_links.changed() => queue.mark_stale(),
                Ok(()) = tightness.changed() => {
                    if *tightness.borrow_and_update() {
                        inner.make_room();
                    }
                }
                () = stop.wait() => {}
            }
        }
    }

    /// Collects further changes for a small batch.
    async fn gather(&mut self, waiting: &mut Vec<QueuedChange>) {
        if waiting.len() < BATCH_MAX / 4 && !waiting.iter().any(|queued| matches!(queued, QueuedChange::Flush(_))) {
            sleep(GATHER).await;
        }
        while waiting.len() < BATCH_MAX
            && let Ok(queued) = self.queued.try_recv()
        {
            waiting.push(queued);
        }
    }

    async fn write(&mut self, waiting: &mut Vec<QueuedChange>) {
        let mut batch = ShardBatch::default();
        for queued in waiting.iter() {
            if let QueuedChange::Op(op) = queued {
                batch.op(self.part, &self.inner.leases, op);
            }
        }
        self.settle(batch).await;
        for queued in waiting.drain(..) {
            if let QueuedChange::Flush(flushed) = queued {
                // The caller may have stopped waiting.
                let _ = flushed.send(());
            }
        }
    }

    /// Renews one bucket's leases.
    async fn renew(&mut self) {
        let renewals = self.inner.leases.renewals(self.bucket);
        self.bucket = (self.bucket + 1) % BUCKETS;
        if self.inner.has_left() {
            return;
        }
        for chunk in renewals.chunks(BATCH_MAX) {
            let mut batch = ShardBatch::default();
            // The lease of a connection that is still opening is renewed for the full time once it is indexed.
            for renewal in chunk.iter().filter(|renewal| !renewal.opening) {
                batch.renew(self.part, renewal);
            }
            self.settle(batch).await;
        }
    }

    /// Sends a batch and its follow-up steps.
    async fn settle(&self, batch: ShardBatch) {
        let outcome = self.send(batch, Index::Current).await;
        self.send(outcome.rest(self.part, &self.inner.leases), Index::Current).await;
    }

    /// Writes everything again, in parts. Later changes are queued for this Redis anyway.
    async fn rewrite(&mut self) {
        self.inner.queues[self.shard].begin_rewrite();
        let begun = self.inner.stamp();
        if self.inner.has_left() {
            return;
        }
        if self.shard == self.inner.control_shard() {
            self.kept().await.deliver(&self.inner, begun);
        }
        self.rewrite_revocations().await;
        self.rewrite_standings().await;
        self.rewrite_index(begun).await;
        let mut restored = 0;
        for chunk in self.inner.leases.open(begun).chunks(BATCH_MAX) {
            let mut batch = ShardBatch::default();
            for session in chunk {
                if let Some(entry) = self.inner.leases.get(*session).filter(|entry| entry.stamp <= begun) {
                    batch.restore(self.part, &self.inner.leases, *session, &entry);
                }
            }
            self.send(batch, Index::Current).await;
            restored += chunk.len();
            sleep(REWRITE_PAUSE).await;
        }
        if restored > 0 {
            tracing::info!(sessions = restored, "re-registered all sessions in redis");
        }
    }

    /// Writes revocations again: Redis may have lost them, but every replica that received them has them.
    async fn rewrite_revocations(&self) {
        let all = self.inner.revocations.all(clock::unix_ms());
        self.write_again(&all, |batch, user, revocation| batch.revoke(user, revocation)).await;
    }

    /// Writes standings again, and learns where Redis has a later report.
    async fn rewrite_standings(&self) {
        let all = self.inner.standings.all(clock::unix_ms());
        self.write_again(&all, |batch, user, standing| batch.stand(user, standing)).await;
    }

    /// Writes what is known about this shard's users again, in batches.
    async fn write_again<T: Copy>(&self, all: &[(UserId, T)], add: impl Fn(&mut ShardBatch, UserId, T)) {
        for chunk in all.chunks(BATCH_MAX) {
            let mut batch = ShardBatch::default();
            for (user, known) in chunk.iter().filter(|(user, _)| self.part.has_user(user)) {
                add(&mut batch, user.clone(), *known);
            }
            self.send(batch, Index::Current).await;
            sleep(REWRITE_PAUSE).await;
        }
    }

    /// Rewrites the index. The new one replaces the old one when it is complete: closed sessions disappear, and a sweep
    /// would find all sessions at any time.
    async fn rewrite_index(&self, begun: u64) {
        self.send(ShardBatch::of([RegistryCommand::DropIndex(Index::Next)]), Index::Next).await;
        let mut indexed = false;
        for chunk in self.inner.leases.open(begun).chunks(BATCH_MAX) {
            let mut batch = ShardBatch::default();
            for session in chunk {
                let entry = self.inner.leases.get(*session);
                let entry = entry.filter(|entry| self.part.has_session(*session, entry.user.as_ref()));
                indexed |= entry.is_some_and(|entry| batch.index(&self.inner.leases, *session, &entry));
            }
            self.send(batch, Index::Next).await;
            sleep(REWRITE_PAUSE).await;
        }
        let swap = if indexed { RegistryCommand::ReplaceIndex } else { RegistryCommand::DropIndex(Index::Current) };
        self.send(ShardBatch::of([swap]), Index::Current).await;
    }

    /// The control messages of the last minutes, once Redis responds; none if the replica stops, or if reading them
    /// fails permanently: other writes must not wait for them.
    async fn kept(&self) -> KeptInstructions {
        let mut stop = self.stop.clone();
        loop {
            match control::kept(&self.inner).await {
                Ok(kept) => return kept,
                Err(failure) if !failure.is_passing() => {
                    tracing::error!(%failure, "cannot read the last control messages: some may have been missed");
                    return KeptInstructions::default();
                }
                Err(failure) => tracing::debug!(%failure, "reading the last control messages waits for redis"),
            }
            tokio::select! {
                () = sleep(RETRY_PAUSE) => {}
                () = stop.wait() => return KeptInstructions::default(),
            }
        }
    }

    /// Sends a batch until Redis has responded or the replica stops, and handles the responses. `index`: where sessions
    /// are added.
    async fn send(&self, batch: ShardBatch, index: Index) -> BatchOutcome {
        let steps = batch.seal(index);
        if steps.is_empty() {
            return BatchOutcome::default();
        }
        let pipeline = commands::pipeline(&self.inner, &steps);
        let mut stop = self.stop.clone();
        loop {
            match self.attempt(&pipeline).await {
                Ok(answers) => {
                    let outcome = BatchOutcome::of(&steps, answers.into_iter().map(commands::answer));
                    self.act(&outcome);
                    return outcome;
                }
                Err(failure) => tracing::debug!(%failure, "a batch of session changes waits for redis"),
            }
            tokio::select! {
                () = sleep(RETRY_PAUSE) => {}
                () = stop.wait() => return BatchOutcome::default(),
            }
        }
    }

    /// One attempt; fails if the batch must be sent again.
    async fn attempt(&self, pipeline: &redis::Pipeline) -> Result<Vec<RedisResult<Value>>, RedisFailure> {
        let link = &self.link;
        let mut commands = link.command()?;
        let timer = link.time(RedisCommand::Lease);
        let answers: RedisResult<Vec<RedisResult<Value>>> = pipeline.query_async(&mut commands).await;
        drop(timer);
        let answers = answers.map_err(|error| commands::failed(link, &error))?;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            match commands::failed(link, error) {
                failure if failure.is_no_script() => {
                    for script in Scripts::TEXTS {
                        let load = redis::cmd("SCRIPT").arg("LOAD").arg(*script).to_owned();
                        let _: Value = commands::ask(link, &load).await?;
                    }
                    return Err(failure);
                }
                failure if !failure.is_passing() => {
                    tracing::warn!(%failure, "redis refused a session change");
                }
                passing => return Err(passing),
            }
        }
        Ok(answers)
    }

    fn act(&self, outcome: &BatchOutcome) {
        let close = |ended: &[(SessionId, u64)], code, reason| {
            for (session, stamp) in ended {
                self.inner.close(*session, *stamp, code, reason);
            }
        };
        close(&outcome.superseded, SUPERSEDED, "the session continues elsewhere");
        close(&outcome.revoked, USER_INACTIVE, REVOKED_REASON);
        let evicts = self.inner.leases.own.evicts_oldest();
        let (code, reason) =
            if evicts { (SUPERSEDED, "a newer connection took its place") } else { (TOO_MANY, TOO_MANY_REASON) };
        close(&outcome.too_many, code, reason);
        outcome.counted.iter().for_each(|session| self.inner.leases.own.placed(*session));
        outcome.standings.iter().for_each(|(user, later)| self.inner.hear_later(user, Some(later)));
        for (session, owner) in &outcome.former {
            self.inner.supersede(*session, owner);
        }
        for (session, owner) in &outcome.made_room {
            self.inner.tell_owner(owner, if evicts { superseded(*session) } else { too_many(*session) });
        }
    }
}
