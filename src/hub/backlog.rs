//! What a subscription gets before it goes live, and how much of it is kept at hand. Never read or pushed here.

use std::sync::Arc;

use tickgate_wire::{
    model::{Message, Start, StreamId},
    push::GapReason,
};

use super::{
    batch::Mark,
    gap::Gap,
    turns::{Hold, Reader},
};

/// What a subscription gets before it goes live.
#[derive(Debug, Default)]
pub struct Backlog {
    pub messages: Vec<Arc<Message>>,
    /// Told before the messages.
    pub gap: Option<Gap>,
    /// Told after the messages: more was missed than one resume may fetch.
    pub cut: Option<Gap>,
    /// The position before the messages, and the one they reach.
    pub from: StreamId,
    pub cursor: StreamId,
    /// More of the past lies behind the cursor: the catch-up brings it, as the socket drains.
    pub goes_on: bool,
    pub mark: Mark,
    /// The room that what was read for it takes, until the client has it.
    pub(super) hold: Option<Hold>,
}

impl Backlog {
    /// Bytes of its messages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.payload_bytes()).sum()
    }

    /// The position before everything that a channel gets which began with `start`. `all`: the start of the whole
    /// subscription; `head`: where its stream was at least when it was read.
    #[must_use]
    pub fn begins(&self, start: Start, all: Start, head: StreamId) -> StreamId {
        let before_first = || match self.messages.first().and_then(|message| message.id) {
            Some(first) => first.previous(),
            None => self.cursor,
        };
        match start {
            Start::Since(cursor) => cursor,
            Start::Earliest => self.from,
            Start::Snapshot { least } => before_first().max(least),
            Start::Last(_) => before_first(),
            Start::Live if all == Start::Live => self.cursor,
            Start::Live => head,
        }
    }

    /// Takes room in.
    pub(super) fn keep(&mut self, hold: Option<Hold>) {
        match (&mut self.hold, hold) {
            (Some(own), Some(hold)) => own.join(hold),
            (own, hold) => *own = own.take().or(hold),
        }
    }

    /// The room that its client's outbox takes over.
    pub fn take_hold(&mut self) -> Option<Hold> {
        self.hold.take()
    }

    /// Takes its part of the bytes that one request may hold, of which so many are held. What would be too much is put
    /// off: whatever the client misses, no more is held for it than its outbox holds, save one that is pushed at once.
    /// Returns how many are held with it.
    pub fn share(&mut self, held: usize, outbox_bytes_max: usize) -> usize {
        if held > 0 && held + self.bytes() > outbox_bytes_max {
            self.put_off();
        }
        held + self.bytes()
    }

    /// Puts all but the first message off: the catch-up brings them, as the socket drains. Not where more was missed
    /// than it would bring in the end.
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

    /// Whether it holds nothing that the client has to be told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.gap.is_none() && self.cut.is_none() && !self.goes_on
    }

    /// For channels that are added to a subscription at `position`: it brings itself what comes later, and nothing of
    /// what came before.
    pub fn end_at(&mut self, position: StreamId) {
        if self.cursor < position && self.cut.is_none() {
            // It was trimmed, or lost, while it was being read.
            let before = position.next();
            self.cut = Some(Gap::new(self.cursor, before, GapReason::Retention));
        }
        self.messages.retain(|message| message.id.is_some_and(|id| id <= position));
    }
}

/// What one resume may still fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Allowance {
    pub(super) fn spend(&mut self, entries: usize, bytes: usize) {
        self.entries = self.entries.saturating_sub(entries);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) const fn is_spent(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }
}

/// Bounds of one resume. Small, since every connection has them at hand.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    pub(super) entries_max: u32,
    bytes_max: u32,
    /// Who resumes.
    pub reader: Reader,
    /// The request holds something already: it waits for no more.
    pub(super) has_some: bool,
    /// All of it has to be there at once: no catch-up brings the rest.
    pub(super) at_once: bool,
}

impl ReplayLimits {
    /// So many entries, and so many bytes, at the most.
    #[must_use]
    pub fn new(entries_max: usize, bytes_max: usize, reader: Reader) -> Self {
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self { entries_max: small(entries_max), bytes_max: small(bytes_max), reader, has_some: false, at_once: false }
    }

    /// For one beginning of a request. `has_some`: the request holds something already, and waits for no more. `at_once`:
    /// no catch-up brings the rest.
    #[must_use]
    pub fn of_beginning(self, has_some: bool, at_once: bool) -> Self {
        Self { has_some, at_once, ..self }
    }

    /// What is left of them when some was sent.
    pub(super) fn less(self, entries: usize, bytes: usize) -> Allowance {
        Allowance {
            entries: (self.entries_max as usize).saturating_sub(entries),
            bytes: self.bytes_max().saturating_sub(bytes),
        }
    }

    /// Bytes that all beginnings of one request may hold together, about.
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
    fn added_channels_are_told_what_could_not_be_read_up_to_where_the_subscription_stands() {
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
        assert_eq!(until(9, 6), (4, None), "what is behind it comes by itself");
        assert_eq!(until(5, 9), (3, Some((id(5), Some(id(10))))));
    }
}
