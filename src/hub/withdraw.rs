//! Withdraws topics without publications when there is no room for them. Their subscribers are notified and subscribe
//! again. Never withdraws a topic with publications once it has a place.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use tickgate_wire::model::StreamId;
use tokio::sync::Notify;

use super::{Hub, standing::UnpublishedStanding, topic::TopicState, turns::ReaderAddress};
use crate::tasks::Tasks;

/// Topics removed before other tasks of the thread get a turn.
const TOPICS_PER_TURN: usize = 32;

/// Withdrawn topics that are still in the table. Each is queued once, so there are no more than followed topics.
#[derive(Debug, Default)]
pub(super) struct WithdrawnTopics {
    waiting: Mutex<Vec<Arc<TopicState>>>,
    wake: Notify,
}

impl Hub {
    /// Whether a public topic may be followed, at least until it is known whether it has publications.
    pub(super) fn has_room_for(&self, topic: &Arc<TopicState>, reader: ReaderAddress) -> bool {
        let is_full = self.followed() >= self.topics_max;
        let has_some = !(is_full && self.unpublished.is_empty()) && self.new_topics.take(reader, &topic.topic);
        has_some && self.unpublished.begin(topic, reader, is_full)
    }

    /// Followed topics that are not withdrawn.
    fn followed(&self) -> usize {
        self.topics.len().saturating_sub(self.withdrawn.waiting.lock().len())
    }

    /// A topic turned out to have publications: one without is withdrawn if necessary.
    pub(super) fn published(&self, topic: &Arc<TopicState>) {
        topic.set_published();
        let standing = self.unpublished.remove(topic);
        if let UnpublishedStanding::Counted(reader) | UnpublishedStanding::OnTrial(reader) = standing {
            self.new_topics.give_back(reader, &topic.topic);
        }
        let was_on_trial = matches!(standing, UnpublishedStanding::OnTrial(_));
        if was_on_trial && self.followed() > self.topics_max {
            self.withdraw(&self.unpublished.give_way().unwrap_or_else(|| Arc::clone(topic)));
        }
    }

    /// A topic was compared with its stream, whose last id is `end`, or which has none.
    pub(super) fn settle(&self, topic: &Arc<TopicState>, end: Option<StreamId>) {
        if topic.is_published() {
            return;
        }
        // An empty stream that only holds a position has assigned no id.
        if end.is_some_and(|end| end > StreamId::ZERO && end.seq != StreamId::SEQ_END) {
            return self.published(topic);
        }
        if matches!(topic.standing(), UnpublishedStanding::OnTrial(_))
            && let Some(gives_way) = self.unpublished.settle(topic, self.followed() > self.topics_max)
        {
            self.withdraw(&gives_way);
        }
    }

    /// Withdraws the topic: subscribers are notified, and it is unfollowed.
    fn withdraw(&self, topic: &Arc<TopicState>) {
        self.metrics.topics_withdrawn_total.inc();
        topic.withdraw(&self.shards);
        self.withdrawn.waiting.lock().push(Arc::clone(topic));
        self.withdrawn.wake.notify_one();
    }

    /// Starts the task that unfollows withdrawn topics, separately from callers, which may be the backplane itself.
    pub(super) fn start_withdrawing(self: &Arc<Self>, tasks: &Tasks) {
        let hub = self.clone();
        let mut stop = tasks.stop();
        tasks.spawn_vital("withdraw", async move {
            loop {
                tokio::select! {
                    biased;
                    () = hub.withdrawn.wake.notified() => hub.let_go_of_withdrawn().await,
                    () = stop.wait() => return,
                }
            }
        });
    }

