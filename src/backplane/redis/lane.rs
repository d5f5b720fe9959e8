//! Sends publications in the order of the calls to one server in pipelines: alone when idle, many at once under load,
//! several pipelines in flight. Never waits to fill a pipeline, is bounded, and resolves each publication with its
//! result.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{RedisError, Script, Value};
use tickgate_wire::model::Publication;
use tokio::sync::{mpsc, oneshot};

use super::{
    acknowledge::{PublishDecision, PublishOutcome, PublishResponse},
    batch::{self, Encoder, Job},
    durable::{Dedicated, Durability},
    ledger::TopicLedger,
    membership::Membership,
};
use crate::{
    backplane::{LeaseTurn, PendingPublish, PublishError, PublishRefusal},
    clock,
    redis_link::{AttachedServer, Placement, RedisCommand, RedisFailure, RedisLink},
    tasks::{Stop, Tasks},
};

/// Maximum number of publications per pipeline.
const BATCH_MAX: usize = 256;
/// Maximum number of pipelines in flight on the shared link.
const FLYING_MAX: usize = 8;
/// Maximum number and size of queued publications in all lanes of one kind.
const QUEUE_MAX: usize = 16_384;
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Time between two checks whether the replica has attached again.
const ATTACH_PAUSE: Duration = Duration::from_millis(5);
/// A publication that was queued for this many response timeouts is refused instead of sent.
const PATIENCE: u32 = 4;

/// The publishers' side of a lane.
#[derive(Clone, Debug)]
pub(super) struct PublishLane {
    queue: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The connection that a lane uses.
pub(super) enum Route {
    /// The shard's command link.
    Shared,
    /// A dedicated connection, because the lane waits for copies or the disk.
    Dedicated(Dedicated),
}

/// The dependencies of a lane.
pub(super) struct LaneParts {
    pub(super) link: RedisLink,
    pub(super) placement: Placement,
    pub(super) route: Route,
    pub(super) membership: Arc<Membership>,
    pub(super) ledger: Arc<Mutex<TopicLedger>>,
    /// Number of shards that share the limits of the queue.
    pub(super) shards: usize,
}

type PipelineInFlight = Pin<Box<dyn Future<Output = CompletedPipeline> + Send>>;

/// A completed pipeline.
struct CompletedPipeline {
    jobs: Vec<Job>,
    generation: u64,
    result: Result<Vec<Value>, RedisError>,
    /// False if the connection was already closed: then nothing was sent.
    sent: bool,
    /// How many publications each command had.
    counts: Vec<usize>,
    durability: Durability,
}

struct LaneTask {
    link: RedisLink,
    placement: Placement,
    route: Route,
    queue: mpsc::Receiver<Job>,
    bytes: Arc<AtomicUsize>,
    script: String,
    membership: Arc<Membership>,
    ledger: Arc<Mutex<TopicLedger>>,
    flying: FuturesUnordered<PipelineInFlight>,
    /// Publications that reached a server without the script, or in another generation, to be sent again before newer
    /// ones.
    again: Vec<Job>,
    number: u64,
}

/// The publish script of all lanes.
pub(super) const SCRIPT: &str = include_str!("scripts/publish.lua");

impl PublishLane {
    /// Starts the task that drains the lane.
    pub(super) fn start(parts: LaneParts, tasks: &Tasks) -> Self {
        let LaneParts { link, placement, route, membership, ledger, shards } = parts;
        let (sender, queue) = mpsc::channel(QUEUE_MAX / shards);
        let bytes = Arc::new(AtomicUsize::new(0));
        let drain = LaneTask {
            link,
            placement,
            route,
            queue,
            bytes: Arc::clone(&bytes),
            script: Script::new(SCRIPT).get_hash().to_owned(),
            membership,
            ledger,
            flying: FuturesUnordered::new(),
            again: Vec::new(),
            number: 0,
        };
        tasks.spawn_vital("redis publish", drain.run(tasks.stop()));
        Self { queue: sender, bytes, bytes_max: QUEUE_BYTES_MAX / shards }
    }

