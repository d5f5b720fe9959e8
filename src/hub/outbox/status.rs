//! Read-only accessors of an outbox, mainly for its connection's task.

use std::task::{Context, Poll};

use tickgate_wire::model::StreamId;

use super::{super::queue::SlotId, Close, Outbox, OutboxState, ending::Ending};
use crate::clock;

/// What an outbox needs from its connection's task.
#[derive(Debug)]
pub struct OutboxStatus {
    /// The requested close.
    pub asked: Option<Close>,
    /// Nothing more can be sent.
    pub shut: bool,
    /// The queue exceeds its limit: replies pile up, so no more commands are read.
    pub full: bool,
    /// The queue waits for a pong, which must be read.
    pub held: bool,
    /// A subscription has to catch up, and there is room.
    pub lagging: bool,
}

/// The progress of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxProgress {
    /// Increases with bytes written and with bytes that the client confirmed: a slow client with full buffers keeps
    /// reading although nothing can be written to it.
    pub position: u64,
    /// The socket is behind.
    pub blocked: bool,
    /// Time since the last write, with the resolution of the wheel.
    pub quiet_ms: u32,
}

/// The state of an outbox, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxDetail {
    /// Number of queued messages.
    pub waiting_messages: usize,
    /// Number of queued bytes.
    pub waiting_bytes: usize,
    /// Bytes written since the connection opened.
    pub written_bytes: u64,
    /// The socket accepts less than is queued.
    pub behind: bool,
    /// A subscription is waiting to catch up.
    pub lagging: bool,
    /// Subscriptions with a position.
    pub subscriptions: usize,
}

impl Outbox {
    /// Queued bytes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.state.lock().queue.bytes()
    }

    /// The state for operators.
    #[must_use]
    pub fn detail(&self) -> OutboxDetail {
        let state = self.state.lock();
        OutboxDetail {
            waiting_messages: state.queue.messages(),
            waiting_bytes: state.queue.bytes(),
            written_bytes: state.progress,
            behind: state.queue.blocked,
            lagging: state.queue.lagging().is_some(),
            subscriptions: state.queue.cursors().count(),
        }
    }

    /// The state that the connection's task needs, under one lock.
    #[must_use]
    pub fn status(&self) -> OutboxStatus {
        let state = self.state.lock();
        let held = state.is_held();
        OutboxStatus {
            asked: if let Ending::Asked(close) = &state.ending { Some(Close::clone(close)) } else { None },
            shut: state.ending == Ending::Shut,
            // A pending pong must be read.
            full: state.queue.bytes() > self.shared.limits.bytes_max && !held,
            held,
            lagging: !self.is_half_full(&state) && state.queue.lagging().is_some(),
        }
    }

    /// The first subscription that has to catch up, once the socket has accepted earlier output.
    #[must_use]
    pub fn lagging(&self) -> Option<(SlotId, StreamId)> {
        let state = self.state.lock();
        if state.ending != Ending::Open || self.is_half_full(&state) { None } else { state.queue.lagging() }
    }

    /// The last queued position of a subscription.
    #[must_use]
    pub fn queued(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.slot(id).map(|slot| slot.queued)
    }

    /// The last position that the client certainly has.
    #[must_use]
    pub fn known(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.slot(id).map(|slot| slot.written)
    }

    /// Whether a subscription has priority over public ones.
    #[must_use]
    pub fn is_urgent(&self, id: SlotId) -> bool {
        self.state.lock().queue.slot(id).is_some_and(|slot| slot.urgent)
    }

    /// Whether a subscription has nothing queued.
    #[must_use]
    pub fn is_drained(&self, id: SlotId) -> bool {
        !self.state.lock().queue.waits_for(id)
    }

    /// Advances a subscription past messages that its client has.
    pub fn pass(&self, id: SlotId, to: StreamId) {
        self.state.lock().queue.pass(id, to);
    }

    /// The cursors of a client that has received everything written, in the order of its subscriptions.
    #[must_use]
    pub fn cursors(&self) -> Vec<StreamId> {
        self.state.lock().queue.cursors().collect()
    }

    /// Whether a live subscription moved without a push.
    #[must_use]
    pub fn has_moved(&self, id: SlotId) -> bool {
        self.state.lock().queue.has_moved(id)
    }

    fn is_half_full(&self, state: &OutboxState) -> bool {
        let limits = &self.shared.limits;
        state.queue.messages() > limits.messages_max / 2 || state.queue.bytes() > limits.bytes_max / 2
    }

    /// Whether a catch-up may add a page.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let state = self.state.lock();
        !self.is_half_full(&state)
    }

    /// Whether the queue waits for a pong.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state.lock().is_held()
    }

    /// Whether the queue waits for a pong and exceeds its limit: nothing must be added before the pong is read.
    #[must_use]
    pub fn is_held_full(&self) -> bool {
        let state = self.state.lock();
        state.queue.bytes() > self.shared.limits.bytes_max && state.is_held()
    }

    /// For a catch-up between two pages: ready when there is room for the next page, when nothing more can be sent, or
    /// when a pong is pending, which is not read while the caller waits here.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.register(cx);
        let flushed = self.poll_flush(cx);
        let state = self.state.lock();
        if flushed.is_ready() || state.ending != Ending::Open || !self.is_half_full(&state) || state.is_held() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// The current progress.
    #[must_use]
    pub fn progress(&self) -> OutboxProgress {
        let state = self.state.lock();
        let confirmed = state.flow.as_ref().map_or(0, |flow| flow.confirmed());
        OutboxProgress {
            position: state.progress + confirmed,
            blocked: state.queue.blocked,
            quiet_ms: clock::coarse_ms().wrapping_sub(state.written_at),
        }
    }
}
