//! Limits followed topics that have no publications. A client can subscribe to any number of them, so they may use only
//! a share of the followed topics. Each topic counts for the first address that subscribed to it. When the share is
//! used up, the address with the most such topics loses its newest one. Pure: decides which topic to withdraw; the hub
//! withdraws it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use indexmap::IndexSet;
use parking_lot::Mutex;

use super::{standing::UnpublishedStanding, topic::TopicState, turns::ReaderAddress};

/// Maximum number of topics that may exceed the share, in total and per address, until it is known whether they have
/// publications.
const TRIALS_MAX: usize = 16_384;
const TRIALS_PER_ADDRESS_MAX: usize = 1_024;

/// The share of topics without publications.
#[derive(Debug)]
pub(super) struct Unpublished {
    /// The limits in total and per address.
    max: usize,
    per_address_max: usize,
    state: Mutex<UnpublishedState>,
}

#[derive(Debug, Default)]
struct UnpublishedState {
    /// The topics of each address.
    owners: HashMap<ReaderAddress, AddressTopics>,
    /// The addresses by the number of their topics.
    sizes: BTreeSet<(usize, ReaderAddress)>,
    topics: usize,
    trials: usize,
}

/// The topics of one address.
#[derive(Debug, Default)]
struct AddressTopics {
    /// Newest last, until one is removed.
    topics: IndexSet<TopicByPointer>,
    trials: HashSet<TopicByPointer>,
}

/// Identifies a topic by its memory address, because the same name may be followed again later.
#[derive(Clone, Debug)]
struct TopicByPointer(Arc<TopicState>);

impl Unpublished {
    pub(super) fn new(max: usize, per_address_max: usize) -> Self {
        Self { max, per_address_max, state: Mutex::default() }
    }

    /// Admits a topic for an address; false if there is no room. `is_full`: the limit on followed topics is reached.
    pub(super) fn begin(&self, topic: &Arc<TopicState>, reader: ReaderAddress, is_full: bool) -> bool {
        let mut state = self.state.lock();
        if !is_full && state.topics < self.max && state.owned(reader) < self.per_address_max {
            state.add(topic, reader);
            return true;
        }
        let of_reader = state.owners.get(&reader).map_or(0, |owned| owned.trials.len());
        if state.trials >= TRIALS_MAX || of_reader >= TRIALS_PER_ADDRESS_MAX {
            return false;
        }
        state.trials += 1;
        state.owners.entry(reader).or_default().trials.insert(TopicByPointer(Arc::clone(topic)));
        *topic.standing.lock() = UnpublishedStanding::OnTrial(reader);
        true
    }

    /// Records that a topic's stream has no publications. `is_over`: the limit on followed topics is exceeded. Returns
    /// the topic to withdraw, if any: this one, or one of the address with the most.
    pub(super) fn settle(&self, topic: &Arc<TopicState>, is_over: bool) -> Option<Arc<TopicState>> {
        let mut state = self.state.lock();
        let UnpublishedStanding::OnTrial(reader) = topic.standing() else { return None };
        state.remove(topic);
        let own = state.owned(reader);
        if own >= self.per_address_max {
            return Some(Arc::clone(topic));
        }
        let mut gives_way = None;
        if is_over || state.topics >= self.max {
            gives_way = state.newest_of_the_largest(own + 1);
            if gives_way.is_none() {
                return Some(Arc::clone(topic));
            }
        }
        state.add(topic, reader);
        gives_way
    }

    /// Chooses the topic to withdraw to make room for one with publications.
    pub(super) fn give_way(&self) -> Option<Arc<TopicState>> {
        self.state.lock().newest_of_the_largest(0)
    }

    /// Another address subscribed too: the topic counts for the address with fewer topics.
    pub(super) fn share(&self, topic: &Arc<TopicState>, reader: ReaderAddress) {
        let mut state = self.state.lock();
        if let UnpublishedStanding::Counted(owner) = topic.standing()
            && owner != reader
            && state.owned(reader) + 1 < state.owned(owner)
        {
            state.remove(topic);
            state.add(topic, reader);
        }
    }

    /// Removes a topic that has publications or was unfollowed.
    pub(super) fn remove(&self, topic: &Arc<TopicState>) -> UnpublishedStanding {
        let mut state = self.state.lock();
        let standing = topic.standing();
        state.remove(topic);
        standing
    }

