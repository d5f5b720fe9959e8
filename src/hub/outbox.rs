//! The way out to one client: a bounded queue behind a short lock, and the socket it drains into. Knows wire forms,
//! never sessions. Whoever adds something flushes; what the socket does not take waits for [`Outbox::poll_flush`].

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

mod ending;
mod look;
mod writing;
mod written;

pub use ending::Close;
use ending::Ending;
pub use look::Progress;
pub(super) use written::Written;

use super::{
    batch::Batch,
    flow::Flow,
    queue::{Offered, Queue, QueueLimits, Slices, Slot, SlotId},
    socket::Socket,
    turns::Hold,
};
use crate::{
    clock,
    metrics::{self, EndpointFigures, Held, Metrics, TopicClass},
};
use tickgate_wire::model::{Class, StreamId};

/// One client's way out. Shared by its connection, the hub's shards and the housekeeping.
#[derive(Debug)]
pub struct Outbox {
    socket: Socket,
    state: Mutex<State>,
    /// The connection's task: woken when the socket is behind, a subscription lags, or the end has come.
    waker: AtomicWaker,
    pub(crate) shared: Arc<Shared>,
}

/// What all outboxes of an endpoint have in common.
#[derive(Debug)]
pub struct Shared {
    pub limits: QueueLimits,
    pub metrics: Arc<Metrics>,
    /// Of the endpoint.
    pub figures: Arc<EndpointFigures>,
}

impl Shared {
    /// For the outboxes of the profile of this name.
    #[must_use]
    pub fn new(limits: QueueLimits, metrics: Arc<Metrics>, profile: &str) -> Arc<Self> {
        let figures = EndpointFigures::new(&metrics, profile);
        Arc::new(Self { limits, metrics, figures })
    }

