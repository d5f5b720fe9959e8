//! Takes publications in the order of the calls and brings them to Redis in pipelines: alone when idle, many at once
//! under load, several pipelines under way. Never waits to fill a pipeline, never holds a publication without bound,
//! and answers each one with what became of it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Instant,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{RedisError, Script, Value};
use tickgate_wire::model::{Publication, StreamId};
use tokio::sync::{mpsc, oneshot};

use super::{
    batch::{self, Encoder, Job, Outcome},
    durable::{Durability, Own},
    ledger::{Claim, Known, Ledger},
    verify::{self, Claims},
};
use crate::{
    backplane::{PublishError, Published, Refusal, Ticket},
    clock,
    redis_link::{Attached, Failure, RedisLink},
    tasks::{Stop, Tasks},
};

/// Publications of one pipeline.
const BATCH_MAX: usize = 256;
/// Pipelines under way on the shared link.
const FLYING_MAX: usize = 8;
/// Publications that wait, in number and bytes.
const QUEUE_MAX: usize = 16_384;
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// A publication that waited this many response time-outs for its turn is refused instead of sent.
const PATIENCE: u32 = 4;

/// The end that publishers see.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    queue: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
}

/// Which connection a lane sends on.
pub(super) enum Road {
    /// The replica's command link.
    Shared,
    /// One of its own, because it waits for replicas or the disk.
    Own(Own),
}

type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// A pipeline that came back.
struct Landed {
    jobs: Vec<Job>,
    generation: u64,
    result: Result<Vec<Value>, RedisError>,
    /// False when the connection was already closed: then nothing was sent.
    sent: bool,
    /// How many publications each command had.
    counts: Vec<usize>,
    durability: Durability,
}

struct Drain {
    link: RedisLink,
    road: Road,
    queue: mpsc::Receiver<Job>,
    bytes: Arc<AtomicUsize>,
    script: String,
    ledger: Arc<Mutex<Ledger>>,
    flying: FuturesUnordered<Flight>,
    /// Publications that met a server without the script, to be sent again before anything newer.
    again: Vec<Job>,
    /// The generation that claims were last taken for.
    generation: u64,
    /// Ids acknowledged by a server that has since changed.
    claims: Arc<Claims>,
    number: u64,
}

/// The publish script, as all lanes send it.
pub(super) const SCRIPT: &str = include_str!("scripts/publish.lua");

impl Lane {
    /// Starts the task that drains the lane.
    pub(super) fn start(link: &RedisLink, road: Road, tasks: &Tasks) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        let (ledger, claims) = (Arc::<Mutex<Ledger>>::default(), Arc::<Claims>::default());
        let drain = Drain {
            link: link.clone(),
            road,
            queue,
            bytes: Arc::clone(&bytes),
            script: Script::new(SCRIPT).get_hash().to_owned(),
            ledger: Arc::clone(&ledger),
            flying: FuturesUnordered::new(),
            again: Vec::new(),
            generation: 0,
            claims: Arc::clone(&claims),
            number: 0,
        };
        tasks.spawn("redis publish", drain.run(tasks.stop()));
        tasks.spawn("redis verification", verify::verify(link.clone(), claims, ledger, tasks.stop()));
        Self { queue: sender, bytes }
    }

    /// Hands the publication over, in order, without waiting.
    pub(super) fn publish(&self, publication: Publication) -> Ticket {
        let size = publication.payload.len();
        let refused = |refusal| Ticket::Ready(Err(PublishError::Refused(refusal)));
        if self.bytes.fetch_add(size, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return refused(Refusal::Overloaded);
        }
        let (answer, ticket) = oneshot::channel();
        let (taken, published_ms) = (Instant::now(), clock::unix_ms());
        let job = Job { publication, answer, taken, published_ms, number: 0, again: false };
        match self.queue.try_send(job) {
            Ok(()) => Ticket::Waiting(ticket),
            Err(error) => {
                self.bytes.fetch_sub(size, Ordering::Relaxed);
                refused(match error {
                    mpsc::error::TrySendError::Full(_) => Refusal::Overloaded,
                    mpsc::error::TrySendError::Closed(_) => Refusal::Disconnected,
                })
            }
        }
    }
}

