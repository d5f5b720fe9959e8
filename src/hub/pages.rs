//! Caches encoded pages of backlogs: after an outage, many clients miss the same messages of a topic and share the
//! bytes, as live subscribers do. Never decides what a client receives.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tickgate_wire::model::{Message, StreamId};

use super::{
    batch::{PushBatch, PushFlags},
    form::Form,
    step::Step,
};

/// Maximum number of cached pages.
const PAGES_MAX: usize = 32;
/// Maximum size of all cached pages, in bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Minimum number of messages of a cached page: smaller ones are faster to encode than to find.
const WORTH_KEEPING: usize = 4;

/// The newest pages, newest first.
#[derive(Debug, Default)]
pub(super) struct RecentPages(Mutex<VecDeque<EncodedPage>>);

#[derive(Debug)]
struct EncodedPage {
    messages: Box<[Arc<Message>]>,
    flags: PushFlags,
    batch: Arc<PushBatch>,
}

impl RecentPages {
    /// Encodes messages that follow the position `after`, shared by all that request the same.
    pub(super) fn encode(
        &self,
        form: &Form,
        after: StreamId,
        messages: &[Arc<Message>],
        flags: PushFlags,
    ) -> Arc<PushBatch> {
        let is_shared = form.channel.is_some() && messages.len() >= WORTH_KEEPING;
        if is_shared && let Some(batch) = self.find(form, after, messages, flags) {
            return batch;
        }
        let steps: Vec<_> = messages.iter().cloned().map(Step::Message).collect();
        let batch = Arc::new(PushBatch::encode(form, after, &steps, flags));
        if is_shared {
            self.keep(EncodedPage { messages: messages.into(), flags, batch: batch.clone() });
        }
        batch
    }

    fn find(
        &self,
        form: &Form,
        after: StreamId,
        messages: &[Arc<Message>],
        flags: PushFlags,
    ) -> Option<Arc<PushBatch>> {
        let same = |page: &&EncodedPage| {
            page.batch.after == after
                && page.flags == flags
                && page.batch.form == *form
                && page.messages.len() == messages.len()
                && page.messages.iter().zip(messages).all(|(own, other)| Arc::ptr_eq(own, other))
        };
        self.0.lock().iter().find(same).map(|page| page.batch.clone())
    }

    fn keep(&self, page: EncodedPage) {
        let mut pages = self.0.lock();
        pages.push_front(page);
        let sums = pages.iter().scan(0, |held, page| {
            *held += page.batch.bytes.len();
            Some(*held)
        });
        let room = sums.take(PAGES_MAX).take_while(|held| *held <= KEPT_BYTES_MAX).count();
        pages.truncate(room);
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::{model::Content, protocol::Protocol};

    use super::*;

    fn messages(count: u64) -> Vec<Arc<Message>> {
        let message = |seq| {
            let content = Content::Data(bytes::Bytes::from(format!("{{\"n\":{seq}}}")));
            Arc::new(Message { id: Some(StreamId::new(4, seq)), prev: None, published_ms: 0, channel: None, content })
        };
        (1..=count).map(message).collect()
    }

    fn form(channel: &str) -> Form {
        Form::of_topic(Protocol::default(), channel.into())
    }

    #[test]
    fn equal_requests_share_the_same_bytes() {
        let (pages, all) = (RecentPages::default(), messages(20));
        let (after, replayed) = (StreamId::new(4, 0), PushFlags { replayed: true, ..PushFlags::default() });
        let first = pages.encode(&form("a"), after, &all, replayed);
        assert!(Arc::ptr_eq(&first, &pages.encode(&form("a"), after, &all, replayed)));
        let others = [
            pages.encode(&form("b"), after, &all, replayed),
            pages.encode(&form("a"), after, &all, PushFlags::default()),
            pages.encode(&form("a"), after, &all[..19], replayed),
            pages.encode(&form("a"), StreamId::new(4, 1), &all[1..], replayed),
            pages.encode(&form("a"), after, &messages(20), replayed),
        ];
        assert!(others.iter().all(|other| !Arc::ptr_eq(&first, other)));
        assert_eq!(others.map(|other| other.count), [20, 20, 19, 19, 20]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let (pages, all) = (RecentPages::default(), messages(1000));
        let flags = PushFlags::default();
        let of = |from: usize| pages.encode(&form("a"), StreamId::new(4, from as u64), &all[from..from + 4], flags);
        let first = of(0);
        (1..PAGES_MAX).for_each(|from| drop(of(from)));
        assert!(Arc::ptr_eq(&first, &of(0)), "all of them fit");
        drop(of(PAGES_MAX));
        assert!(!Arc::ptr_eq(&first, &of(0)), "the oldest was removed");
        let channel = "c".repeat(KEPT_BYTES_MAX / 4);
        let large = pages.encode(&form(&channel), StreamId::new(4, 0), &all[..4], flags);
        assert!(large.bytes.len() > KEPT_BYTES_MAX);
        assert!(pages.0.lock().is_empty(), "a page that exceeds the cache is not kept");
    }
}
