//! Keeps followed topics consistent with their streams: compares heads and reads what is missing. The only part of the
//! hub that waits for the backplane, and never while holding a lock.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use tickgate_wire::model::{Class, StreamId, Topic};
use tokio::time::Instant;

use super::{
    Hub, HubSettings,
    step::FillAction,
    topic::TopicState,
    work_queue::{Priority, WorkQueue},
};
use crate::{
    backplane::{HeadError, ReadLimits, StreamPage, StreamUnavailable},
    fairness::Stride,
    metrics::Metrics,
    tasks::{Stop, Tasks},
};

/// Streams whose heads are read together, at least: larger batches would delay topics when Redis is slow.
const COMPARE_MIN: usize = 64;
const COMPARE_MAX: usize = 512;
/// Limits of one read.
const PAGE: ReadLimits = ReadLimits::new(500, 4 << 20);
/// Number of streams read concurrently, for awaited topics and for others.
const READERS: [(Priority, usize); 2] = [(Priority::Awaited, 3), (Priority::Routine, 1)];
/// Delay before a failed comparison or read is retried. A lost link triggers new comparisons anyway; this covers
/// everything else.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often the work queues are checked for metrics and the log.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

impl Hub {
    /// Starts the tasks that compare and read, and the one that watches their queues.
    pub(super) fn start_following(self: &Arc<Self>, tasks: &Tasks, settings: &HubSettings) {
        let HubSettings { compare_interval, queue_grace, .. } = *settings;
        for (priority, readers) in READERS {
            let hub = self.clone();
            let stop = tasks.stop();
            tasks.spawn_vital("compare", async move { until(stop, hub.compare_forever(priority)).await });
            for _ in 0..readers {
                let hub = self.clone();
                let stop = tasks.stop();
                tasks.spawn_vital("fill", async move { until(stop, hub.read_forever(priority)).await });
            }
        }
        let hub = self.clone();
        let stop = tasks.stop();
        tasks.spawn_vital("quiet", async move { until(stop, hub.watch_quiet(compare_interval)).await });
        let hub = self.clone();
        let stop = tasks.stop();
        tasks.spawn_vital("work queues", async move { until(stop, hub.watch_queues(queue_grace)).await });
    }

