//! What a read of a stream brings: how many entries to fetch next, whether they join what came before, when it is
//! complete. Pure: `read` fetches, this decides. Never guesses: what can't be proven contiguous is reported as not.

use std::sync::Arc;

use tickgate_wire::model::{Message, StreamId};

use crate::backplane::{Newest, Page, ReadLimits};

/// Entries of the first part of a read, and of the others at the most: they bound what is fetched beyond a limit in bytes.
const PART_MIN: usize = 16;
const PART_MAX: usize = 128;

/// A read in parts, so that large messages are not all fetched to be thrown away.
#[derive(Debug)]
struct Parts {
    limits: ReadLimits,
    messages: Vec<Arc<Message>>,
    bytes: usize,
    /// Greatest count of the next part; `None` when the read is complete.
    next_max: Option<usize>,
}

impl Parts {
    const fn new(limits: ReadLimits) -> Self {
        Self { limits, messages: Vec::new(), bytes: 0, next_max: Some(PART_MIN) }
    }

    fn next(&self) -> Option<usize> {
        Some(self.next_max?.min(self.limits.messages_max - self.messages.len()))
    }

    /// Adds what fits of a part. False when something of it did not.
    fn add(&mut self, part: Vec<Arc<Message>>) -> bool {
        let fits = self.limits.room(self.messages.len(), self.bytes, part.iter());
        let all = fits == part.len();
        self.bytes += part[..fits].iter().map(|message| message.payload_bytes()).sum::<usize>();
        self.messages.extend(part.into_iter().take(fits));
        self.next_max = (all && self.messages.len() < self.limits.messages_max).then(|| self.likely_to_fit());
        all
    }

    /// How many more there is room for, if they are like those before.
    fn likely_to_fit(&self) -> usize {
        let average = (self.bytes / self.messages.len().max(1)).max(1);
        (self.limits.bytes_max.saturating_sub(self.bytes) / average).clamp(1, PART_MAX)
    }
}

/// A read of what follows a cursor.
///
/// Each part begins with the cursor itself: where its entry is still there, everything behind it is contiguous because
/// it is its neighbour, also across epochs.
#[derive(Debug)]
pub(super) struct Forward {
    cursor: StreamId,
    parts: Parts,
    contiguous: bool,
    more: bool,
}

impl Forward {
    pub(super) const fn new(after: StreamId, limits: ReadLimits) -> Self {
        Self { cursor: after, parts: Parts::new(limits), contiguous: true, more: false }
    }

    /// The cursor and the count of the next part; `None` when the read is complete. To be fetched: the cursor's own entry,
    /// if there is one, and one more than the count.
    pub(super) fn next(&self) -> Option<(StreamId, usize)> {
        Some((self.cursor, self.parts.next()?))
    }

    /// Adds a part. `trimmed`: something was ever removed from the stream (only looked up from its start).
    pub(super) fn add(&mut self, entries: Vec<Arc<Message>>, trimmed: bool) {
        let Some((cursor, count)) = self.next() else { return };
        let part = assemble(entries, cursor, count, trimmed);
        if self.parts.messages.is_empty() {
            self.contiguous = part.contiguous;
        } else if !part.contiguous {
            // Trimmed or lost meanwhile: for the next read to report.
            self.more = true;
            self.parts.next_max = None;
            return;
        }
        let all = self.parts.add(part.messages);
        self.more = part.more || !all;
        if !self.more {
            self.parts.next_max = None;
        }
        self.cursor = self.parts.messages.last().and_then(|message| message.id).unwrap_or(cursor);
    }

    pub(super) fn finish(self) -> Page {
        Page { messages: self.parts.messages, contiguous: self.contiguous, more: self.more }
    }
}

