//! What strangers leave in Redis: positions of topics that nobody has published to and that nobody follows any more. They end
//! by themselves after ten minutes, so that whoever comes back to a quiet topic misses nothing; of one address, and of all,
//! there are only so many until then. Pure: it decides, the hub has them forgotten.

use std::collections::{BTreeSet, HashMap, VecDeque};

use parking_lot::Mutex;
use tickgate_wire::model::Topic;

use super::turns::Reader;

/// Topics of one address, and of all. Each takes about 0.3 KB of Redis.
const LEFT_PER_ADDRESS_MAX: usize = 2_048;
const LEFT_MAX: usize = 16_384;

/// The topics that were left behind.
#[derive(Debug, Default)]
pub(super) struct LeftBehind(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    topics: HashMap<Reader, VecDeque<Topic>>,
    /// The addresses by the number of their topics.
    sizes: BTreeSet<(usize, Reader)>,
    count: usize,
    /// To be forgotten.
    waiting: VecDeque<Topic>,
}

impl LeftBehind {
    /// A topic of the address is left behind. True when there is something to be forgotten.
    pub(super) fn add(&self, reader: Reader, topic: Topic) -> bool {
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

    /// A topic gave way: its position goes at once. True.
    pub(super) fn forget(&self, topic: Topic) -> bool {
        self.0.lock().forget(topic);
        true
    }

    /// Up to so many topics that are to be forgotten.
    pub(super) fn take(&self, max: usize) -> Vec<Topic> {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(max);
        state.waiting.drain(..count).collect()
    }
}

impl State {
    fn size(&self, reader: Reader) -> usize {
        self.topics.get(&reader).map_or(0, VecDeque::len)
    }

    /// The address had so many topics before.
    fn resize(&mut self, reader: Reader, before: usize) {
        self.sizes.remove(&(before, reader));
        match self.size(reader) {
            0 => drop(self.topics.remove(&reader)),
            size => drop(self.sizes.insert((size, reader))),
        }
    }

    fn forget_oldest(&mut self, reader: Reader) {
        let before = self.size(reader);
        let Some(topic) = self.topics.get_mut(&reader).and_then(VecDeque::pop_front) else { return };
        self.count -= 1;
        self.resize(reader, before);
        self.forget(topic);
    }

    fn forget(&mut self, topic: Topic) {
        // Where Redis does not keep up, they end by themselves.
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
    fn an_address_leaves_so_many_and_its_oldest_go() {
        let left = LeftBehind::default();
        assert!((0..LEFT_PER_ADDRESS_MAX).all(|number| !left.add(Reader(1), topic(number))));
        assert!(left.add(Reader(1), topic(LEFT_PER_ADDRESS_MAX)) && left.take(9) == [topic(0)]);
        assert!(!left.add(Reader(2), topic(9)), "others have theirs");
        assert_eq!(left.take(9), []);
    }

    #[test]
    fn in_sum_whoever_left_most_loses_first() {
        let left = LeftBehind::default();
        for reader in 0..9 {
            for number in 0..LEFT_PER_ADDRESS_MAX - 10 {
                left.add(Reader(reader), topic(number));
            }
        }
        let state = left.0.lock();
        assert_eq!((state.count, state.waiting.len()), (LEFT_MAX, 9 * (LEFT_PER_ADDRESS_MAX - 10) - LEFT_MAX));
        let sizes: Vec<usize> = state.sizes.iter().map(|(size, _)| *size).collect();
        assert!(sizes.len() == 9 && sizes[8] - sizes[0] <= 256, "{sizes:?}");
        assert!(state.topics.iter().all(|(reader, topics)| state.sizes.contains(&(topics.len(), *reader))));
    }
}
