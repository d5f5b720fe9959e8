//! One gateway: the real links, backplane, hub and publisher, over simulated wires.

use std::{sync::Arc, time::Duration};

use crate::net;
use bytes::Bytes;
use parking_lot::Mutex;
use tickgate::{
    backplane::{Backplane, Identity, Published, Redis},
    config::{self, Config, Sources},
    hub::{Hub, RingLimits, Settings, TurnLimits},
    metrics::{Door, Metrics},
    publisher::{PublishFailure, PublishLimits, PublishRequest, Publisher},
    redis_link::{RedisLink, Topology},
    tasks::Tasks,
};
use tickgate_wire::model::{Class, Pattern, ReplicaId, StreamId, Topic, TopicRule, TopicRules, UserId};

/// What every key begins with.
pub const PREFIX: &str = "tg2:";
/// How long an idle stream is kept.
pub const RETAIN_TTL: Duration = Duration::from_secs(120);
/// Entries kept of a stream.
pub const RETAIN_MAX: u32 = 12;

/// The topics of a run: a user's private channel, whose every message is owed, and a public one whose newest value is.
pub const TOPICS: [(&str, Class); 2] = [("orders", Class::Reliable), ("price", Class::State)];
/// Whose the first one is.
const USER: &str = "alice";

/// Where a channel lives, by the rules of a gateway.
pub struct Home {
    pub topic: Topic,
    pub rule: Arc<TopicRule>,
    pub in_user_stream: bool,
}

pub fn home(rules: &TopicRules, at: usize) -> Home {
    let name = TOPICS[at].0;
    if at == 0 {
        let private = rules.of_private(&UserId::new(USER).expect("a name"), name);
        let (rule, in_user_stream) = (private.rule.clone(), private.in_user_stream);
        return Home { topic: private.topic, rule, in_user_stream };
    }
    let topic = Topic::public(name).expect("a name");
    Home { topic, rule: rules.of_name(name).clone(), in_user_stream: false }
}

/// Where a channel lives by the right rules.
pub fn topic(at: usize) -> Topic {
    home(&rules(false), at).topic
}

/// The rules of a gateway; `other`: those of one that was configured otherwise.
pub fn rules(other: bool) -> Arc<TopicRules> {
    let rule = |name: &str, class| TopicRule {
        pattern: Pattern::new(name).expect("a pattern"),
        class,
        retain_max: if class == Class::State { 1 } else { RETAIN_MAX },
        retain_ttl: RETAIN_TTL,
        wait_replicas: 0,
        wait_aof: false,
        dedupe_ttl: Duration::from_secs(300),
    };
    let swapped = |class| match class {
        Class::State if other => Class::Reliable,
        _ if other => Class::State,
        class => class,
    };
    let all = TOPICS.map(|(name, class)| rule(name, swapped(class)));
    Arc::new(TopicRules::new(all.into(), rule("*", Class::Reliable), rule("*", Class::Event)))
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    Acknowledged(StreamId),
    Refused,
    Unknown,
}

/// One publication, by its number: what its content is.
#[derive(Clone, Debug)]
pub struct Publication {
    pub topic: usize,
    pub outcome: Outcome,
    pub by: String,
    /// No client can read its payload.
    pub is_odd: bool,
    /// When it began.
    pub at: Duration,
}

/// All publications of a run; the number is the place.
pub type Publications = Arc<Mutex<Vec<Publication>>>;

/// A gateway that runs.
pub struct Gateway {
    pub hub: Arc<Hub>,
    backplane: Backplane,
    pub metrics: Arc<Metrics>,
    publisher: Publisher,
    tasks: Tasks,
    number: usize,
    pub rules: Arc<TopicRules>,
}

fn settings(number: usize, database: usize) -> config::Redis {
    config::Redis {
        url_file: None,
        access: config::Access::by(&format!("redis://gateway-{number}:6379/{database}")),
        prefix: PREFIX.into(),
        pool_size: 4,
        pool_wait_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(300),
        response_timeout: Duration::from_millis(300),
        canary_interval: Duration::from_millis(300),
        canary_timeout: Duration::from_millis(700),
        compare_interval: Duration::from_millis(900),
        engines: false,
        ca_file: None,
    }
}

/// Whether the configuration refuses such a database.
pub fn is_refused(database: usize) -> bool {
    let url = settings(0, database).access().url.expose().to_owned();
    let sources = Sources { flags: vec![("--redis", "redis.url", url)], ..Sources::default() };
    Config::load(&sources).is_err_and(|problems| problems.to_string().contains("requires database 0"))
}

impl Gateway {
    pub fn start(number: usize, database: usize, rules: Arc<TopicRules>) -> Self {
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        let config = settings(number, database);
        let link = RedisLink::start(&config, &tasks, metrics.clone());
        let identity = Identity { replica: ReplicaId::random(), rules: rules.clone() };
        let backplane = Backplane::Redis(Redis::start_on(&Topology::one(link), &identity, &tasks));
        let settings = Settings {
            shards: 1,
            topics_max: 99,
            unpublished_topics_max: 1_000,
            unpublished_per_address_max: 1_000,
            ring: RingLimits { messages_max: 4, bytes_max: 1 << 16 },
            linger: Duration::from_millis(200),
            compare_interval: config.compare_interval,
            queue_grace: Duration::from_secs(10),
            reads: TurnLimits {
                at_once: 4,
                bytes_max: 1 << 30,
                reader_bytes_max: 1 << 30,
                timeout: Duration::from_secs(10),
            },
        };
        let hub = Hub::start(backplane.clone(), settings, metrics.clone(), &tasks);
        let limits = PublishLimits { payload_bytes_max: 1 << 16, json_depth_max: 8, development: false };
        let publisher = Publisher::new(backplane.clone(), rules.clone(), limits, metrics.clone());
        Self { hub, backplane, metrics, publisher, tasks, number, rules }
    }

    /// Publishes the next number; its outcome is noted when it is known.
    pub fn publish(&self, topic: usize, all: &Publications) -> usize {
        let number = note(all, topic, format!("gateway {}", self.number));
        let text = format!("{{\"n\":{number}}}");
        let request = PublishRequest {
            channel: TOPICS[topic].0,
            user: (topic == 0).then_some(USER),
            payload: Bytes::from(text),
            msg: None,
            door: Door::Http,
        };
        let (answer, all) = (self.publisher.publish(request), all.clone());
        tokio::spawn(async move {
            let outcome = match answer.await {
                Ok(Published { id: Some(id), .. }) => Outcome::Acknowledged(id),
                Ok(Published { id: None, .. }) | Err(PublishFailure::Unknown(_)) => Outcome::Unknown,
                Err(_) => Outcome::Refused,
            };
            all.lock()[number].outcome = outcome;
        });
        number
    }

    /// Whether it acknowledges publications now.
    pub fn acknowledges(&self) -> bool {
        self.backplane.health().acknowledges
    }

    /// Leaves the others, as a drain does when all connections are closed, and ends its tasks.
    pub async fn leave(&self) {
        self.backplane.leave().await;
        self.end().await;
    }

    /// Ends its tasks.
    pub async fn end(&self) {
        self.tasks.end(Duration::from_secs(1)).await;
    }
}

/// A publication begins; returns its number.
pub fn note(all: &Publications, topic: usize, by: String) -> usize {
    let mut all = all.lock();
    let at = net::with(|net| net.now());
    all.push(Publication { topic, outcome: Outcome::Pending, by, is_odd: false, at });
    all.len() - 1
}
