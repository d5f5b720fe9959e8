//! One topic's stream as Redis keeps it: ids, trimming, losing its end. Never knows who reads.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tickgate::backplane::Page;
use tickgate_wire::model::{Content, Message, StreamId};

/// The entries of one topic.
#[derive(Debug)]
pub struct Stream {
    pub entries: VecDeque<Arc<Message>>,
    /// The id given last, whatever became of its entry.
    pub last: StreamId,
    /// Something was ever removed from the front.
    trimmed: bool,
    added: u64,
}

impl Stream {
    /// The script's steps: the first id of an epoch names the entry before it.
    pub fn append(
        stream: &mut Option<Self>,
        generation: u64,
        now: u64,
        channel: Option<&str>,
        content: Content,
    ) -> Message {
        let (id, prev) = match stream {
            None => (StreamId::new(now.max(generation + 1), 0), Some(StreamId::ZERO)),
            Some(known) if generation > known.last.epoch => {
                let prev = known.entries.back().and_then(|m| m.id).or((known.added == 0).then_some(StreamId::ZERO));
                (StreamId::new(generation, 0), prev)
            }
            Some(known) => (known.last.next(), None),
        };
        let known = stream.get_or_insert_with(|| Self {
            entries: VecDeque::new(),
            last: StreamId::ZERO,
            trimmed: false,
            added: 0,
        });
        let message = Message { id: Some(id), prev, published_ms: 0, channel: channel.map(Into::into), content };
        known.last = id;
        known.added += 1;
        known.entries.push_back(Arc::new(Message { prev: None, ..message.clone() }));
        message
    }

    /// Forgets the oldest until `keep` are left.
    pub fn trim(&mut self, keep: usize) {
        while self.entries.len() > keep {
            self.entries.pop_front();
            self.trimmed = true;
        }
    }

    /// A server takes over that never had the last `count` entries.
    pub fn lose_end(&mut self, count: usize) {
        for _ in 0..count {
            self.entries.pop_back();
        }
        if let Some(last) = self.entries.back().and_then(|m| m.id) {
            self.last = last;
        }
    }

    pub fn head(&self) -> StreamId {
        self.entries.back().and_then(|m| m.id).unwrap_or_default()
    }

    /// What a range read says, with the proof of contiguity that the gateway asks for.
    pub fn read(&self, after: StreamId, limit: usize) -> Page {
        let from = self.entries.partition_point(|m| m.id <= Some(after));
        let there = from > 0 && self.entries[from - 1].id == Some(after);
        let next = self.entries.get(from).and_then(|m| m.id);
        let contiguous = match next {
            _ if there => true,
            Some(next) if after == StreamId::ZERO => next.seq == 0 && !self.trimmed,
            Some(next) => next.directly_after(after),
            None => after == StreamId::ZERO && !self.trimmed,
        };
        let messages: Vec<_> = self.entries.iter().skip(from).take(limit).cloned().collect();
        let more = self.entries.len() - from > messages.len();
        Page { messages, contiguous, more }
    }

    /// What the check after a change of server finds: the range to be told as lost, if `acknowledged` is not there. An
    /// entry behind it of an epoch that is not later than `proven` says that it was.
    pub fn lost(stream: Option<&Self>, acknowledged: StreamId, proven: u64) -> Option<(StreamId, Option<StreamId>)> {
        let entries: Vec<_> = stream.map(|s| s.entries.iter().cloned().collect()).unwrap_or_default();
        let from = entries.partition_point(|m| m.id <= Some(acknowledged));
        let after = from.checked_sub(1).and_then(|at| entries[at].id).unwrap_or_default();
        if after == acknowledged {
            return None;
        }
        let following = &entries[from..];
        let first = following.first().and_then(|m| m.id).unwrap_or_default();
        if after == StreamId::ZERO && stream.is_some_and(|stream| stream.trimmed) && first.epoch <= proven {
            // It was there, and was trimmed; every reader of the history sees that something is gone.
            return None;
        }
        let covers = |from, to| from == after && to > acknowledged;
        let told = |m: &Arc<Message>| matches!(m.content, Content::Lost { after, before, .. } if covers(after, before));
        if following.iter().take(16).any(told) {
            return None;
        }
        Some((after, following.first().and_then(|m| m.id)))
    }
}

/// A publication that can be told apart from all others.
pub fn numbered(number: u64) -> Content {
    Content::Data(Bytes::from(format!("{{\"n\":{number}}}")))
}
