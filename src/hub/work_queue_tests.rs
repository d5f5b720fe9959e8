use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tickgate_wire::model::{StreamId, Topic};

use super::*;
use crate::history::Generations;
use crate::{
    hub::{
        ReaderAddress,
        for_tests::{self, hub},
    },
    tasks::Tasks,
};

fn topic(number: usize) -> Arc<TopicState> {
    for_tests::topic(&format!("trades:{number}"))
}

/// A topic with a subscriber.
fn awaited(number: usize) -> Arc<TopicState> {
    let topic = topic(number);
    topic.add_interest();
    topic
}

fn number(topic: &TopicState) -> usize {
    topic.topic.as_str().rsplit(':').next().unwrap().parse().unwrap()
}

fn queue() -> WorkQueue {
    WorkQueue::new(WorkQueueKind::Compare)
}

fn depth(queue: &WorkQueue) -> usize {
    queue.status(Instant::now()).depth
}

/// The numbers of the topics that are available; panics if the queue would wait.
fn take(queue: &WorkQueue, priority: Priority, max: usize) -> Vec<usize> {
    let batch = queue.take(priority, max).now_or_never().expect("no wait while a topic is in the queue");
    batch.topics().map(|topic| number(topic)).collect()
}

#[test]
fn nothing_waits_for_topics_that_were_unfollowed() {
    let queue = queue();
    let gone: Vec<_> = (0..2_000).map(awaited).collect();
    gone.iter().for_each(|topic| queue.push(topic));
    let wanted = awaited(2_000);
    queue.push(&wanted);
    gone.iter().for_each(|topic| queue.close(topic));
    assert_eq!(depth(&queue), 1, "unfollowed topics leave the queue");
    assert!(gone.iter().all(|topic| Arc::strong_count(topic) == 1), "no reference is left");
    assert_eq!(take(&queue, Priority::Awaited, 512), [2_000]);
    queue.push(&gone[0]);
    assert_eq!(depth(&queue), 0, "they do not return");
    assert!([Priority::Awaited, Priority::Routine].iter().all(|priority| queue.try_take(*priority, 1).is_none()));
}

#[test]
fn a_topic_is_queued_once_and_may_be_queued_again_when_taken() {
    let (queue, topic) = (queue(), awaited(0));
    for _ in 0..10 {
        queue.push(&topic);
    }
    assert_eq!(depth(&queue), 1);
    let batch = queue.try_take(Priority::Awaited, 9).unwrap();
    assert_eq!(batch.topics().count(), 1);
    queue.push(&topic);
    assert_eq!(depth(&queue), 1, "later changes are for another turn");
}

#[test]
fn the_priorities_do_not_wait_for_each_other() {
    let queue = queue();
    let routine: Vec<_> = (0..1_000).map(topic).collect();
    let awaited: Vec<_> = (1_000..2_000).map(awaited).collect();
    routine.iter().zip(&awaited).for_each(|(routine, awaited)| {
        queue.push(routine);
        queue.push(awaited);
    });
    assert_eq!(take(&queue, Priority::Awaited, 3), [1_000, 1_001, 1_002], "in order of insertion");
    assert_eq!(take(&queue, Priority::Routine, 3), [0, 1, 2]);
}

#[test]
fn addresses_take_turns_for_topics_without_publications() {
    let (queue, all): (_, Vec<_>) = (queue(), (0..2_010).map(awaited).collect());
    for (number, topic) in all[..2_000].iter().enumerate() {
        *topic.standing.lock() = UnpublishedStanding::Counted(ReaderAddress(u64::from(number % 2 == 0)));
        queue.push(topic);
    }
    assert_eq!(take(&queue, Priority::Awaited, 4), [0, 1, 2, 3]);
    *all[2_000].standing.lock() = UnpublishedStanding::OnTrial(ReaderAddress(7));
    all[2_000..2_002].iter().for_each(|topic| queue.push(topic));
    assert_eq!(take(&queue, Priority::Awaited, 4), [2_000, 2_001, 4, 5], "another address's, and published ones");
    queue.close(&all[6]);
    assert_eq!((take(&queue, Priority::Awaited, 2), depth(&queue)), (vec![7, 8], 1_991));
}

#[tokio::test]
async fn a_topic_changes_its_priority_with_its_first_and_last_subscriber() {
    let queues = WorkQueues::new();
    let topics: Vec<_> = (0..4).map(topic).collect();
    topics.iter().for_each(|topic| queues.compare.push(topic));
    let mut forward = Box::pin(queues.compare.take(Priority::Awaited, 9));
    assert!(futures_util::poll!(&mut forward).is_pending());
    for at in [2, 3] {
        topics[at].add_interest();
        queues.reorder(&topics[at]);
    }
    assert!(topics[3].drop_interest());
    queues.reorder(&topics[3]);
    let forward: Vec<_> = forward.await.topics().map(|topic| number(topic)).collect();
    assert_eq!(forward, [2], "a worker of this priority is woken");
    assert_eq!(take(&queues.compare, Priority::Routine, 9), [0, 1, 3]);
}

