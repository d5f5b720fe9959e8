//! Limits writes to clients that receive values, so that values are fresh when read: the unsent bytes in the kernel,
//! and, once a client has lagged, the unconfirmed bytes. Never writes.

use std::time::Instant;

use super::{unconfirmed::ConfirmWindow, unsent::UnsentLimit};

/// The limits of one connection.
#[derive(Debug)]
pub(super) struct Flow {
    unsent: UnsentLimit,
    window: ConfirmWindow,
}

impl Flow {
    /// For a connection to which this many bytes were written.
    pub(super) fn new(written: u64) -> Self {
        Self { unsent: UnsentLimit::default(), window: ConfirmWindow::new(written) }
    }

    /// The position up to which the client has certainly read.
    pub(super) fn confirmed(&self) -> u64 {
        self.window.confirmed()
    }

    /// The limit to set in the kernel.
    pub(super) fn unsent_max(&self) -> u32 {
        self.unsent.bytes()
    }

    /// Maximum size of one write; 0 if the client must confirm first.
    pub(super) fn bytes_max(&self, written: u64) -> usize {
        self.window.room(written).min(self.unsent.chunk())
    }

    /// Maximum size of a write that ignores confirmation.
    pub(super) fn chunk(&self) -> usize {
        self.unsent.chunk()
    }

    /// Whether the kernel must be checked before writing this many bytes.
    pub(super) fn needs_check(&self, bytes: usize) -> bool {
        self.unsent.needs_check(bytes)
    }

    /// The kernel holds less than half of the limit unsent. `behind`: output waited for that. True if the limit
    /// changed.
    pub(super) fn drained(&mut self, behind: bool) -> bool {
        self.unsent.is_writable();
        behind && self.unsent.drained(Instant::now())
    }

    /// Records a write of this many bytes; `written` is the total.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.unsent.wrote(bytes);
    }

    /// Payload of a ping to send now.
    pub(super) fn probe(&mut self, written: u64) -> Option<[u8; 8]> {
        self.window.probe(written)
    }

    /// A pong arrived.
    pub(super) fn confirm(&mut self, position: u64, behind: bool) {
        self.window.confirm(position, behind, Instant::now());
    }

    /// The client fell behind. True if the kernel's limit changed.
    pub(super) fn fell_behind(&mut self) -> bool {
        self.window.fell_behind();
        self.unsent.fell_behind(Instant::now())
    }

    /// The queue is empty again.
    pub(super) fn recovered(&mut self) {
        self.unsent.recovered(Instant::now());
        self.window.recovered();
    }
}
