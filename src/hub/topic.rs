//! One followed topic: its position, and per shard a mailbox and the subscribers. No I/O under any of its locks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tickgate_wire::model::{Class, Message, StreamId, Topic, TopicRule};
use tokio::{sync::oneshot, time::Instant};

use super::{
    form::Form,
    looks::Looks,
    mail::{self, Mail, Mailbox},
    member::{self, Group, Member, Seat},
    outbox::Outbox,
    past::Past,
    position::{Asked, Position, State},
    queue::SlotId,
    ring::RingLimits,
    shard::Shard,
    standing::Standing,
    step::{Arrival, Judge, Next, Step, Todo},
    tickets::Tickets,
};
use crate::{backplane::Page, history::History};

/// A topic that this replica follows.
#[derive(Debug)]
pub struct Followed {
    pub topic: Topic,
    pub rule: Arc<TopicRule>,
    inner: Mutex<Inner>,
    lanes: Box<[Lane]>,
    /// Subscriptions and pending ones; at zero the topic is let go after a while.
    interest: AtomicUsize,
    /// Until when it is followed without subscribers; some while it is in line to be let go.
    lingers_until: Mutex<Option<Instant>>,
    /// Something arrived since the quiet topics were last compared.
    stirred: AtomicBool,
    /// Somebody has published to it, or it is a user's own.
    published: AtomicBool,
    /// It gave way to others: nobody is interested any more.
    withdrawn: AtomicBool,
    /// When it is looked at again.
    pub(super) looks: Looks,
    pub(super) standing: Mutex<Standing>,
    /// Its places in the work queues.
    pub(super) tickets: Tickets,
}

#[derive(Debug)]
struct Inner {
    position: Position,
    waiting: Vec<oneshot::Sender<()>>,
}

/// One shard's part of a topic.
#[derive(Debug, Default)]
pub(super) struct Lane {
    mail: Mutex<Mailbox>,
    pub(super) subscribers: Mutex<Vec<Group>>,
    /// Subscribers and those whose joining is in the mail: at zero nothing is posted.
    count: AtomicUsize,
}

/// What happens to a topic without subscribers when its turn in line has come.
pub(super) enum LingerVerdict {
    /// It has subscribers again and leaves the line.
    Wanted,
    /// It had subscribers in the meantime: it waits until then.
    Until(Instant),
    LetGo,
}

impl Followed {
    pub(super) fn new(topic: Topic, rule: Arc<TopicRule>, shards: usize, ring: RingLimits) -> Self {
        let position = Position::new(rule.class == Class::State, ring);
        Self {
            topic,
            rule,
            inner: Mutex::new(Inner { position, waiting: Vec::new() }),
            lanes: (0..shards).map(|_| Lane::default()).collect(),
            interest: AtomicUsize::new(0),
            lingers_until: Mutex::default(),
            stirred: AtomicBool::new(false),
            published: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            looks: Looks::default(),
            standing: Mutex::default(),
            tickets: Tickets::default(),
        }
    }

    /// Whether it is known that somebody has published to it, or it is a user's own.
    pub(super) fn is_published(&self) -> bool {
        self.published.load(Ordering::Relaxed)
    }

    pub(super) fn set_published(&self) {
        self.published.store(true, Ordering::Relaxed);
    }

    /// Where it stands among those that nobody has published to.
    pub(super) fn standing(&self) -> Standing {
        *self.standing.lock()
    }

    /// Whether it gave way to others.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// It gives way: subscribers and those who wait to be some look again. In order with what is on its way to them.
    pub(super) fn withdraw(self: &Arc<Self>, shards: &[Arc<Shard>]) {
        let mut inner = self.inner.lock();
        self.withdrawn.store(true, Ordering::Release);
        // Whoever waits is woken.
        inner.waiting.clear();
        for (lane, shard) in self.lanes.iter().zip(shards) {
            if lane.count() > 0 {
                self.post(lane, shard, Mail::Withdraw);
            }
        }
    }

    /// The last subscriber left. True when the topic has to get in line.
    pub(super) fn linger_until(&self, until: Instant) -> bool {
        self.lingers_until.lock().replace(until).is_none()
    }

