//! Limits the rate at which one address may name topics that the replica does not follow yet, in topics and in bytes written
//! to Redis: following one costs a task and Redis commands, even if it is unfollowed at once. Topics that turn out to have
//! publications are not counted, because their number is limited by publishers.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tickgate_wire::model::Topic;
use tokio::time::Instant;

use super::turns::ReaderAddress;
use crate::{bucket::Bucket, config::Rate};

/// Seconds in which an address may name as many topics as may be followed for it.
const SECONDS: u32 = 10;
/// Maximum number of bytes written to Redis at once for the new topics of one address.
const WRITTEN_PER_ADDRESS_BYTES_MAX: u32 = 16 << 20;
/// Maximum number of remembered addresses: more than can be connected.
const NAMING_ADDRESSES_MAX: usize = 131_072;
/// Minimum number of remembered addresses before idle ones are removed.
const SWEEP_MIN: usize = 1_024;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Number of commands that contain the name of a topic until it is unfollowed, and their other bytes.
const COMMANDS: usize = 5;
const COMMAND_BYTES: usize = 40;

#[derive(Debug)]
pub(super) struct NewTopicLimits {
    names: Rate,
    bytes: Rate,
    began: Instant,
    state: Mutex<NewTopicState>,
}

#[derive(Debug, Default)]
struct NewTopicState {
    addresses: HashMap<ReaderAddress, AddressBuckets>,
    sweep_at: usize,
    swept: Duration,
}

/// What one address may still name.
#[derive(Debug, Default)]
struct AddressBuckets {
    names: Bucket,
    bytes: Bucket,
}

impl NewTopicLimits {
    /// `per_address_max`: maximum number of unpublished topics followed for one address; also the burst.
    pub(super) fn new(per_address_max: usize) -> Self {
        let per = |burst: u32| Rate { per_second: (burst / SECONDS).max(1), burst };
        let names = per(u32::try_from(per_address_max).unwrap_or(u32::MAX));
        Self { names, bytes: per(WRITTEN_PER_ADDRESS_BYTES_MAX), began: Instant::now(), state: Mutex::default() }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts one new topic of the address. False if it has named too many, or if too many addresses are remembered.
    pub(super) fn take(&self, reader: ReaderAddress, topic: &Topic) -> bool {
        let (mut state, now) = (self.state.lock(), self.now());
        if state.is_sweep_due(now) {
            state.sweep(now);
        }
        if state.addresses.len() >= NAMING_ADDRESSES_MAX && !state.addresses.contains_key(&reader) {
            return false;
        }
        let buckets = state.addresses.entry(reader).or_default();
        if buckets.names.take(1, now, self.names).is_err() {
            return false;
        }
        let has_bytes = buckets.bytes.take(written_bytes(topic), now, self.bytes).is_ok();
        if !has_bytes {
            buckets.names.give_back(1, self.names);
        }
        has_bytes
    }

    /// Stops counting one topic, because it has publications.
    pub(super) fn give_back(&self, reader: ReaderAddress, topic: &Topic) {
        if let Some(buckets) = self.state.lock().addresses.get_mut(&reader) {
            buckets.names.give_back(1, self.names);
            buckets.bytes.give_back(written_bytes(topic), self.bytes);
        }
    }
}

impl NewTopicState {
    fn is_sweep_due(&self, now: Duration) -> bool {
        let len = self.addresses.len();
        // Not for every new topic if none can be removed.
        let is_stuck = len >= NAMING_ADDRESSES_MAX && now >= self.swept + SWEEP_INTERVAL;
        len >= self.sweep_at.max(SWEEP_MIN) || is_stuck
    }

    fn sweep(&mut self, now: Duration) {
        self.addresses.retain(|_, buckets| !buckets.are_full(now));
        (self.sweep_at, self.swept) = (self.addresses.len() * 2, now);
    }
}

impl AddressBuckets {
    fn are_full(&self, now: Duration) -> bool {
        self.names.is_full(now) && self.bytes.is_full(now)
    }
}

/// Bytes written to Redis for a topic until it is unfollowed.
fn written_bytes(topic: &Topic) -> usize {
    COMMANDS * (topic.as_str().len() + COMMAND_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(len: usize) -> Topic {
        Topic::public(&format!("trades:{:x<1$}", "", len - 7)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_may_name_a_burst_of_topics_and_then_a_number_per_second() {
        let (names, topic) = (NewTopicLimits::new(20), topic(10));
        let take = |reader| (0..100).take_while(|_| names.take(ReaderAddress(reader), &topic)).count();
        assert_eq!((take(1), take(2), take(1)), (20, 20, 0));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(take(1), 6);
        names.give_back(ReaderAddress(1), &topic);
        names.give_back(ReaderAddress(9), &topic);
        assert_eq!((take(1), take(9)), (1, 20), "published topics are not counted");
    }

    #[tokio::test(start_paused = true)]
    async fn long_names_count_by_the_bytes_written_to_redis() {
        let (names, long) = (NewTopicLimits::new(20_000), topic(199));
        let each = written_bytes(&long);
        let take = |reader| (0..20_000).take_while(|_| names.take(ReaderAddress(reader), &long)).count();
        let at_once = WRITTEN_PER_ADDRESS_BYTES_MAX as usize / each;
        assert_eq!((take(1), take(2), take(1)), (at_once, at_once, 0), "each address has its own limit");
        tokio::time::advance(Duration::from_secs(1)).await;
        let in_a_second = take(1);
        let most = at_once / SECONDS as usize;
        assert!((most - 10..=most + 10).contains(&in_a_second), "{in_a_second} of {most}");
        names.give_back(ReaderAddress(1), &long);
        assert_eq!(take(1), 1, "published topics are not counted");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_remembered_addresses_is_limited() {
        let (names, topic) = (NewTopicLimits::new(20), topic(10));
        let all = NAMING_ADDRESSES_MAX as u64;
        let remembered = (0..all + 10).filter(|reader| names.take(ReaderAddress(*reader), &topic)).count();
        assert_eq!((remembered, names.state.lock().addresses.len()), (all as usize, all as usize));
        assert!(names.take(ReaderAddress(0), &topic), "remembered addresses may go on");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(names.take(ReaderAddress(all), &topic), "idle addresses make room");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_addresses_are_removed() {
        let (names, topic) = (NewTopicLimits::new(20), topic(10));
        for reader in 0..10_000 {
            names.take(ReaderAddress(reader), &topic);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!(names.state.lock().addresses.len() <= SWEEP_MIN);
    }
}