    /// Number of counted topics.
    pub(super) fn len(&self) -> usize {
        self.state.lock().topics
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl UnpublishedState {
    /// Number of topics counted for an address.
    fn owned(&self, reader: ReaderAddress) -> usize {
        self.owners.get(&reader).map_or(0, |owned| owned.topics.len())
    }

    fn add(&mut self, topic: &Arc<TopicState>, reader: ReaderAddress) {
        let owned = self.owners.entry(reader).or_default();
        let before = owned.topics.len();
        if owned.topics.insert(TopicByPointer(Arc::clone(topic))) {
            self.sizes.remove(&(before, reader));
            self.sizes.insert((before + 1, reader));
            self.topics += 1;
        }
        *topic.standing.lock() = UnpublishedStanding::Counted(reader);
    }

    fn remove(&mut self, topic: &Arc<TopicState>) {
        let (UnpublishedStanding::Counted(reader) | UnpublishedStanding::OnTrial(reader)) = topic.standing() else {
            return;
        };
        *topic.standing.lock() = UnpublishedStanding::Free;
        let Some(owned) = self.owners.get_mut(&reader) else { return };
        let key = TopicByPointer(Arc::clone(topic));
        let before = owned.topics.len();
        if owned.topics.swap_remove(&key) {
            self.topics -= 1;
            self.sizes.remove(&(before, reader));
            if before > 1 {
                self.sizes.insert((before - 1, reader));
            }
        } else if owned.trials.remove(&key) {
            self.trials -= 1;
        }
        if owned.topics.is_empty() && owned.trials.is_empty() {
            self.owners.remove(&reader);
        }
    }

    /// Removes the newest topic of the address with the most topics, if it has more than `more_than`.
    fn newest_of_the_largest(&mut self, more_than: usize) -> Option<Arc<TopicState>> {
        let (_, reader) = *self.sizes.last().filter(|(size, _)| *size > more_than)?;
        let newest = self.owners.get(&reader)?.topics.last()?.0.clone();
        self.remove(&newest);
        Some(newest)
    }
}

impl Hash for TopicByPointer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl PartialEq for TopicByPointer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TopicByPointer {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::for_tests;

    fn topic(number: u64) -> Arc<TopicState> {
        for_tests::topic(&format!("t:{number}"))
    }

    fn counts(unpublished: &Unpublished, reader: u64) -> usize {
        unpublished.state.lock().owned(ReaderAddress(reader))
    }

    #[test]
    fn the_address_with_most_topics_loses_and_never_to_one_with_as_many() {
        let unpublished = Unpublished::new(10, 8);
        let greedy: Vec<_> = (0..8).map(topic).collect();
        assert!(greedy.iter().all(|topic| unpublished.begin(topic, ReaderAddress(1), false)));
        let [a, b, c] = [10, 11, 12].map(topic);
        assert!(
            unpublished.begin(&a, ReaderAddress(2), false) && unpublished.begin(&b, ReaderAddress(2), false),
            "the share is used up"
        );
        assert!(unpublished.begin(&c, ReaderAddress(2), false), "admitted on trial");
        assert_eq!((unpublished.len(), counts(&unpublished, 2)), (10, 2));
        let gone = unpublished.settle(&c, false).expect("another topic is withdrawn");
        assert!(Arc::ptr_eq(&gone, &greedy[7]) && gone.standing() == UnpublishedStanding::Free);
        assert_eq!((unpublished.len(), counts(&unpublished, 1), counts(&unpublished, 2)), (10, 7, 3));
        // The greedy address tries again: no other address has more than it would have.
        let again = topic(20);
        assert!(unpublished.begin(&again, ReaderAddress(1), false));
        let gone = unpublished.settle(&again, false).expect("himself");
        assert!(Arc::ptr_eq(&gone, &again));
        assert_eq!((unpublished.len(), counts(&unpublished, 1)), (10, 7));
    }

    #[test]
    fn an_address_has_a_separate_limit_and_published_topics_are_not_counted() {
        let unpublished = Unpublished::new(100, 2);
        let topics: Vec<_> = (0..4).map(topic).collect();
        assert!(topics.iter().all(|topic| unpublished.begin(topic, ReaderAddress(1), false)), "two of them on trial");
        assert!(unpublished.settle(&topics[0], false).is_none(), "it has a place");
        assert!(Arc::ptr_eq(&unpublished.settle(&topics[2], false).unwrap(), &topics[2]));
        unpublished.remove(&topics[3]);
        assert_eq!((unpublished.len(), unpublished.state.lock().trials), (2, 0), "published to");
        unpublished.remove(&topics[0]);
        let more = topic(9);
        assert!(
            unpublished.begin(&more, ReaderAddress(1), false)
                && more.standing() == UnpublishedStanding::Counted(ReaderAddress(1))
        );
        unpublished.remove(&topics[1]);
        unpublished.remove(&more);
        unpublished.remove(&more);
        let state = unpublished.state.lock();
        assert!(state.owners.is_empty() && state.sizes.is_empty() && state.topics == 0);
    }

    #[test]
    fn trials_are_limited_per_address_and_a_shared_topic_counts_for_the_one_with_fewer() {
        let unpublished = Unpublished::new(0, 100);
        let of_one: Vec<_> = (0..TRIALS_PER_ADDRESS_MAX as u64 + 1).map(topic).collect();
        let let_in = of_one.iter().filter(|topic| unpublished.begin(topic, ReaderAddress(1), false)).count();
        assert_eq!(let_in, TRIALS_PER_ADDRESS_MAX);
        assert!(unpublished.begin(&topic(0), ReaderAddress(2), false), "other addresses have separate limits");

        let unpublished = Unpublished::new(10, 10);
        let topics: Vec<_> = (0..5).map(topic).collect();
        topics.iter().for_each(|topic| assert!(unpublished.begin(topic, ReaderAddress(1), false)));
        unpublished.share(&topics[4], ReaderAddress(2));
        unpublished.share(&topics[4], ReaderAddress(3));
        assert_eq!([1, 2, 3].map(|reader| counts(&unpublished, reader)), [4, 1, 0]);
        assert!(Arc::ptr_eq(&unpublished.give_way().unwrap(), &topics[3]), "not a topic that others follow too");
    }
}
