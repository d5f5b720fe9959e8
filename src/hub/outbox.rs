//! The outbox of one client: a bounded queue behind a short lock, and the socket that it drains into. Knows wire forms,
//! never sessions. Callers that add something must flush; what the socket does not accept waits for
//! [`Outbox::poll_flush`].

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

mod ending;
mod status;
mod writing;
mod written;

pub use ending::Close;
use ending::Ending;
pub use status::OutboxProgress;
pub(super) use written::WriteStats;

use super::{
    batch::PushBatch,
    flow::Flow,
    queue::{OfferResult, OutboxQueue, QueueLimits, SlotId, SubscriptionSlot, WriteSlices},
    socket::OutboxSocket,
    turns::MemoryReservation,
};
use crate::{
    clock,
    metrics::{self, EndpointFigures, GaugeGuard, Metrics, TopicClass},
};
use tickgate_wire::model::{Class, StreamId};

/// The outbox of one client, shared by its connection, the hub's shards and timers.
#[derive(Debug)]
pub struct Outbox {
    socket: OutboxSocket,
    state: Mutex<OutboxState>,
    /// The connection's task: woken when the socket is behind, a subscription lags, or the connection must close.
    waker: AtomicWaker,
    pub(crate) shared: Arc<EndpointOutboxes>,
}

/// State shared by all outboxes of an endpoint.
#[derive(Debug)]
pub struct EndpointOutboxes {
    /// Limits of each outbox.
    pub limits: QueueLimits,
    /// Counts gaps, and messages that were dropped or conflated.
    pub metrics: Arc<Metrics>,
    /// The endpoint's metrics.
    pub figures: Arc<EndpointFigures>,
}

impl EndpointOutboxes {
    /// Creates the shared state for the profile with this name.
    #[must_use]
    pub fn new(limits: QueueLimits, metrics: Arc<Metrics>, profile: &str) -> Arc<Self> {
        let figures = EndpointFigures::new(&metrics, profile);
        Arc::new(Self { limits, metrics, figures })
    }

    /// Records writes of more than one frame only: single frames are the common case and covered by the counters.
    fn wrote(&self, items: usize) {
        if items > 1 {
            self.metrics.frames_per_write.observe(items as f64);
        }
    }
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: OutboxQueue,
    /// On a shard's list of outboxes to flush.
    dirty: bool,
    ending: Ending,
    /// Set when the client missed values or lags because its socket is behind, until the queue is empty.
    slow: Option<GaugeGuard>,
    /// The memory reservation of replays and pages of history, until the queue is empty. Boxed, because few connections
    /// have one.
    hold: Option<Box<MemoryReservation>>,
    /// Bytes written so far, and the time of the last write by the coarse clock.
    progress: u64,
    written_at: u32,
    /// Limits on writes, for connections that receive values. Boxed, because many connections have none.
    flow: Option<Box<Flow>>,
}

impl OutboxState {
    /// Updates the state when the queue becomes empty.
    fn rest(&mut self) {
        self.slow = None;
        self.hold = None;
    }
}

impl Outbox {
    /// An empty outbox that writes to the socket.
    #[must_use]
    pub fn new(socket: OutboxSocket, shared: Arc<EndpointOutboxes>) -> Arc<Self> {
        Arc::new(Self { socket, state: Mutex::default(), waker: AtomicWaker::new(), shared })
    }

    /// The socket, for its reader.
    #[must_use]
    pub fn socket(&self) -> &OutboxSocket {
        &self.socket
    }

    /// Sends a reply or a control frame, ahead of public messages. Ignores an empty one.
    pub fn send(&self, frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if state.ending != Ending::Shut {
            state.queue.frame(frame);
            self.write(&mut state).count(&self.shared.metrics);
        }
    }

