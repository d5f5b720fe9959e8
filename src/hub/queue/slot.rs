//! What an outbox knows of one subscription. Never knows whose it is.

use tickgate_wire::model::{Class, StreamId};

/// A subscription's place in an outbox. Never used twice in one connection, so that what is late for an ended
/// subscription can't reach another.
pub type SlotId = u32;

/// How a subscription is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not live: it is to be caught up from the ring or the stream.
    Lagging,
    /// Caught up; the step to live is on its way through the shard's mail.
    Joining,
    Live,
}

/// What the client knows of a subscription's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Positions are no cursors: the topic is not retained.
    None,
    /// It has the last one, by a push or a notice.
    Known,
    /// It moved without a push.
    Moved,
}

/// What an outbox knows of one subscription.
#[derive(Clone, Debug)]
pub struct Slot {
    pub class: Class,
    /// Written before everything public when both wait: the reliable private channels.
    pub urgent: bool,
    pub cursor: Cursor,
    pub stage: Stage,
    /// Tells apart the joinings of one subscription: only the last one counts.
    pub ticket: u32,
    /// The last position put into the queue.
    pub queued: StreamId,
    /// The last position wholly written to the socket, or that the client came with. Greater than what was queued when
    /// the server lost what the client has: should it come after all, it is not for this client again.
    pub written: StreamId,
}
