//! When a topic is looked at again that is not published to: its place in Redis is made to last, and what is no stream may
//! have been repaired.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often the place of a topic without a message is made to last, while it is followed: well within the shortest time
/// for which it is kept.
const ANCHOR_RENEWED: Duration = Duration::from_mins(3);
/// Before something that is no stream is looked at again: the first time, and at most.
const MISS_PAUSE: Duration = Duration::from_millis(200);
const MISS_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is known of a topic's looks at Redis.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Until when the place need not be asked for again, of a topic without a message.
    anchor_lasts: Mutex<Option<Instant>>,
    /// How often in a row there was something else under its name than a stream.
    misses: AtomicU32,
}

impl Looks {
    /// The place in Redis was given, or made to last.
    pub(super) fn anchored(&self) {
        *self.anchor_lasts.lock() = Some(Instant::now() + ANCHOR_RENEWED);
    }

    /// Whether the place has to be made to last again.
    pub(super) fn must_renew_anchor(&self) -> bool {
        self.anchor_lasts.lock().is_none_or(|until| Instant::now() >= until)
    }

    /// The stream could be read, or there is none.
    pub(super) fn hit(&self) {
        self.misses.store(0, Ordering::Relaxed);
    }

    /// There is something else than a stream. How long to wait before it is looked at again: longer each time, since
    /// somebody has to repair it. Whoever subscribes meanwhile has it looked at at once.
    pub(super) fn missed(&self) -> Duration {
        let misses = self.misses.fetch_add(1, Ordering::Relaxed);
        (MISS_PAUSE * 2_u32.saturating_pow(misses.min(16))).min(MISS_PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_stream_is_looked_at_ever_more_rarely() {
        let looks = Looks::default();
        let pauses: Vec<_> = (0..10).map(|_| looks.missed().as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        looks.hit();
        assert_eq!(looks.missed(), MISS_PAUSE);
    }
}
