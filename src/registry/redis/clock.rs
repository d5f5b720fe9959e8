//! Redis's clock as this replica knows it: one clock for all leases, read without asking.
//!
//! Never the wall clock of this machine, except before Redis first answered.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// Follows Redis's clock from its last reading.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// Redis's time at `start`, in milliseconds since 1970.
    start_ms: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self { start: Instant::now(), start_ms: AtomicU64::new(u64::try_from(wall_ms).unwrap_or(u64::MAX)) }
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.start_ms.load(Ordering::Relaxed) + self.elapsed_ms()
    }

    /// Takes over a reading that has just come from Redis.
    pub(super) fn set(&self, now_ms: u64) {
        self.start_ms.store(now_ms.saturating_sub(self.elapsed_ms()), Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
