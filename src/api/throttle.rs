//! Rate limits per user for expensive requests. Pure: time is an argument. Never keeps a user whose bucket is full.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tickgate_wire::model::UserId;

use crate::{bucket::Bucket, config::Rate};

/// Time between two sweeps: the table holds at most the users of this time and of the refill time before it.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Users in the table; while it is full, others wait for the next sweep.
const THROTTLED_MAX: usize = 65_536;

/// One bucket per recent user.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Rate,
    began: Instant,
    swept: Duration,
    buckets: HashMap<UserId, Bucket>,
}

impl Throttle {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, began: now, swept: Duration::ZERO, buckets: HashMap::new() }
    }

    /// Counts one request of the user.
    ///
    /// # Errors
    /// The time until the user's next request is accepted.
    pub(super) fn take(&mut self, user: &UserId, now: Instant) -> Result<(), Duration> {
        let now = now.duration_since(self.began);
        if now >= self.swept + SWEEP_INTERVAL {
            self.swept = now;
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.buckets.len() >= THROTTLED_MAX && !self.buckets.contains_key(user) {
            return Err(self.swept + SWEEP_INTERVAL - now);
        }
        self.buckets.entry(user.clone()).or_default().take(1, now, self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_separate_bucket_that_is_removed_when_full() {
        let began = Instant::now();
        let mut throttle = Throttle::new(Rate { per_second: 2, burst: 2 }, began);
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(throttle.take(&alice, at(0)), Ok(()));
        assert_eq!(throttle.take(&alice, at(100)), Ok(()));
        assert_eq!(throttle.take(&alice, at(400)), Err(Duration::from_millis(100)));
        assert_eq!(throttle.take(&bob, at(400)), Ok(()));
        assert_eq!(throttle.take(&alice, at(1000)), Ok(()));
        assert_eq!(throttle.buckets.len(), 1, "bob's bucket is full again");
    }

    #[test]
    fn a_full_table_makes_others_wait_for_the_next_sweep() {
        let began = Instant::now();
        let mut throttle = Throttle::new(Rate { per_second: 2, burst: 2 }, began);
        let user = |number| UserId::new(&format!("user-{number}")).unwrap();
        assert!((0..THROTTLED_MAX).all(|number| throttle.take(&user(number), began).is_ok()));
        assert_eq!(throttle.take(&user(THROTTLED_MAX), began), Err(SWEEP_INTERVAL));
        assert_eq!(throttle.take(&user(0), began), Ok(()), "those in it have theirs");
        assert_eq!(throttle.take(&user(THROTTLED_MAX), began + SWEEP_INTERVAL), Ok(()));
    }
}
