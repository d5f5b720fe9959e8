//! The followed topics by name. Never visits all of them without letting other tasks run.

use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::RwLock;
use tickgate_wire::model::Topic;

use super::topic::TopicState;

/// Number of locks. A link's task looks up one topic per arrival, so contention must be rare.
const PARTS: usize = 16;
/// Topics visited before other tasks of the thread get a turn: a fraction of a millisecond of work.
const TOPICS_PER_TURN: usize = 128;

/// In order of first subscription, so that a simulation is reproducible.
#[derive(Debug, Default)]
pub(super) struct TopicTable([RwLock<IndexMap<Topic, Arc<TopicState>>>; PARTS]);

impl TopicTable {
    pub(super) const fn parts(&self) -> &[RwLock<IndexMap<Topic, Arc<TopicState>>>] {
        &self.0
    }

    pub(super) fn part(&self, name: &str) -> &RwLock<IndexMap<Topic, Arc<TopicState>>> {
        let sum = name.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.0[sum % PARTS]
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<TopicState>> {
        self.part(name).read().get(name).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<TopicState>> {
        self.0.iter().flat_map(|part| part.read().values().cloned().collect::<Vec<_>>()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|part| part.read().len()).sum()
    }

    /// Calls `look` for each topic, and lets other tasks run in between: strangers determine the number of topics. A
    /// topic that is removed and added meanwhile may be visited twice, and a new one not at all.
    pub(super) async fn visit(&self, mut look: impl FnMut(&Arc<TopicState>)) {
        for part in &self.0 {
            // From the end: removing a topic moves the last one, which has been visited, into its place.
            let mut end = part.read().len();
            while end > 0 {
                let start = end.saturating_sub(TOPICS_PER_TURN);
                let some: Vec<_> = {
                    let part = part.read();
                    part.get_range(start..end.min(part.len()))
                        .map_or_else(Vec::new, |some| some.values().cloned().collect())
                };
                some.iter().for_each(&mut look);
                end = start;
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashMap, pin::pin};

    use futures_util::FutureExt;

    use super::*;
    use crate::hub::for_tests;

    /// Polls until a visit ends; `between` runs whenever it lets other tasks run. Returns how often each was visited.
    fn visited(table: &TopicTable, mut between: impl FnMut()) -> (usize, HashMap<String, usize>) {
        let (seen, mut turns, mut largest) = (RefCell::new(HashMap::new()), 0, 0);
        let mut visit = pin!(table.visit(|topic| {
            *seen.borrow_mut().entry(topic.topic.as_str().to_owned()).or_default() += 1;
        }));
        loop {
            let before: usize = seen.borrow().values().sum();
            let ended = visit.as_mut().now_or_never().is_some();
            largest = largest.max(seen.borrow().values().sum::<usize>() - before);
            if ended {
                break;
            }
            turns += 1;
            between();
        }
        assert!(turns > 0);
        (largest, seen.take())
    }

    fn table(topics: usize) -> TopicTable {
        let table = TopicTable::default();
        (0..topics).for_each(|number| add(&table, &format!("t:{number}")));
        table
    }

    fn add(table: &TopicTable, name: &str) {
        let topic = for_tests::topic(name);
        table.part(name).write().insert(topic.topic.clone(), topic);
    }

    #[tokio::test]
    async fn a_visit_of_all_topics_lets_other_tasks_run() {
        let table = table(20_000);
        let (largest, seen) = visited(&table, || {});
        assert_eq!(seen.len(), 20_000);
        assert!(seen.values().all(|times| *times == 1));
        assert!(largest <= TOPICS_PER_TURN, "{largest} topics without a pause");
    }

    #[tokio::test]
    async fn a_topic_that_stays_is_visited_while_others_leave() {
        let table = table(20_000);
        let mut leaving = (0..20_000).step_by(3);
        let (_, seen) = visited(&table, || {
            for number in leaving.by_ref().take(50) {
                let name = format!("t:{number}");
                table.part(&name).write().swap_remove(name.as_str());
            }
        });
        let stays = (0..20_000).filter(|number| number % 3 != 0);
        assert!(stays.into_iter().all(|number| seen.contains_key(&format!("t:{number}"))));
    }
}
