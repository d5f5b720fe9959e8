//! One gateway: the real links, backplane, hub and publisher, over simulated wires.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::{net, places::GatewayPlaces};
use bytes::Bytes;
use parking_lot::Mutex;
use tickgate::{
    backplane::{Backplane, PublishAck, Redis, ReplicaIdentity},
    config::{self, Config, ConfigSources},
    history::BorderState,
    hub::{Hub, HubSettings, RingLimits, TurnLimits},
    metrics::{Metrics, PublicationSource},
    publisher::{MsgName, PublishFailure, PublishLimits, PublishRequest, Publisher, PublisherName},
    redis_link::{Keys, RedisLink, Topology},
    tasks::{Suspension, Tasks},
};
use tickgate_wire::model::{Class, Pattern, ReplicaId, StreamId, Topic, TopicRule, TopicRules, UserId};

/// The prefix of every key.
pub const PREFIX: &str = "tg2:";
/// Retention of an idle stream.
pub const RETAIN_TTL: Duration = Duration::from_secs(75);
/// How long the `msg_id` of a publication is remembered.
pub const DEDUPE_TTL: Duration = Duration::from_secs(190);
/// Maximum number of entries in a stream.
pub const RETAIN_MAX: u32 = 12;

/// The channels of a run: two private ones of one user, which share a stream and guarantee every message; a public one
/// that guarantees the newest value; a public one of which slow readers miss the oldest messages, and which waits for a
/// follower of Redis; and a public one without retention.
pub const TOPICS: [(&str, Class); 5] = [
    ("orders", Class::Reliable),
    ("price", Class::State),
    ("fills", Class::Reliable),
    ("news", Class::Event),
    ("ticks", Class::Event),
];
/// Whose the private ones are.
pub const USER: &str = "alice";

/// Whether a channel is private.
pub const fn is_private(at: usize) -> bool {
    matches!(at, 0 | 2)
}

/// Whether a channel has no retention.
pub const fn is_plain(at: usize) -> bool {
    at == 4
}

/// The first channel in the stream of a channel.
pub const fn stream_of(at: usize) -> usize {
    if is_private(at) { 0 } else { at }
}

/// The place of a channel by the rules of a gateway.
pub struct Home {
    pub topic: Topic,
    pub rule: Arc<TopicRule>,
    pub in_user_stream: bool,
}

pub fn home(rules: &TopicRules, at: usize) -> Home {
    let name = TOPICS[at].0;
    if is_private(at) {
        let private = rules.of_private(&UserId::new(USER).expect("a name"), name);
        let (rule, in_user_stream) = (private.rule.clone(), private.in_user_stream);
        return Home { topic: private.topic, rule, in_user_stream };
    }
    let topic = Topic::public(name).expect("a name");
    Home { topic, rule: rules.of_name(name).clone(), in_user_stream: false }
}

/// The places of the channels by the correct rules.
static STREAMS: LazyLock<[String; TOPICS.len()]> = LazyLock::new(|| {
    let rules = rules(false);
    std::array::from_fn(|at| Keys::new(PREFIX).stream(&home(&rules, at).topic))
});

/// The key of a channel's stream by the correct rules.
pub fn stream(at: usize) -> &'static str {
    &STREAMS[at]
}

/// The rules of a gateway; `other`: those of a wrongly configured one.
pub fn rules(other: bool) -> Arc<TopicRules> {
    static RULES: [LazyLock<Arc<TopicRules>>; 2] =
        [LazyLock::new(|| make_rules(false)), LazyLock::new(|| make_rules(true))];
    Arc::clone(&RULES[usize::from(other)])
}

fn make_rules(other: bool) -> Arc<TopicRules> {
    let rule = |name: &str, class| TopicRule {
        pattern: Pattern::new(name).expect("a pattern"),
        class,
        retain_max: match (name, class) {
            ("ticks", _) => 0,
            (_, Class::State) => 1,
            _ => RETAIN_MAX,
        },
        retain_ttl: RETAIN_TTL,
        wait_replicas: u32::from(name == "news"),
        wait_aof: false,
        dedupe_ttl: DEDUPE_TTL,
        level_min: None,
    };
    let swapped = |class| match class {
        Class::State if other => Class::Reliable,
        _ if other => Class::State,
        class => class,
    };
    let all = TOPICS.map(|(name, class)| rule(name, swapped(class)));
    Arc::new(TopicRules::new(all.into(), rule("*", Class::Reliable), rule("*", Class::Event)))
}

