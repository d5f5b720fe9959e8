//! One followed topic: its position, and per shard a mailbox and the subscribers. No I/O under any of its locks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tickgate_wire::model::{Class, Message, StreamId, Topic, TopicRule};
use tokio::{sync::oneshot, time::Instant};

use super::{
    backlog_progress::BacklogProgress,
    form::Form,
    mail::{self, Mail},
    outbox::Outbox,
    position::{Position, PositionState, StreamRead},
    queue::SlotId,
    ring::RingLimits,
    shard::Shard,
    standing::UnpublishedStanding,
    step::{ArrivalAction, FillAction, NextRead, Step, StepJudge},
    subscriber::{self, Subscriber, SubscriberKey},
    tickets::QueueTickets,
    topic_checks::TopicChecks,
    topic_shard::TopicShard,
};
use crate::{backplane::StreamPage, history::Generations};

/// A topic that this replica follows.
#[derive(Debug)]
pub struct TopicState {
    /// The topic's name.
    pub topic: Topic,
    /// How its publications are retained and delivered.
    pub rule: Arc<TopicRule>,
    inner: Mutex<PositionWaiters>,
    lanes: Box<[TopicShard]>,
    /// Number of subscriptions, including pending ones; at zero the topic lingers and is then unfollowed.
    interest: AtomicUsize,
    /// Until when it is followed without subscribers; set while it is queued to be unfollowed.
    lingers_until: Mutex<Option<Instant>>,
    /// A message arrived since quiet topics were last compared.
    stirred: AtomicBool,
    /// It has publications, or belongs to a user.
    published: AtomicBool,
    /// It was withdrawn: it has no subscribers any more.
    withdrawn: AtomicBool,
    /// When it is checked again.
    pub(super) checks: TopicChecks,
    pub(super) standing: Mutex<UnpublishedStanding>,
    /// Its places in the work queues.
    pub(super) tickets: QueueTickets,
}

#[derive(Debug)]
struct PositionWaiters {
    position: Position,
    waiting: Vec<oneshot::Sender<()>>,
}

/// What happens to a queued topic without subscribers when its turn comes.
pub(super) enum LingerVerdict {
    /// It has subscribers again and leaves the queue.
    Wanted,
    /// It had subscribers meanwhile: it waits until then.
    Until(Instant),
    LetGo,
}

impl TopicState {
    pub(super) fn new(topic: Topic, rule: Arc<TopicRule>, shards: usize, ring: RingLimits) -> Self {
        let position = Position::new(rule.class == Class::State, ring);
        Self {
            topic,
            rule,
            inner: Mutex::new(PositionWaiters { position, waiting: Vec::new() }),
            lanes: (0..shards).map(|_| TopicShard::default()).collect(),
            interest: AtomicUsize::new(0),
            lingers_until: Mutex::default(),
            stirred: AtomicBool::new(false),
            published: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            checks: TopicChecks::default(),
            standing: Mutex::default(),
            tickets: QueueTickets::default(),
        }
    }

    /// Whether it is known to have publications, or belongs to a user.
    pub(super) fn is_published(&self) -> bool {
        self.published.load(Ordering::Relaxed)
    }

    pub(super) fn set_published(&self) {
        self.published.store(true, Ordering::Relaxed);
    }

    /// Its standing among topics without publications.
    pub(super) fn standing(&self) -> UnpublishedStanding {
        *self.standing.lock()
    }

    /// Whether it was withdrawn.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Withdraws it: subscribers and pending ones check again, in order with what is being delivered to them.
    pub(super) fn withdraw(self: &Arc<Self>, shards: &[Arc<Shard>]) {
        let mut inner = self.inner.lock();
        self.withdrawn.store(true, Ordering::Release);
        // Wakes the waiting tasks.
        inner.waiting.clear();
        for (lane, shard) in self.lanes.iter().zip(shards) {
            if lane.count() > 0 {
                self.post(lane, shard, Mail::Withdraw);
            }
        }
    }

    /// Records that the last subscriber left. True if the topic must be queued.
    pub(super) fn linger_until(&self, until: Instant) -> bool {
        self.lingers_until.lock().replace(until).is_none()
    }

    /// Decides what happens to the topic in its turn.
    pub(super) fn linger_verdict(&self, now: Instant) -> LingerVerdict {
        // A subscriber that leaves from here on queues the topic again.
        let mut until = self.lingers_until.lock();
        if self.interest() > 0 {
            *until = None;
            return LingerVerdict::Wanted;
        }
        until.filter(|until| *until > now).map_or(LingerVerdict::LetGo, LingerVerdict::Until)
    }