    async fn compare_forever(&self, priority: Priority) {
        let (mut later, mut stride) = (RetryQueue::default(), Stride::new(COMPARE_MIN, COMPARE_MAX));
        loop {
            let batch = tokio::select! {
                topic = later.due() => {
                    self.queues.compare.push(&topic);
                    continue;
                }
                batch = self.queues.compare.take(priority, stride.count()) => batch,
            };
            let began = Instant::now();
            let names: Vec<Topic> = batch.topics().map(|topic| topic.topic.clone()).collect();
            let before: Vec<_> = batch.topics().map(|topic| topic.position()).collect();
            let heads = self.backplane.heads(&names).await;
            let mut unanchored = Vec::new();
            for ((topic, head), before) in batch.topics().zip(&heads).zip(before) {
                let Ok(head) = head else { continue };
                let history = self.backplane.history(&topic.topic);
                match topic.compared((*head, before), &history, &self.shards) {
                    FillAction::Anchor => unanchored.push(topic),
                    FillAction::Nothing if must_renew_anchor(topic) => unanchored.push(topic),
                    todo => self.follow_up(topic, todo, &mut later),
                }
            }
            for (topic, head) in batch.topics().zip(&heads) {
                if let Ok(head) = head {
                    self.settle(topic, *head);
                }
            }
            // A withdrawn topic must leave nothing in Redis.
            unanchored.retain(|topic| !topic.is_withdrawn());
            self.anchor(&unanchored, &mut later).await;
            stride.took(names.len(), began.elapsed());
            let is_unavailable = |head: &Result<_, _>| matches!(head, Err(HeadError::Unavailable(_)));
            for (topic, head) in batch.topics().zip(&heads) {
                match head {
                    Ok(_) => topic.checks.hit(),
                    Err(HeadError::NoStream(_)) => later.add_after(topic.checks.missed(), topic),
                    Err(HeadError::Unavailable(_)) => {}
                }
            }
            if let Some(Err(error)) = heads.iter().find(|head| is_unavailable(head)) {
                let failed: Vec<_> = heads.iter().map(is_unavailable).collect();
                let topics = failed.iter().filter(|failed| **failed).count();
                tracing::debug!(%error, topics, "cannot compare heads now");
                batch.put_back(&failed);
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    async fn read_forever(&self, priority: Priority) {
        let mut later = RetryQueue::default();
        loop {
            let batch = tokio::select! {
                topic = later.due() => {
                    self.queues.compare.push(&topic);
                    continue;
                }
                batch = self.queues.read.take(priority, 1) => batch,
            };
            // Reading one topic may take long; each page has a timeout.
            for topic in batch.into_topics() {
                match self.fill(&topic).await {
                    Ok(todo) => self.follow_up(&topic, todo, &mut later),
                    Err(_) => later.add(&topic),
                }
            }
        }
    }

    /// Gives topics without a stream a position, or extends the lifetime of their existing one, and compares them with
    /// it.
    async fn anchor(&self, topics: &[&Arc<TopicState>], later: &mut RetryQueue) {
        if topics.is_empty() {
            return;
        }
        let names: Vec<_> = topics.iter().map(|topic| topic.topic.clone()).collect();
        for (topic, end) in topics.iter().zip(self.backplane.anchors(&names).await) {
            let todo = match end {
                Ok(end) => {
                    topic.checks.anchored();
                    self.settle(topic, Some(end));
                    topic.compared((Some(end), None), &self.backplane.history(&topic.topic), &self.shards)
                }
                Err(_) => FillAction::Wait,
            };
            self.follow_up(topic, todo, later);
        }
    }

    /// Does what follows from a comparison or a read.
    fn follow_up(&self, topic: &Arc<TopicState>, todo: FillAction, later: &mut RetryQueue) {
        match todo {
            FillAction::Nothing => return,
            FillAction::Read => return self.queues.read.push(topic),
            FillAction::Doubt => self.backplane.doubt(&topic.topic),
            FillAction::Compare | FillAction::Wait | FillAction::Anchor => {}
        }
        later.add(topic);
    }

    /// Reads after the position until nothing is missing. Returns what is left to do.
    async fn fill(&self, topic: &Arc<TopicState>) -> Result<FillAction, StreamUnavailable> {
        self.metrics.fills_total.inc();
        loop {
            let asked = topic.ask();
            let page = self.page(topic, asked.cursor).await.inspect_err(|error| {
                tracing::debug!(%error, "cannot fill a hole now");
                topic.unfilled();
            })?;
            let history = self.backplane.history(&topic.topic);
            let todo = topic.filled(asked, &page, &history, &self.shards);
            if todo != FillAction::Read {
                return Ok(todo);
            }
        }
    }

    async fn page(&self, topic: &TopicState, after: StreamId) -> Result<StreamPage, StreamUnavailable> {
        if topic.rule.class == Class::State {
            let messages = self.backplane.newest(&topic.topic, ReadLimits::ONE).await?.messages;
            let end = messages.last().and_then(|message| message.id);
            return Ok(StreamPage { messages, more: false, end });
        }
        self.backplane.read(&topic.topic, after, PAGE).await
    }

    /// Compares quiet topics too, because a link can lose messages without an error.
    async fn watch_quiet(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let visit = self.topics.visit(|topic| {
                if topic.is_retained() && topic.is_quiet() {
                    self.queues.compare.push(topic);
                }
            });
            visit.await;
        }
    }

    /// Updates the metrics of the queues, and logs when one stalls (its oldest topic has waited longer than `grace`)
    /// and when it recovers.
    async fn watch_queues(&self, grace: Duration) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        let mut stalls = self.queues.all().map(|queue| QueueStall { queue, since: None });
        loop {
            let now = ticks.tick().await;
            stalls.iter_mut().for_each(|stall| stall.watch(now, grace, &self.metrics));
            self.metrics.unpublished_topics.set(i64::try_from(self.unpublished.len()).unwrap_or(i64::MAX));
        }
    }

    /// How long the oldest topic has waited to be compared with its stream, or to be read. Zero if none waits.
    #[must_use]
    pub fn queue_wait(&self) -> Duration {
        let now = Instant::now();
        self.queues.all().map(|queue| queue.status(now).oldest).into_iter().max().unwrap_or_default()
    }

    /// How far this replica is behind the streams of its topics. Visits all topics.
    pub async fn stream_lag(&self) -> StreamLag {
        let mut lag = StreamLag::default();
        let visit = self.topics.visit(|topic| {
            if topic.is_awaited() {
                lag.topics += 1;
                lag.messages_max = lag.messages_max.max(topic.lag());
            }
        });
        visit.await;
        lag
    }

    /// The first comparison of a topic without retention needs no stream.
    pub(super) fn begin(&self, topic: &Arc<TopicState>) {
        if !topic.is_retained() {
            let history = self.backplane.history(&topic.topic);
            let _ = topic.compared((None, None), &history, &self.shards);
            self.settle(topic, None);
        } else {
            self.queues.compare.push(topic);
        }
    }
}

/// How far a replica is behind the streams of its topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLag {
    /// Topics with subscribers that are not yet consistent with their streams.
    pub topics: usize,
    /// The largest known number of missing messages of a topic.
    pub messages_max: u64,
}

impl TopicState {
    /// Whether its messages are retained in a stream.
    pub(super) fn is_retained(&self) -> bool {
        self.rule.retain_max > 0
    }
}

/// Whether a topic has no message and its position in Redis must be renewed.
fn must_renew_anchor(topic: &TopicState) -> bool {
    let is_anchor = topic.position().is_some_and(|at| at.seq == StreamId::SEQ_END);
    is_anchor && topic.checks.must_renew_anchor()
}