    /// Queues the publication in order, without waiting.
    pub(super) fn publish(&self, publication: Publication, turn: Option<LeaseTurn>) -> PendingPublish {
        let size = publication.payload.len();
        let refused = |refusal| PendingPublish::Ready(Err(PublishError::Refused(refusal)));
        if self.bytes.fetch_add(size, Ordering::Relaxed) > self.bytes_max {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return refused(PublishRefusal::Overloaded);
        }
        let (answer, ticket) = oneshot::channel();
        let (taken, published_ms) = (Instant::now(), clock::unix_ms());
        let job = Job { publication, turn, answer, taken, published_ms, number: 0, again: false };
        match self.queue.try_send(job) {
            Ok(()) => PendingPublish::Waiting(ticket),
            Err(error) => {
                self.bytes.fetch_sub(size, Ordering::Relaxed);
                refused(match error {
                    mpsc::error::TrySendError::Full(_) => PublishRefusal::Overloaded,
                    mpsc::error::TrySendError::Closed(_) => PublishRefusal::Disconnected,
                })
            }
        }
    }
}

impl LaneTask {
    async fn run(mut self, mut stop: Stop) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        let flying_max = if matches!(self.route, Route::Shared) { FLYING_MAX } else { 1 };
        loop {
            let open = self.again.is_empty() && self.flying.len() < flying_max;
            tokio::select! {
                biased;
                Some(landed) = self.flying.next(), if !self.flying.is_empty() => self.settle(landed),
                taken = self.queue.recv_many(&mut jobs, BATCH_MAX), if open => {
                    if taken == 0 {
                        return;
                    }
                    let freed: usize = jobs.iter().map(Job::bytes).sum();
                    self.bytes.fetch_sub(freed, Ordering::Relaxed);
                    self.number_all(&mut jobs);
                    self.send(std::mem::take(&mut jobs)).await;
                }
                () = stop.wait() => break,
            }
            if !self.again.is_empty() && self.flying.is_empty() {
                self.send_again().await;
            }
        }
        self.end().await;
    }

    fn number_all(&mut self, jobs: &mut [Job]) {
        for job in jobs {
            self.number += 1;
            job.number = self.number;
        }
    }

    /// Sends one pipeline. When this returns, it is in flight after the previous ones.
    async fn send(&mut self, mut jobs: Vec<Job>) {
        let patience = self.link.config().response_timeout * PATIENCE;
        for late in jobs.extract_if(.., |job| job.taken.elapsed() > patience) {
            late.refuse(PublishRefusal::Overloaded);
        }
        let now = Instant::now();
        for expired in jobs.extract_if(.., |job| job.turn.is_some_and(|turn| !turn.lasts(now))) {
            expired.refuse(PublishRefusal::Expired);
        }
        if jobs.is_empty() {
            return;
        }
        let Some(standing) = self.membership.standing() else {
            let hindrance = self.membership.hindrance();
            self.fail_all(jobs, &hindrance, false);
            return;
        };
        let attached = match &mut self.route {
            Route::Shared => self.link.attached(),
            Route::Dedicated(dedicated) => dedicated.attached(&self.link, &standing.identity).await,
        };
        match attached {
            Ok(attached) if attached.identity != standing.identity => {
                self.membership.wake();
                self.fail_all(jobs, &RedisFailure::Disconnected, false);
            }
            Ok(attached) => self.fly(attached, jobs, standing.generation).await,
            Err(failure) => self.fail_all(jobs, &failure, false),
        }
    }

    /// Sends a pipeline, and completes it at once if its result is already known.
    async fn fly(&mut self, attached: AttachedServer, jobs: Vec<Job>, generation: u64) {
        let AttachedServer { mut connection, .. } = attached;
        let (mut pipe, counts, durability) = self.encode(&jobs, generation);
        durability.add_to(&mut pipe, self.link.config().response_timeout);
        let count = pipe.len();
        let timer = self.link.time(RedisCommand::Publish);
        let exchange = async move {
            let answer = connection.send_packed_commands(&pipe, 0, count).await;
            drop(timer);
            answer
        };
        // Outside the runtime's budget: the first poll must put the pipeline into the connection's queue, to guarantee
        // the order of pipelines.
        let mut exchange = Box::pin(tokio::task::coop::unconstrained(exchange));
        let first = poll_fn(|context| Poll::Ready(exchange.as_mut().poll(context))).await;
        match first {
            Poll::Ready(result) => {
                let sent = result.is_ok();
                self.settle(CompletedPipeline { jobs, generation, result, sent, counts, durability });
            }
            Poll::Pending => self.flying.push(Box::pin(async move {
                let result = exchange.await;
                CompletedPipeline { jobs, generation, result, sent: true, counts, durability }
            })),
        }
    }

    fn encode(&self, jobs: &[Job], generation: u64) -> (redis::Pipeline, Vec<usize>, Durability) {
        let encoder = Encoder {
            keys: self.link.keys(),
            placement: self.placement,
            script: &self.script,
            gen_key: self.link.keys().generation(),
            generation,
        };
        let (pipe, counts) = encoder.encode(jobs, &mut self.ledger.lock());
        let mut durability = Durability::default();
        if matches!(self.route, Route::Dedicated(_)) {
            jobs.iter().for_each(|job| durability.require(&job.publication.rule));
        }
        (pipe, counts, durability)
    }

