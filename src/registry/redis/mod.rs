//! The registry of many replicas over Redis.
//!
//! - `leases` is the base: this replica's sessions, and what Redis should contain about them, with `own_count` by user;
//!   `times` has its clock and lifetimes.
//! - `admission`, `sessions`, `control`, `revocation`, `standing`, `presence` and `inquiry` are the parts of the
//!   contract on top of it.
//! - Each shard has a `writer`, which sends the steps of `batch`; `replica` renews the replica's own lease and sweeps
//!   after others, as `sweep` decides; `commands` encodes everything for Redis.
//!
//! A session's lease and its entry in the replica's index are on its user's shard; its record is on the session's own.
//! `batch`, `leases`, `left`, `own_count`, `pulse`, `sweep` and `times` decide without I/O. Every key expires.

mod admission;
mod batch;
mod commands;
mod control;
mod followers;
mod inquiry;
mod leases;
mod left;
mod message;
mod own_count;
mod owner;
mod presence;
mod profiles;
mod pulse;
mod replica;
mod revocation;
mod sealed;
mod sessions;
mod standing;
mod sweep;
mod times;
mod writer;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate_wire::model::{SessionId, UserId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use self::{
    batch::Op,
    commands::Scripts,
    followers::TopicSessions,
    inquiry::Inquiries,
    leases::LeaseTable,
    left::LeftRecords,
    message::{InquiryQuestion, PresenceQuestion},
    presence::Questions,
    pulse::Pulse,
    times::{Lifetimes, StampClock, micros},
    writer::{QueuedChange, ShardQueue, ShardWriter},
};
use super::{LocalReplica, RegistryUnavailable, revocations::Revocations, standings::Standings};
use crate::{
    clock,
    redis_link::{Keys, RedisFailure, RedisLink, Topology},
    tasks::Tasks,
};

/// Time limit for writing the last changes when the replica leaves.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The shard of the replicas' leases, of the clock that determines stamps, and of the control channels.
const REPLICAS: &str = "replicas";

/// The registry of many replicas over Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis(Arc<RedisRegistryShared>);

#[derive(Debug)]
struct RedisRegistryShared {
    topology: Topology,
    local: LocalReplica,
    scripts: Scripts,
    lifetimes: Lifetimes,
    leases: LeaseTable,
    revocations: Revocations,
    standings: Standings,
    left_records: LeftRecords,
    followers: TopicSessions,
    /// Queued changes by shard.
    queues: Vec<ShardQueue>,
    started: Instant,
    clock: StampClock,
    pulse: Pulse,
    questions: Questions,
    /// Questions about this replica's sessions.
    asked: mpsc::Sender<PresenceQuestion>,
    inquiries: Inquiries,
    /// Inquiries about this replica's connections.
    inquired: mpsc::Sender<InquiryQuestion>,
    /// Names of the exclusive leases that were taken, to be ended when the replica leaves.
    held: Mutex<HashSet<String>>,
    left: AtomicBool,
}

impl From<RedisFailure> for RegistryUnavailable {
    fn from(failure: RedisFailure) -> Self {
        Self(failure.to_string().into())
    }
}

impl Redis {
    /// Starts the registry over the topology's links, whether the servers respond or not.
    #[must_use]
    pub fn start_on(topology: &Topology, local: LocalReplica, tasks: &Tasks) -> Self {
        let (queues, queued): (Vec<_>, Vec<_>) = topology.links().iter().map(|_| ShardQueue::new()).unzip();
        let (asked, asks) = mpsc::channel(presence::ASKED_MAX);
        let (questions, to_ask) = Questions::new();
        let (inquired, inquiries) = mpsc::channel(inquiry::ASKED_MAX);
        let inner = Arc::new(RedisRegistryShared {
            lifetimes: Lifetimes::new(&local.session),
            topology: topology.clone(),
            local,
            scripts: Scripts::new(),
            leases: LeaseTable::new(),
            revocations: Revocations::default(),
            standings: Standings::default(),
            left_records: LeftRecords::default(),
            followers: TopicSessions::default(),
            queues,
            started: Instant::now(),
            clock: StampClock::new(clock::unix_ms() * 1_000),
            pulse: Pulse::default(),
            questions,
            asked,
            inquiries: Inquiries::default(),
            inquired,
            held: Mutex::default(),
            left: AtomicBool::new(false),
        });
        for link in topology.links() {
            Scripts::TEXTS.iter().for_each(|script| link.preload(script));
        }
        inner.listen();
        for (shard, queued) in queued.into_iter().enumerate() {
            let writer = ShardWriter::new(Arc::clone(&inner), shard, queued, tasks.stop());
            tasks.spawn_vital("registry writer", writer.run());
        }
        tasks.spawn_vital("registry presence", presence::answer_all(Arc::clone(&inner), asks, tasks.stop()));
        tasks.spawn_vital("registry inquiries", inquiry::answer_all(Arc::clone(&inner), inquiries, tasks.stop()));
        tasks.spawn_vital("registry questions", presence::ask_all(Arc::clone(&inner), to_ask, tasks.stop()));
        tasks.spawn_vital("registry lease", replica::keep(Arc::clone(&inner), tasks.stop()));
        tasks.spawn_vital("registry pulse", replica::beat(Arc::clone(&inner), tasks.stop()));
        Self(inner)
    }

