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
    subscribers: IndexSet<Subscriber, BuildHasherDefault<DefaultHasher>>,
}

/// Adds a subscriber to the group of its form.
pub(super) fn add(groups: &mut Vec<FormGroup>, form: Form, subscriber: Subscriber) {
    if let Some(group) = groups.iter_mut().find(|group| group.form == form) {
        group.subscribers.insert(subscriber);
        return;
    }
    if groups.is_empty() {
        // Most topics have one form.
        groups.reserve_exact(1);
    }
    // Room for one: few topics have many subscribers.
    let mut subscribers = IndexSet::with_capacity_and_hasher(1, BuildHasherDefault::default());
    subscribers.insert(subscriber);
    groups.push(FormGroup { form, subscribers });
}

/// Removes a subscriber; `None` if it is in no group.
pub(super) fn take(groups: &mut Vec<FormGroup>, key: &SubscriberKey<'_>) -> Option<Subscriber> {
    let (at, subscriber) =
        groups.iter_mut().enumerate().find_map(|(at, group)| Some((at, group.subscribers.swap_take(key)?)))?;
    if groups[at].subscribers.is_empty() {
        groups.remove(at);
    }
    Some(subscriber)
}

impl FormGroup {
    pub(super) fn subscribers(&self) -> impl Iterator<Item = &Subscriber> + Clone {
        self.subscribers.iter()
    }
}

/// One subscription as the fan-out sees it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Where its pushes are offered.
    pub outbox: Arc<Outbox>,
    /// The subscription within the outbox.
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
    fn equivalent(&self, subscriber: &Subscriber) -> bool {
        self.slot == subscriber.slot && Arc::ptr_eq(self.outbox, &subscriber.outbox)
    }
}

impl Hash for Subscriber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.key().equivalent(other)
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
    pub(super) fn key(&self) -> SubscriberKey<'_> {
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
