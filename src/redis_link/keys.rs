//! All key and channel names in Redis. No other module builds them.
//!
//! All start with the configured, versioned prefix. Keys that must be on the same server share a hash tag: a topic's
//! stream, channel and dedupe keys, a user's leases, a session's record. Text that clients choose (user ids in private
//! topics) is escaped, so that no name can equal another one's key or break out of its tag.

use std::{borrow::Cow, sync::Arc};

use tickgate_wire::model::{Once, ReplicaId, SessionId, Topic, UserId};

/// Builds names. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Arc<str>,
    /// Prefix of every topic's names.
    topic_start: Arc<str>,
}

const GENERATION_TAG: &str = "{gen}";
/// The default prefix of the previous format.
const OLD_PREFIX: &str = "tg1:";
const TOPIC_TAG: &str = "{t:";
const STREAM_END: &str = "}:s";

impl Keys {
    /// Names under a prefix, such as `tg2:`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), topic_start: format!("{prefix}{TOPIC_TAG}").into() }
    }

    /// The stream of a topic, and its pub/sub channel: the same name, so that a publication looks up one key less.
    #[must_use]
    pub fn stream(&self, topic: &Topic) -> String {
        format!("{}{}{STREAM_END}", self.topic_start, escaped(topic.as_str()))
    }

    /// Stores the result of a publication with a `msg_id`.
    #[must_use]
    pub fn dedupe(&self, topic: &Topic, once: &Once) -> String {
        format!("{}{}}}:i:{:032x}", self.topic_start, escaped(topic.as_str()), once.name)
    }

    /// The topic of this channel; `None` for any other channel.
    #[must_use]
    pub fn topic_of_channel<'a>(&self, channel: &'a str) -> Option<Cow<'a, str>> {
        let name = channel.strip_prefix(&*self.topic_start)?.strip_suffix(STREAM_END)?;
        unescaped(name)
    }

    /// Hash of the dataset's generation, of the known earlier ones, and of the replicas that may acknowledge.
    #[must_use]
    pub fn generation(&self) -> String {
        format!("{}{GENERATION_TAG}", self.prefix)
    }

    /// The channel on which replicas learn about handovers and changes of the generation's hash.
    #[must_use]
    pub fn generation_control(&self) -> String {
        format!("{}{GENERATION_TAG}:c", self.prefix)
    }

    /// Matches the stream of every topic.
    #[must_use]
    pub fn all_streams(&self) -> String {
        format!("{}*{STREAM_END}", self.topic_start)
    }

    /// Sorted sets in which replicas with the previous format keep their leases, by expiry in milliseconds: under this
    /// prefix, and under the previous default.
    #[must_use]
    pub fn leases_of_the_old_format(&self) -> Vec<String> {
        let mut prefixes = vec![OLD_PREFIX, &*self.prefix];
        prefixes.dedup();
        prefixes.into_iter().map(|prefix| format!("{prefix}{{replicas}}:l")).collect()
    }

    /// The channel of one link's canary.
    #[must_use]
    pub fn canary(&self, link: &str) -> String {
        format!("{}canary:{link}", self.prefix)
    }

    /// Sorted set of a user's sessions, by the expiry of their leases: those at one endpoint with a separate limit, or
    /// at all others.
    #[must_use]
    pub fn user_sessions(&self, user: &UserId, apart: Option<&str>) -> String {
        self.of_places(user, apart, "l")
    }

    fn of_places(&self, user: &UserId, apart: Option<&str>, kind: &str) -> String {
        let shared = format!("{}{{u:{}}}:{kind}", self.prefix, escaped(user.as_str()));
        match apart {
            Some(profile) => format!("{shared}:{profile}"),
            None => shared,
        }
    }

    /// Until when a user's tokens are refused.
    #[must_use]
    pub fn user_revoked(&self, user: &UserId) -> String {
        format!("{}{{u:{}}}:r", self.prefix, escaped(user.as_str()))
    }

    /// Whether the platform reported a user as inactive.
    #[must_use]
    pub fn user_standing(&self, user: &UserId) -> String {
        format!("{}{{u:{}}}:i", self.prefix, escaped(user.as_str()))
    }

    /// Sorted set of a user's sessions that lost their places while Redis was unreachable, by the timestamps of the
    /// replacing sessions.
    #[must_use]
    pub fn user_replaced(&self, user: &UserId, apart: Option<&str>) -> String {
        self.of_places(user, apart, "p")
    }

    /// The record of a session that can be resumed.
    #[must_use]
    pub fn session(&self, session: SessionId) -> String {
        format!("{}{{s:{session}}}:r", self.prefix)
    }

    /// Sorted set of the live replicas, by the expiry of their leases.
    #[must_use]
    pub fn replicas(&self) -> String {
        format!("{}{{replicas}}:m", self.prefix)
    }

    /// Hash of the live replicas' statistics.
    #[must_use]
    pub fn replica_figures(&self) -> String {
        format!("{}{{replicas}}:f", self.prefix)
    }

    /// Index of a replica's sessions, for the replicas that clean up after it.
    #[must_use]
    pub fn replica_sessions(&self, replica: &ReplicaId) -> String {
        format!("{}{{r:{replica}}}:x", self.prefix)
    }

    /// The index of a replica while it is rewritten, until it replaces the old one.
    #[must_use]
    pub fn replica_sessions_next(&self, replica: &ReplicaId) -> String {
        format!("{}{{r:{replica}}}:next", self.prefix)
    }

    /// The index of a dead replica while another one cleans up.
    #[must_use]
    pub fn replica_swept(&self, replica: &ReplicaId) -> String {
        format!("{}{{r:{replica}}}:swept", self.prefix)
    }

    /// The control channel of one replica.
    #[must_use]
    pub fn control(&self, replica: &ReplicaId) -> String {
        format!("{}ctl:{replica}", self.prefix)
    }

    /// The control channel of all replicas.
    #[must_use]
    pub fn control_all(&self) -> String {
        format!("{}ctl:*", self.prefix)
    }

    /// Stream of the latest operator commands.
    #[must_use]
    pub fn controls(&self) -> String {
        format!("{}controls", self.prefix)
    }

    /// A single-use ticket, by a name that does not reveal it.
    #[must_use]
    pub fn ticket(&self, ticket: &str) -> String {
        format!("{}ticket:{ticket}", self.prefix)
    }

    /// Sorted set of the names that replicas request from a feed, by the expiry of their leases.
    #[must_use]
    pub fn wanted(&self, feed: &str) -> String {
        format!("{}wanted:{feed}", self.prefix)
    }

    /// A named exclusive lease.
    #[must_use]
    pub fn lease(&self, name: &str) -> String {
        format!("{}lease:{name}", self.prefix)
    }
}

