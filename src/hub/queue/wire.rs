//! Writes a queue as the slices of one vectored write, and removes what was written. Never splits or copies a frame.

use std::{io::IoSlice, sync::Arc};

use bytes::Bytes;
use tickgate_wire::model::StreamId;

use super::{
    super::batch::PushBatch,
    Cursor, OutboxQueue, SlotId,
    amount::Amount,
    item::{PartialItem, QueueItem, ready},
};

impl OutboxQueue {
    /// Fills `slices` with what is to be written next, in order; without public messages unless requested.
    pub(in crate::hub) fn front<'a>(&'a mut self, slices: &mut WriteSlices<'a>, public: bool) {
        let public_max = if public { WriteSlices::MAX } else { 0 };
        for item in self.urgent.iter_mut().chain(self.public.iter_mut().take(public_max)).take(WriteSlices::MAX) {
            match item {
                QueueItem::Newest { batch, skipped, bytes: bytes @ None, .. } if *skipped > 0 => {
                    *bytes = batch.encode_newest(*skipped);
                }
                QueueItem::Dropped { lost, bytes: bytes @ None, .. } => *bytes = Some(lost.form.encode_gap(lost.gap)),
                _ => {}
            }
        }
        if let Some(partial) = &self.partial {
            slices.push(&partial.bytes);
        }
        for item in self.urgent.iter().chain(self.public.iter().take(public_max)).take(WriteSlices::MAX) {
            slices.push(ready(item).unwrap_or_default());
        }
    }

    /// The bytes of the queue, if it is a single item.
    pub(in crate::hub) fn only(&self) -> Option<&[u8]> {
        match (&self.partial, self.urgent.len(), self.public.len()) {
            (Some(partial), 0, 0) => Some(&partial.bytes),
            (None, 0, 1) => self.public.front().and_then(plain),
            (None, 1, 0) => self.urgent.front().and_then(plain),
            _ => None,
        }
    }

    /// Whether a private message or a partially written one is queued.
    #[must_use]
    pub(in crate::hub) fn is_pressing(&self) -> bool {
        self.partial.is_some() || !self.urgent.is_empty()
    }

    /// Whether messages of a subscription are still queued.
    #[must_use]
    pub fn waits_for(&self, id: SlotId) -> bool {
        let partial = self.partial.as_ref().and_then(|partial| partial.mark).map(|(slot, _)| slot);
        let mut waiting = self.urgent.iter().chain(&self.public).filter_map(QueueItem::slot);
        partial == Some(id) || waiting.any(|slot| slot == id)
    }

    /// Removes `count` written bytes from the front. Returns how many items are complete.
    pub(in crate::hub) fn consume(&mut self, mut count: usize) -> usize {
        let mut items = 0;
        if let Some(mut partial) = self.partial.take() {
            if count < partial.bytes.len() {
                partial.bytes = partial.bytes.slice(count..);
                self.bytes -= count;
                self.partial = Some(partial);
                return 0;
            }
            count -= partial.bytes.len();
            self.bytes.take(partial.bytes.len());
            self.mark(partial.mark, true);
            items += 1;
        }
        loop {
            let lane = if self.urgent.is_empty() { &mut self.public } else { &mut self.urgent };
            // An item that was not encoded was not among the slices.
            let Some(len) = lane.front().and_then(ready).map(<[u8]>::len) else { break };
            if count == 0 && len > 0 {
                break;
            }
            let Some(item) = lane.pop_front() else { break };
            items += self.take_out(item, count.min(len));
            count = count.saturating_sub(len);
        }
        if self.is_empty() {
            (self.messages, self.bytes) = (Amount::default(), Amount::default());
            self.shrink();
        }
        items
    }

    /// Accounts for an item that left its lane with its first `written` bytes on the wire.
    fn take_out(&mut self, item: QueueItem, written: usize) -> usize {
        let (bytes, counted, mark) = match item {
            QueueItem::Frame(bytes) => {
                let counted = bytes.len();
                (ItemBytes::Own(bytes), counted, None)
            }
            QueueItem::Batch { batch, slot } => {
                self.messages.take(batch.count as usize);
                let (counted, mark) = (batch.bytes.len(), (slot, batch.last));
                (ItemBytes::Shared(batch), counted, Some(mark))
            }
            QueueItem::Newest { batch, slot, bytes, .. } => {
                let (counted, mark) = (batch.bytes.len(), (slot, batch.last));
                (bytes.map_or_else(|| ItemBytes::Shared(batch), ItemBytes::Own), counted, Some(mark))
            }
            QueueItem::Dropped { bytes, .. } => (ItemBytes::Own(bytes.unwrap_or_default()), 0, None),
        };
        self.bytes.take(counted);
        if written == bytes.len() {
            self.mark(mark, written > 0);
            return 1;
        }
        let rest = bytes.rest(written);
        self.bytes += rest.len();
        self.partial = Some(Box::new(PartialItem { bytes: rest, mark }));
        0
    }

    /// Records a position that is completely written; `told`: the bytes contain it for the client.
    fn mark(&mut self, mark: Option<(SlotId, StreamId)>, told: bool) {
        if let Some((id, last)) = mark
            && let Some(slot) = self.slot_mut(id)
            && last > slot.written
        {
            slot.written = last;
            if slot.cursor != Cursor::None {
                slot.cursor = if told { Cursor::Known } else { Cursor::Moved };
            }
        }
    }

    /// Releases memory: an idle connection holds no queue.
    fn shrink(&mut self) {
        const KEEP: usize = 8;
        self.urgent.shrink_to(KEEP);
        self.public.shrink_to(KEEP);
    }

    /// Releases memory: an idle connection holds no queue. Not called after every write, because the next one would
    /// allocate again.
    pub(in crate::hub) fn release(&mut self) {
        if self.is_empty() {
            self.urgent = std::collections::VecDeque::new();
            self.public = std::collections::VecDeque::new();
        }
    }
}

