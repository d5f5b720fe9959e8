//! Decides how many entries of a stream to fetch next, and when a read is complete. Pure: `read` fetches. Never checks
//! whether entries are consecutive: their reader does.

use std::sync::Arc;

use tickgate_wire::model::{Message, StreamId};

use crate::backplane::{Newest, ReadLimits, StreamPage};

/// Number of entries of the first part of a read, and maximum of the others: they bound what is fetched beyond a limit
/// in bytes.
const PART_MIN: usize = 16;
const PART_MAX: usize = 128;

/// A read in parts, so that large messages are not all fetched only to be discarded.
#[derive(Debug)]
struct Parts {
    limits: ReadLimits,
    messages: Vec<Arc<Message>>,
    bytes: usize,
    /// Maximum number of entries of the next part; `None` when the read is complete.
    next_max: Option<usize>,
}

impl Parts {
    const fn new(limits: ReadLimits) -> Self {
        Self { limits, messages: Vec::new(), bytes: 0, next_max: Some(PART_MIN) }
    }

    fn next(&self) -> Option<usize> {
        Some(self.next_max?.min(self.limits.messages_max - self.messages.len()))
    }

    /// Adds what fits of a part. False if something did not fit.
    fn add(&mut self, part: Vec<Arc<Message>>) -> bool {
        let fits = self.limits.room(self.messages.len(), self.bytes, part.iter());
        let all = fits == part.len();
        self.bytes += part[..fits].iter().map(|message| message.payload_bytes()).sum::<usize>();
        self.messages.extend(part.into_iter().take(fits));
        self.next_max = (all && self.messages.len() < self.limits.messages_max).then(|| self.likely_to_fit());
        all
    }

    /// The estimated number of entries that still fit.
    fn likely_to_fit(&self) -> usize {
        let average = (self.bytes / self.messages.len().max(1)).max(1);
        (self.limits.bytes_max.saturating_sub(self.bytes) / average).clamp(1, PART_MAX)
    }
}

/// A read of what follows a cursor.
#[derive(Debug)]
pub(super) struct Forward {
    cursor: StreamId,
    parts: Parts,
    more: bool,
}

impl Forward {
    pub(super) const fn new(after: StreamId, limits: ReadLimits) -> Self {
        Self { cursor: after, parts: Parts::new(limits), more: false }
    }

    /// The cursor and number of entries of the next part; `None` when the read is complete. Fetch what follows the
    /// cursor, one more than this number.
    pub(super) fn next(&self) -> Option<(StreamId, usize)> {
        Some((self.cursor, self.parts.next()?))
    }

    /// Adds a part.
    pub(super) fn add(&mut self, mut entries: Vec<Arc<Message>>) {
        let Some((cursor, count)) = self.next() else { return };
        let more = entries.len() > count;
        entries.truncate(count);
        let all = self.parts.add(entries);
        self.more = more || !all;
        if !self.more {
            self.parts.next_max = None;
        }
        self.cursor = self.parts.messages.last().and_then(|message| message.id).unwrap_or(cursor);
    }

    /// `end`: the last id that the stream had assigned when the read started.
    pub(super) fn finish(self, end: Option<StreamId>) -> StreamPage {
        StreamPage { messages: self.parts.messages, more: self.more, end }
    }
}

/// A read of the newest entries, backwards.
#[derive(Debug)]
pub(super) struct Backward {
    parts: Parts,
    whole: bool,
}

impl Backward {
    pub(super) const fn new(limits: ReadLimits) -> Self {
        Self { parts: Parts::new(limits), whole: true }
    }

    /// The position before which the next part lies (`None`: the end), and its number of entries; `None` when the read
    /// is complete.
    pub(super) fn next(&self) -> Option<(Option<StreamId>, usize)> {
        let before = self.parts.messages.last().and_then(|message| message.id);
        Some((before, self.parts.next()?))
    }

    /// Adds a part, newest first.
    pub(super) fn add(&mut self, entries: Vec<Arc<Message>>) {
        let Some((_, asked)) = self.next() else { return };
        let count = entries.len();
        self.whole = self.parts.add(entries);
        if count < asked || count == 0 {
            self.parts.next_max = None;
        }
    }

    pub(super) fn finish(mut self) -> Newest {
        self.parts.messages.reverse();
        Newest { messages: self.parts.messages, whole: self.whole }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tickgate_wire::model::Content;

    use super::*;

    fn entry(epoch: u64, seq: u64) -> Arc<Message> {
        Arc::new(Message {
            id: Some(StreamId::new(epoch, seq)),
            prev: None,
            published_ms: 0,
            channel: None,
            content: Content::Data(Bytes::from_static(b"{}")),
        })
    }

    /// Reads a stream of `count` entries after its first one. Returns the sizes of the parts, and the page.
    fn forward(count: u64, limits: ReadLimits) -> (Vec<usize>, StreamPage) {
        let (mut read, mut asked) = (Forward::new(StreamId::new(5, 0), limits), Vec::new());
        while let Some((cursor, part)) = read.next() {
            asked.push(part);
            let last = (cursor.seq + part as u64 + 1).min(count);
            read.add((cursor.seq + 1..=last).map(|seq| entry(5, seq)).collect());
        }
        (asked, read.finish(None))
    }

    #[test]
    fn a_read_continues_in_parts_until_a_limit_or_the_end() {
        let bytes = usize::MAX;
        let seen = |count, limits| {
            let (asked, page) = forward(count, limits);
            assert!(page.messages.iter().zip(1..).all(|(message, seq)| message.id == Some(StreamId::new(5, seq))));
            (asked, page.messages.len(), page.more)
        };
        assert_eq!(seen(10, ReadLimits::new(500, bytes)), (vec![16], 10, false));
        assert_eq!(seen(16, ReadLimits::new(500, bytes)), (vec![16], 16, false));
        assert_eq!(seen(17, ReadLimits::new(500, bytes)), (vec![16, 128], 17, false));
        assert_eq!(seen(700, ReadLimits::new(300, bytes)), (vec![16, 128, 128, 28], 300, true));
        assert_eq!(seen(700, ReadLimits::new(500, 200)), (vec![16, 84, 1], 100, true), "two bytes each");
        assert_eq!(seen(700, ReadLimits::ONE), (vec![1], 1, true));
    }

    #[test]
    fn the_newest_are_read_backwards_and_returned_oldest_first() {
        let newest = |count: u64, limits| {
            let mut read = Backward::new(limits);
            while let Some((before, part)) = read.next() {
                let end = before.map_or(count, |before| before.seq);
                read.add((0..end).rev().take(part).map(|seq| entry(5, seq)).collect());
            }
            let Newest { messages, whole } = read.finish();
            assert!(messages.is_sorted_by_key(|message| message.id));
            (messages.len(), messages.last().and_then(|message| message.id), whole)
        };
        let last = |seq| Some(StreamId::new(5, seq));
        assert_eq!(newest(0, ReadLimits::new(500, usize::MAX)), (0, None, true));
        assert_eq!(newest(10, ReadLimits::new(500, usize::MAX)), (10, last(9), true));
        assert_eq!(newest(700, ReadLimits::new(500, usize::MAX)), (500, last(699), true));
        assert_eq!(newest(700, ReadLimits::new(500, 200)), (100, last(699), false));
        assert_eq!(newest(192, ReadLimits::new(500, usize::MAX)), (192, last(191), true));
    }
}