/// The result of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimPublishOutcome {
    Pending,
    Acknowledged(StreamId),
    /// Acknowledged, without retention.
    Sent,
    /// A duplicate: the id of the stored publication with the same `msg_id`.
    Repeat(StreamId),
    Refused,
    Unknown,
}

/// One publication, whose content is its number.
#[derive(Clone, Debug)]
pub struct NumberedPublication {
    pub topic: usize,
    pub outcome: SimPublishOutcome,
    pub by: String,
    /// Whether its payload is invalid.
    pub is_odd: bool,
    /// The first of the publications with its `msg_id`, if it has one.
    pub first: Option<usize>,
    /// When it started.
    pub at: Duration,
}

impl NumberedPublication {
    /// Whether its publisher received an acknowledgement.
    pub const fn is_accepted(&self) -> bool {
        matches!(
            self.outcome,
            SimPublishOutcome::Acknowledged(_) | SimPublishOutcome::Repeat(_) | SimPublishOutcome::Sent
        )
    }

    /// The id with which it was acknowledged.
    pub fn id(&self) -> Option<StreamId> {
        match self.outcome {
            SimPublishOutcome::Acknowledged(id) | SimPublishOutcome::Repeat(id) => Some(id),
            SimPublishOutcome::Pending
            | SimPublishOutcome::Sent
            | SimPublishOutcome::Refused
            | SimPublishOutcome::Unknown => None,
        }
    }
}

/// All publications of a run, by number.
pub type Publications = Arc<Mutex<Vec<NumberedPublication>>>;

/// A running gateway.
pub struct SimGateway {
    pub hub: Arc<Hub>,
    backplane: Backplane,
    pub metrics: Arc<Metrics>,
    publisher: Publisher,
    tasks: Tasks,
    /// Suspends it, with the drivers of its connections and the tasks of its clients.
    pub frost: Suspension,
    /// While it is suspended: the publications requested from it.
    asked: Mutex<Option<Vec<SimPublication>>>,
    number: usize,
    pub rules: Arc<TopicRules>,
    /// The places of its clients' sessions, where a run has them.
    pub places: Option<GatewayPlaces>,
}

/// A requested publication: its channel, the first with its `msg_id`, its number.
type SimPublication = (usize, Option<usize>, usize);

/// The configuration of a gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    pub database: usize,
    /// Its topic rules differ from those of the others.
    pub other_rules: bool,
    pub engines: bool,
    /// Connections have sessions, whose places are counted.
    pub sessions: bool,
}

fn settings(number: usize, Setup { database, engines, .. }: Setup) -> config::Redis {
    config::Redis {
        url_file: None,
        access: config::Access::by(&format!("redis://gateway-{number}:6379/{database}")),
        prefix: PREFIX.into(),
        pool_size: 4,
        pool_wait_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(300),
        response_timeout: Duration::from_millis(300),
        canary_interval: Duration::from_millis(1_000),
        canary_timeout: Duration::from_millis(1_500),
        compare_interval: Duration::from_millis(900),
        engines,
        ca_file: None,
    }
}

/// Whether the configuration refuses such a database.
pub fn is_refused(database: usize) -> bool {
    let url = settings(0, Setup { database, ..Setup::default() }).access().url.expose().to_owned();
    let sources = ConfigSources { flags: vec![("--redis", "redis.url", url)], ..ConfigSources::default() };
    Config::load(&sources).is_err_and(|problems| problems.to_string().contains("requires database 0"))
}

