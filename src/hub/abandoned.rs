//! Bounds what strangers leave in Redis: positions of topics that were never published to and are no longer followed.
//! They expire after ten minutes, so that a client that returns to a quiet topic misses nothing; until then their
//! number is limited per address and in total. Pure: it decides, and the hub deletes them.

use std::collections::{BTreeSet, HashMap, VecDeque};

use parking_lot::Mutex;
use tickgate_wire::model::Topic;

use super::turns::ReaderAddress;

/// Maximum number of such topics per address and in total. Each takes about 0.3 KB in Redis.
const LEFT_PER_ADDRESS_MAX: usize = 2_048;
const LEFT_MAX: usize = 16_384;

/// The topics that were left behind.
#[derive(Debug, Default)]
pub(super) struct AbandonedTopics(Mutex<AbandonedState>);

#[derive(Debug, Default)]
struct AbandonedState {
    /// Oldest first.
    topics: HashMap<ReaderAddress, VecDeque<Topic>>,
    /// The addresses by the number of their topics.
    sizes: BTreeSet<(usize, ReaderAddress)>,
    count: usize,
    /// Topics to delete.
    waiting: VecDeque<Topic>,
}

impl AbandonedTopics {
    /// Adds a topic of the address. True if there is something to delete.
    pub(super) fn add(&self, reader: ReaderAddress, topic: Topic) -> bool {
        let mut state = self.0.lock();
        let size = state.size(reader);
        state.topics.entry(reader).or_default().push_back(topic);
        state.count += 1;
        state.resize(reader, size);
        if size >= LEFT_PER_ADDRESS_MAX {
            state.forget_oldest(reader);
        } else if state.count > LEFT_MAX
            && let Some((_, largest)) = state.sizes.last().copied()
        {
            state.forget_oldest(largest);
        }
        !state.waiting.is_empty()
    }

    /// Adds a withdrawn topic, whose position is deleted at once. Returns true.
    pub(super) fn forget(&self, topic: Topic) -> bool {
        self.0.lock().forget(topic);
        true
    }

    /// At most `max` topics to delete.
    pub(super) fn take(&self, max: usize) -> Vec<Topic> {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(max);
        state.waiting.drain(..count).collect()
    }
}

impl AbandonedState {
    fn size(&self, reader: ReaderAddress) -> usize {
        self.topics.get(&reader).map_or(0, VecDeque::len)
    }

    /// Updates the order after the address had `before` topics.
    fn resize(&mut self, reader: ReaderAddress, before: usize) {
        self.sizes.remove(&(before, reader));
        match self.size(reader) {
            0 => drop(self.topics.remove(&reader)),
            size => drop(self.sizes.insert((size, reader))),
        }
    }

    fn forget_oldest(&mut self, reader: ReaderAddress) {
        let before = self.size(reader);
        let Some(topic) = self.topics.get_mut(&reader).and_then(VecDeque::pop_front) else { return };
        self.count -= 1;
        self.resize(reader, before);
        self.forget(topic);
    }

    fn forget(&mut self, topic: Topic) {
        // If Redis does not keep up, they expire.
        if self.waiting.len() < LEFT_MAX {
            self.waiting.push_back(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(number: usize) -> Topic {
        Topic::public(&format!("t:{number}")).unwrap()
    }

    #[test]
    fn an_address_keeps_a_limited_number_and_the_oldest_is_deleted() {
        let left = AbandonedTopics::default();
        assert!((0..LEFT_PER_ADDRESS_MAX).all(|number| !left.add(ReaderAddress(1), topic(number))));
        assert!(left.add(ReaderAddress(1), topic(LEFT_PER_ADDRESS_MAX)) && left.take(9) == [topic(0)]);
        assert!(!left.add(ReaderAddress(2), topic(9)), "other addresses have separate limits");
        assert_eq!(left.take(9), []);
    }

    #[test]
    fn over_the_total_limit_the_address_with_most_loses_first() {
        let left = AbandonedTopics::default();
        for reader in 0..9 {
            for number in 0..LEFT_PER_ADDRESS_MAX - 10 {
                left.add(ReaderAddress(reader), topic(number));
            }
        }
        let state = left.0.lock();
        assert_eq!((state.count, state.waiting.len()), (LEFT_MAX, 9 * (LEFT_PER_ADDRESS_MAX - 10) - LEFT_MAX));
        let sizes: Vec<usize> = state.sizes.iter().map(|(size, _)| *size).collect();
        assert!(sizes.len() == 9 && sizes[8] - sizes[0] <= 256, "{sizes:?}");
        assert!(state.topics.iter().all(|(reader, topics)| state.sizes.contains(&(topics.len(), *reader))));
    }
}
