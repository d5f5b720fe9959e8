//! A copy of the gateway's token bucket for channel names. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// Number of channel names that may be sent, refilled over time.
#[derive(Debug)]
pub(crate) struct NameBudget {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl NameBudget {
    pub(crate) fn new(now: Instant, per_second: u32, burst: u32) -> Self {
        let (per_second, burst) = (f64::from(per_second.max(1)), f64::from(burst.max(1)));
        Self { per_second, burst, left: burst, at: now }
    }

    /// How many names may be sent now.
    pub(crate) fn available(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.burst);
        self.at = now;
        self.left as usize
    }

    pub(crate) fn take(&mut self, count: usize) {
        self.left -= count as f64;
    }

    /// When at least one name may be sent.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        if self.available(now) > 0 {
            return now;
        }
        // One millisecond more, so that rounding does not cause an early wake-up.
        now + Duration::from_secs_f64((1.0 - self.left) / self.per_second) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_a_rate() {
        let now = Instant::now();
        let mut pace = NameBudget::new(now, 4, 2);
        assert_eq!(pace.available(now), 2);
        pace.take(2);
        assert_eq!(pace.available(now), 0);
        let next = pace.next(now);
        assert!(next >= now + Duration::from_millis(250) && next < now + Duration::from_millis(253));
        assert_eq!(pace.available(next), 1);
        assert_eq!(pace.available(now + Duration::from_secs(60)), 2);
    }
}