impl SimGateway {
    pub fn start(number: usize, setup: Setup, metrics: &Arc<Metrics>) -> Self {
        let (tasks, metrics, rules) = (Tasks::new(), metrics.clone(), rules(setup.other_rules));
        let (config, frost) = (settings(number, setup), tasks.frost());
        net::with(|net| net.frosts.insert(number, frost.clone()));
        let link = RedisLink::start(&config, &tasks, metrics.clone());
        let (identity, topology) =
            (ReplicaIdentity { replica: ReplicaId::random(), rules: rules.clone() }, Topology::one(link));
        let backplane = Backplane::Redis(Redis::start_on(&topology, &identity, &tasks));
        let places = setup.sessions.then(|| GatewayPlaces::start(&topology, &identity.replica, &tasks));
        let settings = HubSettings {
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
                reader_rate: config::Rate { per_second: 0, burst: 0 },
                timeout: Duration::from_secs(10),
            },
        };
        let hub = Hub::start(backplane.clone(), settings, metrics.clone(), &tasks);
        let limits = PublishLimits { payload_bytes_max: 1 << 16, json_depth_max: 8, development: false };
        let publisher = Publisher::new(backplane.clone(), rules.clone(), limits, metrics.clone());
        Self { hub, backplane, metrics, publisher, tasks, frost, asked: Mutex::default(), number, rules, places }
    }

    /// Suspends its process, or continues it.
    pub fn suspend(&self, is_suspended: bool, all: &Publications) {
        self.frost.set(is_suspended);
        let mut asked = self.asked.lock();
        let waiting = if is_suspended {
            asked.get_or_insert_default();
            None
        } else {
            asked.take()
        };
        drop(asked);
        waiting.into_iter().flatten().for_each(|asked| self.begin(asked, all));
    }

    /// Publishes the next number, and records the result when it is known. `first`: with the `msg_id` and the content
    /// of that publication, which may be this one.
    pub fn publish(&self, topic: usize, first: Option<usize>, all: &Publications) {
        let number = note(all, topic, format!("gateway {}", self.number));
        all.lock()[number].first = first;
        match &mut *self.asked.lock() {
            Some(waiting) => waiting.push((topic, first, number)),
            None => self.begin((topic, first, number), all),
        }
    }

    fn begin(&self, (topic, first, number): SimPublication, all: &Publications) {
        let text = format!("{{\"n\":{}}}", first.unwrap_or(number));
        let msg_id = format!("m{}", first.unwrap_or(number));
        let name = |_| MsgName { msg_id: &msg_id, publisher: PublisherName::Nobody, source: None, content: None };
        let msg = first.map(name);
        let request = PublishRequest {
            channel: TOPICS[topic].0,
            user: is_private(topic).then_some(USER),
            payload: Bytes::from(text),
            msg,
            door: PublicationSource::Http,
        };
        let (answer, all) = (self.publisher.publish(request), all.clone());
        tokio::spawn(self.frost.over(async move {
            let outcome = match answer.await {
                Ok(Some(PublishAck { id: Some(id), duplicate: false })) => SimPublishOutcome::Acknowledged(id),
                Ok(Some(PublishAck { id: Some(id), duplicate: true })) => SimPublishOutcome::Repeat(id),
                Ok(Some(PublishAck { id: None, .. })) => SimPublishOutcome::Sent,
                Ok(None) | Err(PublishFailure::Unknown(_)) => SimPublishOutcome::Unknown,
                Err(_) => SimPublishOutcome::Refused,
            };
            all.lock()[number].outcome = outcome;
        }));
    }

    /// Whether it acknowledges publications, and every boundary has its verdict.
    pub fn is_settled(&self) -> bool {
        let history = self.backplane.history(&home(&self.rules, 0).topic);
        let is_pending = history.borders.iter().any(|(_, state)| *state == BorderState::Pending);
        self.backplane.health().acknowledges && !is_pending
    }

    /// Leaves the others, as a drain does when all connections are closed, and ends its tasks.
    pub async fn leave(&self) {
        self.backplane.leave().await;
        if let Some(places) = &self.places {
            places.leave().await;
        }
        self.end().await;
    }

    /// Ends its tasks.
    pub async fn end(&self) {
        self.tasks.end(Duration::from_secs(1)).await;
    }
}

/// Records the start of a publication. Returns its number.
pub fn note(all: &Publications, topic: usize, by: String) -> usize {
    let mut all = all.lock();
    let at = net::with(|net| net.now());
    all.push(NumberedPublication { topic, outcome: SimPublishOutcome::Pending, by, is_odd: false, first: None, at });
    all.len() - 1
}