/// Topics waiting for a retry after a failure. They do not delay other topics, and each is in it once.
#[derive(Default)]
struct RetryQueue {
    /// By due time and number.
    waiting: BTreeMap<(Instant, u64), Arc<TopicState>>,
    /// The key in `waiting` of each topic, by its address in memory.
    places: HashMap<usize, (Instant, u64)>,
    last: u64,
}

impl RetryQueue {
    fn add(&mut self, topic: &Arc<TopicState>) {
        self.add_after(RETRY_AFTER, topic);
    }

    /// A topic that already waits is retried at the earlier of both times.
    fn add_after(&mut self, pause: Duration, topic: &Arc<TopicState>) {
        self.last += 1;
        let at = (Instant::now() + pause, self.last);
        match self.places.entry(Arc::as_ptr(topic).addr()) {
            Entry::Occupied(entry) if entry.get().0 <= at.0 => return,
            Entry::Occupied(mut entry) => drop(self.waiting.remove(&entry.insert(at))),
            Entry::Vacant(entry) => {
                entry.insert(at);
            }
        }
        self.waiting.insert(at, Arc::clone(topic));
    }

    /// The next topic that is due.
    async fn due(&mut self) -> Arc<TopicState> {
        let Some(((at, _), _)) = self.waiting.first_key_value() else { return std::future::pending().await };
        tokio::time::sleep_until(*at).await;
        let Some((_, topic)) = self.waiting.pop_first() else { return std::future::pending().await };
        self.places.remove(&Arc::as_ptr(&topic).addr());
        topic
    }
}

/// A queue, and since when it has been stalled.
struct QueueStall<'a> {
    queue: &'a WorkQueue,
    since: Option<Instant>,
}

impl QueueStall<'_> {
    fn watch(&mut self, now: Instant, grace: Duration, metrics: &Metrics) {
        let (kind, status) = (self.queue.kind(), self.queue.status(now));
        metrics.work_queue_depth.of(kind).set(i64::try_from(status.depth).unwrap_or(i64::MAX));
        metrics.work_queue_oldest_seconds.of(kind).set(status.oldest.as_secs_f64());
        let (queue, depth) = (kind.as_str(), status.depth);
        match (status.oldest > grace, self.since) {
            (true, None) => {
                self.since = Some(now);
                let oldest_seconds = status.oldest.as_secs();
                tracing::warn!(queue, depth, oldest_seconds, "a work queue is stalled; new subscriptions may fail");
            }
            (false, Some(since)) => {
                self.since = None;
                let stalled_seconds = (now - since).as_secs();
                tracing::info!(queue, depth, stalled_seconds, "a work queue is no longer stalled");
            }
            _ => {}
        }
    }
}

async fn until(mut stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = work => {}
        () = stop.wait() => {}
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::UserId;

    use super::*;
    use crate::{
        hub::{ReaderAddress, for_tests::hub},
        metrics::WorkQueueKind,
    };

    #[tokio::test(start_paused = true)]
    async fn each_topic_waits_for_one_retry() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let topic = |name: &str| {
            let interest =
                hub.interest(&Topic::user_stream(&UserId::new(name).unwrap()), &rule, ReaderAddress::default());
            Arc::clone(interest.unwrap().topic())
        };
        let (broken, other, mut later) = (topic("broken"), topic("other"), RetryQueue::default());
        let began = Instant::now();
        later.add_after(Duration::from_secs(30), &broken);
        later.add(&other);
        later.add(&other);
        assert!(Arc::ptr_eq(&later.due().await, &other) && began.elapsed() == RETRY_AFTER);
        later.add_after(Duration::from_secs(2), &broken);
        assert!(Arc::ptr_eq(&later.due().await, &broken));
        assert_eq!((began.elapsed(), later.waiting.len()), (RETRY_AFTER + Duration::from_secs(2), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_queue_is_reported_until_it_recovers() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let interest = hub.interest(&Topic::public("ticker:X").unwrap(), &rule, ReaderAddress::default()).unwrap();
        interest.ready(Duration::from_secs(1)).await.unwrap();
        let (queue, metrics, grace) = (&hub.queues.read, &hub.metrics, Duration::from_secs(10));
        let mut stall = QueueStall { queue, since: None };
        queue.push(interest.topic());
        // A batch that is never finished: the hub's own readers find nothing.
        let batch = queue.take(Priority::Routine, 1).await;
        tokio::time::advance(Duration::from_secs(10)).await;
        stall.watch(Instant::now(), grace, metrics);
        assert_eq!(stall.since, None, "not before the grace period is over");
        tokio::time::advance(Duration::from_secs(1)).await;
        stall.watch(Instant::now(), grace, metrics);
        assert!(stall.since.is_some());
        assert_eq!(metrics.work_queue_oldest_seconds.of(WorkQueueKind::Read).get(), 11.0);
        assert_eq!(hub.queue_wait(), Duration::from_secs(11));
        drop(batch);
        stall.watch(Instant::now(), grace, metrics);
        assert_eq!((stall.since, hub.queue_wait()), (None, Duration::ZERO));
        assert_eq!(metrics.work_queue_oldest_seconds.of(WorkQueueKind::Read).get(), 0.0);
    }
}