    pub(super) async fn hold(&self, name: &str, ttl: Duration, above: u64) -> Result<Option<u64>, RegistryUnavailable> {
        if self.0.has_left() {
            return Ok(None);
        }
        self.0.held.lock().insert(name.to_owned());
        Ok(replica::hold(&self.0, name, ttl, above).await?)
    }

    pub(super) async fn want(
        &self,
        feed: &str,
        names: &[String],
        ttl: Duration,
        read: bool,
    ) -> Result<Vec<String>, RegistryUnavailable> {
        Ok(replica::want(&self.0, feed, names, ttl, read).await?)
    }

    pub(super) async fn leave(&self) -> Result<(), RegistryUnavailable> {
        let inner = &*self.0;
        let flushed = timeout(FLUSH_TIMEOUT, inner.flush()).await;
        inner.left.store(true, Ordering::Release);
        flushed.map_err(|_| RedisFailure::TimedOut)?;
        Ok(replica::end_all(inner).await?)
    }
}

impl RedisRegistryShared {
    fn keys(&self) -> &Keys {
        self.topology.at(REPLICAS).keys()
    }

    /// The link to the server with the replicas' leases and the clock that determines stamps.
    fn replicas_link(&self) -> &RedisLink {
        self.topology.at(REPLICAS)
    }

    /// The link of the control channels.
    fn control_link(&self) -> &RedisLink {
        self.topology.at(REPLICAS)
    }

    fn control_shard(&self) -> usize {
        self.topology.placement().shard(REPLICAS)
    }

    fn session_shard(&self, session: SessionId, user: Option<&UserId>) -> usize {
        batch::session_shard(self.topology.placement(), session, user)
    }

    fn record_shard(&self, session: SessionId) -> usize {
        batch::record_shard(self.topology.placement(), session)
    }

    /// Queues a change for a shard's writer.
    fn push(&self, shard: usize, op: Op) {
        self.queues[shard].push(QueuedChange::Op(op));
    }

    /// Queues a change for the writers of both shards, once if they are the same.
    fn push_both(&self, shard: usize, other: usize, op: Op) {
        if other != shard {
            self.push(other, op.clone());
        }
        self.push(shard, op);
    }

    /// Waits until everything queued so far has been written.
    async fn flush(&self) {
        let wait = self.queues.iter().map(|queue| {
            let (sender, flushed) = oneshot::channel();
            queue.push(QueuedChange::Flush(sender));
            flushed
        });
        futures_util::future::join_all(wait).await;
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    fn uptime_us(&self) -> u64 {
        micros(self.started.elapsed())
    }

    /// Milliseconds since 1970 on Redis's clock.
    fn now_ms(&self) -> u64 {
        self.clock.now_us(self.uptime_us()) / 1_000
    }

    /// The stamp of a connection that began when the request that is processed now may have arrived, if this process was
    /// suspended just before.
    fn waiting_since(&self) -> Option<u64> {
        self.pulse.waiting_since(self.uptime_us()).map(|since_us| self.clock.now_us(since_us))
    }

    /// The stamp of a new connection.
    fn stamp(&self) -> u64 {
        self.clock.stamp(self.uptime_us())
    }
}
