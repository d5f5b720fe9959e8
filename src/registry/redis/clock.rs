//! Redis's clock as this replica knows it: one clock for all leases, read without asking.
//!
//! Never the wall clock of this machine, except before Redis first answered.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// Follows Redis's clock from its last reading, and gives connections their stamps.
///
/// What is read here never runs ahead of Redis: an answer was on its way for a while. So a stamp that Redis's clock
/// gives later (`recall`, the admission) is above every one that was given before.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// Redis's time at `start`, in microseconds since 1970.
    start_us: AtomicU64,
    /// The greatest stamp that was given or seen.
    stamp: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let start_us = AtomicU64::new(u64::try_from(wall).unwrap_or(u64::MAX));
        Self { start: Instant::now(), start_us, stamp: AtomicU64::new(0) }
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    /// Takes over a reading that has just come from Redis, in microseconds since 1970.
    pub(super) fn set(&self, now_us: u64) {
        self.start_us.store(now_us.saturating_sub(self.elapsed_us()), Ordering::Relaxed);
    }

    /// The stamp of a new connection: now, in microseconds, and above every stamp that was given or seen here. So the
    /// newest connection of a session has the greatest one, wherever the older ones were.
    pub(super) fn stamp(&self) -> u64 {
        let now_us = self.now_us();
        let next = |stamp: u64| now_us.max(stamp + 1);
        self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |stamp| Some(next(stamp))).map_or(now_us, next)
    }

    /// A stamp was seen, or Redis's clock itself: all stamps that are given from now on are above it.
    pub(super) fn saw(&self, stamp: u64) -> u64 {
        self.stamp.fetch_max(stamp, Ordering::Relaxed);
        stamp
    }

    fn now_us(&self) -> u64 {
        self.start_us.load(Ordering::Relaxed) + self.elapsed_us()
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