/// The bytes of an item being written: its own, or those of a shared batch.
enum ItemBytes {
    Own(Bytes),
    Shared(Arc<PushBatch>),
}

impl ItemBytes {
    fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(batch) => batch.bytes.len(),
        }
    }

    fn rest(&self, written: usize) -> Bytes {
        match self {
            Self::Own(bytes) => bytes.slice(written..),
            Self::Shared(batch) => batch.bytes.slice(written..),
        }
    }
}

/// The bytes of an item that need not be created.
fn plain(item: &QueueItem) -> Option<&[u8]> {
    match item {
        QueueItem::Frame(_) | QueueItem::Batch { .. } | QueueItem::Newest { skipped: 0, .. } => {
            ready(item).filter(|bytes| !bytes.is_empty())
        }
        QueueItem::Newest { .. } | QueueItem::Dropped { .. } => None,
    }
}

/// The slices of one vectored write, on the stack.
#[derive(Debug)]
pub(in crate::hub) struct WriteSlices<'a> {
    all: [IoSlice<'a>; WriteSlices::MAX],
    len: usize,
    bytes: usize,
    bytes_max: usize,
    whole: bool,
}

impl<'a> WriteSlices<'a> {
    pub(super) const MAX: usize = 64;

    /// For at most this many bytes.
    pub(in crate::hub) fn new(bytes_max: usize) -> Self {
        Self { all: [IoSlice::new(&[]); Self::MAX], len: 0, bytes: 0, bytes_max, whole: false }
    }

    /// The same without splitting: the first piece may exceed the limit.
    pub(in crate::hub) fn whole(bytes_max: usize) -> Self {
        Self { whole: true, ..Self::new(bytes_max) }
    }

    /// Only the first piece is cut: a cut one can no longer be replaced by a newer value.
    fn push(&mut self, bytes: &'a [u8]) {
        let room = self.bytes_max.saturating_sub(self.bytes);
        if self.len == Self::MAX || self.len > 0 && bytes.len() > room {
            // Nothing may overtake what precedes it.
            self.bytes_max = self.bytes;
            return;
        }
        let bytes = if self.whole { bytes } else { &bytes[..bytes.len().min(room)] };
        self.all[self.len] = IoSlice::new(bytes);
        self.len += 1;
        self.bytes += bytes.len();
    }

    pub(in crate::hub) fn get(&self) -> &[IoSlice<'a>] {
        &self.all[..self.len]
    }

    /// Total size in bytes.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.bytes
    }
}
