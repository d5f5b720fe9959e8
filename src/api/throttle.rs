//! Rate limits per user for expensive requests. Pure: time is an argument. Never keeps a user whose bucket is full.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tickgate_wire::model::UserId;

use crate::{bucket::Bucket, config::Rate};

/// Time between two sweeps: the table holds at most the users of this time and of the refill time before it.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

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
}
