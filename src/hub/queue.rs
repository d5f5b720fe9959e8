//! The bounded queue of one socket, and what each delivery class drops when it is full. Pure: no socket, no lock, no
//! clock.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tickgate_wire::model::{Class, StreamId};

use super::batch::PushBatch;
use crate::defect::{self, Defect};

mod amount;
mod item;
mod slot;
mod wire;

use amount::Amount;
use item::{GapItem, PartialItem, QueueItem, behind, dropped};
pub use slot::{Cursor, SlotId, SubscriptionSlot, SubscriptionStage};
pub(in crate::hub) use wire::WriteSlices;

/// Limits of a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Maximum number of queued messages.
    pub messages_max: usize,
    /// Maximum number of queued bytes.
    pub bytes_max: usize,
}

/// The result of offering a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferResult {
    /// It is queued, and will be written or replaced.
    Queued,
    /// The subscription has ended or is catching up: the batch is not for it.
    Ignored,
    /// This many more values are left out.
    Conflated(u32),
    /// This many events were dropped and replaced by a gap.
    Dropped(u32),
    /// The subscription starts to lag.
    Lags,
}

/// The bounded queue to one socket.
#[derive(Debug, Default)]
pub struct OutboxQueue {
    /// Boxed, because few sockets ever accept less than a frame.
    partial: Option<Box<PartialItem>>,
    urgent: VecDeque<QueueItem>,
    public: VecDeque<QueueItem>,
    /// In order of their ids.
    slots: Vec<(SlotId, SubscriptionSlot)>,
    next_slot: SlotId,
    /// Queued publications and bytes that count towards the limits.
    messages: Amount,
    bytes: Amount,
    lagging: u16,
    /// The socket did not accept the last write completely: from here on the policies of the classes apply.
    pub(super) blocked: bool,
}

impl OutboxQueue {
    /// Opens a subscription that lags at `slot.queued`: it receives nothing until it joins.
    pub fn open(&mut self, slot: SubscriptionSlot) -> SlotId {
        let id = self.next_slot;
        self.next_slot += 1;
        self.lagging += u16::from(slot.stage == SubscriptionStage::Lagging);
        reserve_few(&mut self.slots);
        self.slots.push((id, slot));
        id
    }

    /// Ends a subscription and discards its queued messages.
    pub fn close(&mut self, id: SlotId) {
        let Some(at) = self.find(id) else { return };
        let (_, slot) = self.slots.remove(at);
        self.lagging -= u16::from(slot.stage == SubscriptionStage::Lagging);
        self.urgent.retain(|item| item.slot() != Some(id));
        self.public.retain(|item| item.slot() != Some(id));
        self.recount();
    }

    fn find(&self, id: SlotId) -> Option<usize> {
        self.slots.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// The state of a subscription; `None` after it ended.
    #[must_use]
    pub fn slot(&self, id: SlotId) -> Option<&SubscriptionSlot> {
        self.find(id).map(|at| &self.slots[at].1)
    }

    fn slot_mut(&mut self, id: SlotId) -> Option<&mut SubscriptionSlot> {
        self.find(id).map(|at| &mut self.slots[at].1)
    }

    /// The first subscription that has to catch up.
    #[must_use]
    pub fn lagging(&self) -> Option<(SlotId, StreamId)> {
        if self.lagging == 0 {
            return None;
        }
        self.slots
            .iter()
            .find(|(_, slot)| slot.stage == SubscriptionStage::Lagging)
            .map(|(id, slot)| (*id, slot.queued))
    }

    /// The cursors of a client that has received everything written, in the order of its subscriptions.
    pub fn cursors(&self) -> impl Iterator<Item = StreamId> {
        self.slots.iter().filter(|(_, slot)| slot.cursor != Cursor::None).map(|(_, slot)| slot.written)
    }

    /// Whether a live subscription moved without a push.
    #[must_use]
    pub fn has_moved(&self, id: SlotId) -> bool {
        self.slot(id).is_some_and(|slot| slot.cursor == Cursor::Moved && slot.stage == SubscriptionStage::Live)
    }

    /// The position of a live subscription that moved without a push, to be sent to the client now.
    pub fn take_moved(&mut self, id: SlotId) -> Option<StreamId> {
        if !self.has_moved(id) {
            return None;
        }
        let slot = self.slot_mut(id)?;
        slot.cursor = Cursor::Known;
        Some(slot.written)
    }

    /// Whether nothing is queued or partially written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.is_none() && self.urgent.is_empty() && self.public.is_empty()
    }

