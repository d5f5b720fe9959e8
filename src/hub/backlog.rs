//! The backlog of a subscription: what it receives before it goes live, and how much of it stays in memory. Never reads
//! or pushes.

use std::sync::Arc;

use tickgate_wire::{
    model::{Message, StartAt, StreamId},
    push::GapReason,
};

use super::{
    batch::PushFlags,
    gap::GapRange,
    turns::{MemoryReservation, ReaderAddress},
};

/// What a subscription receives before it goes live.
#[derive(Debug, Default)]
pub struct Backlog {
    /// What was published after `from`, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// Sent before the messages.
    pub gap: Option<GapRange>,
    /// Sent after the messages: more was missed than one resume may fetch.
    pub cut: Option<GapRange>,
    /// The positions before the messages and after them.
    pub from: StreamId,
    /// The position after the messages and `cut`.
    pub cursor: StreamId,
    /// More follows after the cursor: the catch-up reads it as the socket drains.
    pub goes_on: bool,
    /// The flags of the pushes.
    pub flags: PushFlags,
    /// The reservation of memory for what was read, until the client has it.
    pub(super) hold: Option<MemoryReservation>,
}

impl Backlog {
    /// Size of its messages, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.payload_bytes()).sum()
    }

    /// The position before the first message of a channel that started at `start`. `all`: the start of the whole
    /// subscription; `head`: the stream's minimum head when it was read.
    #[must_use]
    pub fn begins(&self, start: StartAt, all: StartAt, head: StreamId) -> StreamId {
        let before_first = || match self.messages.first().and_then(|message| message.id) {
            Some(first) => first.previous(),
            None => self.cursor,
        };
        match start {
            StartAt::Since(cursor) => cursor,
            StartAt::Earliest => self.from,
            StartAt::Snapshot { least } => before_first().max(least),
            StartAt::Last(_) => before_first(),
            StartAt::Live if all == StartAt::Live => self.cursor,
            StartAt::Live => head,
        }
    }

    /// Adds a reservation.
    pub(super) fn keep(&mut self, hold: Option<MemoryReservation>) {
        match (&mut self.hold, hold) {
            (Some(own), Some(hold)) => own.join(hold),
            (own, hold) => *own = own.take().or(hold),
        }
    }

    /// The reservation, for the client's outbox.
    pub fn take_hold(&mut self) -> Option<MemoryReservation> {
        self.hold.take()
    }

    /// Takes its share of the bytes that one request may hold, of which `held` are used. Defers what exceeds them, so
    /// that no more than an outbox's capacity is held for a client, except one message that is pushed at once. Returns
    /// the bytes held afterwards.
    pub fn share(&mut self, held: usize, outbox_bytes_max: usize) -> usize {
        if held > 0 && held + self.bytes() > outbox_bytes_max {
            self.put_off();
        }
        held + self.bytes()
    }

    /// Defers all but the first message: the catch-up reads them as the socket drains. Not if more was missed than a
    /// catch-up would deliver.
    pub fn put_off(&mut self) {
        let Some(first) = self.messages.first().and_then(|message| message.id) else { return };
        if self.messages.len() > 1 && self.cut.is_none() {
            self.goes_on = true;
            self.messages.truncate(1);
            self.messages.shrink_to_fit();
            let bytes = self.bytes();
            self.hold.iter_mut().for_each(|hold| hold.shrink(bytes));
            self.cursor = first;
        }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.gap.is_none() && self.cut.is_none() && !self.goes_on
    }

    /// Limits it to `position`, for channels added to an existing subscription, which itself delivers what follows but
    /// nothing before.
    pub fn end_at(&mut self, position: StreamId) {
        if self.cursor < position && self.cut.is_none() {
            // It was trimmed or lost while it was being read.
            let before = position.next();
            self.cut = Some(GapRange::new(self.cursor, before, GapReason::Retention));
        }
        self.messages.retain(|message| message.id.is_some_and(|id| id <= position));
    }
}

/// The remaining allowance of one resume.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResumeAllowance {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl ResumeAllowance {
    pub(super) fn spend(&mut self, entries: usize, bytes: usize) {
        self.entries = self.entries.saturating_sub(entries);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) const fn is_spent(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }
}

/// Limits of one resume. Small, because every connection has a copy.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    pub(super) entries_max: u32,
    bytes_max: u32,
    /// The reader that resumes.
    pub reader: ReaderAddress,
    /// The request already holds messages: it does not wait for more.
    pub(super) has_some: bool,
    /// All must be available at once: no catch-up delivers the rest.
    pub(super) at_once: bool,
}

impl ReplayLimits {
    /// At most this many entries and bytes.
    #[must_use]
    pub fn new(entries_max: usize, bytes_max: usize, reader: ReaderAddress) -> Self {
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self { entries_max: small(entries_max), bytes_max: small(bytes_max), reader, has_some: false, at_once: false }
    }

    /// The limits for one subscription of a request. `has_some`: the request already holds messages and does not wait
    /// for more. `at_once`: no catch-up delivers the rest.
    #[must_use]
    pub fn of_beginning(self, has_some: bool, at_once: bool) -> Self {
        Self { has_some, at_once, ..self }
    }

    /// The remainder after some were sent.
    pub(super) fn less(self, entries: usize, bytes: usize) -> ResumeAllowance {
        ResumeAllowance {
            entries: (self.entries_max as usize).saturating_sub(entries),
            bytes: self.bytes_max().saturating_sub(bytes),
        }
    }

    /// Approximate maximum of bytes that all subscriptions of one request may hold.
    #[must_use]
    pub fn bytes_max(self) -> usize {
        self.bytes_max as usize
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::Content;

    use super::*;

    #[test]
    fn added_channels_get_a_gap_for_what_could_not_be_read_before_the_subscriptions_position() {
        let id = |seq| StreamId::new(5, seq);
        let message = |seq| {
            let content = Content::Data(bytes::Bytes::from_static(b"{}"));
            Arc::new(Message { id: Some(id(seq)), prev: None, published_ms: 0, channel: None, content })
        };
        let until = |last: u64, position| {
            let messages = (3..=last).map(message).collect();
            let mut backlog = Backlog { messages, from: id(2), cursor: id(last), ..Backlog::default() };
            backlog.end_at(id(position));
            (backlog.messages.len(), backlog.cut.map(|cut| (cut.after, cut.before)))
        };
        assert_eq!(until(9, 9), (7, None));
        assert_eq!(until(9, 6), (4, None), "the subscription delivers what follows");
        assert_eq!(until(5, 9), (3, Some((id(5), Some(id(10))))));
    }
}
