//! Schedules repeated checks of a topic without publications: its position in Redis is renewed, and a key of the wrong
//! type may have been repaired.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often the position of a followed topic without messages is renewed: well within its minimum lifetime.
const ANCHOR_RENEWED: Duration = Duration::from_mins(3);
/// Delay before a key of the wrong type is checked again: initial and maximum.
const MISS_PAUSE: Duration = Duration::from_millis(200);
const MISS_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The state of a topic's checks.
#[derive(Debug, Default)]
pub(super) struct TopicChecks {
    /// Until when the position of a topic without messages need not be renewed.
    anchor_lasts: Mutex<Option<Instant>>,
    /// Consecutive checks that found a key of the wrong type.
    misses: AtomicU32,
}

impl TopicChecks {
    /// The position in Redis was created or renewed.
    pub(super) fn anchored(&self) {
        *self.anchor_lasts.lock() = Some(Instant::now() + ANCHOR_RENEWED);
    }

    /// Whether the position must be renewed.
    pub(super) fn must_renew_anchor(&self) -> bool {
        self.anchor_lasts.lock().is_none_or(|until| Instant::now() >= until)
    }

    /// The stream was readable or does not exist.
    pub(super) fn hit(&self) {
        self.misses.store(0, Ordering::Relaxed);
    }

    /// The key has the wrong type. Returns the delay before the next check, which grows because an operator has to
    /// repair it, but stays short: subscriptions wait for it, and publications are accepted as soon as it is repaired.
    pub(super) fn missed(&self) -> Duration {
        let misses = self.misses.fetch_add(1, Ordering::Relaxed);
        (MISS_PAUSE * 2_u32.saturating_pow(misses.min(16))).min(MISS_PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_wrong_type_is_checked_ever_more_rarely() {
        let checks = TopicChecks::default();
        let pauses: Vec<_> = (0..6).map(|_| checks.missed().as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 2_000, 2_000]);
        checks.hit();
        assert_eq!(checks.missed(), MISS_PAUSE);
    }
}