    /// Processes a message from the backplane.
    pub(super) fn arrived(
        self: &Arc<Self>,
        message: Message,
        history: &Generations,
        shards: &[Arc<Shard>],
    ) -> FillAction {
        let message = Arc::new(message);
        self.stirred.store(true, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let after = inner.position.at().unwrap_or_default();
        match inner.position.arrive(&message, self.judge(history)) {
            ArrivalAction::Next => {
                let after = if message.id.is_some() { after } else { StreamId::ZERO };
                self.post_all(after, &[Step::Message(message)], shards);
                FillAction::Nothing
            }
            ArrivalAction::Repeat | ArrivalAction::Held => FillAction::Nothing,
            ArrivalAction::Past => FillAction::Compare,
            ArrivalAction::Hole => FillAction::Read,
        }
    }

    /// Records that the link was lost.
    pub(super) fn lost(&self) {
        self.inner.lock().position.lost();
    }

    fn judge<'a>(&'a self, history: &'a Generations) -> StepJudge<'a> {
        StepJudge { topic: self.topic.as_str(), history }
    }

    /// Processes the end of the stream. `before`: the position when the read started.
    pub(super) fn compared(
        self: &Arc<Self>,
        (end, before): (Option<StreamId>, Option<StreamId>),
        history: &Generations,
        shards: &[Arc<Shard>],
    ) -> FillAction {
        let compare = |own: &mut Position, steps: &mut _| own.compare(end, before, self.judge(history), steps);
        if self.is_retained() { self.step(shards, compare) } else { self.step(shards, |own, _| own.begin_unkept()) }
    }

    /// The parameters of the next stream read.
    pub(super) fn ask(&self) -> StreamRead {
        self.inner.lock().position.ask()
    }

    /// Processes a page.
    pub(super) fn filled(
        self: &Arc<Self>,
        asked: StreamRead,
        page: &StreamPage,
        history: &Generations,
        shards: &[Arc<Shard>],
    ) -> FillAction {
        self.step(shards, |position, steps| position.filled(asked, page, self.judge(history), steps))
    }

    /// Records that the stream could not be read.
    pub(super) fn unfilled(&self) {
        self.inner.lock().position.unfilled();
    }

    fn step(
        self: &Arc<Self>,
        shards: &[Arc<Shard>],
        act: impl FnOnce(&mut Position, &mut Vec<Step>) -> NextRead,
    ) -> FillAction {
        let mut inner = self.inner.lock();
        let after = inner.position.at().unwrap_or_default();
        let mut steps = Vec::new();
        let next = act(&mut inner.position, &mut steps);
        self.post_all(after, &steps, shards);
        if inner.position.at().is_some() {
            for waiting in inner.waiting.drain(..) {
                let _ = waiting.send(()); // The waiting task may have ended.
            }
        }
        match next {
            NextRead::Live => FillAction::Nothing,
            NextRead::Read => FillAction::Read,
            NextRead::Wait => FillAction::Wait,
            NextRead::Anchor => FillAction::Anchor,
            NextRead::Doubt => FillAction::Doubt,
        }
    }

    /// Posts steps to every shard that has subscribers, or a marker if it has no room. Called under the position's
    /// lock, so that mailboxes have the order of the stream.
    fn post_all(self: &Arc<Self>, after: StreamId, steps: &[Step], shards: &[Arc<Shard>]) {
        if steps.is_empty() {
            return;
        }
        let bytes = steps.iter().map(mail::size).sum();
        for (lane, shard) in self.lanes.iter().zip(shards) {
            if lane.count() == 0 {
                continue;
            }
            let posted = lane.mail.lock().post(steps, after, shard.take_room(bytes).then_some(bytes));
            if posted {
                shard.post(self.clone());
            }
        }
    }

    fn post(self: &Arc<Self>, lane: &TopicShard, shard: &Shard, mail: Mail) {
        let posted = lane.mail.lock().put(mail);
        if posted {
            shard.post(self.clone());
        }
    }

    /// Takes everything from a shard's mailbox, and returns its size in bytes.
    pub(super) fn take_mail(&self, shard: usize) -> (&TopicShard, Vec<Mail>, usize) {
        let lane = &self.lanes[shard];
        let (mail, bytes) = lane.mail.lock().take();
        (lane, mail, bytes)
    }

    pub(super) fn lane(&self, shard: usize) -> &TopicShard {
        &self.lanes[shard]
    }

    /// Atomically joins a subscription that has everything up to `after` to the live stream, sending what arrived since
    /// first. False if that is no longer in memory; the caller keeps reading. `proven`: the stream has nothing after
    /// the cursor, although this replica has not reached it.
    pub(super) fn join(
        self: &Arc<Self>,
        joining: JoiningSubscription<'_>,
        after: StreamId,
        proven: bool,
        shards: &[Arc<Shard>],
    ) -> bool {
        let inner = self.inner.lock();
        if self.is_withdrawn() {
            return false;
        }
        let rest = if self.rule.class == Class::State {
            inner.position.newest().filter(|m| m.id.is_some_and(|id| id > after)).into_iter().collect()
        } else if let Some(rest) = inner.position.since(after) {
            rest
        } else if proven && inner.position.at().is_some_and(|at| at < after) {
            Vec::new()
        } else {
            return false;
        };
        let end = joining.past.and_then(|past| past.end(joining.form, after));
        let Some(ticket) = joining.subscriber.outbox.joining(joining.subscriber.slot, end) else { return true };
        let lane = &self.lanes[joining.shard];
        if joining.fresh {
            lane.count.fetch_add(1, Ordering::Relaxed);
        }
        let rest = rest.into_iter().map(Step::Message).collect();
        let JoiningSubscription { subscriber, form, fresh, shard, past: _ } = joining;
        let mail = Mail::Join { subscriber: subscriber.clone(), form: form.clone(), ticket, after, rest, fresh };
        self.post(lane, &shards[shard], mail);
        true
    }

    /// Changes the form or the maximum rate of a subscription, in order with messages in flight.
    pub(super) fn change(self: &Arc<Self>, subscriber: Subscriber, form: Form, shard: usize, shards: &[Arc<Shard>]) {
        let _order = self.inner.lock();
        self.post(&self.lanes[shard], &shards[shard], Mail::Change { subscriber, form });
    }

    /// Removes a subscription. Its slot is already closed, so nothing reaches it even if its join is still in the
    /// mailbox.
    pub(super) fn leave(&self, outbox: &Arc<Outbox>, slot: SlotId, shard: usize) {
        let lane = &self.lanes[shard];
        let mut groups = lane.subscribers.lock();
        if subscriber::take(&mut groups, &SubscriberKey { outbox, slot }).is_some() {
            lane.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Resolves when the topic has been compared with its stream; `None` if it already has.
    pub(super) fn synced(&self) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.inner.lock();
        if inner.position.at().is_some() && inner.position.state() != PositionState::Syncing {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if inner.waiting.len() == inner.waiting.capacity() {
            // Removes waiters that gave up.
            inner.waiting.retain(|waiting| !waiting.is_closed());
        }
        inner.waiting.push(sender);
        Some(receiver)
    }

    /// The position, once known: the topic's head as known by this replica.
    #[must_use]
    pub fn position(&self) -> Option<StreamId> {
        self.inner.lock().position.at()
    }

    /// The position, and the newest message if it is in memory.
    pub(super) fn head(&self) -> (Option<StreamId>, Option<Arc<Message>>) {
        let inner = self.inner.lock();
        (inner.position.at(), inner.position.newest())
    }

    /// What arrived after the cursor, if it is in memory, and the position that it reaches.
    pub(super) fn since(&self, cursor: StreamId) -> Option<(Vec<Arc<Message>>, StreamId)> {
        let inner = self.inner.lock();
        Some((inner.position.since(cursor)?, inner.position.at()?))
    }

    /// The last messages, if they are in memory.
    pub(super) fn last(&self, count: usize) -> Option<Vec<Arc<Message>>> {
        self.inner.lock().position.last(count)
    }

    /// Whether the topic is live and nothing arrived since the last call.
    pub(super) fn is_quiet(&self) -> bool {
        !self.stirred.swap(false, Ordering::Relaxed) && self.inner.lock().position.state() == PositionState::Live
    }

    /// Whether subscribers (including pending ones) wait for it to become consistent with its stream.
    pub(super) fn is_awaited(&self) -> bool {
        self.interest() > 0 && self.inner.lock().position.state() != PositionState::Live
    }

    /// The known number of messages that it is behind its stream.
    pub(super) fn lag(&self) -> u64 {
        self.inner.lock().position.lag()
    }

    pub(super) fn add_interest(&self) {
        self.interest.fetch_add(1, Ordering::AcqRel);
    }

    /// True if no subscription is left.
    pub(super) fn drop_interest(&self) -> bool {
        self.interest.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Number of subscriptions on this replica, including pending ones.
    pub(super) fn interest(&self) -> usize {
        self.interest.load(Ordering::Acquire)
    }
}

/// A subscription that is about to go live.
#[derive(Clone, Copy, Debug)]
pub(super) struct JoiningSubscription<'a> {
    pub(super) subscriber: &'a Subscriber,
    pub(super) form: &'a Form,
    pub(super) shard: usize,
    /// Not among the subscribers yet (a lagging one is).
    pub(super) fresh: bool,
    /// The backlog whose end is reported now.
    pub(super) past: Option<&'a BacklogProgress>,
}
