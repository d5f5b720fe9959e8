//! Limits the rate at which one address may name topics that the replica does not follow yet: following one costs a
//! task and Redis commands, even if it is unfollowed at once. Topics that turn out to have publications are not
//! counted, because their number is limited by publishers.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::turns::Reader;
use crate::{bucket::Bucket, config::Rate};

/// Seconds in which an address may name as many topics as may be followed for it.
const SECONDS: u32 = 10;
/// Minimum number of remembered addresses before idle ones are removed.
const SWEEP_MIN: usize = 1_024;

#[derive(Debug)]
pub(super) struct NewNames {
    rate: Rate,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: HashMap<Reader, Bucket>,
    sweep_at: usize,
}

impl NewNames {
    /// `per_address_max`: maximum number of unpublished topics followed for one address; also the burst.
    pub(super) fn new(per_address_max: usize) -> Self {
        let burst = u32::try_from(per_address_max).unwrap_or(u32::MAX);
        let rate = Rate { per_second: (burst / SECONDS).max(1), burst };
        Self { rate, began: Instant::now(), state: Mutex::default() }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts one new topic of the address. False if it has named too many.
    pub(super) fn take(&self, reader: Reader) -> bool {
        let (mut state, now) = (self.state.lock(), self.now());
        if state.buckets.len() >= state.sweep_at.max(SWEEP_MIN) {
            state.buckets.retain(|_, bucket| !bucket.is_full(now));
            state.sweep_at = state.buckets.len() * 2;
        }
        state.buckets.entry(reader).or_default().take(1, now, self.rate).is_ok()
    }

    /// Stops counting one topic, because it has publications.
    pub(super) fn give_back(&self, reader: Reader) {
        if let Some(bucket) = self.state.lock().buckets.get_mut(&reader) {
            bucket.give_back(1, self.rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_may_name_a_burst_of_topics_and_then_a_number_per_second() {
        let names = NewNames::new(20);
        let take = |reader| (0..100).take_while(|_| names.take(Reader(reader))).count();
        assert_eq!((take(1), take(2), take(1)), (20, 20, 0));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(take(1), 6);
        names.give_back(Reader(1));
        names.give_back(Reader(9));
        assert_eq!((take(1), take(9)), (1, 20), "published topics are not counted");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_addresses_are_removed() {
        let names = NewNames::new(20);
        for reader in 0..10_000 {
            names.take(Reader(reader));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!(names.state.lock().buckets.len() <= SWEEP_MIN);
    }
}
