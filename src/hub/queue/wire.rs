//! How a queue goes out: as slices of one vectored write, taken off by the bytes that were written. Never a torn frame,
//! never a copy.

use std::io::IoSlice;

use super::{
    Queue, SlotId,
    item::{Item, Partial, ready},
};
use crate::model::StreamId;

impl Queue {
    /// Fills `slices` with what is to be written next, in order.
    pub(in crate::hub) fn front<'a>(&'a mut self, slices: &mut Slices<'a>) {
        let slots = &self.slots;
        let form = |id: &SlotId| Some(&slots[slots.binary_search_by_key(id, |(id, _)| *id).ok()?].1.form);
        for item in self.urgent.iter_mut().chain(self.public.iter_mut()).take(Slices::MAX) {
            match item {
                Item::Newest { batch, skipped, bytes: bytes @ None, .. } if *skipped > 0 => {
                    *bytes = batch.encode_newest(*skipped);
                }
                Item::Dropped { slot, gap, bytes: bytes @ None } => {
                    *bytes = form(slot).map(|form| gap.encode(form, None));
                }
                _ => {}
            }
        }
        if let Some(partial) = &self.partial {
            slices.push(&partial.bytes);
        }
        for item in self.urgent.iter().chain(self.public.iter()).take(Slices::MAX) {
            slices.push(ready(item).unwrap_or_default());
        }
    }

    /// Takes `count` bytes off the front: they were written. Returns how many items went out whole.
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
            self.bytes = self.bytes.saturating_sub(partial.bytes.len());
            self.mark(partial.mark);
            items += 1;
        }
        loop {
            let lane = if self.urgent.is_empty() { &mut self.public } else { &mut self.urgent };
            // What was not made ready was not among the slices.
            let Some(len) = lane.front().and_then(ready).map(<[u8]>::len) else { break };
            if count == 0 && len > 0 {
                break;
            }
            let Some(item) = lane.pop_front() else { break };
            items += self.take_out(&item, count.min(len));
            count = count.saturating_sub(len);
        }
        if self.is_empty() {
            self.messages = 0;
            self.bytes = 0;
            self.shrink();
        }
        items
    }

    /// Accounts for an item that left its lane with its first `written` bytes on the wire.
    fn take_out(&mut self, item: &Item, written: usize) -> usize {
        let bytes = match item {
            Item::Frame(bytes) => bytes.clone(),
            Item::Batch { batch, .. } => batch.bytes.clone(),
            Item::Newest { batch, bytes, .. } => bytes.clone().unwrap_or_else(|| batch.bytes.clone()),
            Item::Dropped { bytes, .. } => bytes.clone().unwrap_or_default(),
        };
        let mark = match item {
            Item::Batch { batch, slot } => {
                self.messages = self.messages.saturating_sub(batch.count as usize);
                self.bytes = self.bytes.saturating_sub(batch.bytes.len());
                Some((*slot, batch.last))
            }
            Item::Newest { batch, slot, .. } => {
                self.bytes = self.bytes.saturating_sub(batch.bytes.len());
                Some((*slot, batch.last))
            }
            Item::Frame(bytes) => {
                self.bytes = self.bytes.saturating_sub(bytes.len());
                None
            }
            Item::Dropped { .. } => None,
        };
        if written == bytes.len() {
            self.mark(mark);
            return 1;
        }
        let rest = bytes.slice(written..);
        self.bytes += rest.len();
        self.partial = Some(Partial { bytes: rest, mark });
        0
    }

    fn mark(&mut self, mark: Option<(SlotId, StreamId)>) {
        if let Some((id, last)) = mark
            && let Some(slot) = self.slot_mut(id)
        {
            slot.written = slot.written.max(last);
        }
    }

    /// An idle connection holds no queue.
    fn shrink(&mut self) {
        const KEEP: usize = 8;
        self.urgent.shrink_to(KEEP);
        self.public.shrink_to(KEEP);
    }

    /// An idle connection holds no queue. Not after every write: the next one would have to make it anew.
    pub(in crate::hub) fn release(&mut self) {
        if self.is_empty() {
            self.urgent = std::collections::VecDeque::new();
            self.public = std::collections::VecDeque::new();
        }
    }
}

/// Room for one vectored write, on the stack.
#[derive(Debug)]
pub(in crate::hub) struct Slices<'a> {
    all: [IoSlice<'a>; Slices::MAX],
    len: usize,
    bytes: usize,
}

impl<'a> Slices<'a> {
    pub(super) const MAX: usize = 64;

    pub(in crate::hub) fn new() -> Self {
        Self { all: [IoSlice::new(&[]); Self::MAX], len: 0, bytes: 0 }
    }

    fn push(&mut self, bytes: &'a [u8]) {
        if self.len < Self::MAX {
            self.all[self.len] = IoSlice::new(bytes);
            self.len += 1;
            self.bytes += bytes.len();
        }
    }

    pub(in crate::hub) fn get(&self) -> &[IoSlice<'a>] {
        &self.all[..self.len]
    }

    /// All bytes together.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.bytes
    }
}
