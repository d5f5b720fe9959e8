//! Bounds on what one client may do per time. Pure: time is an argument, in milliseconds of any clock that only grows.

use crate::config::Rate;

/// A token bucket, kept as the one number of the generic cell rate algorithm: when the bucket will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at_us: u64,
}

impl Bucket {
    /// Takes one token.
    ///
    /// # Errors
    /// How long until one is there, in milliseconds (rounded up).
    pub fn take(&mut self, now_ms: u64, rate: Rate) -> Result<(), u64> {
        self.take_all(1, now_ms, rate)
    }

    /// Takes so many tokens, or none.
    ///
    /// # Errors
    /// How long until they are there, in milliseconds (rounded up). More than the burst never are.
    pub fn take_all(&mut self, count: usize, now_ms: u64, rate: Rate) -> Result<(), u64> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let now_us = now_ms * 1_000;
        let cost_us = 1_000_000 / u64::from(rate.per_second);
        let room_us = cost_us * u64::from(rate.burst.max(1));
        let full_at_us = self.full_at_us.max(now_us) + cost_us * count as u64;
        let over_us = full_at_us.saturating_sub(now_us + room_us);
        if over_us > 0 {
            return Err(over_us.div_ceil(1_000));
        }
        self.full_at_us = full_at_us;
        Ok(())
    }
}

/// Counts offences within the last minute, in two half-open windows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offences {
    window_ms: u64,
    now: u32,
    before: u32,
}

impl Offences {
    const WINDOW_MS: u64 = 60_000;

    /// Counts one; true when there were more than `max` within a minute.
    pub fn count(&mut self, now_ms: u64, max: u32) -> bool {
        let window = now_ms / Self::WINDOW_MS + 1;
        if window != self.window_ms {
            self.before = if window == self.window_ms + 1 { self.now } else { 0 };
            self.now = 0;
            self.window_ms = window;
        }
        self.now += 1;
        let left_ms = Self::WINDOW_MS - now_ms % Self::WINDOW_MS;
        let weighted = u64::from(self.before) * left_ms / Self::WINDOW_MS;
        u64::from(self.now) + weighted >= u64::from(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(1_000, RATE), Ok(()));
        }
        assert_eq!(bucket.take(1_000, RATE), Err(100));
        assert_eq!(bucket.take(1_099, RATE), Err(1));
        assert_eq!(bucket.take(1_100, RATE), Ok(()));
        assert_eq!(bucket.take(60_000, RATE), Ok(()));
        assert_eq!(bucket.take(60_000, RATE), Ok(()));
        assert_eq!(bucket.take(60_000, RATE), Ok(()));
        assert!(bucket.take(60_000, RATE).is_err());
    }

    #[test]
    fn many_are_taken_together_or_not_at_all() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take_all(2, 1_000, RATE), Ok(()));
        assert_eq!(bucket.take_all(2, 1_000, RATE), Err(100));
        assert_eq!(bucket.take_all(1, 1_000, RATE), Ok(()));
        assert_eq!(bucket.take_all(0, 1_000, RATE), Ok(()));
        assert_eq!(bucket.take_all(3, 1_300, RATE), Ok(()));
    }

    #[test]
    fn no_rate_means_no_limit() {
        let mut bucket = Bucket::default();
        for _ in 0..1_000 {
            assert_eq!(bucket.take(0, Rate { per_second: 0, burst: 0 }), Ok(()));
        }
    }

    #[test]
    fn the_tenth_offence_within_a_minute_is_one_too_many() {
        let mut offences = Offences::default();
        for _ in 0..9 {
            assert!(!offences.count(5_000, 10));
        }
        assert!(offences.count(6_000, 10));
        let mut slow = Offences::default();
        for minute in 0..100 {
            assert!(!slow.count(minute * 30_000, 10));
        }
    }
}