/// Braces would move the hash tag, so a name with braces could equal another one's key.
fn escaped(name: &str) -> Cow<'_, str> {
    if !name.bytes().any(|byte| matches!(byte, b'{' | b'}' | b'%')) {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(name.len() + 8);
    for char in name.chars() {
        match char {
            '{' => text.push_str("%7B"),
            '}' => text.push_str("%7D"),
            '%' => text.push_str("%25"),
            other => text.push(other),
        }
    }
    Cow::Owned(text)
}

/// The original name; `None` if the text is not an escaped name.
fn unescaped(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['{', '}', '%']) {
        return Some(Cow::Borrowed(text));
    }
    let mut parts = text.split('%');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (char, rest) = match part.get(..2)? {
            "7B" => ('{', &part[2..]),
            "7D" => ('}', &part[2..]),
            "25" => ('%', &part[2..]),
            _ => return None,
        };
        name.push(char);
        name.push_str(rest);
    }
    (escaped(&name) == text).then_some(Cow::Owned(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_topic(user: &str) -> Topic {
        Topic::user_stream(&UserId::new(user).unwrap())
    }

    #[test]
    fn a_topics_names_share_one_hash_tag() {
        let keys = Keys::new("tg2:");
        let topic = Topic::public("ticker:BTCUSDT").unwrap();
        assert_eq!(keys.stream(&topic), "tg2:{t:ticker:BTCUSDT}:s");
        let once = Once { name: 0xa1, content: 1 };
        assert_eq!(keys.dedupe(&topic, &once), "tg2:{t:ticker:BTCUSDT}:i:000000000000000000000000000000a1");
    }

    #[test]
    fn a_channel_maps_to_its_topic_whatever_the_user_id() {
        let keys = Keys::new("tg2:");
        for user in ["alice", "a}b", "{", "}:s", "100%", "%7D", "ü{}%"] {
            let topic = user_topic(user);
            assert_eq!(keys.topic_of_channel(&keys.stream(&topic)).unwrap(), topic.as_str());
        }
        for other in ["tg2:canary:1", "tg2:{t:x}:i:1", "tg0:{t:x}:s", "tg2:{t:a%}:s", "tg2:{t:a%zz}:s", "tg2:{t:a}b}:s"]
        {
            assert_eq!(keys.topic_of_channel(other), None, "{other}");
        }
    }

    #[test]
    fn no_user_id_can_equal_another_topics_key() {
        let keys = Keys::new("tg2:");
        let victim = keys.dedupe(&user_topic("a"), &Once { name: 1, content: 1 });
        let name = victim.trim_start_matches("tg2:{t:@@").trim_end_matches(":s");
        assert_ne!(keys.stream(&user_topic(name)), victim);
        assert_ne!(keys.dedupe(&user_topic("a}:i:"), &Once { name: 1, content: 1 }), victim);
    }
}
