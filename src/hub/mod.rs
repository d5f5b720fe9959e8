//! The topics of this replica: who subscribes, in which order arrivals are delivered, and through which outbox.
//!
//! An arrival passes `topic` (position and hole check), is posted to the `shard`s that have subscribers, is encoded
//! once per wire form as a `batch`, and is put into each subscriber's `outbox`, which drains into its `socket`.
//! `follow` keeps positions consistent with streams, and takes topics from its `work_queue`s; `subscribe` and
//! `catch_up` bring a client from its cursor to the live stream; `linger` unfollows topics without subscribers, and
//! `withdraw` those without publications if others need their place (`unpublished`).
//!
//! **Invariant: the session never touches fan-out.** The hub knows outboxes and wire forms, never sessions, tokens or
//! HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

mod abandoned;
mod backlog;
mod backlog_progress;
mod batch;
mod catch_up;
mod flow;
mod follow;
#[cfg(test)]
mod for_tests;
mod form;
mod gap;
mod linger;
mod mail;
mod new_topics;
mod outbox;
mod pages;
mod position;
mod queue;
mod ring;
mod shard;
mod socket;
mod standing;
mod step;
mod subscribe;
mod subscriber;
mod table;
mod tally;
mod tickets;
#[cfg(test)]
mod tls_tests;
mod topic;
mod topic_checks;
mod topic_shard;
mod trace;
mod turns;
mod unconfirmed;
mod unpublished;
mod unsent;
mod withdraw;
mod work_queue;

pub use backlog::{Backlog, ReplayLimits};
pub use backlog_progress::{BacklogProgress, caught_up};
pub use batch::{PushBatch, PushFlags};
pub use catch_up::CatchUpStep;
pub use follow::StreamLag;
pub use form::Form;
pub use gap::GapRange;
pub use outbox::{Close, EndpointOutboxes, Outbox, OutboxProgress};
pub use position::{Position, PositionState, StreamRead};
pub use queue::{Cursor, OfferResult, OutboxQueue, QueueLimits, SlotId, SubscriptionSlot, SubscriptionStage};
pub use ring::RingLimits;
pub use socket::{MemorySocket, OutboxSocket};
pub(crate) use socket::{check_drained, try_write_if_drained};
pub use step::{ArrivalAction, NextRead, Step, StepJudge};
pub use subscribe::TopicHandle;
pub use subscriber::{Pacer, Subscriber};
pub use topic::TopicState;
pub use trace::{StartedTrace, TracedSubject, Traces};
pub use turns::{MemoryReservation, ReadTurn, ReaderAddress, TurnLimits};
pub(crate) use unsent::UnsentLimit;

use crate::{
    backplane::{Backplane, BackplaneEvent, StreamUnavailable},
    metrics::Metrics,
    tasks::Tasks,
};
use tickgate_wire::model::{Content, Message, Topic, TopicRule};

/// Maximum number of resumes of more than one page that are in memory at once; for others, the catch-up delivers what
/// follows the first page.
const LONG_MAX: usize = 4;

/// All topics that this replica follows, and its shards.
#[derive(Debug)]
pub struct Hub {
    topics: table::TopicTable,
    shards: Vec<Arc<shard::Shard>>,
    queues: work_queue::WorkQueues,
    /// Held while a topic enters or leaves the table and the backplane is notified, so that the two never interleave.
    /// Taken before any part of the table.
    following: Mutex<()>,
    lingering: linger::LingerQueue,
    unpublished: unpublished::Unpublished,
    new_topics: new_topics::NewTopicLimits,
    abandoned: abandoned::AbandonedTopics,
    /// Notified when positions are to be deleted.
    left: Notify,
    withdrawn: withdraw::WithdrawnTopics,
    turns: Arc<turns::ReadTurns>,
    /// The turns of resumes that collect more than one page before pushing.
    long_turns: Arc<turns::ReadTurns>,
    pages: pages::RecentPages,
    topics_max: usize,
    ring: RingLimits,
    backplane: Backplane,
    metrics: Arc<Metrics>,
    traces: Arc<Traces>,
    subscriptions: AtomicUsize,
}

