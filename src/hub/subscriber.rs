//! One subscription as the fan-out sees it: its outbox and its maximum rate. Does not know which session owns it.

use std::{
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use indexmap::{Equivalent, IndexSet};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{batch::PushBatch, form::Form, outbox::Outbox, queue::SlotId};

/// Subscribers with the same wire form, which share bytes.
#[derive(Debug)]
pub(super) struct FormGroup {
    pub(super) form: Form,
    /// Iterated by the fan-out; indexed by key, so that many subscribers can leave at once.
    members: IndexSet<Subscriber, BuildHasherDefault<DefaultHasher>>,
}

/// Adds a subscriber to the group of its form.
pub(super) fn add(groups: &mut Vec<FormGroup>, form: Form, member: Subscriber) {
    if let Some(group) = groups.iter_mut().find(|group| group.form == form) {
        group.members.insert(member);
        return;
    }
    if groups.is_empty() {
        // Most topics have one form.
        groups.reserve_exact(1);
    }
    // Room for one: few topics have many subscribers.
    let mut members = IndexSet::with_capacity_and_hasher(1, BuildHasherDefault::default());
    members.insert(member);
    groups.push(FormGroup { form, members });
}

/// Removes a subscriber; `None` if it is in no group.
pub(super) fn take(groups: &mut Vec<FormGroup>, seat: &SubscriberKey<'_>) -> Option<Subscriber> {
    let (at, member) =
        groups.iter_mut().enumerate().find_map(|(at, group)| Some((at, group.members.swap_take(seat)?)))?;
    if groups[at].members.is_empty() {
        groups.remove(at);
    }
    Some(member)
}

impl FormGroup {
    pub(super) fn members(&self) -> impl Iterator<Item = &Subscriber> + Clone {
        self.members.iter()
    }
}

/// One subscription as the fan-out sees it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub outbox: Arc<Outbox>,
    pub slot: SlotId,
    /// Set only for subscriptions with a maximum rate, so that others have no cost.
    pub pacer: Option<Arc<Pacer>>,
}

/// The key of a subscriber.
pub(super) struct SubscriberKey<'a> {
    pub(super) outbox: &'a Arc<Outbox>,
    pub(super) slot: SlotId,
}

impl Hash for SubscriberKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(self.outbox), self.slot).hash(state);
    }
}

impl Equivalent<Subscriber> for SubscriberKey<'_> {
    fn equivalent(&self, member: &Subscriber) -> bool {
        self.slot == member.slot && Arc::ptr_eq(self.outbox, &member.outbox)
    }
}

impl Hash for Subscriber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.seat().hash(state);
    }
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.seat().equivalent(other)
    }
}

impl Eq for Subscriber {}

/// Limits the values of a `state` topic to the rate that the client requested.
#[derive(Debug)]
pub struct Pacer {
    /// Minimum time between two values.
    interval: Duration,
    pace: Mutex<HeldValue>,
}

/// A value that is held back.
#[derive(Debug, Default)]
struct HeldValue {
    next: Option<Instant>,
    held: Option<Arc<PushBatch>>,
    skipped: u32,
}

impl Subscriber {
    pub(super) fn seat(&self) -> SubscriberKey<'_> {
        SubscriberKey { outbox: &self.outbox, slot: self.slot }
    }
}

impl Pacer {
    /// Allows at most one value per `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Arc<Self> {
        Arc::new(Self { interval, pace: Mutex::default() })
    }

    /// Minimum time between two values.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns the batch if it may be sent now; otherwise holds it back, replacing what was held before.
    pub(super) fn admit(&self, batch: Arc<PushBatch>, now: Instant) -> Option<Arc<PushBatch>> {
        let mut pace = self.pace.lock();
        let skipped = pace.skipped + batch.skipped + batch.count.saturating_sub(1) + u32::from(pace.held.is_some());
        pace.held = Some(batch);
        pace.skipped = skipped;
        pace.take(now, self.interval)
    }

    pub(super) fn release(&self, now: Instant) -> Option<Arc<PushBatch>> {
        self.pace.lock().take(now, self.interval)
    }

    /// Takes the held value, when another rate applies.
    pub(super) fn give_up(&self) -> Option<Arc<PushBatch>> {
        self.pace.lock().let_go()
    }

    pub(super) fn is_holding(&self) -> bool {
        self.pace.lock().held.is_some()
    }
}

impl HeldValue {
    fn take(&mut self, now: Instant, interval: Duration) -> Option<Arc<PushBatch>> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let batch = self.let_go()?;
        self.next = Some(now + interval);
        Some(batch)
    }

    fn let_go(&mut self) -> Option<Arc<PushBatch>> {
        let batch = self.held.take()?;
        let skipped = std::mem::take(&mut self.skipped);
        Some(if skipped == 0 { batch } else { Arc::new(batch.only_newest(skipped)) })
    }
}
