//! The clocks of a replica: wall-clock time, and monotonic clocks, one of which is coarse. Never used by the pure core,
//! which takes the time as an argument.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tickgate_wire::dialect::MessageStamp;
use uuid::Uuid;

/// Wall-clock time, in milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// Wall-clock time, in microseconds since 1970.
#[must_use]
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Wall-clock time, in whole seconds since 1970.
#[must_use]
pub fn unix_s() -> u64 {
    s_of(SystemTime::now())
}

/// A time in whole seconds since 1970; 0 for earlier times.
#[must_use]
pub fn s_of(time: SystemTime) -> u64 {
    ms_of(time) / 1_000
}

fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Wall-clock time and a unique id, for a new message.
#[must_use]
pub fn stamp() -> MessageStamp {
    MessageStamp { now_ms: unix_ms(), msg_id: Uuid::new_v4() }
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
static COARSE_MS: AtomicU32 = AtomicU32::new(0);

/// A coarse monotonic clock without read cost, in milliseconds: as of the last [`advance_coarse`]. Wraps after 49 days,
/// so only differences are meaningful.
#[must_use]
pub fn coarse_ms() -> u32 {
    COARSE_MS.load(Ordering::Relaxed)
}

/// Sets [`coarse_ms`] to the current time.
#[expect(clippy::cast_possible_truncation, reason = "it wraps")]
pub fn advance_coarse() {
    COARSE_MS.store(STARTED.elapsed().as_millis() as u32, Ordering::Relaxed);
}

/// A monotonic clock with small numbers, which can be stored in an atomic, unlike an `Instant`.
#[derive(Clone, Copy, Debug)]
pub struct Uptime(Instant);

impl Default for Uptime {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Uptime {
    /// Milliseconds since this clock was created.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_before_1970_are_zero() {
        assert_eq!(ms_of(UNIX_EPOCH + Duration::from_millis(1_999)), 1_999);
        assert_eq!(s_of(UNIX_EPOCH + Duration::from_millis(1_999)), 1);
        assert_eq!(ms_of(UNIX_EPOCH - Duration::from_millis(1)), 0);
    }
}