    async fn let_go_of_withdrawn(&self) {
        let waiting = mem::take(&mut *self.withdrawn.waiting.lock());
        for some in waiting.chunks(TOPICS_PER_TURN) {
            for topic in some {
                let _order = self.following.lock();
                let mut part = self.topics.part(topic.topic.as_str()).write();
                // Followed again, it is another topic.
                if part.get(topic.topic.as_str()).is_some_and(|followed| Arc::ptr_eq(followed, topic)) {
                    self.take_out(&mut part, topic);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tickgate_wire::{
        model::{Publication, Topic, TopicRule},
        protocol::Protocol,
    };

    use super::*;
    use crate::{
        hub::{
            CatchUpStep, EndpointOutboxes, Form, MemorySocket, Outbox, OutboxSocket, QueueLimits, SlotId, Subscriber,
            TopicHandle, for_tests::hub_with,
        },
        metrics::Metrics,
    };

    const FIRST: ReaderAddress = ReaderAddress(1);
    const OTHER: ReaderAddress = ReaderAddress(2);

    /// A live subscription.
    struct Live {
        interest: TopicHandle,
        subscriber: Subscriber,
        form: Form,
    }

    fn topic(name: &str) -> Topic {
        Topic::public(name).unwrap()
    }

    async fn subscribe(hub: &Arc<Hub>, rule: &Arc<TopicRule>, name: &str, reader: ReaderAddress) -> Option<Live> {
        let interest = hub.interest(&topic(name), rule, reader)?;
        interest.ready(Duration::from_secs(5)).await.ok()?;
        let limits = QueueLimits { messages_max: 10, bytes_max: 1 << 20 };
        let socket = OutboxSocket::Memory(Box::new(Mutex::new(MemorySocket::default())));
        let outbox = Outbox::new(socket, EndpointOutboxes::new(limits, Metrics::new(), "trading"));
        let form = Form::of_topic(Protocol::default(), name.into());
        let slot = interest.open(&outbox, interest.head(), interest.head());
        let live = Live { interest, subscriber: Subscriber { outbox, slot, pacer: None }, form };
        assert_eq!(live.look().await, CatchUpStep::Live);
        Some(live)
    }

    impl Live {
        /// The result for its connection's task.
        async fn look(&self) -> CatchUpStep {
            self.interest.catch_up(&self.subscriber, &self.form, true, None, FIRST).await.unwrap()
        }

        async fn is_woken(&self) -> SlotId {
            loop {
                if let Some((slot, _)) = self.subscriber.outbox.lagging() {
                    return slot;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    async fn publish(hub: &Hub, rule: &Arc<TopicRule>, name: &str) {
        let payload = Bytes::from_static(b"{}");
        let publication = Publication { topic: topic(name), channel: None, payload, once: None, rule: rule.clone() };
        hub.backplane.publish(publication).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_with_most_topics_loses_the_newest_and_its_subscriber_is_notified() {
        let tasks = Tasks::new();
        let (hub, rule) = hub_with(&tasks, |settings| {
            (settings.topics_max, settings.unpublished_topics_max) = (100, 3);
        });
        publish(&hub, &rule, "t:known").await;
        let known = subscribe(&hub, &rule, "t:known", FIRST).await.unwrap();
        let first = subscribe(&hub, &rule, "t:1", FIRST).await.unwrap();
        let second = subscribe(&hub, &rule, "t:2", FIRST).await.unwrap();
        let third = subscribe(&hub, &rule, "t:3", FIRST).await.unwrap();
        assert!(subscribe(&hub, &rule, "t:4", FIRST).await.is_none(), "no other address has more topics");
        let other = subscribe(&hub, &rule, "t:5", OTHER).await.expect("the other address loses one");
        assert_eq!(third.is_woken().await, third.subscriber.slot);
        assert_eq!(third.look().await, CatchUpStep::Withdrawn);
        // A published topic is not counted any more.
        publish(&hub, &rule, "t:1").await;
        let again = subscribe(&hub, &rule, "t:3", FIRST).await.expect("room for one");
        for live in [&known, &first, &second, &other, &again] {
            assert!(live.subscriber.outbox.lagging().is_none() && !live.interest.topic().is_withdrawn());
        }
        drop(third);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((hub.topics(), hub.unpublished.len()), (5, 3), "a withdrawn topic is removed and does not return");
        assert_eq!(hub.metrics.topics_withdrawn_total.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_published_topic_has_room_while_any_unpublished_one_is_followed() {
        let tasks = Tasks::new();
        let (hub, rule) = hub_with(&tasks, |settings| settings.topics_max = 2);
        publish(&hub, &rule, "t:known").await;
        publish(&hub, &rule, "t:well-known").await;
        publish(&hub, &rule, "t:famous").await;
        let first = subscribe(&hub, &rule, "t:1", FIRST).await.unwrap();
        let _known = subscribe(&hub, &rule, "t:known", OTHER).await.unwrap();
        assert!(subscribe(&hub, &rule, "t:2", OTHER).await.is_none());
        let _well = subscribe(&hub, &rule, "t:well-known", OTHER).await.unwrap();
        first.is_woken().await;
        assert_eq!(first.look().await, CatchUpStep::Withdrawn);
        drop(first);
        assert!(subscribe(&hub, &rule, "t:famous", OTHER).await.is_none(), "the maximum number is followed");
        assert_eq!(hub.topics(), 2);
    }
}