impl Drain {
    async fn run(mut self, mut stop: Stop) {
        let mut generations = self.link.generations();
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        let flying_max = if matches!(self.road, Road::Shared) { FLYING_MAX } else { 1 };
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
                Ok(()) = generations.changed() => self.meet(*generations.borrow_and_update()),
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

    /// Sends one pipeline. It is under way, in its place behind those before it, when this returns.
    async fn send(&mut self, mut jobs: Vec<Job>) {
        let patience = self.link.config().response_timeout * PATIENCE;
        for late in jobs.extract_if(.., |job| job.taken.elapsed() > patience) {
            late.refuse(Refusal::Overloaded);
        }
        if jobs.is_empty() {
            return;
        }
        let attached = match &mut self.road {
            Road::Shared => self.link.attached(),
            Road::Own(own) => own.attached(&self.link).await,
        };
        match attached {
            Ok(attached) => self.fly(attached, jobs).await,
            Err(failure) => self.fail_all(jobs, &failure, false),
        }
    }

    async fn fly(&mut self, attached: Attached, jobs: Vec<Job>) {
        // What its server acknowledges counts for that server's generation, whatever is known of a newer one.
        let Attached { mut connection, generation } = attached;
        let newest = self.link.generation();
        self.meet(newest);
        let (mut pipe, counts, durability) = self.encode(&jobs, newest);
        durability.add_to(&mut pipe, self.link.config().response_timeout);
        let count = pipe.len();
        let exchange = async move { connection.send_packed_commands(&pipe, 0, count).await };
        // Outside the runtime's budget: the first poll must put the pipeline into the connection's queue, or the order
        // of pipelines would be left to chance.
        let mut exchange = Box::pin(tokio::task::coop::unconstrained(exchange));
        let first = poll_fn(|context| Poll::Ready(exchange.as_mut().poll(context))).await;
        match first {
            Poll::Ready(result) => {
                let sent = result.is_ok();
                self.settle(Landed { jobs, generation, result, sent, counts, durability });
            }
            Poll::Pending => self.flying.push(Box::pin(async move {
                let result = exchange.await;
                Landed { jobs, generation, result, sent: true, counts, durability }
            })),
        }
    }

    fn encode(&self, jobs: &[Job], generation: u64) -> (redis::Pipeline, Vec<usize>, Durability) {
        let config = self.link.config();
        let encoder = Encoder {
            keys: self.link.keys(),
            script: &self.script,
            generation,
            dedupe_ms: u64::try_from(config.dedupe_ttl.as_millis()).unwrap_or(u64::MAX).max(1),
        };
        let (pipe, counts) = encoder.encode(jobs, &mut self.ledger.lock());
        let mut durability = Durability::default();
        if matches!(self.road, Road::Own(_)) {
            jobs.iter().for_each(|job| durability.require(&job.publication.rule));
        }
        (pipe, counts, durability)
    }

    /// Answers every publication of a pipeline.
    fn settle(&mut self, landed: Landed) {
        let Landed { jobs, generation, result, sent, counts, durability } = landed;
        let mut values = match result {
            Ok(values) => VecDeque::from(values),
            Err(error) => {
                let failure = Failure::of(&error);
                self.link.report(&failure);
                self.fail_all(jobs, &failure, sent);
                return;
            }
        };
        let shortfall = durability.shortfall(&mut values);
        let now = Instant::now();
        if let Some(first) = jobs.first() {
            let waited = now.duration_since(first.taken);
            self.link.metrics().redis_publish_duration_seconds.observe(waited.as_secs_f64());
        }
        let mut outcomes = batch::outcomes(values, counts);
        let ledger = Arc::clone(&self.ledger);
        let mut ledger = ledger.lock();
        for job in jobs {
            // A missing answer is a broken connection's: nothing is known of the rest.
            let outcome = outcomes.next().unwrap_or(Outcome::Failed(Failure::Closed));
            let doubt = shortfall.as_ref().map(|text| PublishError::Unknown(Arc::clone(text)));
            match outcome {
                Outcome::Stored(id) => {
                    self.answer_for(&mut ledger, &job, id, generation, |known| known.store(id, job.number, now));
                    job.answer(doubt.map_or(Ok(Published { id: Some(id), duplicate: false }), Err));
                }
                Outcome::Sent => job.answer(Ok(Published { id: None, duplicate: false })),
                Outcome::Duplicate(id) => {
                    if let Some(id) = id {
                        // Who stored it may be gone, or never have heard so: who acknowledges it answers for it.
                        self.answer_for(&mut ledger, &job, id, generation, |known| known.acknowledge(id, now));
                    }
                    job.answer(doubt.map_or(Ok(Published { id, duplicate: true }), Err));
                }
                Outcome::Failed(Failure::NoScript) if !job.again => self.again.push(Job { again: true, ..job }),
                Outcome::Failed(failure) => {
                    self.link.report(&failure);
                    if let Some(known) = ledger.get(&job.publication.topic) {
                        known.fail();
                    }
                    job.answer(Err(batch::verdict(&failure, sent)));
                }
            }
        }
    }

    /// An id is about to be acknowledged: from now on it must not be lost without a word.
    fn answer_for(&self, ledger: &mut Ledger, job: &Job, id: StreamId, generation: u64, note: impl FnOnce(&mut Known)) {
        self.link.saw_epoch(id.epoch);
        let publication = &job.publication;
        if generation < self.generation {
            // Acknowledged by a server that is no longer the one.
            let (topic, rule) = (publication.topic.clone(), Arc::clone(&publication.rule));
            self.claims.add([Claim { topic, id, marker: None, proven: id.epoch, rule }]);
        } else if let Some(known) = ledger.get(&publication.topic) {
            note(known);
        }
    }

    fn fail_all(&mut self, jobs: Vec<Job>, failure: &Failure, sent: bool) {
        if let Road::Own(own) = &mut self.road {
            own.forget();
        }
        let mut ledger = self.ledger.lock();
        for job in jobs {
            if let Some(known) = ledger.get(&job.publication.topic) {
                known.fail();
            }
            job.answer(Err(batch::verdict(failure, sent)));
        }
    }

    /// Redis forgot the script: loads it and sends again, in the order of the hand-over. What a later publication of
    /// the same topic has overtaken meanwhile (another replica had loaded the script) is refused instead.
    async fn send_again(&mut self) {
        let mut jobs = std::mem::take(&mut self.again);
        jobs.sort_unstable_by_key(|job| job.number);
        let loaded = match self.link.command() {
            Ok(mut connection) => {
                let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).to_owned();
                load.query_async::<Value>(&mut connection).await.map_err(|error| Failure::of(&error))
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = loaded {
            // Whatever happened to the loading, the publications themselves were not stored.
            self.fail_all(jobs, &failure, false);
            return;
        }
        let ledger = Arc::clone(&self.ledger);
        let overtaken =
            |job: &mut Job| ledger.lock().get(&job.publication.topic).is_some_and(|known| known.stored > job.number);
        for job in jobs.extract_if(.., overtaken) {
            job.refuse(Refusal::Busy);
        }
        self.send(jobs).await;
    }

    /// Another server: what the one before acknowledged may be gone. Claims are taken before anything is published in
    /// the new generation, which would take their place.
    fn meet(&mut self, generation: u64) {
        if generation <= self.generation {
            return;
        }
        if self.generation != 0 {
            self.claims.add(self.ledger.lock().claims());
        }
        self.generation = generation;
    }

    /// The replica stops: what is under way gets its answer, what waits is refused.
    async fn end(mut self) {
        self.queue.close();
        while let Ok(job) = self.queue.try_recv() {
            job.refuse(Refusal::Disconnected);
        }
        while let Some(landed) = self.flying.next().await {
            self.settle(landed);
        }
        for job in std::mem::take(&mut self.again) {
            job.refuse(Refusal::Disconnected);
        }
    }
}
