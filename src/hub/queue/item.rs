//! One item of a queue, and the gap that replaces several dropped ones. Does not decide when the item is written.

use std::sync::Arc;

use bytes::Bytes;
use tickgate_wire::{model::StreamId, push::GapReason};

use super::{
    super::{batch::PushBatch, form::Form, gap::GapRange},
    SlotId,
};

#[derive(Debug)]
pub(super) enum QueueItem {
    /// A reply, a heartbeat or a control frame.
    Frame(Bytes),
    Batch {
        batch: Arc<PushBatch>,
        slot: SlotId,
    },
    /// The newest value of a `state` topic, replacing `skipped` others.
    Newest {
        batch: Arc<PushBatch>,
        slot: SlotId,
        skipped: u32,
        bytes: Option<Bytes>,
    },
    /// Events that were dropped here.
    Dropped {
        slot: SlotId,
        /// Boxed, so that this rare variant does not make every item large.
        lost: Box<GapItem>,
        bytes: Option<Bytes>,
    },
}

/// The events that a gap replaces, and its encoding.
#[derive(Debug)]
pub(super) struct GapItem {
    pub(super) gap: GapRange,
    pub(super) form: Form,
}

impl QueueItem {
    pub(super) fn slot(&self) -> Option<SlotId> {
        match self {
            Self::Frame(_) => None,
            Self::Batch { slot, .. } | Self::Newest { slot, .. } | Self::Dropped { slot, .. } => Some(*slot),
        }
    }

    /// Size of the batch that it holds, in bytes.
    pub(super) fn batch_bytes(&self) -> usize {
        match self {
            Self::Batch { batch, .. } | Self::Newest { batch, .. } => batch.bytes.len(),
            Self::Frame(_) | Self::Dropped { .. } => 0,
        }
    }

    /// Whether a newer value of the subscription replaces it.
    pub(super) fn is_value_of(&self, id: SlotId) -> bool {
        match self {
            Self::Batch { slot, batch } => *slot == id && batch.count > 0,
            Self::Newest { slot, .. } => *slot == id,
            Self::Frame(_) | Self::Dropped { .. } => false,
        }
    }
}

/// Partially written bytes, and the position that they complete.
#[derive(Debug)]
pub(super) struct PartialItem {
    pub(super) bytes: Bytes,
    pub(super) mark: Option<(SlotId, StreamId)>,
}

/// The encoded bytes of an item, once [`super::OutboxQueue::front`] has created them.
pub(super) fn ready(item: &QueueItem) -> Option<&[u8]> {
    match item {
        QueueItem::Frame(bytes) => Some(bytes),
        QueueItem::Batch { batch, .. } => Some(&batch.bytes),
        QueueItem::Newest { batch, bytes, .. } => Some(bytes.as_deref().unwrap_or(&batch.bytes)),
        QueueItem::Dropped { bytes, .. } => bytes.as_deref(),
    }
}

/// The gap that replaces `batch` and the `count` events dropped between it and `after`.
pub(super) fn dropped(after: StreamId, count: u64, batch: &PushBatch) -> GapRange {
    let reason = GapReason::SlowConsumer;
    let count = count + u64::from(batch.count);
    if !batch.has_ids() {
        return GapRange { after, before: None, count: Some(count), reason, cursor: after };
    }
    let before = batch.last.next();
    let count = StreamId::missing_between(after, before).unwrap_or(count);
    GapRange { after, before: Some(before), count: Some(count), reason, cursor: batch.last }
}

/// The newest value only, if the client has one that is newer than the first of the batch or than one that was left out:
/// it was read from the stream while these were in flight, and values must not go back.
pub(super) fn behind(has: StreamId, batch: &PushBatch) -> Option<Arc<PushBatch>> {
    let before = batch.skipped + batch.count.saturating_sub(1);
    if batch.count == 0 || before == 0 || !batch.has_ids() {
        return None;
    }
    let between = StreamId::missing_between(has, batch.last).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let left_out = match between {
        Some(between) if between < before => between,
        None if batch.count > 1 && batch.after < has => before,
        _ => return None,
    };
    Some(Arc::new(batch.only_newest(left_out)))
}
