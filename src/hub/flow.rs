//! What may be written to a client of which values are sent, so that they are not old when it reads them. Two bounds: what
//! the kernel holds unsent, and, once the client has been behind, what it has not confirmed. Never writes.

use std::time::Instant;

use super::{unconfirmed::ConfirmWindow, unsent::UnsentLimit};

/// The bounds of one connection.
#[derive(Debug)]
pub(super) struct Flow {
    unsent: UnsentLimit,
    window: ConfirmWindow,
}

impl Flow {
    /// For a connection to which so many bytes were written.
    pub(super) fn new(written: u64) -> Self {
        Self { unsent: UnsentLimit::default(), window: ConfirmWindow::new(written) }
    }

    /// How far the client is known to have read.
    pub(super) fn confirmed(&self) -> u64 {
        self.window.confirmed()
    }

    /// The limit that the kernel has to know.
    pub(super) fn unsent_max(&self) -> u32 {
        self.unsent.bytes()
    }

    /// The most that may be written in one go; 0 where the client has to confirm something first.
    pub(super) fn bytes_max(&self, written: u64) -> usize {
        self.window.room(written).min(self.unsent.chunk())
    }

    /// The most of what goes out whatever is unconfirmed.
    pub(super) fn chunk(&self) -> usize {
        self.unsent.chunk()
    }

    /// Whether the kernel has to be asked before so many bytes are written.
    pub(super) fn needs_check(&self, bytes: usize) -> bool {
        self.unsent.needs_check(bytes)
    }

    /// The kernel holds less unsent than half of the limit. `behind`: something has waited for that. True when the limit
    /// has changed.
    pub(super) fn drained(&mut self, behind: bool) -> bool {
        self.unsent.is_writable();
        behind && self.unsent.drained(Instant::now())
    }

    /// So many bytes were written, `written` with all before.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.unsent.wrote(bytes);
    }

    /// Payload of a ping that is to be sent now.
    pub(super) fn probe(&mut self, written: u64) -> Option<[u8; 8]> {
        self.window.probe(written)
    }

    /// A pong came.
    pub(super) fn confirm(&mut self, position: u64, behind: bool) {
        self.window.confirm(position, behind, Instant::now());
    }

    /// The client falls behind. True when the kernel's limit has changed.
    pub(super) fn fell_behind(&mut self) -> bool {
        self.window.fell_behind();
        self.unsent.fell_behind(Instant::now())
    }

    /// Nothing waits any more.
    pub(super) fn recovered(&mut self) {
        self.unsent.recovered(Instant::now());
        self.window.recovered();
    }
}
