//! A topic's places in the work queues. Changed only under the lock of the queue concerned.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::WorkQueueKind;

/// A topic's ticket in each queue. Read and written under the queue's lock.
#[derive(Debug, Default)]
pub(super) struct QueueTickets([AtomicU64; 2]);

impl QueueTickets {
    /// The topic is not queued.
    pub(super) const NONE: u64 = 0;
    /// The topic was unfollowed, and is never queued again.
    pub(super) const CLOSED: u64 = u64::MAX;

    pub(super) fn get(&self, kind: WorkQueueKind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, kind: WorkQueueKind, ticket: u64) {
        self.0[kind as usize].store(ticket, Ordering::Relaxed);
    }
}