    /// Resolves every publication of a pipeline.
    fn settle(&mut self, landed: CompletedPipeline) {
        let CompletedPipeline { jobs, generation, result, sent, counts, durability } = landed;
        let mut values = match result {
            Ok(values) => VecDeque::from(values),
            Err(error) => {
                let failure = RedisFailure::of(&error);
                self.link.report(&failure);
                self.fail_all(jobs, &failure, sent);
                return;
            }
        };
        let shortfall = durability.shortfall(&mut values);
        if let Some(first) = jobs.first() {
            let waited = first.taken.elapsed();
            self.link.metrics().redis_publish_duration_seconds.observe(waited.as_secs_f64());
        }
        let mut outcomes = batch::outcomes(values, counts);
        // Checked after the response and before the acknowledgement, so that a report of acknowledged ids is complete.
        let mut ledger = self.ledger.lock();
        let is_vouched = self.membership.vouches(generation);
        for job in jobs {
            // A response is missing only if the connection broke: the rest is unknown.
            let outcome = outcomes.next().unwrap_or(PublishOutcome::STRANGE);
            if let Some(id) = outcome.id() {
                self.membership.saw(id.epoch);
                self.membership.gave(generation, id.epoch);
            }
            let returned = PublishResponse { shortfall: shortfall.as_ref(), is_vouched, ..returned(&job, sent) };
            match ledger.settle(self.link.keys(), &returned, &outcome) {
                PublishDecision::SendAgain => {
                    if let PublishOutcome::Failed(failure) = &outcome {
                        self.membership.doubt(failure);
                    }
                    self.again.push(Job { again: true, ..job });
                }
                PublishDecision::Answer(result) => {
                    if let PublishOutcome::Failed(failure) = &outcome {
                        self.link.report(failure);
                        self.membership.doubt(failure);
                        tracing::debug!(%failure, "redis did not accept a publication");
                    }
                    job.answer(result);
                }
            }
        }
    }

    fn fail_all(&mut self, jobs: Vec<Job>, failure: &RedisFailure, sent: bool) {
        if let Route::Dedicated(dedicated) = &mut self.route {
            dedicated.forget();
        }
        tracing::debug!(%failure, publications = jobs.len(), "publications failed together");
        let mut ledger = self.ledger.lock();
        for job in jobs {
            let error = ledger.refused(&returned(&job, sent), failure);
            job.answer(Err(error));
        }
    }

    /// Redis lost the script, or is in another generation: loads it, waits until attached, and sends again in the order
    /// of submission. A publication that a later one of the same topic has overtaken (another replica had loaded the
    /// script) is refused instead.
    async fn send_again(&mut self) {
        let mut jobs = std::mem::take(&mut self.again);
        let until = tokio::time::Instant::now() + self.link.config().response_timeout;
        while self.membership.standing().is_none() && tokio::time::Instant::now() < until {
            tokio::time::sleep(ATTACH_PAUSE).await;
        }
        jobs.sort_unstable_by_key(|job| job.number);
        let loaded = match self.link.command() {
            Ok(mut connection) => {
                let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).to_owned();
                load.query_async::<Value>(&mut connection).await.map_err(|error| RedisFailure::of(&error))
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = loaded {
            // Whatever happened to the loading, the publications were not stored.
            self.fail_all(jobs, &failure, false);
            return;
        }
        let ledger = Arc::clone(&self.ledger);
        let overtaken = |job: &mut Job| ledger.lock().is_overtaken(&job.publication.topic, job.number);
        for job in jobs.extract_if(.., overtaken) {
            job.refuse(PublishRefusal::Busy);
        }
        self.send(jobs).await;
    }

    /// On shutdown: awaits what is in flight, and refuses what is queued.
    async fn end(mut self) {
        self.queue.close();
        while let Ok(job) = self.queue.try_recv() {
            job.refuse(PublishRefusal::Disconnected);
        }
        while let Some(landed) = self.flying.next().await {
            self.settle(landed);
        }
        for job in std::mem::take(&mut self.again) {
            job.refuse(PublishRefusal::Disconnected);
        }
    }
}

/// The state of a publication whose pipeline completed.
fn returned(job: &Job, was_sent: bool) -> PublishResponse<'_> {
    let Job { publication, number, again, .. } = job;
    PublishResponse { publication, number: *number, is_repeat: *again, was_sent, is_vouched: false, shortfall: None }
}