    /// The histogram takes only writes of more than one frame: a single frame is the common case and the counters
    /// tell it.
    fn wrote(&self, items: usize) {
        if items > 1 {
            self.metrics.frames_per_write.observe(items as f64);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// On a shard's list to be flushed.
    dirty: bool,
    ending: Ending,
    /// The client missed values, or was set back, because its socket is behind; until all that waits is written.
    slow: Option<Held>,
    /// The room that replays and pages of history take; until all that waits is written. On the heap, as few have any.
    hold: Option<Box<Hold>>,
    /// Bytes written so far, and when the last of them were, by the coarse clock.
    progress: u64,
    written_at: u32,
    /// Where values are sent: how many of them may be under way. On the heap, as many connections have none.
    flow: Option<Box<Flow>>,
}

impl State {
    /// Nothing waits any more.
    fn rest(&mut self) {
        self.slow = None;
        self.hold = None;
    }
}

impl Outbox {
    #[must_use]
    pub fn new(socket: Socket, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { socket, state: Mutex::default(), waker: AtomicWaker::new(), shared })
    }

    /// The far end, for whoever reads from it.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends a reply or a control frame, ahead of public messages. Does nothing for an empty one.
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

    /// Sends the notice that the past was sent, behind the pushes that it stands for: the `urgent` ones or the public ones.
    /// Like them it is dropped once the end was asked for: its cursor must not pass what was never sent.
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

    /// The position of a live subscription that moved without a push; the client is about to be told.
    #[must_use]
    pub fn take_moved(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.take_moved(id)
    }

    /// Opens a subscription. It starts out lagging at `slot.queued`: a catch-up joins it to the live stream.
    pub fn open(&self, slot: Slot) -> SlotId {
        let mut state = self.state.lock();
        if slot.class == Class::State && state.flow.is_none() {
            // A value that is under way can't be replaced by a newer one.
            let flow = Flow::new(state.progress);
            state.flow = self.socket.limit_unsent(flow.unsent_max()).then(|| Box::new(flow));
        }
        state.queue.open(slot)
    }

    /// Ends a subscription at once: nothing of it is written after this returns, save a frame already under way.
    pub fn close_slot(&self, id: SlotId) {
        self.state.lock().queue.close(id);
    }

    /// Stops live pushes of a subscription until it is joined again: the position it has reached.
    pub fn pause(&self, id: SlotId) -> Option<StreamId> {
        self.state.lock().queue.pause(id)
    }

    /// Whether the subscription is open.
    #[must_use]
    pub fn has(&self, id: SlotId) -> bool {
        self.state.lock().queue.slot(id).is_some()
    }

    /// Puts a live batch into the queue without writing; true when the caller now has to flush this outbox.
    pub(super) fn offer(&self, id: SlotId, batch: &Arc<Batch>) -> bool {
        let mut state = self.state.lock();
        if state.ending != Ending::Open {
            return false;
        }
        match state.queue.offer(id, batch, self.shared.limits) {
            Offered::Queued => {}
            Offered::Ignored => return false,
            Offered::Conflated(skipped) => {
                self.shared.figures.conflated.inc_by(skipped.into());
                // A value that replaces one of the same moment is no sign of a slow socket.
                if state.queue.blocked {
                    self.is_slow(&mut state);
                }
            }
            Offered::Dropped(dropped) => {
                self.is_slow(&mut state);
                self.shared.figures.dropped.inc_by(dropped.into());
                self.shared.figures.gaps.of((TopicClass::Event, metrics::Gap::SlowConsumer)).inc();
            }
            Offered::Lags => {
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

    /// Counts a gap that the client is told.
    pub(super) fn count_gap(&self, class: Class, reason: metrics::Gap) {
        self.shared.figures.gaps.of((class.into(), reason)).inc();
    }

    fn is_slow(&self, state: &mut State) {
        state.slow.get_or_insert_with(|| Held::one(&self.shared.figures.slow_consumers));
    }

    /// Keeps the room that something takes which was sent, until it is written.
    pub fn keep(&self, hold: Hold) {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return;
        }
        match &mut state.hold {
            Some(own) => own.join(hold),
            None => state.hold = Some(Box::new(hold)),
        }
    }

    /// Adds what a catch-up brings.
    pub(super) fn catch_up(&self, id: SlotId, batch: Arc<Batch>) {
        let mut state = self.state.lock();
        if state.ending == Ending::Open {
            state.queue.catch_up(id, batch);
            self.write(&mut state).count(&self.shared.metrics);
        }
    }

    /// The subscription is caught up: the ticket of the joining that will make it live. `None` when it is gone. `end`
    /// tells the client that its past has been sent; it is written with what comes next.
    pub(super) fn joining(&self, id: SlotId, end: Option<Batch>) -> Option<u32> {
        let mut state = self.state.lock();
        let ticket = state.queue.joining(id)?;
        if let Some(end) = end.filter(|_| state.ending == Ending::Open) {
            state.queue.catch_up(id, Arc::new(end));
        }
        Some(ticket)
    }

    /// The last step of a catch-up: the rest, and from here on live. Returns whether to flush.
    pub(super) fn join(&self, id: SlotId, ticket: u32, rest: Option<Arc<Batch>>) -> bool {
        let mut state = self.state.lock();
        if state.ending == Ending::Shut || !state.queue.may_join(id, ticket) {
            return false;
        }
        if let Some(rest) = rest {
            state.queue.catch_up(id, rest);
        }
        state.queue.joined(id);
        !std::mem::replace(&mut state.dirty, true)
    }

    /// Writes what waits, as far as the socket takes it. The caller counts.
    #[must_use]
    pub(super) fn flush(&self) -> Written {
        let mut state = self.state.lock();
        state.dirty = false;
        self.write(&mut state)
    }

    /// Registers the connection's task for all that concerns it.
    pub fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// For a response body: takes whole messages of what waits, and no more when they have so many bytes.
    pub fn poll_body(&self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<Option<Bytes>> {
        if let Socket::Body(waker) = &self.socket {
            waker.register(cx.waker());
        }
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            // Where the end was only asked for, the last words are still to come.
            return if state.ending == Ending::Shut { Poll::Ready(None) } else { Poll::Pending };
        }
        let (mut body, mut writes) = (BytesMut::new(), 0);
        while !state.queue.is_empty() && body.len() < bytes_max {
            let mut slices = Slices::whole(bytes_max - body.len());
            state.queue.front(&mut slices, true);
            slices.get().iter().for_each(|slice| body.extend_from_slice(slice));
            let offered = slices.bytes();
            self.shared.wrote(state.queue.consume(offered));
            writes += 1;
        }
        let bytes = body.len() as u64;
        state.progress += bytes;
        state.written_at = clock::coarse_ms();
        Written { bytes, writes }.count(&self.shared.metrics);
        let blocked = !state.queue.is_empty();
        if !blocked {
            state.rest();
        }
        if std::mem::replace(&mut state.queue.blocked, blocked) {
            self.waker.wake();
        }
        Poll::Ready(Some(body.freeze()))
    }

    /// Asks for the end of the connection; the first who asks decides the code. From here on nothing of any subscription
    /// is taken, however long the connection's task is busy with something else.
    pub fn ask_close(&self, close: Close) {
        let mut state = self.state.lock();
        if state.ending == Ending::Open {
            state.ending = Ending::Asked(Box::new(close));
            self.waker.wake();
            if let Socket::Body(waker) = &self.socket {
                waker.wake();
            }
        }
    }

    /// Queues the last frame; all that waited and is not `keep`t is thrown away, and nothing more is taken.
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
        if let Socket::Body(waker) = &self.socket {
            waker.wake();
        }
    }

    /// Bytes that may wait.
    pub fn bytes_max(&self) -> usize {
        self.shared.limits.bytes_max
    }

    /// Makes the connection's task look again.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Gives back what an idle queue holds.
    pub fn release(&self) {
        self.state.lock().queue.release();
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
