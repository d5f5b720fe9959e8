//! Which server holds which names: every topic, user and session belongs to one shard, and each shard has its own link.
//!
//! One server is one shard. No layer above may assume that two topics, or a topic and a user, are on the same server:
//! code that sends several commands together groups them by shard, and puts publications into one call only if
//! [`Placement::same_call`] allows it. Knows nothing about the stored data.

use std::sync::Arc;

use tickgate_wire::model::Topic;

use super::RedisLink;

/// Determines the shard of a name, from the name alone: all replicas agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    shards: usize,
}

impl Placement {
    /// Everything on one server.
    pub const ONE: Self = Self { shards: 1 };

    /// Distributed over several servers.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub const fn over(shards: usize) -> Self {
        assert!(shards > 0, "at least one server");
        Self { shards }
    }

    /// The shard of a topic, a user, a session, or anything else with this name.
    #[must_use]
    pub fn shard(self, name: &str) -> usize {
        match self.shards {
            1 => 0,
            shards => (hash(name) % shards as u64) as usize,
        }
    }

    /// Whether one script call may include both topics.
    #[must_use]
    pub fn same_call(self, one: &Topic, other: &Topic) -> bool {
        self.shard(one.as_str()) == self.shard(other.as_str())
    }
}

/// Stable across builds: FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The links of one replica, by shard. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Topology {
    placement: Placement,
    links: Arc<[RedisLink]>,
}

impl Topology {
    /// One server for everything.
    #[must_use]
    pub fn one(link: RedisLink) -> Self {
        Self { placement: Placement::ONE, links: [link].into() }
    }

    /// Several servers, each with its share of the names; only with the feature `simulation`: replicas with a different
    /// list would write and listen elsewhere without an error.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn fixed(links: Vec<RedisLink>) -> Self {
        Self { placement: Placement::over(links.len()), links: links.into() }
    }

    /// Where names belong.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    /// All links, in the order of their shards.
    #[must_use]
    pub fn links(&self) -> &[RedisLink] {
        &self.links
    }

    /// The link to the shard of a name.
    #[must_use]
    pub fn at(&self, name: &str) -> &RedisLink {
        &self.links[self.placement.shard(name)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_everything() {
        let topics = ["a", "b", "user:alice"].map(Topic::from_wire);
        assert!(topics.iter().all(|topic| Placement::ONE.shard(topic.as_str()) == 0));
        assert!(Placement::ONE.same_call(&topics[0], &topics[2]));
    }

    #[test]
    fn names_spread_over_several_servers_and_stay_where_they_are() {
        let placement = Placement::over(3);
        let mut counts = [0; 3];
        for n in 0..3_000 {
            counts[placement.shard(&format!("ticker:{n}"))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        // What another build of a replica must find in the same place.
        assert_eq!(["orders", "ticker:BTCUSDT", "replicas"].map(|name| placement.shard(name)), [1, 2, 0]);
        let (orders, other) = (Topic::from_wire("orders"), Topic::from_wire("x"));
        assert_eq!(placement.same_call(&orders, &other), placement.shard("orders") == placement.shard("x"));
    }
}