    /// The topic's turn in line has come.
    pub(super) fn linger_verdict(&self, now: Instant) -> LingerVerdict {
        // A subscriber that leaves from here on finds the topic out of line.
        let mut until = self.lingers_until.lock();
        if self.interest() > 0 {
            *until = None;
            return LingerVerdict::Wanted;
        }
        until.filter(|until| *until > now).map_or(LingerVerdict::LetGo, LingerVerdict::Until)
    }

    /// A message came in from the backplane.
    pub(super) fn arrived(self: &Arc<Self>, message: Message, history: &History, shards: &[Arc<Shard>]) -> Todo {
        let message = Arc::new(message);
        self.stirred.store(true, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let after = inner.position.at().unwrap_or_default();
        match inner.position.arrive(&message, self.judge(history)) {
            Arrival::Next => {
                let after = if message.id.is_some() { after } else { StreamId::ZERO };
                self.post_all(after, &[Step::Message(message)], shards);
                Todo::Nothing
            }
            Arrival::Repeat | Arrival::Held => Todo::Nothing,
            Arrival::Past => Todo::Compare,
            Arrival::Hole => Todo::Read,
        }
    }

    /// The link was lost.
    pub(super) fn lost(&self) {
        self.inner.lock().position.lost();
    }

    fn judge<'a>(&'a self, history: &'a History) -> Judge<'a> {
        Judge { topic: self.topic.as_str(), history }
    }

    /// The end of the stream was read. `before`: the position when it was asked for.
    pub(super) fn compared(
        self: &Arc<Self>,
        (end, before): (Option<StreamId>, Option<StreamId>),
        history: &History,
        shards: &[Arc<Shard>],
    ) -> Todo {
        let compare = |own: &mut Position, steps: &mut _| own.compare(end, before, self.judge(history), steps);
        if self.is_retained() { self.step(shards, compare) } else { self.step(shards, |own, _| own.begin_unkept()) }
    }

    /// What the stream is to be asked.
    pub(super) fn ask(&self) -> Asked {
        self.inner.lock().position.ask()
    }

    /// A page was read.
    pub(super) fn filled(
        self: &Arc<Self>,
        asked: Asked,
        page: &Page,
        history: &History,
        shards: &[Arc<Shard>],
    ) -> Todo {
        self.step(shards, |position, steps| position.filled(asked, page, self.judge(history), steps))
    }

    /// The stream could not be read.
    pub(super) fn unfilled(&self) {
        self.inner.lock().position.unfilled();
    }

    fn step(self: &Arc<Self>, shards: &[Arc<Shard>], act: impl FnOnce(&mut Position, &mut Vec<Step>) -> Next) -> Todo {
        let mut inner = self.inner.lock();
        let after = inner.position.at().unwrap_or_default();
        let mut steps = Vec::new();
        let next = act(&mut inner.position, &mut steps);
        self.post_all(after, &steps, shards);
        if inner.position.at().is_some() {
            for waiting in inner.waiting.drain(..) {
                let _ = waiting.send(()); // Whoever waited may have gone.
            }
        }
        match next {
            Next::Live => Todo::Nothing,
            Next::Read => Todo::Read,
            Next::Wait => Todo::Wait,
            Next::Anchor => Todo::Anchor,
            Next::Doubt => Todo::Doubt,
        }
    }

    /// Hands steps to every shard that has subscribers, or a mark where it has no room for them. Called under the
    /// position's lock, which is what keeps the order of mails equal to the order of the stream.
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

    fn post(self: &Arc<Self>, lane: &Lane, shard: &Shard, mail: Mail) {
        let posted = lane.mail.lock().put(mail);
        if posted {
            shard.post(self.clone());
        }
    }

    /// Everything in a shard's mailbox, and how many bytes of its room that took.
    pub(super) fn take_mail(&self, shard: usize) -> (&Lane, Vec<Mail>, usize) {
        let lane = &self.lanes[shard];
        let (mail, bytes) = lane.mail.lock().take();
        (lane, mail, bytes)
    }

    pub(super) fn lane(&self, shard: usize) -> &Lane {
        &self.lanes[shard]
    }

    /// Joins a subscription that has everything up to `after` to the live stream, atomically: what came since goes
    /// first. False when what came since is no longer at hand; the caller reads on. `proven` says that the stream
    /// itself has nothing after the cursor, though this replica has not come that far yet.
    pub(super) fn join(
        self: &Arc<Self>,
        joining: Joining<'_>,
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
        let Some(ticket) = joining.member.outbox.joining(joining.member.slot, end) else { return true };
        let lane = &self.lanes[joining.shard];
        if joining.fresh {
            lane.count.fetch_add(1, Ordering::Relaxed);
        }
        let rest = rest.into_iter().map(Step::Message).collect();
        let Joining { member, form, fresh, shard, past: _ } = joining;
        let mail = Mail::Join { member: member.clone(), form: form.clone(), ticket, after, rest, fresh };
        self.post(lane, &shards[shard], mail);
        true
    }

    /// Changes the form or the maximum rate of a subscription, in order with the messages that are on their way.
    pub(super) fn change(self: &Arc<Self>, member: Member, form: Form, shard: usize, shards: &[Arc<Shard>]) {
        let _order = self.inner.lock();
        self.post(&self.lanes[shard], &shards[shard], Mail::Change { member, form });
    }

    /// Takes a subscription out. Its slot is closed already, so nothing reaches it even where its joining is still
    /// in the mail.
    pub(super) fn leave(&self, outbox: &Arc<Outbox>, slot: SlotId, shard: usize) {
        let lane = &self.lanes[shard];
        let mut groups = lane.subscribers.lock();
        if member::take(&mut groups, &Seat { outbox, slot }).is_some() {
            lane.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Resolves at once when the topic has been compared with its stream, or else when it has.
    pub(super) fn synced(&self) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.inner.lock();
        if inner.position.at().is_some() && inner.position.state() != State::Syncing {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if inner.waiting.len() == inner.waiting.capacity() {
            // Whoever gave up waiting needs no place.
            inner.waiting.retain(|waiting| !waiting.is_closed());
        }
        inner.waiting.push(sender);
        Some(receiver)
    }

    /// The position, once known: the head of the topic as this replica knows it.
    #[must_use]
    pub fn position(&self) -> Option<StreamId> {
        self.inner.lock().position.at()
    }

    /// The position, and the newest message where it is at hand.
    pub(super) fn head(&self) -> (Option<StreamId>, Option<Arc<Message>>) {
        let inner = self.inner.lock();
        (inner.position.at(), inner.position.newest())
    }

    /// What came after the cursor, where that is at hand, with the position it reaches.
    pub(super) fn since(&self, cursor: StreamId) -> Option<(Vec<Arc<Message>>, StreamId)> {
        let inner = self.inner.lock();
        Some((inner.position.since(cursor)?, inner.position.at()?))
    }

    /// The last messages, where they are at hand.
    pub(super) fn last(&self, count: usize) -> Option<Vec<Arc<Message>>> {
        self.inner.lock().position.last(count)
    }

    /// Whether nothing arrived since the last call, on a topic that is live.
    pub(super) fn is_quiet(&self) -> bool {
        !self.stirred.swap(false, Ordering::Relaxed) && self.inner.lock().position.state() == State::Live
    }

    /// Whether subscribers wait for it: it has some, pending ones included, and is not in step with its stream.
    pub(super) fn is_awaited(&self) -> bool {
        self.interest() > 0 && self.inner.lock().position.state() != State::Live
    }

    /// How many messages it is known to be behind its stream.
    pub(super) fn lag(&self) -> u64 {
        self.inner.lock().position.lag()
    }

    pub(super) fn add_interest(&self) {
        self.interest.fetch_add(1, Ordering::AcqRel);
    }

    /// True when nobody is interested any more.
    pub(super) fn drop_interest(&self) -> bool {
        self.interest.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Subscriptions of this replica, pending ones included.
    pub(super) fn interest(&self) -> usize {
        self.interest.load(Ordering::Acquire)
    }
}

/// A subscription about to go live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joining<'a> {
    pub(super) member: &'a Member,
    pub(super) form: &'a Form,
    pub(super) shard: usize,
    /// Not among the subscribers yet (a lagging one is).
    pub(super) fresh: bool,
    /// Whose end is told now.
    pub(super) past: Option<&'a Past>,
}

impl Lane {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A joining that came too late, or a subscriber that left.
    pub(super) fn uncount(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