/// Settings of a hub.
#[derive(Clone, Copy, Debug)]
pub struct HubSettings {
    /// Number of fan-out tasks; at least 1.
    pub shards: usize,
    /// Maximum number of followed topics, excluding users' own.
    pub topics_max: usize,
    /// Maximum number of those without publications, in total and per address.
    pub unpublished_topics_max: usize,
    /// Maximum number of topics without publications named by one address.
    pub unpublished_per_address_max: usize,
    /// Limits of the recent messages in memory, per topic.
    pub ring: RingLimits,
    /// How long a topic stays followed after its last subscriber leaves.
    pub linger: Duration,
    /// How often quiet topics are compared with their streams.
    pub compare_interval: Duration,
    /// A work queue is logged as stalled when its oldest topic waits longer than this.
    pub queue_grace: Duration,
    /// Limits on concurrent replay reads and on the memory of what they read.
    pub reads: TurnLimits,
}

impl Hub {
    /// Creates a hub over this backplane, starts its tasks and registers it as the backplane's receiver.
    #[must_use]
    pub fn start(backplane: Backplane, settings: HubSettings, metrics: Arc<Metrics>, tasks: &Tasks) -> Arc<Self> {
        let traces = Arc::<Traces>::default();
        let shards = (0..settings.shards.max(1))
            .map(|index| shard::Shard::new(index, mail::BYTES_MAX, (metrics.clone(), traces.clone())))
            .collect();
        let hub = Arc::new(Self {
            topics: table::TopicTable::default(),
            shards,
            queues: work_queue::WorkQueues::new(),
            following: Mutex::default(),
            lingering: linger::LingerQueue::new(settings.linger),
            abandoned: abandoned::AbandonedTopics::default(),
            left: Notify::new(),
            unpublished: unpublished::Unpublished::new(
                settings.unpublished_topics_max,
                settings.unpublished_per_address_max,
            ),
            new_topics: new_topics::NewTopicLimits::new(settings.unpublished_per_address_max),
            withdrawn: withdraw::WithdrawnTopics::default(),
            turns: turns::ReadTurns::new(settings.reads),
            long_turns: turns::ReadTurns::new(TurnLimits { at_once: LONG_MAX, ..settings.reads }),
            pages: pages::RecentPages::default(),
            topics_max: settings.topics_max,
            ring: settings.ring,
            backplane,
            metrics,
            traces,
            subscriptions: AtomicUsize::new(0),
        });
        for shard in &hub.shards {
            tasks.spawn_vital("shard", shard.clone().run(tasks.stop()));
        }
        hub.start_following(tasks, &settings);
        hub.start_letting_go(tasks);
        hub.start_forgetting(tasks);
        hub.start_withdrawing(tasks);
        let receiver = Arc::downgrade(&hub);
        hub.backplane.start(Box::new(move |event| {
            if let Some(hub) = receiver.upgrade() {
                hub.on_event(event);
            }
        }));
        hub
    }

    fn on_event(&self, event: BackplaneEvent<'_>) {
        match event {
            BackplaneEvent::Arrived { topic, message } => self.deliver(topic, message),
            BackplaneEvent::Confirmed { topic } => {
                if let Some(topic) = self.topics.get(topic) {
                    self.begin(&topic);
                }
            }
            BackplaneEvent::Lost { topic } => {
                if let Some(topic) = self.topics.get(topic) {
                    topic.lost();
                }
            }
            BackplaneEvent::Foreign { topic } => {
                // A topic without retention has nothing to compare with.
                if let Some(topic) = self.topics.get(topic).filter(|topic| topic.is_retained()) {
                    self.queues.compare.push(&topic);
                }
            }
            BackplaneEvent::GenerationChanged => self.metrics.generation_changes_total.inc(),
        }
    }

    /// Delivers an arrival to this replica's subscribers.
    fn deliver(&self, topic: &str, mut message: Message) {
        let Some(topic) = self.topics.get(topic) else { return };
        if !topic.is_retained() && message.id.is_some() {
            // A position in a stream that this topic does not have: nothing is missing before or after it.
            if message.content == Content::Unreadable {
                return;
            }
            (message.id, message.prev) = (None, None);
        }
        if !topic.is_published() {
            self.published(&topic);
        }
        if self.traces.are_active() {
            self.traces.arrived(&topic.topic, &message);
        }
        let history = self.backplane.history(&topic.topic);
        match topic.arrived(message, &history, &self.shards) {
            step::FillAction::Read => self.queues.read.push(&topic),
            step::FillAction::Compare => self.queues.compare.push(&topic),
            _ => {}
        }
    }

