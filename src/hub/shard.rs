//! A shard: the fan-out task for its share of the connections. It empties mailboxes, puts shared batches into outboxes,
//! and then writes once to each outbox that received something, so batches grow under load. Never waits for messages
//! that have not arrived.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate_wire::model::{Class, StreamId, Topic};
use tokio::{sync::Notify, time::Instant};

use super::{
    batch::{PushBatch, PushFlags},
    form::Form,
    gap::gap_label,
    mail::{Mail, MissedSteps},
    outbox::{Outbox, WriteStats},
    step::Step,
    subscriber::{self, FormGroup, Subscriber},
    tally::{DeliveryOrigin, DeliveryTally},
    topic::TopicState,
    topic_shard::TopicShard,
    trace::Traces,
};
use crate::{
    metrics::{self, Metrics},
    tasks::Stop,
};

/// Maximum number of messages in one batch, so that a slow client does not drop more than necessary.
const BATCH_MAX: usize = 64;
/// Writes before other tasks of the thread (mainly readers) get a turn.
const WRITES_PER_TURN: usize = 128;
/// Maximum time for collecting more mail while more arrives.
const COLLECT_MAX: Duration = Duration::from_millis(5);
/// How often held values are checked, while there are any.
const PACE_TICK: Duration = Duration::from_millis(10);

/// The inbox of one shard.
#[derive(Debug)]
pub(super) struct Shard {
    index: usize,
    inbox: Mutex<Vec<Arc<TopicState>>>,
    /// Bytes of steps in the topics' mailboxes for this shard.
    waiting: AtomicUsize,
    mail_bytes_max: usize,
    wake: Notify,
    metrics: Arc<Metrics>,
    traces: Arc<Traces>,
}

/// State of the task, kept between rounds to reuse allocations.
struct ShardRound {
    run: StepRun,
    dirty: Vec<Arc<Outbox>>,
    written: WriteStats,
    tally: DeliveryTally,
    /// Topics with held values.
    paced: HashMap<Topic, Arc<TopicState>>,
    turn: usize,
    began: Instant,
    traces: Arc<Traces>,
}

impl ShardRound {
    fn new(traces: Arc<Traces>) -> Self {
        Self {
            run: StepRun::default(),
            dirty: Vec::new(),
            written: WriteStats::default(),
            tally: DeliveryTally::default(),
            paced: HashMap::new(),
            turn: 0,
            began: Instant::now(),
            traces,
        }
    }

    fn offer(&mut self, subscriber: &Subscriber, batch: &Arc<PushBatch>, origin: DeliveryOrigin) {
        self.tally.add(&subscriber.outbox.shared.figures, origin, batch.count);
        if subscriber.outbox.offer(subscriber.slot, batch) {
            self.dirty.push(subscriber.outbox.clone());
        }
    }
}

