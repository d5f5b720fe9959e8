//! The state of one subscription in an outbox. Does not know which session owns it.

use tickgate_wire::model::{Class, StreamId};

/// A subscription's id within a connection. Never reused, so that late messages of an ended subscription cannot reach
/// another.
pub type SlotId = u32;

/// The stage of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionStage {
    /// Not live: it has to catch up from the ring or the stream.
    Lagging,
    /// Caught up; its join is in the shard's mailbox.
    Joining,
    /// Each publication is offered as it arrives.
    Live,
}

/// What the client knows about a subscription's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The topic is not retained: positions are not cursors.
    None,
    /// It has the last one, from a push or a notice.
    Known,
    /// It moved without a push.
    Moved,
}

/// The state of one subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionSlot {
    /// Decides what is dropped when the queue is full.
    pub class: Class,
    /// Written before public messages: the reliable private channels.
    pub urgent: bool,
    /// What the client has received.
    pub cursor: Cursor,
    /// Where it is between its start and the live stream.
    pub stage: SubscriptionStage,
    /// Identifies a join: only the last one counts.
    pub ticket: u32,
    /// The last queued position.
    pub queued: StreamId,
    /// The last position that was completely written, or that the client came with. Greater than `queued` if the server
    /// lost what the client has: if that arrives after all, it must not be sent again.
    pub written: StreamId,
}
