//! What others may know of an outbox: its connection's task above all. Changes nothing.

use std::task::{Context, Poll};

use tickgate_wire::model::StreamId;

use super::{super::queue::SlotId, Close, Outbox, State, ending::Ending};
use crate::clock;

/// What an outbox wants of its connection's task.
#[derive(Debug)]
pub struct Look {
    /// Someone wants the connection closed.
    pub asked: Option<Close>,
    /// Nothing more can be sent.
    pub shut: bool,
    /// More waits than the limit: replies pile up, so no more commands are read.
    pub full: bool,
    /// What waits has to wait for a pong, which has to be read.
    pub held: bool,
    /// A subscription is to be caught up, and there is room for it.
    pub lagging: bool,
}

/// How far an outbox has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Grows with the bytes that were written and with those that the client confirmed: a slow client whose buffers are full
    /// reads on although nothing can be written to it.
    pub position: u64,
    /// The socket is behind.
    pub blocked: bool,
    /// How long ago something was written, to within a tick of the wheel.
    pub quiet_ms: u32,
}

/// How an outbox is doing, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxDetail {
    pub waiting_messages: usize,
    pub waiting_bytes: usize,
    pub written_bytes: u64,
    /// The socket takes less than there is.
    pub behind: bool,
    /// A subscription waits to be caught up.
    pub lagging: bool,
    /// Subscriptions with a position.
    pub subscriptions: usize,
}

impl Outbox {
    /// Bytes that wait for the socket.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.state.lock().queue.bytes()
    }

    /// How it is doing.
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

    /// What the connection's task has to know, under one lock.
    #[must_use]
    pub fn look(&self) -> Look {
        let state = self.state.lock();
        let held = state.is_held();
        Look {
            asked: if let Ending::Asked(close) = &state.ending { Some(Close::clone(close)) } else { None },
            shut: state.ending == Ending::Shut,
            // Where a pong is awaited, it has to be read.
            full: state.queue.bytes() > self.shared.limits.bytes_max && !held,
            held,
            lagging: !self.is_half_full(&state) && state.queue.lagging().is_some(),
        }
    }

    /// The first subscription to be caught up, once the socket has taken what waited before.
    #[must_use]
    pub fn lagging(&self) -> Option<(SlotId, StreamId)> {
        let state = self.state.lock();
        if state.ending != Ending::Open || self.is_half_full(&state) { None } else { state.queue.lagging() }
    }

    /// Where a subscription stands: the last position queued.
    #[must_use]
    pub fn queued(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.slot(id).map(|slot| slot.queued)
    }

    /// The last position that the client surely has, or came with.
    #[must_use]
    pub fn known(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.slot(id).map(|slot| slot.written)
    }

    /// Whether a subscription goes before everything public.
    #[must_use]
    pub fn is_urgent(&self, id: SlotId) -> bool {
        self.state.lock().queue.slot(id).is_some_and(|slot| slot.urgent)
    }

    /// Whether nothing of a subscription waits to be written.
    #[must_use]
    pub fn is_drained(&self, id: SlotId) -> bool {
        !self.state.lock().queue.waits_for(id)
    }

    /// Moves a subscription on over what its client has.
    pub fn pass(&self, id: SlotId, to: StreamId) {
        self.state.lock().queue.pass(id, to);
    }

    /// The cursors of a client that has all that was written, in the order of its subscriptions.
    #[must_use]
    pub fn cursors(&self) -> Vec<StreamId> {
        self.state.lock().queue.cursors().collect()
    }

    /// Whether a live subscription moved without a push.
    #[must_use]
    pub fn has_moved(&self, id: SlotId) -> bool {
        self.state.lock().queue.has_moved(id)
    }

    fn is_half_full(&self, state: &State) -> bool {
        let limits = &self.shared.limits;
        state.queue.messages() > limits.messages_max / 2 || state.queue.bytes() > limits.bytes_max / 2
    }

    /// Whether a catch-up may add a page.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let state = self.state.lock();
        !self.is_half_full(&state)
    }

    /// Whether what waits has to wait for a pong.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state.lock().is_held()
    }

    /// Whether more waits for a pong than the limit: nothing is to be added before that is read.
    #[must_use]
    pub fn is_held_full(&self) -> bool {
        let state = self.state.lock();
        state.queue.bytes() > self.shared.limits.bytes_max && state.is_held()
    }

    /// For a catch-up between two pages: ready when there is room for the next, nothing more can be sent, or a pong is
    /// awaited, which is not read as long as somebody waits here.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.register(cx);
        let flushed = self.poll_flush(cx);
        let state = self.state.lock();
        if flushed.is_ready() || state.ending != Ending::Open || !self.is_half_full(&state) || state.is_held() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.state.lock();
        let confirmed = state.flow.as_ref().map_or(0, |flow| flow.confirmed());
        Progress {
            position: state.progress + confirmed,
            blocked: state.queue.blocked,
            quiet_ms: clock::coarse_ms().wrapping_sub(state.written_at),
        }
    }
}