impl Shard {
    /// `mail_bytes_max`: maximum size of queued steps.
    pub(super) fn new(
        index: usize,
        mail_bytes_max: usize,
        (metrics, traces): (Arc<Metrics>, Arc<Traces>),
    ) -> Arc<Self> {
        let (inbox, waiting) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { index, inbox, waiting, mail_bytes_max, wake: Notify::new(), metrics, traces })
    }

    /// Reserves room for steps. False if there is none.
    pub(super) fn take_room(&self, bytes: usize) -> bool {
        let fits = self.waiting.fetch_add(bytes, Ordering::Relaxed) < self.mail_bytes_max;
        if !fits {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Notifies the shard that a topic has mail.
    pub(super) fn post(&self, topic: Arc<TopicState>) {
        self.inbox.lock().push(topic);
        self.wake.notify_one();
    }

    /// Fans out until the replica stops.
    pub(super) async fn run(self: Arc<Self>, mut stop: Stop) {
        let mut round = ShardRound::new(self.traces.clone());
        loop {
            let tick = async {
                if round.paced.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(PACE_TICK).await;
            };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = tick => {}
                () = stop.wait() => return,
            }
            self.fan_out(&mut round).await;
        }
    }

    async fn fan_out(&self, round: &mut ShardRound) {
        round.began = Instant::now();
        self.collect(round).await;
        self.release_paced(round);
        self.flush(round).await;
        if round.tally.count() {
            self.metrics.fan_out_duration_seconds.observe(round.began.elapsed().as_secs_f64());
        }
    }

    /// Moves all mail into outboxes. Tasks that have more for this shard get a turn before anything is written, so that
    /// under load one write carries what would have been several. Never waits for anything.
    async fn collect(&self, round: &mut ShardRound) {
        loop {
            let topics = std::mem::take(&mut *self.inbox.lock());
            if topics.is_empty() {
                return;
            }
            for topic in &topics {
                self.deliver(topic, round);
            }
            if round.began.elapsed() >= COLLECT_MAX {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Empties one topic's mailbox.
    fn deliver(&self, topic: &Arc<TopicState>, round: &mut ShardRound) {
        let (lane, mail, bytes) = topic.take_mail(self.index);
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        let mut groups = lane.subscribers.lock();
        let mut run = std::mem::take(&mut round.run);
        for mail in mail {
            match mail {
                Mail::Step { after, step } => {
                    // A loss is sent separately from the value before it, because a newer value must not replace it.
                    let apart = topic.rule.class == Class::State && step.is_loss();
                    if apart {
                        run.offer(&groups, topic, round);
                    }
                    if run.add(after, step) || apart {
                        run.offer(&groups, topic, round);
                    }
                }
                Mail::Missed(missed) => {
                    run.offer(&groups, topic, round);
                    self.miss(&groups, topic, &missed, round);
                }
                Mail::Join { subscriber, form, ticket, after, rest, fresh } => {
                    run.offer(&groups, topic, round);
                    let class = topic.rule.class;
                    join(lane, &mut groups, Joined { subscriber, form, ticket, fresh, class }, (after, &rest), round);
                }
                Mail::Withdraw => {
                    run.offer(&groups, topic, round);
                    for subscriber in groups.iter().flat_map(FormGroup::subscribers) {
                        if subscriber.outbox.pause(subscriber.slot).is_some() {
                            subscriber.outbox.wake();
                        }
                    }
                }
                Mail::Change { subscriber, form } => {
                    run.offer(&groups, topic, round);
                    let Some(before) = subscriber::take(&mut groups, &subscriber.key()) else { continue };
                    subscriber::add(&mut groups, form, subscriber.clone());
                    if let Some(held) = before.pacer.and_then(|pacer| pacer.give_up()) {
                        round.offer(&subscriber, &held, held_back(topic));
                    }
                }
            }
        }
        run.offer(&groups, topic, round);
        round.run = run;
    }

    /// The shard had no room for some steps: subscribers of classes that may lose messages receive a gap, the others
    /// catch up.
    fn miss(&self, groups: &[FormGroup], topic: &TopicState, missed: &MissedSteps, round: &mut ShardRound) {
        let told = topic.rule.class == Class::Event || missed.last == StreamId::ZERO;
        for group in groups {
            let batch = told.then(|| Arc::new(missed.batch(&group.form)));
            for subscriber in group.subscribers() {
                if let Some(batch) = &batch {
                    subscriber.outbox.count_gap(topic.rule.class, metrics::GapLabel::Backplane);
                    round.offer(subscriber, batch, held_back(topic));
                } else if subscriber.outbox.pause(subscriber.slot).is_some() {
                    subscriber.outbox.shared.figures.lagged.of(topic.rule.class.into()).inc();
                    subscriber.outbox.wake();
                }
            }
        }
    }

    /// Sends held values that are due.
    fn release_paced(&self, round: &mut ShardRound) {
        let mut paced = std::mem::take(&mut round.paced);
        paced.retain(|_, topic| {
            let groups = topic.lane(self.index).subscribers.lock();
            let mut waiting = false;
            for subscriber in groups.iter().flat_map(FormGroup::subscribers) {
                let Some(pacer) = &subscriber.pacer else { continue };
                if let Some(batch) = pacer.release(round.began) {
                    round.offer(subscriber, &batch, held_back(topic));
                }
                waiting |= pacer.is_holding();
            }
            waiting
        });
        round.paced = paced;
    }

    /// Writes once to each outbox that received something; each round starts with another one, so that the last is not
    /// always the same.
    async fn flush(&self, round: &mut ShardRound) {
        round.turn = round.turn.wrapping_add(1);
        let len = round.dirty.len();
        let from = if len > 0 { round.turn % len } else { 0 };
        for at in 0..len {
            let written = round.dirty[(from + at) % len].flush();
            round.written.add(written);
            if at % WRITES_PER_TURN == WRITES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        round.dirty.clear();
        std::mem::take(&mut round.written).count(&self.metrics);
    }
}

/// Consecutive steps of one topic for all its subscribers.
#[derive(Default)]
struct StepRun {
    after: StreamId,
    steps: Vec<Step>,
}

impl StepRun {
    /// True when it is long enough. A gap stays together with the message after it, which moves the position.
    fn add(&mut self, after: StreamId, step: Step) -> bool {
        if self.steps.is_empty() {
            self.after = after;
        }
        let whole = matches!(step, Step::Message(_));
        self.steps.push(step);
        whole && self.steps.len() >= BATCH_MAX
    }

    fn offer(&mut self, groups: &[FormGroup], topic: &Arc<TopicState>, round: &mut ShardRound) {
        if self.steps.is_empty() {
            return;
        }
        let class = topic.rule.class;
        let newest_ms = self.steps.iter().filter_map(Step::message).map(|message| message.published_ms).max();
        let origin = DeliveryOrigin { class: class.into(), newest_ms: newest_ms.unwrap_or_default() };
        let gaps: Vec<_> = self.steps.iter().filter_map(told).collect();
        for group in groups {
            let batch = Arc::new(PushBatch::encode(&group.form, self.after, &self.steps, PushFlags::live(class)));
            for subscriber in group.subscribers() {
                gaps.iter().for_each(|gap| subscriber.outbox.count_gap(class, *gap));
                let Some(pacer) = &subscriber.pacer else {
                    round.offer(subscriber, &batch, origin);
                    continue;
                };
                if batch.count == 0 {
                    // No rate limit: send what was held, in order.
                    pacer.give_up().into_iter().for_each(|held| round.offer(subscriber, &held, held_back(topic)));
                    round.offer(subscriber, &batch, origin);
                } else if let Some(batch) = pacer.admit(batch.clone(), round.began) {
                    round.offer(subscriber, &batch, origin);
                } else {
                    round.paced.entry(topic.topic.clone()).or_insert_with(|| topic.clone());
                }
            }
        }
        if round.traces.are_active() {
            let messages = self.steps.iter().filter(|step| step.message().is_some()).count();
            let last = self.steps.last().and_then(Step::position);
            let outboxes = groups.iter().flat_map(FormGroup::subscribers).map(|subscriber| &subscriber.outbox);
            round.traces.fanned_out(&topic.topic, (messages, last), &outboxes);
        }
        self.steps.clear();
    }
}

/// The origin of deliveries that were delayed on purpose: their latency is not recorded.
fn held_back(topic: &TopicState) -> DeliveryOrigin {
    DeliveryOrigin { class: topic.rule.class.into(), newest_ms: 0 }
}

/// The metric label of the gap that subscribers receive for a step.
fn told(step: &Step) -> Option<metrics::GapLabel> {
    match step {
        Step::Message(_) => step.is_loss().then_some(metrics::GapLabel::InvalidPayload),
        Step::Gap(gap) => Some(gap_label(gap.reason, false)),
    }
}

struct Joined {
    subscriber: Subscriber,
    form: Form,
    ticket: u32,
    fresh: bool,
    class: Class,
}

/// Sends a subscription what arrived since its catch-up, and adds it to the subscribers.
fn join(
    lane: &TopicShard,
    groups: &mut Vec<FormGroup>,
    joined: Joined,
    rest: (StreamId, &[Step]),
    round: &mut ShardRound,
) {
    let Joined { subscriber, form, ticket, fresh, class } = joined;
    let (after, steps) = rest;
    let flags = PushFlags::live(class);
    let batch = (!steps.is_empty()).then(|| Arc::new(PushBatch::encode(&form, after, steps, flags)));
    let origin = DeliveryOrigin { class: class.into(), newest_ms: 0 };
    round.tally.add(&subscriber.outbox.shared.figures, origin, batch.as_ref().map_or(0, |batch| batch.count));
    steps.iter().filter_map(told).for_each(|gap| subscriber.outbox.count_gap(class, gap));
    let open = subscriber.outbox.has(subscriber.slot);
    if open && subscriber.outbox.join(subscriber.slot, ticket, batch) {
        round.dirty.push(subscriber.outbox.clone());
    }
    if !fresh {
        return;
    }
    if !open {
        lane.uncount();
        return;
    }
    subscriber::add(groups, form, subscriber);
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
