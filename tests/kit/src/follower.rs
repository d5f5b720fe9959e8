//! A follower that records the events of a backplane, and waits for expected ones. Does not judge them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tickgate::{
    backplane::{Backplane, BackplaneEvent, Redis, ReplicaIdentity},
    config,
    redis_link::{RedisLink, Topology},
    tasks::Tasks,
};
use tickgate_wire::model::{
    Class, Content, Message, Once, Pattern, Publication, ReplicaId, StreamId, Topic, TopicRule, TopicRules,
};
use tokio::{sync::Notify, time::timeout};

use crate::{PATIENCE, eventually};

/// One event, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedEvent {
    /// A message of the topic arrived.
    Arrived(String, Message),
    /// The subscription to the topic is active.
    Confirmed(String),
    /// The subscription to the topic was lost.
    Lost(String),
    /// The topic received a message that no publisher of ours wrote.
    Foreign(String),
    /// The dataset has a new generation.
    GenerationChanged,
}

/// Records events in order. Cheap to clone.
#[derive(Clone, Default)]
pub struct RecordingFollower {
    told: Arc<Mutex<Vec<OwnedEvent>>>,
    news: Arc<Notify>,
}

impl RecordingFollower {
    /// Becomes the receiver of the backplane.
    pub fn follow(backplane: &Backplane) -> Self {
        let follower = Self::default();
        let recorder = follower.clone();
        backplane.start(Box::new(move |event| {
            recorder.told.lock().push(match event {
                BackplaneEvent::Arrived { topic, message } => OwnedEvent::Arrived(topic.to_owned(), message),
                BackplaneEvent::Confirmed { topic } => OwnedEvent::Confirmed(topic.to_owned()),
                BackplaneEvent::Lost { topic } => OwnedEvent::Lost(topic.to_owned()),
                BackplaneEvent::Foreign { topic } => OwnedEvent::Foreign(topic.to_owned()),
                BackplaneEvent::GenerationChanged => OwnedEvent::GenerationChanged,
            });
            recorder.news.notify_waiters();
        }));
        follower
    }

    /// The recorded events, in order.
    pub fn told(&self) -> Vec<OwnedEvent> {
        self.told.lock().clone()
    }

    /// Number of recorded events.
    pub fn count(&self) -> usize {
        self.told.lock().len()
    }

    /// Messages of a topic, in the order of their arrival.
    pub fn arrived(&self, topic: &Topic) -> Vec<Message> {
        let of_topic = |told: &OwnedEvent| match told {
            OwnedEvent::Arrived(name, message) if name == topic.as_str() => Some(message.clone()),
            _ => None,
        };
        self.told.lock().iter().filter_map(of_topic).collect()
    }

    /// Waits until the recorded events satisfy the condition.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&[OwnedEvent]) -> bool) {
        let wait = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if condition(&self.told.lock()) {
                    return;
                }
                news.await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("never received: {what}; received so far: {:#?}", self.told());
        }
    }

    /// Waits for an event after the first `from` ones.
    pub async fn told_after(&self, from: usize, event: &OwnedEvent) {
        self.until(&format!("{event:?}"), |told| told[from.min(told.len())..].contains(event)).await;
    }

    /// Waits for the topic's `count`th message.
    pub async fn has_arrived(&self, topic: &Topic, count: usize) -> Vec<Message> {
        let arrived = |told: &[OwnedEvent]| {
            told.iter().filter(|told| matches!(told, OwnedEvent::Arrived(name, _) if name == topic.as_str())).count()
        };
        self.until(&format!("{count} messages of {topic}"), |told| arrived(told) >= count).await;
        self.arrived(topic)
    }

    /// Follows the topic and waits until the subscription is active.
    pub async fn begin(&self, backplane: &Backplane, topic: &Topic) {
        let before = self.count();
        backplane.follow(topic, None);
        self.told_after(before, &OwnedEvent::Confirmed(topic.as_str().to_owned())).await;
    }
}

/// The backplane over one server.
pub fn backplane_over(link: &RedisLink, tasks: &Tasks) -> Backplane {
    Backplane::Redis(Redis::start_on(&Topology::one(link.clone()), &member(&[]), tasks))
}

/// A separate replica, with these rules before the catch-all one.
pub fn member(rules: &[Arc<TopicRule>]) -> ReplicaIdentity {
    let rules = rules.iter().map(|rule| (**rule).clone()).collect();
    let rules = TopicRules::new(rules, (*retain(1000)).clone(), (*retain(1000)).clone()).into();
    ReplicaIdentity { replica: ReplicaId::random(), rules }
}

/// Waits until the backplane acknowledges.
pub async fn acknowledging(backplane: &Backplane) {
    eventually("the backplane acknowledges", async || backplane.health().acknowledges.then_some(())).await;
}

/// Settings for a Redis that is probed often with long timeouts: on a busy machine a second without a response is not a
/// fault of Redis.
pub fn redis_config(url: &str) -> config::Redis {
    config::Redis {
        url_file: None,
        access: config::Access::by(url),
        prefix: "tg2:".into(),
        pool_size: 4,
        pool_wait_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        response_timeout: Duration::from_secs(10),
        canary_interval: Duration::from_millis(200),
        canary_timeout: Duration::from_secs(10),
        compare_interval: Duration::from_secs(5),
        engines: false,
        ca_file: None,
    }
}

/// The same for tests of silence, which counts as a fault after half a second.
pub fn impatient_redis_config(url: &str) -> config::Redis {
    config::Redis {
        connect_timeout: Duration::from_millis(500),
        response_timeout: Duration::from_millis(500),
        canary_timeout: Duration::from_millis(600),
        ..redis_config(url)
    }
}

/// A public topic with this valid name.
pub fn topic(name: &str) -> Topic {
    Topic::public(name).expect("a topic's name")
}

/// A rule that keeps this many entries; 0: not retained.
pub fn retain(retain_max: u32) -> Arc<TopicRule> {
    Arc::new(TopicRule {
        pattern: Pattern::new("*").expect("a pattern"),
        class: Class::Reliable,
        retain_max,
        retain_ttl: Duration::from_secs(3600),
        wait_replicas: 0,
        wait_aof: false,
        dedupe_ttl: Duration::from_secs(300),
        level_min: None,
    })
}

/// A publication of `{"n":…}`.
pub fn number(topic: &Topic, rule: &Arc<TopicRule>, n: usize) -> Publication {
    let payload = Bytes::from(format!("{{\"n\":{n}}}"));
    Publication { topic: topic.clone(), channel: None, payload, once: None, rule: Arc::clone(rule) }
}

/// The same, with a `msg_id`.
pub fn named(topic: &Topic, rule: &Arc<TopicRule>, n: usize, name: &str) -> Publication {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let once = Some(Once { name: hasher.finish().into(), content: n as u64 });
    Publication { once, ..number(topic, rule, n) }
}

/// The payload as text.
pub fn text(message: &Message) -> &str {
    match &message.content {
        Content::Data(payload) => std::str::from_utf8(payload).expect("utf-8"),
        Content::Unreadable => panic!("unreadable: {message:?}"),
    }
}

/// The ids of messages that must all have one.
pub fn ids(messages: &[Message]) -> Vec<StreamId> {
    messages.iter().map(|message| message.id.expect("an id")).collect()
}
