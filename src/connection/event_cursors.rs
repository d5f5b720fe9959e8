//! When a reader of an event stream receives its cursors: after each piece of the stream. For a slow reader of values,
//! whose pieces are small, they are sent less often, so that most of the bandwidth carries values. Never delays the
//! cursor of an ordered message.

use bytes::BytesMut;
use tickgate_wire::{event_stream, model::StreamId};

/// Maximum ratio of value bytes to cursor bytes between two cursor events.
const SHARE: usize = 2;

/// The cursors of one stream.
#[derive(Debug)]
pub(super) struct EventCursors {
    /// Per cursor: whether its channel has values, of which only the newest matters.
    of_values: Box<[bool]>,
    /// The cursors sent last.
    sent: Box<[StreamId]>,
    /// Bytes of the last cursor event, and bytes sent since.
    own_bytes: usize,
    bytes_since: usize,
}

impl EventCursors {
    /// Creates the state for a stream; `of_values`: which cursors belong to value channels.
    pub(super) fn new(of_values: Vec<bool>) -> Self {
        Self { of_values: of_values.into(), sent: Box::default(), own_bytes: 0, bytes_since: 0 }
    }

    /// Number of cursors that a resuming reader has.
    pub(super) fn count(&self) -> usize {
        self.of_values.len()
    }

    /// Appends the reader's cursors after this piece, if due. `more`: further pieces are waiting.
    pub(super) fn append(&mut self, piece: &mut BytesMut, cursors: &[StreamId], more: bool) {
        // While subscriptions start, there are fewer cursors, and the client could not know which ones are missing.
        if cursors.is_empty() || cursors.len() != self.count() {
            return;
        }
        let before = piece.len();
        self.bytes_since += before;
        if more && self.bytes_since < SHARE * self.own_bytes && !self.is_owed(cursors) {
            return;
        }
        event_stream::cursors(piece, cursors);
        self.own_bytes = piece.len() - before;
        self.bytes_since = 0;
        self.sent = cursors.into();
    }

    /// Whether a reader that resumed from the last cursors sent would receive an ordered message again.
    fn is_owed(&self, cursors: &[StreamId]) -> bool {
        let mut moved = cursors.iter().zip(&self.sent).zip(&self.of_values);
        self.sent.is_empty() || moved.any(|((now, sent), of_values)| now != sent && !of_values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether cursors follow a piece of this size.
    fn follow(cursors: &mut EventCursors, bytes: usize, [value, order]: [u64; 2], more: bool) -> bool {
        let mut piece = BytesMut::from(vec![b'x'; bytes].as_slice());
        cursors.append(&mut piece, &[StreamId::new(7, value), StreamId::new(7, order)], more);
        piece.len() > bytes
    }

    #[test]
    fn they_follow_each_piece_with_an_ordered_message_and_the_last_piece() {
        let mut cursors = EventCursors::new(vec![true, false]);
        assert!(follow(&mut cursors, 1, [1, 1], true), "the first");
        assert!(!follow(&mut cursors, 1, [2, 1], true));
        assert!(follow(&mut cursors, 1, [3, 2], true));
        assert!(!follow(&mut cursors, 1, [4, 2], true));
        assert!(follow(&mut cursors, 1, [5, 2], false));
    }

    #[test]
    fn they_take_at_most_a_third_of_the_bandwidth_from_values() {
        let mut cursors = EventCursors::new(vec![true, false]);
        let own = "id: 7-1,7-1\n\n".len();
        assert!(follow(&mut cursors, 1, [1, 1], true));
        assert!(!follow(&mut cursors, SHARE * own - 1, [2, 1], true));
        assert!(follow(&mut cursors, 1, [3, 1], true));
        assert!(follow(&mut cursors, SHARE * own, [4, 1], true));
    }

    #[test]
    fn none_are_sent_before_all_are_known() {
        let mut cursors = EventCursors::new(vec![true, false]);
        let mut piece = BytesMut::new();
        cursors.append(&mut piece, &[StreamId::new(7, 1)], false);
        assert!(piece.is_empty());
    }
}
