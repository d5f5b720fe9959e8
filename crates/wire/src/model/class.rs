//! Delivery classes: how slow clients, snapshots and replays are handled for a topic (the wire contract, section 2).

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use super::{LogLevel, Pattern, Topic, UserId};

/// How the publications of a topic are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Only the newest value matters: a slow client skips values and receives their number.
    State,
    /// Every message matters, older ones less: for a slow client old ones may be dropped, and it receives a `gap` with
    /// the range.
    Event,
    /// Never dropped: a slow client catches up from the stream.
    Reliable,
}

impl Class {
    /// The name in the configuration and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Event => "event",
            Self::Reliable => "reliable",
        }
    }
}

/// The configured rule of the topics whose name matches `pattern`. Serialized as engines read it, with times in
/// seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicRule {
    /// Matched against the public topic name, or the channel name of a private channel.
    #[serde(skip)]
    pub pattern: Pattern,
    /// The delivery class.
    pub class: Class,
    /// Minimum number of entries kept in the stream; approximate, slightly more may be kept. 0: not retained, a plain
    /// publish without id.
    pub retain_max: u32,
    /// How long the stream of an idle topic is kept after its last publication.
    #[serde(serialize_with = "seconds")]
    pub retain_ttl: Duration,
    /// Number of Redis replicas that must have a publication before it is acknowledged (`WAIT`). 0: none.
    pub wait_replicas: u32,
    /// Whether the local append-only file must be synced before a publication is acknowledged (`WAITAOF`).
    pub wait_aof: bool,
    /// How long the result of a publication with a `msg_id` is remembered: a retry within this time is not published
    /// again.
    #[serde(serialize_with = "seconds")]
    pub dedupe_ttl: Duration,
    /// Log messages below it are not published. Only gateways apply it.
    #[serde(skip)]
    pub level_min: Option<LogLevel>,
}

impl TopicRule {
    /// Whether a publication is below the minimum level of the topic.
    #[must_use]
    pub fn leaves_out(&self, payload: &[u8]) -> bool {
        self.level_min.is_some_and(|min| LogLevel::of(payload).is_some_and(|level| level < min))
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_secs())
}

/// The table of rules, first match wins; the last one matches everything.
#[derive(Clone, Debug)]
pub struct TopicRules {
    rules: Vec<Arc<TopicRule>>,
    user_stream: Arc<TopicRule>,
    fallback: Arc<TopicRule>,
}

/// The topic behind a user's private channel.
#[derive(Clone, Debug)]
pub struct PrivateChannel<'a> {
    /// The topic that holds the channel's publications.
    pub topic: Topic,
    /// The rule of that topic.
    pub rule: &'a Arc<TopicRule>,
    /// The topic contains other channels of the user as well; messages carry the channel name.
    pub in_user_stream: bool,
}

impl TopicRules {
    /// A table whose unmatched names get `fallback`; `user_stream` is the rule of every user's own stream.
    #[must_use]
    pub fn new(rules: Vec<TopicRule>, user_stream: TopicRule, fallback: TopicRule) -> Self {
        Self {
            rules: rules.into_iter().map(Arc::new).collect(),
            user_stream: Arc::new(user_stream),
            fallback: Arc::new(fallback),
        }
    }

    /// The part of the rules on which replicas that share topics must agree, one line per rule in order: pattern,
    /// class, and whether there are streams. How much is kept, and for how long, may differ.
    #[must_use]
    pub fn agreement(&self) -> Vec<String> {
        let line = |rule: &Arc<TopicRule>| {
            let kept = if rule.retain_max > 0 { "retained" } else { "not retained" };
            format!("{} ({}, {kept})", rule.pattern.as_str(), rule.class.as_str())
        };
        self.all().map(line).collect()
    }

    /// The rules for names, in the order in which they are tried; the last one matches every name.
    pub fn by_name(&self) -> impl Iterator<Item = &Arc<TopicRule>> {
        self.rules.iter().chain([&self.fallback])
    }

    /// Every rule.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TopicRule>> {
        self.by_name().chain([&self.user_stream])
    }

    /// The rule of every user's own stream.
    #[must_use]
    pub fn user_stream(&self) -> &Arc<TopicRule> {
        &self.user_stream
    }

    /// The patterns of the rules, in order, except the last one, which matches everything.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.rules.iter().map(|rule| &rule.pattern)
    }

    /// The rule of a public topic or of a private channel, by its name.
    #[must_use]
    pub fn of_name(&self, name: &str) -> &Arc<TopicRule> {
        self.rules.iter().find(|rule| rule.pattern.matches(name)).unwrap_or(&self.fallback)
    }

    /// The topic of a user's private channel: reliable channels share the user's stream, any other has its own topic.
    #[must_use]
    pub fn of_private(&self, user: &UserId, channel: &str) -> PrivateChannel<'_> {
        let rule = self.of_name(channel);
        match rule.class {
            Class::Reliable => {
                PrivateChannel { topic: Topic::user_stream(user), rule: &self.user_stream, in_user_stream: true }
            }
            Class::State | Class::Event => {
                PrivateChannel { topic: Topic::private(user, channel), rule, in_user_stream: false }
            }
        }
    }

    /// The rule of a topic, even of a private one: `@@user` is the reliable stream of a user.
    #[must_use]
    pub fn of_topic(&self, topic: &Topic) -> &Arc<TopicRule> {
        let name = topic.as_str();
        match name.strip_prefix('@').and_then(|rest| rest.split_once('@')) {
            Some(("", _)) => &self.user_stream,
            Some((channel, _)) => self.of_name(channel),
            None => self.of_name(name),
        }
    }
}
