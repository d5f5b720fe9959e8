//! When a reader of events is told its cursors: after each piece of the stream. Only where values wait for a slow reader,
//! of which each piece is small, they come less often, so that most of what it reads is values. Never delays the cursor of
//! a message that is owed.

use bytes::BytesMut;
use tickgate_wire::{event_stream, model::StreamId};

/// So many times their own bytes of values may lie between cursors and the next.
const SHARE: usize = 2;

/// The cursors of one stream.
#[derive(Debug)]
pub(super) struct EventCursors {
    /// By cursor: its channel has values, of which only the newest is owed.
    of_values: Box<[bool]>,
    /// As they were sent last.
    sent: Box<[StreamId]>,
    /// Bytes of the event that carried them, and of what was sent since.
    own_bytes: usize,
    bytes_since: usize,
}

impl EventCursors {
    /// For a stream whose cursors belong to such channels.
    pub(super) fn new(of_values: Vec<bool>) -> Self {
        Self { of_values: of_values.into(), sent: Box::default(), own_bytes: 0, bytes_since: 0 }
    }

    /// How many a reader has that comes back.
    pub(super) fn count(&self) -> usize {
        self.of_values.len()
    }

    /// Appends those of a reader that has this piece and all before. `more`: something waits already.
    pub(super) fn append(&mut self, piece: &mut BytesMut, cursors: &[StreamId], more: bool) {
        // While subscriptions start there are fewer: the reader could not say later which ones they were.
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

    /// Whether a reader that came back with the last ones would get a message again.
    fn is_owed(&self, cursors: &[StreamId]) -> bool {
        let mut moved = cursors.iter().zip(&self.sent).zip(&self.of_values);
        self.sent.is_empty() || moved.any(|((now, sent), of_values)| now != sent && !of_values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether cursors follow a piece of so many bytes.
    fn follow(cursors: &mut EventCursors, bytes: usize, [value, order]: [u64; 2], more: bool) -> bool {
        let mut piece = BytesMut::from(vec![b'x'; bytes].as_slice());
        cursors.append(&mut piece, &[StreamId::new(7, value), StreamId::new(7, order)], more);
        piece.len() > bytes
    }

    #[test]
    fn they_follow_each_piece_with_a_message_that_is_owed_and_the_last() {
        let mut cursors = EventCursors::new(vec![true, false]);
        assert!(follow(&mut cursors, 1, [1, 1], true), "the first");
        assert!(!follow(&mut cursors, 1, [2, 1], true));
        assert!(follow(&mut cursors, 1, [3, 2], true));
        assert!(!follow(&mut cursors, 1, [4, 2], true));
        assert!(follow(&mut cursors, 1, [5, 2], false));
    }

    #[test]
    fn they_take_no_more_than_a_third_of_the_line_from_values() {
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
