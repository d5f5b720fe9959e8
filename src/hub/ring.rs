//! The recent messages of one topic on this replica, which serve most resumes. Always consecutive.

use std::{collections::VecDeque, sync::Arc};

use tickgate_wire::model::{Message, StreamId};

/// Limits of one ring.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Maximum number of messages.
    pub messages_max: usize,
    /// Maximum number of bytes of their payloads.
    pub bytes_max: usize,
}

/// Consecutive messages of the stream, newest last. Empty rings hold no memory.
#[derive(Debug, Default)]
pub(super) struct Ring {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
}

impl Ring {
    /// Appends the direct successor of the newest message.
    pub(super) fn push(&mut self, message: Arc<Message>, limits: RingLimits) {
        self.bytes += message.payload_bytes();
        self.messages.push_back(message);
        while self.messages.len() > limits.messages_max || self.bytes > limits.bytes_max {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= oldest.payload_bytes();
        }
    }

    /// Removes everything: the next message is not the successor of the newest.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The messages after `cursor`, if the ring can prove that none is missing in between.
    pub(super) fn after(&self, cursor: StreamId) -> Option<Vec<Arc<Message>>> {
        let first = self.messages.front()?.id?;
        let from = if first.directly_after(cursor) {
            0
        } else {
            let at = self.messages.partition_point(|m| m.id.is_some_and(|id| id < cursor));
            (self.messages.get(at)?.id == Some(cursor)).then_some(at + 1)?
        };
        Some(self.messages.iter().skip(from).cloned().collect())
    }

    /// All messages.
    pub(super) fn all(&self) -> Vec<Arc<Message>> {
        self.messages.iter().cloned().collect()
    }

    /// Whether the ring contains the message with this id.
    pub(super) fn has(&self, id: StreamId) -> bool {
        self.messages.binary_search_by(|message| message.id.cmp(&Some(id))).is_ok()
    }

    /// The newest message.
    pub(super) fn newest(&self) -> Option<&Arc<Message>> {
        self.messages.back()
    }

    /// The newest `count` messages, oldest first; `None` when the ring holds fewer.
    pub(super) fn last(&self, count: usize) -> Option<Vec<Arc<Message>>> {
        let from = self.messages.len().checked_sub(count)?;
        Some(self.messages.iter().skip(from).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::Content;

    use super::*;

    fn message(epoch: u64, seq: u64) -> Arc<Message> {
        let content = Content::Data(bytes::Bytes::from_static(b"{}"));
        Arc::new(Message { id: Some(StreamId::new(epoch, seq)), prev: None, published_ms: 0, channel: None, content })
    }

    fn ring(ids: &[(u64, u64)], messages_max: usize) -> Ring {
        let mut ring = Ring::default();
        for (epoch, seq) in ids {
            ring.push(message(*epoch, *seq), RingLimits { messages_max, bytes_max: 1 << 20 });
        }
        ring
    }

    fn seqs(messages: Option<Vec<Arc<Message>>>) -> Option<Vec<u64>> {
        messages.map(|all| all.iter().map(|m| m.id.unwrap().seq).collect())
    }

    #[test]
    fn returns_only_what_it_can_prove() {
        let ring = ring(&[(1, 4), (1, 5), (2, 0), (2, 1)], 4);
        assert_eq!(seqs(ring.after(StreamId::new(1, 3))), Some(vec![4, 5, 0, 1]));
        assert_eq!(seqs(ring.after(StreamId::new(1, 5))), Some(vec![0, 1]));
        assert_eq!(seqs(ring.after(StreamId::new(2, 1))), Some(vec![]));
        assert_eq!(seqs(ring.after(StreamId::new(1, 2))), None);
        assert_eq!(seqs(ring.after(StreamId::new(1, 6))), None, "a fork");
        assert_eq!(seqs(ring.after(StreamId::new(2, 2))), None, "ahead");
    }

    #[test]
    fn stays_within_its_limits() {
        let ring = ring(&[(1, 0), (1, 1), (1, 2), (1, 3)], 2);
        assert_eq!(seqs(ring.last(2)), Some(vec![2, 3]));
        assert_eq!(seqs(ring.last(3)), None);
        let mut tight = Ring::default();
        for seq in 0..5 {
            tight.push(message(1, seq), RingLimits { messages_max: 10, bytes_max: 4 });
        }
        assert_eq!(seqs(tight.last(2)), Some(vec![3, 4]));
        assert_eq!(seqs(tight.last(3)), None);
    }
}
