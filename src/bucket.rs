//! The token bucket behind every rate limit: per connection, per user, per address. Pure: time is an argument.

use std::time::Duration;

use crate::config::Rate;

const SECOND_NS: u64 = 1_000_000_000;

/// A bucket as a single number (the generic cell rate algorithm): the time at which it will be full again, in
/// nanoseconds on the clock of `now`. A new bucket is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Takes `count` tokens, or none. A rate of zero per second means no limit; a burst of zero counts as one.
    ///
    /// # Errors
    /// The time until that many tokens are available. More than the burst never are.
    pub fn take(&mut self, count: usize, now: Duration, rate: Rate) -> Result<(), Duration> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let now_ns = ns(now);
        let cost_ns = SECOND_NS / u64::from(rate.per_second);
        let room_ns = cost_ns * u64::from(rate.burst.max(1));
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(cost_ns.saturating_mul(count as u64));
        match full_at_ns.saturating_sub(now_ns.saturating_add(room_ns)) {
            0 => {
                self.full_at_ns = full_at_ns;
                Ok(())
            }
            wait_ns => Err(Duration::from_nanos(wait_ns)),
        }
    }

    /// Takes `count` tokens, even if they are not available yet. Returns the time until they are.
    pub fn spend(&mut self, count: usize, now: Duration, rate: Rate) -> Duration {
        let Some(cost_ns) = SECOND_NS.checked_div(rate.per_second.into()) else { return Duration::ZERO };
        let (now_ns, room_ns) = (ns(now), cost_ns * u64::from(rate.burst.max(1)));
        self.full_at_ns = self.full_at_ns.max(now_ns).saturating_add(cost_ns.saturating_mul(count as u64));
        Duration::from_nanos(self.full_at_ns.saturating_sub(now_ns.saturating_add(room_ns)))
    }

    /// Returns `count` tokens. The bucket never holds more than the burst.
    pub fn give_back(&mut self, count: usize, rate: Rate) {
        let cost_ns = SECOND_NS.checked_div(rate.per_second.into()).unwrap_or_default();
        self.full_at_ns = self.full_at_ns.saturating_sub(cost_ns.saturating_mul(count as u64));
    }

    /// Whether the bucket is full, so that removing it loses nothing.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at_ns <= ns(now)
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_spent_in_advance_is_waited_for() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.spend(3, ms(1_000), RATE), Duration::ZERO);
        assert_eq!(bucket.spend(4, ms(1_000), RATE), ms(400));
        assert!(bucket.take(1, ms(1_400), RATE).is_err());
        assert_eq!(bucket.spend(1, ms(1_500), RATE), Duration::ZERO);
        assert_eq!(bucket.spend(1_000, ms(1_500), Rate { per_second: 0, burst: 0 }), Duration::ZERO, "no limit");
    }

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(1, ms(1_000), RATE), Ok(()));
        }
        assert_eq!(bucket.take(1, ms(1_000), RATE), Err(ms(100)));
        assert_eq!(bucket.take(1, ms(1_099), RATE), Err(ms(1)), "a refusal takes no token");
        assert_eq!(bucket.take(1, ms(1_100), RATE), Ok(()));
        for _ in 0..3 {
            assert_eq!(bucket.take(1, ms(60_000), RATE), Ok(()));
        }
        assert!(bucket.take(1, ms(60_000), RATE).is_err(), "it never holds more than its burst");
    }

    #[test]
    fn several_tokens_are_taken_together_or_not_at_all() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(2, ms(1_000), RATE), Ok(()));
        assert_eq!(bucket.take(2, ms(1_000), RATE), Err(ms(100)));
        assert_eq!(bucket.take(1, ms(1_000), RATE), Ok(()));
        assert_eq!(bucket.take(0, ms(1_000), RATE), Ok(()));
        assert_eq!(bucket.take(3, ms(1_300), RATE), Ok(()));
    }

    #[test]
    fn a_steady_stream_gets_exactly_the_rate() {
        let mut bucket = Bucket::default();
        let rate = Rate { per_second: 20, burst: 20 };
        let taken = (0..10_000).filter(|at| bucket.take(1, ms(*at), rate).is_ok()).count();
        assert_eq!(taken, 20 + 199, "the burst, and one every 50 ms");
    }

    #[test]
    fn a_rate_of_zero_is_no_limit_and_a_burst_of_zero_is_one() {
        let mut bucket = Bucket::default();
        for _ in 0..1_000 {
            assert_eq!(bucket.take(1, ms(0), Rate { per_second: 0, burst: 0 }), Ok(()));
        }
        let slow = Rate { per_second: 1, burst: 0 };
        assert_eq!(bucket.take(1, ms(0), slow), Ok(()));
        assert_eq!(bucket.take(1, ms(400), slow), Err(ms(600)));
    }

    #[test]
    fn a_bucket_is_full_again_after_its_tokens_were_returned() {
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(ms(0)));
        assert_eq!(bucket.take(2, ms(0), RATE), Ok(()));
        assert!(!bucket.is_full(ms(199)) && bucket.is_full(ms(200)));
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let mut bucket = Bucket::default();
        let rate = Rate { per_second: 1, burst: u32::MAX };
        assert!(bucket.take(usize::MAX, Duration::MAX, rate).is_ok(), "the end of time is reached");
        assert!(Bucket::default().take(usize::MAX, ms(0), rate).is_err());
    }
}