    /// Sends the notice that the backlog is complete after the pushes of the backlog: the `urgent` ones or the public
    /// ones. Like them it is dropped once a close is requested: its cursor must not pass messages that were not sent.
    pub fn send_end(&self, notice: Bytes, urgent: bool) {
        let mut state = self.state.lock();
        if state.ending == Ending::Open {
            if urgent {
                state.queue.frame(notice);
            } else {
                state.queue.frame_behind(notice);
            }
            self.write(&mut state).count(&self.shared.metrics);
        }
    }

    /// The position of a live subscription that moved without a push, to be sent to the client now.
    #[must_use]
    pub fn take_moved(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.take_moved(id)
    }

    /// Opens a subscription, which lags at `slot.queued` until a catch-up joins it to the live stream.
    pub fn open(&self, slot: SubscriptionSlot) -> SlotId {
        let mut state = self.state.lock();
        if slot.class == Class::State && state.flow.is_none() {
            // A value that is being written cannot be replaced by a newer one.
            let flow = Flow::new(state.progress);
            state.flow = self.socket.limit_unsent(flow.unsent_max()).then(|| Box::new(flow));
        }
        state.queue.open(slot)
    }

    /// Ends a subscription: nothing of it is written afterwards, except a partially written frame.
    pub fn close_slot(&self, id: SlotId) {
        self.state.lock().queue.close(id);
    }

    /// Pauses live pushes of a subscription until it joins again. Returns the position that it has reached.
    pub fn pause(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.pause(id)
    }

    /// Whether the subscription is open.
    #[must_use]
    pub fn has(&self, id: SlotId) -> bool {
        self.state.lock().queue.slot(id).is_some()
    }

    /// Queues a live batch without writing. True if the caller must flush this outbox.
    pub(super) fn offer(&self, id: SlotId, batch: &Arc<PushBatch>) -> bool {
        let mut state = self.state.lock();
        if state.ending != Ending::Open {
            return false;
        }
        match state.queue.offer(id, batch, self.shared.limits) {
            OfferResult::Queued => {}
            OfferResult::Ignored => return false,
            OfferResult::Conflated(skipped) => {
                self.shared.figures.conflated.inc_by(skipped.into());
                // A value that replaces one of the same moment does not indicate a slow socket.
                if state.queue.blocked {
                    self.is_slow(&mut state);
                }
            }
            OfferResult::Dropped(dropped) => {
                self.is_slow(&mut state);
                self.shared.figures.dropped.inc_by(dropped.into());
                self.shared.figures.gaps.of((TopicClass::Event, metrics::GapLabel::SlowConsumer)).inc();
            }
            OfferResult::Lags => {
                self.is_slow(&mut state);
                if let Some(slot) = state.queue.slot(id) {
                    self.shared.figures.lagged.of(slot.class.into()).inc();
                }
                self.waker.wake();
                return false;
            }
        }
        !std::mem::replace(&mut state.dirty, true)
    }

    /// Counts a gap that is sent to the client.
    pub(super) fn count_gap(&self, class: Class, reason: metrics::GapLabel) {
        self.shared.figures.gaps.of((class.into(), reason)).inc();
    }

    fn is_slow(&self, state: &mut OutboxState) {
        state.slow.get_or_insert_with(|| GaugeGuard::one(&self.shared.figures.slow_consumers));
    }

