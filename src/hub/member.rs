//! One subscription as the fan-out sees it: where it is written to, and what narrows it. Never knows whose it is.

use std::{
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use indexmap::{Equivalent, IndexSet};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    batch::{Batch, Form},
    outbox::Outbox,
    queue::SlotId,
};

/// Subscribers that share a wire form, hence bytes.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) form: Form,
    /// Walked by the fan-out; found by their seats, so that a crowd may leave at once.
    members: IndexSet<Member, BuildHasherDefault<DefaultHasher>>,
}

impl Group {
    /// A group that begins with one subscriber, and takes room for it alone: few topics have a crowd.
    pub(super) fn of(form: Form, member: Member) -> Self {
        let mut members = IndexSet::with_capacity_and_hasher(1, BuildHasherDefault::default());
        members.insert(member);
        Self { form, members }
    }

    pub(super) fn add(&mut self, member: Member) {
        self.members.insert(member);
    }

    /// Takes the place of the same subscription, narrowed otherwise; `None` where it is not in this group.
    pub(super) fn replace(&mut self, member: &Member) -> Option<Member> {
        let here = self.members.contains(member);
        if here { self.members.replace(member.clone()) } else { None }
    }

    /// False where it is not in this group.
    pub(super) fn remove(&mut self, seat: &Seat<'_>) -> bool {
        self.members.swap_remove(seat)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// One subscription as the fan-out sees it.
#[derive(Clone, Debug)]
pub struct Member {
    pub outbox: Arc<Outbox>,
    pub slot: SlotId,
    /// Only for those that want less than everything: kept apart, so that the plain ones cost nothing.
    pub narrowed: Option<Arc<Narrowed>>,
}

/// What a subscription is found by.
pub(super) struct Seat<'a> {
    pub(super) outbox: &'a Arc<Outbox>,
    pub(super) slot: SlotId,
}

impl Hash for Seat<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(self.outbox), self.slot).hash(state);
    }
}

impl Equivalent<Member> for Seat<'_> {
    fn equivalent(&self, member: &Member) -> bool {
        self.slot == member.slot && Arc::ptr_eq(self.outbox, &member.outbox)
    }
}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.seat().hash(state);
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.seat().equivalent(other)
    }
}

impl Eq for Member {}

/// What narrows a subscription.
#[derive(Debug)]
pub struct Narrowed {
    /// Channels of a user's stream that are wanted; `None`: all.
    pub channels: Option<Vec<Arc<str>>>,
    /// Least time between two values of a `state` topic.
    pub interval: Option<Duration>,
    pace: Mutex<Pace>,
}

/// A value held back until its time has come.
#[derive(Debug, Default)]
struct Pace {
    next: Option<Instant>,
    held: Option<Arc<Batch>>,
    skipped: u32,
}

impl Narrowed {
    #[must_use]
    pub fn new(channels: Option<Vec<Arc<str>>>, interval: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { channels, interval, pace: Mutex::default() })
    }
}

impl Member {
    fn seat(&self) -> Seat<'_> {
        Seat { outbox: &self.outbox, slot: self.slot }
    }

    pub(super) fn channels(&self) -> Option<&[Arc<str>]> {
        self.narrowed.as_ref()?.channels.as_deref()
    }
}

impl Narrowed {
    /// Lets a batch through now, or holds it back for its pace (conflating what was held before).
    pub(super) fn admit(&self, batch: Arc<Batch>, now: Instant) -> Option<Arc<Batch>> {
        let Some(interval) = self.interval else { return Some(batch) };
        let mut pace = self.pace.lock();
        let skipped = pace.skipped + batch.count.saturating_sub(1) + u32::from(pace.held.is_some());
        pace.held = Some(batch);
        pace.skipped = skipped;
        pace.take(now, interval)
    }

    pub(super) fn release(&self, now: Instant) -> Option<Arc<Batch>> {
        self.pace.lock().take(now, self.interval?)
    }

    /// What is held back, when another pace takes over.
    pub(super) fn give_up(&self) -> Option<Arc<Batch>> {
        self.pace.lock().let_go()
    }

    pub(super) fn is_holding(&self) -> bool {
        self.pace.lock().held.is_some()
    }
}

impl Pace {
    fn take(&mut self, now: Instant, interval: Duration) -> Option<Arc<Batch>> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let batch = self.let_go()?;
        self.next = Some(now + interval);
        Some(batch)
    }

    fn let_go(&mut self) -> Option<Arc<Batch>> {
        let batch = self.held.take()?;
        let skipped = std::mem::take(&mut self.skipped);
        Some(if skipped == 0 { batch } else { Arc::new(batch.only_newest(skipped)) })
    }
}
