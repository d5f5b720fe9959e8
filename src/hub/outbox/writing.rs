//! Writes an outbox's queue to its socket. Never decides what is queued.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll},
};

use bytes::BytesMut;
use tickgate_wire::websocket;

use super::{
    super::{flow::Flow, queue::WriteSlices},
    Outbox, OutboxState, WriteStats,
    ending::Ending,
};
use crate::clock;

impl OutboxState {
    /// Whether the queue waits until the client has confirmed more.
    pub(super) fn is_held(&self) -> bool {
        self.public_max() == 0 && !self.queue.is_pressing()
    }

    /// Maximum size of a write of public messages.
    fn public_max(&self) -> usize {
        match &self.flow {
            // Final messages: later confirmations are not read.
            Some(flow) if self.ending != Ending::Shut => flow.bytes_max(self.progress),
            _ => usize::MAX,
        }
    }
}

impl Outbox {
    /// The only place that writes: in as few system calls as the socket allows.
    pub(super) fn write(&self, state: &mut OutboxState) -> WriteStats {
        let mut written = WriteStats::default();
        while !state.queue.is_empty() {
            let public_max = state.public_max();
            if public_max == 0 && !state.queue.is_pressing() {
                self.behind(state);
                return written;
            }
            let (offered, taken) = self.write_once(state, public_max);
            match taken {
                Ok(0) if offered > 0 => {
                    self.broken(state);
                    return written;
                }
                Ok(count) => {
                    self.shared.wrote(state.queue.consume(count));
                    state.progress += count as u64;
                    state.written_at = clock::coarse_ms();
                    written.add(WriteStats { bytes: count as u64, writes: 1 });
                    send_probe(state);
                    if count < offered {
                        self.behind(state);
                        return written;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.behind(state);
                    return written;
                }
                Err(_) => {
                    self.broken(state);
                    return written;
                }
            }
        }
        match self.socket.try_flush() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.behind(state);
                return written;
            }
            Err(_) => {
                self.broken(state);
                return written;
            }
        }
        state.rest();
        if std::mem::take(&mut state.queue.blocked) {
            if let Some(flow) = &mut state.flow {
                flow.recovered();
            }
            if state.queue.lagging().is_some() {
                self.waker.wake();
            }
        }
        written
    }

    /// Writes the next part in one system call. Returns its intended and its actual size in bytes.
    fn write_once(&self, state: &mut OutboxState, public_max: usize) -> (usize, io::Result<usize>) {
        let OutboxState { queue, flow, .. } = state;
        let (behind, public) = (queue.blocked, public_max > 0);
        let bytes_max = match flow {
            Some(flow) if !public => flow.chunk(),
            _ => public_max,
        };
        // By far the most frequent case: a single new publication.
        if let Some(bytes) = queue.only().filter(|_| public) {
            let bytes = &bytes[..bytes.len().min(bytes_max)];
            return (bytes.len(), self.put(flow, behind, &[IoSlice::new(bytes)], bytes.len()));
        }
        let mut slices = WriteSlices::new(bytes_max);
        queue.front(&mut slices, public);
        let offered = slices.bytes();
        (offered, self.put(flow, behind, slices.get(), offered))
    }

    fn put(
        &self,
        flow: &mut Option<Box<Flow>>,
        behind: bool,
        slices: &[IoSlice<'_>],
        bytes: usize,
    ) -> io::Result<usize> {
        if bytes == 0 {
            return Ok(0);
        }
        let Some(flow) = flow else { return self.socket.try_write(slices) };
        let taken = if behind || flow.needs_check(bytes) {
            let taken = self.socket.try_write_if_drained(slices)?;
            if flow.drained(behind) {
                self.socket.limit_unsent(flow.unsent_max());
            }
            taken
        } else {
            self.socket.try_write(slices)?
        };
        flow.wrote(taken);
        Ok(taken)
    }

    fn behind(&self, state: &mut OutboxState) {
        if std::mem::replace(&mut state.queue.blocked, true) {
            return;
        }
        self.waker.wake();
        if let Some(flow) = &mut state.flow {
            if flow.fell_behind() {
                self.socket.limit_unsent(flow.unsent_max());
            }
            // Before the queue: how much of what was written the client has read.
            send_probe(state);
        }
    }

    fn broken(&self, state: &mut OutboxState) {
        state.ending = Ending::Shut;
        state.queue.abandon();
        state.rest();
        self.waker.wake();
    }

    /// For the connection's task: keeps writing while the socket is behind. Ready when the queue is empty.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            {
                let mut state = self.state.lock();
                let pending = self.socket.has_pending();
                if state.queue.is_empty() && !pending {
                    return Poll::Ready(());
                }
                if !state.queue.blocked {
                    self.write(&mut state).count(&self.shared.metrics);
                    continue;
                }
                if !pending && state.is_held() {
                    return Poll::Pending;
                }
            }
            match self.socket.poll_writable(cx) {
                Poll::Pending => return Poll::Pending,
                // A failed write clears the readiness, so that polling registers again.
                Poll::Ready(Ok(())) => self.write(&mut self.state.lock()).count(&self.shared.metrics),
                Poll::Ready(Err(_)) => self.broken(&mut self.state.lock()),
            }
        }
    }

    /// The client answered the probe for this position.
    pub fn confirm(&self, position: u64) {
        let mut state = self.state.lock();
        let behind = state.queue.blocked;
        if let Some(flow) = &mut state.flow {
            flow.confirm(position, behind);
            send_probe(&mut state);
            self.write(&mut state).count(&self.shared.metrics);
        }
    }
}

/// Sends a ping that measures how much the client has read.
fn send_probe(state: &mut OutboxState) {
    if let Some(flow) = &mut state.flow
        && state.ending != Ending::Shut
        && let Some(position) = flow.probe(state.progress)
    {
        let mut ping = BytesMut::with_capacity(16);
        websocket::ping(&mut ping, &position);
        state.queue.frame(ping.freeze());
    }
}