    /// Registers interest in a topic for a client at the address of `reader`; the first interest makes the replica
    /// follow the topic. `None` if the maximum number of topics is followed.
    #[must_use]
    pub fn interest(
        self: &Arc<Self>,
        topic: &Topic,
        rule: &Arc<TopicRule>,
        reader: ReaderAddress,
    ) -> Option<TopicHandle> {
        let followed = self.known(topic).or_else(|| self.follow(topic, rule, reader))?;
        if !followed.is_published() {
            self.unpublished.share(&followed, reader);
        }
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        self.metrics.subscriptions.of(rule_name(&followed)).inc();
        Some(TopicHandle { hub: self.clone(), topic: followed })
    }

    /// Adds an interest in a topic that is already followed.
    fn known(&self, topic: &Topic) -> Option<Arc<TopicState>> {
        let part = self.topics.part(topic.as_str()).read();
        let followed = part.get(topic.as_str()).filter(|followed| !followed.is_withdrawn())?;
        followed.add_interest();
        Some(followed.clone())
    }

    fn follow(&self, topic: &Topic, rule: &Arc<TopicRule>, reader: ReaderAddress) -> Option<Arc<TopicState>> {
        let _order = self.following.lock();
        if let Some(followed) = self.known(topic) {
            return Some(followed);
        }
        let followed = Arc::new(TopicState::new(topic.clone(), rule.clone(), self.shards.len(), self.ring));
        // Users' own topics are always admitted, regardless of what other clients subscribe to.
        if topic.owner().is_some() {
            followed.set_published();
        } else if !self.has_room_for(&followed, reader) {
            return None;
        }
        followed.add_interest();
        let mut part = self.topics.part(topic.as_str()).write();
        if let Some(withdrawn) = part.get(topic.as_str()).cloned() {
            self.take_out(&mut part, &withdrawn);
        }
        part.insert(topic.clone(), followed.clone());
        drop(part);
        self.metrics.topics.inc();
        let owner = topic.owner().is_none().then_some(reader.0);
        self.backplane.follow(topic, owner);
        Some(followed)
    }

    fn uninterested(&self, topic: &TopicState) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        self.metrics.subscriptions.of(rule_name(topic)).dec();
        if topic.drop_interest() && !topic.is_withdrawn() {
            self.queues.reorder(topic);
            self.linger(topic);
        }
    }

    fn shard_of(&self, outbox: &Arc<Outbox>) -> usize {
        // Addresses of allocations differ only above the allocator's granularity.
        (Arc::as_ptr(outbox) as usize >> 6) % self.shards.len()
    }

    /// Waits for a turn to read at most this many bytes of a stream for a client.
    ///
    /// # Errors
    /// [`StreamUnavailable`] after a timeout.
    pub async fn turn(&self, reader: ReaderAddress, bytes_max: usize) -> Result<ReadTurn, StreamUnavailable> {
        self.turns.take(reader, bytes_max).await
    }

    /// The live traces.
    #[must_use]
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Number of subscriptions on this replica.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// The topics with the most subscriptions on this replica, in descending order, at most `limit`.
    #[must_use]
    pub fn busiest(&self, limit: usize) -> Vec<(Topic, usize)> {
        let mut all: Vec<_> = self.topics.all().iter().map(|t| (t.topic.clone(), t.interest())).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(limit);
        all
    }

    /// Names of the followed topics that have subscribers and one of these prefixes.
    #[must_use]
    pub fn followed_names(&self, prefixes: &[&str]) -> Vec<String> {
        let mut names = Vec::new();
        for part in self.topics.parts() {
            let part = part.read();
            let wanted = part.iter().filter(|(topic, followed)| {
                prefixes.iter().any(|prefix| topic.as_str().starts_with(prefix)) && followed.interest() > 0
            });
            names.extend(wanted.map(|(topic, _)| topic.as_str().to_owned()));
        }
        names
    }

    /// Number of subscriptions to one topic on this replica.
    #[must_use]
    pub fn subscribers(&self, topic: &Topic) -> usize {
        self.topics.get(topic.as_str()).map_or(0, |followed| followed.interest())
    }

    /// Number of topics that this replica follows.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.topics.len()
    }
}

/// The label under which a topic's subscriptions are counted: one for all topics of a rule.
fn rule_name(topic: &TopicState) -> &str {
    if topic.topic.owner().is_some() { "user_stream" } else { topic.rule.pattern.as_str() }
}