/// Decides whether what was fetched joins the cursor.
fn assemble(mut messages: Vec<Arc<Message>>, after: StreamId, limit: usize, trimmed: bool) -> Page {
    let first = messages.first().and_then(|message| message.id);
    let contiguous = match first {
        Some(first) if first == after => {
            messages.remove(0);
            true
        }
        Some(first) if after == StreamId::ZERO => first.seq == 0 && !trimmed,
        Some(first) => first.directly_after(after),
        None => after == StreamId::ZERO && !trimmed,
    };
    let more = messages.len() > limit;
    messages.truncate(limit);
    Page { messages, contiguous, more }
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

    /// What the next part comes before (`None`: the end), and its count; `None` when the read is complete.
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

    fn entries(ids: &[(u64, u64)]) -> Vec<Arc<Message>> {
        ids.iter().map(|(epoch, seq)| entry(*epoch, *seq)).collect()
    }

    fn page(ids: &[(u64, u64)], after: (u64, u64), trimmed: bool) -> (usize, bool, bool) {
        let page = assemble(entries(ids), StreamId::new(after.0, after.1), 2, trimmed);
        (page.messages.len(), page.contiguous, page.more)
    }

    #[test]
    fn neighbours_of_the_cursor_are_contiguous_whatever_their_epoch() {
        assert_eq!(page(&[(5, 3), (5, 4)], (5, 3), false), (1, true, false));
        assert_eq!(page(&[(5, 3), (9, 0)], (5, 3), false), (1, true, false));
        assert_eq!(page(&[(5, 3)], (5, 3), false), (0, true, false));
        assert_eq!(page(&[(5, 3), (5, 4), (5, 5), (5, 6)], (5, 3), false), (2, true, true));
    }

    #[test]
    fn without_the_cursors_entry_only_the_next_number_proves_anything() {
        assert_eq!(page(&[(5, 4)], (5, 3), false), (1, true, false));
        assert_eq!(page(&[(5, 5)], (5, 3), false), (1, false, false));
        assert_eq!(page(&[(9, 0)], (5, 3), false), (1, false, false));
        assert_eq!(page(&[], (5, 3), false), (0, false, false));
    }

    #[test]
    fn from_the_start_nothing_may_have_been_removed() {
        assert_eq!(page(&[(5, 0), (5, 1)], (0, 0), false), (2, true, false));
        assert_eq!(page(&[(5, 0)], (0, 0), true), (1, false, false));
        assert_eq!(page(&[(5, 7)], (0, 0), false), (1, false, false));
        assert_eq!(page(&[], (0, 0), false), (0, true, false));
        assert_eq!(page(&[], (0, 0), true), (0, false, false));
    }

    /// Reads a stream of `count` entries after its first one; the sizes of the parts, and the page.
    fn forward(count: u64, limits: ReadLimits) -> (Vec<usize>, Page) {
        let (mut read, mut asked) = (Forward::new(StreamId::new(5, 0), limits), Vec::new());
        while let Some((cursor, part)) = read.next() {
            asked.push(part);
            let last = (cursor.seq + part as u64 + 1).min(count);
            read.add((cursor.seq..=last).map(|seq| entry(5, seq)).collect(), false);
        }
        (asked, read.finish())
    }

    #[test]
    fn a_read_goes_on_in_parts_until_a_limit_or_the_end() {
        let bytes = usize::MAX;
        let seen = |count, limits| {
            let (asked, page) = forward(count, limits);
            assert!(page.contiguous);
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
    fn a_later_part_that_does_not_join_ends_the_read() {
        let mut read = Forward::new(StreamId::new(5, 0), ReadLimits::new(500, usize::MAX));
        read.add((0..=17).map(|seq| entry(5, seq)).collect(), false);
        assert_eq!(read.next(), Some((StreamId::new(5, 16), 128)));
        read.add((200..300).map(|seq| entry(5, seq)).collect(), false);
        assert_eq!(read.next(), None);
        let page = read.finish();
        assert_eq!((page.messages.len(), page.contiguous, page.more), (16, true, true));
    }

    #[test]
    fn the_newest_are_read_backwards_and_come_oldest_first() {
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
