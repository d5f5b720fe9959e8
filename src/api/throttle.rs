//! How often a user may ask for something costly: a count per user within one second. Pure: `now` is an argument;
//! never more entries than requests within that second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tickgate_wire::model::UserId;

const WINDOW: Duration = Duration::from_secs(1);

/// Counts of the second that began at `began`.
#[derive(Debug)]
pub(super) struct Throttle {
    per_user_max: u32,
    began: Instant,
    counts: HashMap<UserId, u32>,
}

impl Throttle {
    pub(super) fn new(per_user_max: u32, now: Instant) -> Self {
        Self { per_user_max, began: now, counts: HashMap::new() }
    }

    /// Counts one request of the user.
    ///
    /// # Errors
    /// The time until the user's next request is let through.
    pub(super) fn take(&mut self, user: &UserId, now: Instant) -> Result<(), Duration> {
        if now.duration_since(self.began) >= WINDOW {
            self.began = now;
            self.counts.clear();
        }
        let count = self.counts.entry(user.clone()).or_insert(0);
        if *count >= self.per_user_max {
            return Err(WINDOW - now.duration_since(self.began));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_share_of_each_second() {
        let began = Instant::now();
        let mut throttle = Throttle::new(2, began);
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(throttle.take(&alice, at(0)), Ok(()));
        assert_eq!(throttle.take(&alice, at(100)), Ok(()));
        assert_eq!(throttle.take(&alice, at(400)), Err(Duration::from_millis(600)));
        assert_eq!(throttle.take(&bob, at(400)), Ok(()));
        assert_eq!(throttle.take(&alice, at(1000)), Ok(()));
        assert_eq!(throttle.counts.len(), 1, "the counts of a second do not outlive it");
    }
}