    /// Number of queued publications.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages.get()
    }

    /// Number of queued bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Adds a reply or a control frame: before all public pushes, after queued private ones.
    pub fn frame(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        push(&mut self.urgent, QueueItem::Frame(bytes));
    }

    /// Adds a notice after the queued public pushes.
    pub fn frame_behind(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        push(&mut self.public, QueueItem::Frame(bytes));
    }

    /// Adds pushes of a catch-up, without a limit: the catch-up waits for the drain between pages.
    pub fn catch_up(&mut self, id: SlotId, batch: Arc<PushBatch>) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.queued = batch.last;
        let urgent = slot.urgent;
        self.add(id, batch, urgent);
    }

    /// Advances a subscription past messages that its client has.
    pub fn pass(&mut self, id: SlotId, to: StreamId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.queued = slot.queued.max(to);
        }
    }

    /// Starts the join of a subscription that has caught up. Returns its ticket.
    pub fn joining(&mut self, id: SlotId) -> Option<u32> {
        let slot = self.stage(id, SubscriptionStage::Joining)?;
        slot.ticket += 1;
        Some(slot.ticket)
    }

    /// Whether a join with this ticket is still current.
    #[must_use]
    pub fn may_join(&self, id: SlotId, ticket: u32) -> bool {
        self.slot(id).is_some_and(|slot| slot.stage == SubscriptionStage::Joining && slot.ticket == ticket)
    }

    /// Completes the join: live batches count from here on.
    pub fn joined(&mut self, id: SlotId) {
        self.stage(id, SubscriptionStage::Live);
    }

    fn stage(&mut self, id: SlotId, stage: SubscriptionStage) -> Option<&mut SubscriptionSlot> {
        let at = self.find(id)?;
        let slot = &mut self.slots[at].1;
        self.lagging -= u16::from(slot.stage == SubscriptionStage::Lagging);
        self.lagging += u16::from(stage == SubscriptionStage::Lagging);
        slot.stage = stage;
        Some(slot)
    }

    /// Pauses live batches until the subscription joins again. Returns the last queued position.
    pub fn pause(&mut self, id: SlotId) -> Option<StreamId> {
        let slot = self.stage(id, SubscriptionStage::Lagging)?;
        slot.ticket += 1;
        Some(slot.queued)
    }

    /// Offers a live batch; the class decides what is dropped when the socket is behind.
    ///
    /// Each subscription verifies that nothing is missing: a batch that does not follow the last queued one makes it
    /// lag, and one that was queued before is ignored.
    pub fn offer(&mut self, id: SlotId, batch: &Arc<PushBatch>, limits: QueueLimits) -> OfferResult {
        let Some(at) = self.find(id) else { return OfferResult::Ignored };
        let over = self.blocked && self.over(batch, limits);
        let slot = &mut self.slots[at].1;
        let has = slot.queued.max(slot.written);
        // Without ids, it is unknown which message follows which.
        let ids = batch.has_ids();
        let repeat = ids && batch.last <= has && !defect::is(Defect::NoRepeatFilter);
        if slot.stage != SubscriptionStage::Live {
            return OfferResult::Ignored;
        }
        if repeat {
            slot.queued = slot.queued.max(batch.last);
            return OfferResult::Ignored;
        }
        let (class, urgent) = (slot.class, slot.urgent);
        let hole = ids && class != Class::State && batch.after != slot.queued;
        // The client may already have some of several messages: the catch-up checks each.
        let overlap = ids && has > slot.queued && batch.count > 1 && class != Class::State && batch.after < has;
        if hole || overlap || (over && class == Class::Reliable) {
            self.stage(id, SubscriptionStage::Lagging);
            return OfferResult::Lags;
        }
        if class == Class::State && over && ids && !self.fits_in_place(id, batch, limits) {
            // Values of all subscriptions may exceed the limit: the newest remains in memory and is sent later.
            self.public.retain(|item| !item.is_value_of(id));
            self.recount();
            self.stage(id, SubscriptionStage::Lagging);
            return OfferResult::Lags;
        }
        let newest = (class == Class::State).then(|| behind(has, batch)).flatten();
        let batch = newest.as_ref().unwrap_or(batch);
        if ids {
            self.slots[at].1.queued = batch.last;
        }
        if !self.blocked || class == Class::Reliable {
            self.add(id, batch.clone(), urgent);
            return if batch.skipped == 0 { OfferResult::Queued } else { OfferResult::Conflated(batch.skipped) };
        }
        if class == Class::State { self.conflate(id, batch) } else { self.make_room(id, batch, limits) }
    }

    fn over(&self, batch: &PushBatch, limits: QueueLimits) -> bool {
        self.messages.get() + batch.count as usize > limits.messages_max
            || self.bytes.get() + batch.bytes.len() > limits.bytes_max
    }

    /// Whether a value fits in bytes once it has replaced the queued values of its subscription.
    fn fits_in_place(&self, id: SlotId, batch: &PushBatch, limits: QueueLimits) -> bool {
        let given_up: usize = self.public.iter().filter(|item| item.is_value_of(id)).map(QueueItem::batch_bytes).sum();
        self.bytes.get() - given_up + batch.bytes.len() <= limits.bytes_max
    }

    fn add(&mut self, slot: SlotId, batch: Arc<PushBatch>, urgent: bool) {
        self.messages += batch.count as usize;
        self.bytes += batch.bytes.len();
        let lane = if urgent { &mut self.urgent } else { &mut self.public };
        push(lane, QueueItem::Batch { batch, slot });
    }

    /// Replaces queued values with the newest, so that an old price is never sent when a newer one is known.
    fn conflate(&mut self, id: SlotId, batch: &Arc<PushBatch>) -> OfferResult {
        if batch.count == 0 {
            // A report of a loss is not a value: it replaces none.
            self.add(id, batch.clone(), false);
            return OfferResult::Queued;
        }
        let first = self.public.iter().position(|item| item.is_value_of(id)).unwrap_or(self.public.len());
        let mut skipped = batch.skipped + batch.count - 1;
        let mut more = skipped;
        // Several are queued if they arrived before the socket fell behind.
        for at in (first..self.public.len()).rev() {
            if self.public[at].is_value_of(id) {
                let (values, skipped_before) = self.take_value(at);
                skipped += values + skipped_before;
                more += values;
            }
        }
        self.bytes += batch.bytes.len();
        // One queued value per subscription is bounded by the number of subscriptions, so it does not count towards the
        // limit of messages; its bytes do.
        self.public.insert(first, QueueItem::Newest { batch: batch.clone(), slot: id, skipped, bytes: None });
        if more == 0 { OfferResult::Queued } else { OfferResult::Conflated(more) }
    }

    /// Removes values that a newer one replaces. Returns how many they are, and how many were left out before.
    fn take_value(&mut self, at: usize) -> (u32, u32) {
        match self.public.remove(at) {
            Some(QueueItem::Batch { batch, .. }) => {
                self.messages -= batch.count as usize;
                self.bytes -= batch.bytes.len();
                (batch.count, batch.skipped)
            }
            Some(QueueItem::Newest { batch, skipped, .. }) => {
                self.bytes -= batch.bytes.len();
                (1, skipped)
            }
            _ => (0, 0),
        }
    }

    /// Drops the oldest events until the new batch fits.
    fn make_room(&mut self, id: SlotId, batch: &Arc<PushBatch>, limits: QueueLimits) -> OfferResult {
        self.add(id, batch.clone(), false);
        let mut dropped = 0;
        let mut from = 0;
        while self.messages.get() > limits.messages_max || self.bytes.get() > limits.bytes_max {
            let Some(at) = (from..self.public.len()).find(|at| self.is_event(*at)) else { break };
            dropped += self.drop_at(at);
            from = at;
        }
        if dropped == 0 { OfferResult::Queued } else { OfferResult::Dropped(dropped) }
    }

    fn is_event(&self, at: usize) -> bool {
        matches!(&self.public[at], QueueItem::Batch { slot, batch } if batch.count > 0
            && self.slot(*slot).is_some_and(|s| s.class == Class::Event))
    }

    /// Replaces the events at `at` with a gap, or extends the gap before them.
    fn drop_at(&mut self, at: usize) -> u32 {
        let Some(QueueItem::Batch { batch, slot: id }) = self.public.get(at) else { return 0 };
        let (batch, id) = (batch.clone(), *id);
        self.messages -= batch.count as usize;
        self.bytes -= batch.bytes.len();
        let earlier = self.public.iter_mut().take(at).rev().find(|item| item.slot() == Some(id));
        if let Some(QueueItem::Dropped { lost, bytes, .. }) = earlier {
            lost.gap = dropped(lost.gap.after, lost.gap.count.unwrap_or_default(), &batch);
            *bytes = None;
            self.public.remove(at);
        } else {
            let lost = GapItem { gap: dropped(batch.after, 0, &batch), form: batch.form.clone() };
            self.public[at] = QueueItem::Dropped { slot: id, lost: Box::new(lost), bytes: None };
        }
        batch.count
    }

    fn recount(&mut self) {
        let all = self.urgent.iter().chain(self.public.iter());
        let count = |item: &QueueItem| if let QueueItem::Batch { batch, .. } = item { batch.count as usize } else { 0 };
        self.messages = Amount::of(all.clone().map(count).sum());
        let waiting: usize = all
            .map(|item| match item {
                QueueItem::Frame(bytes) => bytes.len(),
                QueueItem::Batch { batch, .. } | QueueItem::Newest { batch, .. } => batch.bytes.len(),
                QueueItem::Dropped { .. } => 0,
            })
            .sum();
        self.bytes = Amount::of(waiting + self.partial.as_ref().map_or(0, |p| p.bytes.len()));
    }

    /// Discards everything, including a partially written frame: the socket is broken.
    pub(super) fn abandon(&mut self) {
        self.partial = None;
        self.clear();
    }

    /// Discards everything except a partially written frame: the connection is closing.
    pub(super) fn clear(&mut self) {
        self.urgent.clear();
        self.public.clear();
        self.slots.clear();
        self.lagging = 0;
        self.recount();
    }
}

/// Most outboxes never hold more than one item: the first reserves room for itself only.
fn push(lane: &mut VecDeque<QueueItem>, item: QueueItem) {
    if lane.capacity() == 0 {
        lane.reserve_exact(1);
    }
    lane.push_back(item);
}

/// Reserves room for one more, so that short collections do not pay for four.
fn reserve_few<T>(all: &mut Vec<T>) {
    if all.len() == all.capacity() && all.len() < 4 {
        all.reserve_exact(1);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