#[test]
fn a_consistent_topic_is_routine_however_many_subscribers_it_has() {
    let (queue, live, new) = (queue(), awaited(0), awaited(1));
    let _ = live.compared((Some(StreamId::ZERO), None), &Generations::default(), &[]);
    queue.push(&live);
    queue.push(&new);
    assert_eq!(take(&queue, Priority::Awaited, 9), [1]);
    assert_eq!(take(&queue, Priority::Routine, 9), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_topic_keeps_its_place_and_its_age() {
    let queue = queue();
    let topics: Vec<_> = (0..4).map(awaited).collect();
    topics[..3].iter().for_each(|topic| queue.push(topic));
    tokio::time::advance(Duration::from_secs(7)).await;
    queue.push(&topics[3]);
    let batch = queue.take(Priority::Awaited, 3).await;
    let status = queue.status(Instant::now());
    assert_eq!((status.depth, status.oldest), (1, Duration::from_secs(7)), "a batch in progress counts");
    // Meanwhile one is unfollowed, and one is added again.
    queue.close(&topics[0]);
    queue.push(&topics[2]);
    batch.put_back(&[true; 3]);
    tokio::time::advance(Duration::from_secs(1)).await;
    let status = queue.status(Instant::now());
    assert_eq!((status.depth, status.oldest), (3, Duration::from_secs(8)));
    assert_eq!(take(&queue, Priority::Awaited, 9), [1, 2, 3]);
    assert_eq!(queue.status(Instant::now()), QueueStatus { depth: 0, oldest: Duration::ZERO });
}

#[tokio::test]
async fn a_completed_topic_is_not_requeued_with_failed_ones_of_its_batch() {
    let queue = queue();
    (0..4).map(awaited).for_each(|topic| queue.push(&topic));
    queue.take(Priority::Awaited, 4).await.put_back(&[false, true, false, true]);
    assert_eq!(take(&queue, Priority::Awaited, 9), [1, 3]);
}

#[tokio::test]
async fn every_worker_gets_work_even_if_several_topics_arrive_before_one_wakes() {
    let queue = Arc::new(queue());
    let takes: Vec<_> = (0..4).map(|_| Box::pin(queue.take(Priority::Awaited, 1))).collect();
    let mut takes = futures_util::future::join_all(takes);
    assert!(futures_util::poll!(&mut takes).is_pending());
    (0..4).map(awaited).for_each(|topic| queue.push(&topic));
    let mut taken: Vec<_> = takes.await.iter().flat_map(TopicBatch::topics).map(|topic| number(topic)).collect();
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_hub_closes_its_queues_to_a_topic_that_it_unfollows() {
    let tasks = Tasks::new();
    let (hub, rule) = hub(&tasks);
    let topic =
        hub.interest(&Topic::public("ticker:X").unwrap(), &rule, ReaderAddress::default()).unwrap().topic().clone();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(hub.topics(), 0);
    for queue in hub.queues.all() {
        queue.push(&topic);
        assert_eq!(depth(queue), 0);
    }
    assert_eq!(Arc::strong_count(&topic), 1);
}

#[test]
fn the_documented_size_equals_that_of_the_code() {
    // A tree of entries inserted in order is at least half full.
    let entry = 2 * (size_of::<(u64, QueuedTopic)>() + size_of::<(u64, u64)>());
    let security = include_str!("../../SECURITY.md");
    for kind in WorkQueueKind::ALL {
        let row = format!("| topics that wait in the work queue `{}` |", kind.as_str());
        let row = security.lines().find(|line| line.starts_with(&row)).expect("a row in the table of bounds");
        assert!(row.contains(&format!(" {entry} bytes each")), "{entry} bytes: {row}");
        assert!(row.contains("`hub.topics_max`"), "{row}");
    }
}

proptest! {
    /// For every sequence of add, take, put back, reorder and close: each topic is present at most once, closed ones
    /// are not, and no added one is lost.
    #[test]
    fn no_topic_is_lost_or_duplicated(steps in proptest::collection::vec((0..6_u8, 0..12_usize), 0..120)) {
        let queue = queue();
        let topics: Vec<_> = (0..12).map(topic).collect();
        let mut waiting = BTreeSet::new();
        let mut closed = BTreeSet::new();
        for (step, at) in steps {
            let priority = if at % 2 == 0 { Priority::Awaited } else { Priority::Routine };
            let next = (at + 1) % topics.len();
            match step {
                0 | 1 => {
                    queue.push(&topics[at]);
                    waiting.extend((!closed.contains(&at)).then_some(at));
                }
                2 => {
                    for topic in queue.try_take(priority, at + 1).iter().flat_map(TopicBatch::topics) {
                        prop_assert!(waiting.remove(&number(topic)));
                    }
                }
                3 => {
                    if let Some(batch) = queue.try_take(priority, at + 1) {
                        queue.close(&topics[at]);
                        queue.push(&topics[next]);
                        batch.put_back(&[true; 12]);
                        closed.insert(at);
                        waiting.extend((!closed.contains(&next)).then_some(next));
                        waiting.remove(&at);
                    }
                }
                4 => {
                    topics[at].add_interest();
                    queue.reorder(&topics[at]);
                }
                _ => {
                    queue.close(&topics[at]);
                    closed.insert(at);
                    waiting.remove(&at);
                }
            }
            prop_assert_eq!(depth(&queue), waiting.len());
        }
        let batches = [Priority::Awaited, Priority::Routine].map(|priority| queue.try_take(priority, 99));
        let mut rest: Vec<_> = batches.iter().flatten().flat_map(TopicBatch::topics).map(|topic| number(topic)).collect();
        drop(batches);
        rest.sort_unstable();
        prop_assert_eq!(rest, waiting.into_iter().collect::<Vec<_>>());
        prop_assert!(queue.state.lock().under_way.is_empty());
    }
}
