//! Topics without subscribers, which stay followed for a while in case a subscriber returns. Never unfollows a topic
//! that has subscribers, and never queues one twice.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use indexmap::IndexMap;
use parking_lot::Mutex;
use tickgate_wire::model::Topic;
use tokio::time::Instant;

use super::{
    Hub,
    standing::UnpublishedStanding,
    topic::{LingerVerdict, TopicState},
};
use crate::{
    defect::{self, Defect},
    tasks::Tasks,
};

/// Topics unfollowed before other tasks of the thread get a turn.
const TOPICS_PER_TURN: usize = 32;
/// Positions deleted in one call.
const FORGOTTEN_TOGETHER: usize = 256;

/// Topics that wait to be unfollowed, approximately earliest first (a topic that gained and lost subscribers meanwhile
/// keeps its place). Each is in it at most once, so it has no more entries than followed topics.
#[derive(Debug)]
pub(super) struct LingerQueue {
    waiting: Mutex<VecDeque<(Instant, Topic)>>,
    linger: Duration,
}

impl LingerQueue {
    pub(super) fn new(linger: Duration) -> Self {
        Self { waiting: Mutex::default(), linger }
    }

    /// A topic that is due.
    fn due(&self, now: Instant) -> Option<Topic> {
        let mut waiting = self.waiting.lock();
        let (at, _) = waiting.front()?;
        if *at <= now { waiting.pop_front().map(|(_, topic)| topic) } else { None }
    }

    fn push(&self, until: Instant, topic: Topic) {
        self.waiting.lock().push_back((until, topic));
    }
}

impl Hub {
    /// Queues a topic whose last subscriber left.
    pub(super) fn linger(&self, topic: &TopicState) {
        let until = Instant::now() + self.lingering.linger;
        if topic.linger_until(until) {
            self.lingering.push(until, topic.topic.clone());
        }
    }

    /// Starts the task that unfollows topics without subscribers, once a second.
    pub(super) fn start_letting_go(self: &Arc<Self>, tasks: &Tasks) {
        let hub = Arc::downgrade(self);
        let mut stop = tasks.stop();
        tasks.spawn_vital("linger", async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    biased;
                    _ = ticks.tick() => {}
                    () = stop.wait() => return,
                }
                let Some(hub) = hub.upgrade() else { return };
                assert!(!defect::is(Defect::VitalTaskPanics), "a deliberate defect");
                hub.let_go(Instant::now()).await;
            }
        });
    }

    /// Unfollows all due topics, and lets other tasks run in between: strangers determine their number.
    async fn let_go(&self, now: Instant) {
        loop {
            for _ in 0..TOPICS_PER_TURN {
                let Some(topic) = self.lingering.due(now) else { return };
                self.let_go_of(topic, now);
            }
            tokio::task::yield_now().await;
        }
    }

    fn let_go_of(&self, topic: Topic, now: Instant) {
        let _order = self.following.lock();
        let mut part = self.topics.part(topic.as_str()).write();
        let Some(followed) = part.get(topic.as_str()) else { return };
        match followed.linger_verdict(now) {
            LingerVerdict::Wanted => {}
            LingerVerdict::Until(until) => self.lingering.push(until, topic),
            LingerVerdict::LetGo => {
                let followed = Arc::clone(followed);
                self.take_out(&mut part, &followed);
            }
        }
    }

    /// Starts the task that deletes excess positions.
    pub(super) fn start_forgetting(self: &Arc<Self>, tasks: &Tasks) {
        let hub = Arc::clone(self);
        let mut stop = tasks.stop();
        tasks.spawn_vital("forget", async move {
            loop {
                let topics = hub.abandoned.take(FORGOTTEN_TOGETHER);
                if topics.is_empty() {
                    tokio::select! {
                        () = hub.left.notified() => {}
                        () = stop.wait() => return,
                    }
                    continue;
                }
                // What cannot be deleted now expires.
                let _ = hub.backplane.forget(&topics).await;
            }
        });
    }

    /// Removes a topic from the table and all queues. Must be called in the order of following.
    pub(super) fn take_out(&self, part: &mut IndexMap<Topic, Arc<TopicState>>, gone: &Arc<TopicState>) {
        part.swap_remove(gone.topic.as_str());
        self.queues.close(gone);
        let is_too_much = match self.unpublished.remove(gone) {
            UnpublishedStanding::Counted(reader) => self.abandoned.add(reader, gone.topic.clone()),
            _ if gone.is_withdrawn() => self.abandoned.forget(gone.topic.clone()),
            _ => false,
        };
        if is_too_much {
            self.left.notify_one();
        }
        self.metrics.topics.dec();
        self.backplane.unfollow(&gone.topic);
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::UserId;

    use super::*;
    use crate::hub::{ReaderAddress, TopicHandle, for_tests::hub};

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_comes_and_goes_is_queued_once_and_waits_its_full_time() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let topic = Topic::public("ticker:X").unwrap();
        for _ in 0..100 {
            drop(hub.interest(&topic, &rule, ReaderAddress::default()));
        }
        assert_eq!(hub.lingering.waiting.lock().len(), 1);
        tokio::time::sleep(Duration::from_secs(8)).await;
        drop(hub.interest(&topic, &rule, ReaderAddress::default()));
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(hub.topics(), 1, "eight seconds after the last subscriber left");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(hub.topics(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_is_subscribed_again_stays_and_can_linger_again() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let topic = Topic::public("ticker:X").unwrap();
        drop(hub.interest(&topic, &rule, ReaderAddress::default()));
        let interest = hub.interest(&topic, &rule, ReaderAddress::default());
        assert!(interest.is_some());
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((hub.topics(), hub.lingering.waiting.lock().len()), (1, 0));
        drop(interest);
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(hub.topics(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn other_tasks_run_while_many_topics_are_unfollowed() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let user = |number: usize| Topic::user_stream(&UserId::new(&format!("user-{number}")).unwrap());
        let crowd: Vec<_> = (0..10 * TOPICS_PER_TURN)
            .map(|number| hub.interest(&user(number), &rule, ReaderAddress::default()))
            .collect();
        drop(crowd);
        let now = Instant::now() + Duration::from_secs(11);
        let mut letting_go = std::pin::pin!(hub.let_go(now));
        let (mut turns, mut before) = (0, hub.topics());
        while futures_util::poll!(letting_go.as_mut()).is_pending() {
            turns += 1;
            assert!(before - hub.topics() <= TOPICS_PER_TURN, "{} topics in one turn", before - hub.topics());
            before = hub.topics();
        }
        assert_eq!((hub.topics(), turns), (0, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_followed_topics_is_limited_except_for_users_own() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let name = |name| Topic::public(name).unwrap();
        let first = hub.interest(&name("ticker:X"), &rule, ReaderAddress::default());
        assert!(first.is_some() && hub.interest(&name("ticker:X"), &rule, ReaderAddress::default()).is_some());
        let ready = async |interest: &TopicHandle| interest.ready(Duration::from_secs(1)).await.is_ok();
        let second = hub
            .interest(&name("ticker:Y"), &rule, ReaderAddress::default())
            .expect("admitted until its stream is compared");
        assert!(!ready(&second).await && ready(first.as_ref().unwrap()).await);
        drop(second);
        let alice = UserId::new("alice").unwrap();
        assert!(hub.interest(&Topic::user_stream(&alice), &rule, ReaderAddress::default()).is_some());
        drop(first);
        tokio::time::sleep(Duration::from_secs(12)).await;
        let second = hub.interest(&name("ticker:Y"), &rule, ReaderAddress::default()).unwrap();
        assert!(ready(&second).await);
    }
}