    /// Keeps the memory reservation of something that was sent, until it is written.
    pub fn keep(&self, hold: MemoryReservation) {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return;
        }
        match &mut state.hold {
            Some(own) => own.join(hold),
            None => state.hold = Some(Box::new(hold)),
        }
    }

    /// Queues messages of a catch-up.
    pub(super) fn catch_up(&self, id: SlotId, batch: Arc<PushBatch>) {
        let mut state = self.state.lock();
        if state.ending == Ending::Open {
            state.queue.catch_up(id, batch);
            self.write(&mut state).count(&self.shared.metrics);
        }
    }

    /// Starts joining a subscription that has caught up. Returns the ticket of the join that will make it live; `None`
    /// if it has ended. `end` is the notice that the backlog is complete, written with the next output.
    pub(super) fn joining(&self, id: SlotId, end: Option<PushBatch>) -> Option<u32> {
        let mut state = self.state.lock();
        let ticket = state.queue.joining(id)?;
        if let Some(end) = end.filter(|_| state.ending == Ending::Open) {
            state.queue.catch_up(id, Arc::new(end));
        }
        Some(ticket)
    }

    /// The last step of a catch-up: queues the rest and makes the subscription live. Returns whether to flush.
    pub(super) fn join(&self, id: SlotId, ticket: u32, rest: Option<Arc<PushBatch>>) -> bool {
        let mut state = self.state.lock();
        if state.ending == Ending::Shut || !state.queue.may_join(id, ticket) {
            return false;
        }
        if let Some(rest) = rest {
            self.shared.figures.conflated.inc_by(rest.skipped.into());
            state.queue.catch_up(id, rest);
        }
        state.queue.joined(id);
        !std::mem::replace(&mut state.dirty, true)
    }

    /// Writes as much of the queue as the socket accepts. The caller updates the counters.
    #[must_use]
    pub(super) fn flush(&self) -> WriteStats {
        let mut state = self.state.lock();
        state.dirty = false;
        self.write(&mut state)
    }

    /// Registers the connection's task to be woken.
    pub fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// For a response body: takes whole messages from the queue until they have this many bytes.
    pub fn poll_body(&self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<Option<Bytes>> {
        if let OutboxSocket::Body(waker) = &self.socket {
            waker.register(cx.waker());
        }
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            // If a close was only requested, the final messages are still to come.
            return if state.ending == Ending::Shut { Poll::Ready(None) } else { Poll::Pending };
        }
        let (mut body, mut writes) = (BytesMut::new(), 0);
        while !state.queue.is_empty() && body.len() < bytes_max {
            let mut slices = WriteSlices::whole(bytes_max - body.len());
            state.queue.front(&mut slices, true);
            slices.get().iter().for_each(|slice| body.extend_from_slice(slice));
            let offered = slices.bytes();
            self.shared.wrote(state.queue.consume(offered));
            writes += 1;
        }
        let bytes = body.len() as u64;
        state.progress += bytes;
        state.written_at = clock::coarse_ms();
        WriteStats { bytes, writes }.count(&self.shared.metrics);
        let blocked = !state.queue.is_empty();
        if !blocked {
            state.rest();
        }
        if std::mem::replace(&mut state.queue.blocked, blocked) {
            self.waker.wake();
        }
        Poll::Ready(Some(body.freeze()))
    }

    /// Requests closing the connection; the first request determines the code. From here on no message of a
    /// subscription is accepted, even while the connection's task is busy.
    pub fn ask_close(&self, close: Close) {
        let mut state = self.state.lock();
        if state.ending == Ending::Open {
            state.ending = Ending::Asked(Box::new(close));
            self.waker.wake();
            if let OutboxSocket::Body(waker) = &self.socket {
                waker.wake();
            }
        }
    }

    /// Queues the last frame; discards the queue unless `keep` is set, and accepts nothing more.
    pub fn shut(&self, last: Option<Bytes>, keep: bool) {
        let mut state = self.state.lock();
        if state.ending == Ending::Shut {
            return;
        }
        if !keep {
            state.queue.clear();
            state.rest();
        }
        if let Some(frame) = last {
            state.queue.frame(frame);
        }
        state.ending = Ending::Shut;
        self.socket.end_soon();
        self.write(&mut state).count(&self.shared.metrics);
        if let OutboxSocket::Body(waker) = &self.socket {
            waker.wake();
        }
    }

    /// Maximum number of queued bytes.
    pub fn bytes_max(&self) -> usize {
        self.shared.limits.bytes_max
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Releases the memory of an idle queue.
    pub fn release(&self) {
        self.state.lock().queue.release();
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
