//! The backplane over Redis: a stream per retained topic, and a pub/sub channel with the same name.
//!
//! - Each server is a `shard`, with its link, its `lane`s and its `ledger`; the topology maps topics to servers.
//! - `scripts/publish.lua` appends and publishes in one step; a `lane` sends publications to it in order, several in a
//!   `batch`; `acknowledge` interprets the responses.
//! - `arrival` decodes what arrives over the pub/sub link; `read` reads streams, in parts as `page` decides, and calls
//!   each `script` by its digest. `word` escapes the name of a private channel for both directions.
//! - A `member` keeps the replica's membership in the `roster` of a dataset, with the acknowledged ids of the `ledger`;
//!   `membership` is what the rest sees of it. `sweep` empties expired streams. `table` writes the topic rules for
//!   engines.
//!
//! `acknowledge`, `arrival`, `generation`, `handover`, `ledger`, `page`, `roster` and `word` decide without I/O. Never
//! delivers a publication in any other way than through Redis.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tickgate_wire::model::{Publication, ReplicaId, StreamId, Topic, TopicRules};

use super::{
    BackplaneEvent, HeadError, Health, LeaseTurn, Newest, PendingPublish, ReadLimits, Receiver, StreamPage,
    StreamUnavailable,
};
use crate::{
    history::Generations,
    redis_link::{self, LinkHealth, RedisLink, Topology},
    tasks::Tasks,
};

mod acknowledge;
mod arrival;
mod batch;
mod claims;
mod durable;
#[cfg(test)]
mod for_tests;
mod generation;
mod handover;
mod lane;
mod ledger;
mod member;
mod membership;
mod page;
mod process;
mod read;
mod roster;
mod script;
mod seen;
mod shard;
mod sweep;
mod table;
mod word;

use membership::Membership;
use read::ReadSource;
use shard::BackplaneShard;

/// Streams and channels in Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis {
    topology: Topology,
    shards: Arc<[BackplaneShard]>,
}

/// The replica's name, and the topic rules that must be equal for all replicas.
#[derive(Clone, Debug)]
pub struct ReplicaIdentity {
    /// The replica's name.
    pub replica: ReplicaId,
    /// The rules that decide which topics are stored, and how.
    pub rules: Arc<TopicRules>,
}

impl Redis {
    /// Starts the backplane over the topology's links.
    #[must_use]
    pub fn start_on(topology: &Topology, identity: &ReplicaIdentity, tasks: &Tasks) -> Self {
        let (placement, links) = (topology.placement(), topology.links());
        let start = |link| BackplaneShard::start(link, placement, (links.len(), identity), tasks);
        Self { topology: topology.clone(), shards: links.iter().map(start).collect() }
    }

    /// The server of a topic.
    fn source(&self, topic: &Topic) -> ReadSource<'_> {
        let shard = self.topology.placement().shard(topic.as_str());
        ReadSource { link: &self.topology.links()[shard], membership: &self.shards[shard].membership }
    }

    /// The link to the topic's server.
    fn link(&self, topic: &Topic) -> &RedisLink {
        self.topology.at(topic.as_str())
    }

    pub(super) fn start(&self, receiver: Receiver) {
        let receiver = Arc::new(receiver);
        for (link, shard) in self.topology.links().iter().zip(&*self.shards) {
            let (own, receiver, membership) = (link.clone(), Arc::clone(&receiver), Arc::clone(&shard.membership));
            link.receive(Box::new(move |event| translate(&own, &membership, &receiver, event)));
        }
    }

    pub(super) fn publish(&self, publication: Publication, turn: Option<LeaseTurn>) -> PendingPublish {
        self.shards[self.topology.placement().shard(publication.topic.as_str())].publish(publication, turn)
    }

    pub(super) fn follow(&self, topic: &Topic, owner: Option<u64>) {
        let link = self.link(topic);
        link.follow(&link.keys().stream(topic), owner);
    }

    pub(super) fn unfollow(&self, topic: &Topic) {
        let link = self.link(topic);
        link.unfollow(&link.keys().stream(topic));
    }

    pub(super) async fn read(
        &self,
        topic: &Topic,
        after: StreamId,
        limits: ReadLimits,
    ) -> Result<StreamPage, StreamUnavailable> {
        let source = self.source(topic);
        let page = source.page(topic, after, limits).await?;
        saw(source.membership, page.messages.last().and_then(|message| message.id));
        Ok(page)
    }

    pub(super) async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, StreamUnavailable> {
        let source = self.source(topic);
        let newest = source.newest(topic, limits).await?;
        saw(source.membership, newest.messages.last().and_then(|message| message.id));
        Ok(newest)
    }

    pub(super) async fn anchors(&self, topics: &[Topic]) -> Vec<Result<StreamId, StreamUnavailable>> {
        let placement = self.topology.placement();
        let mut by_shard = vec![Vec::new(); self.shards.len()];
        for topic in topics {
            by_shard[placement.shard(topic.as_str())].push(topic);
        }
        let mut found = Vec::with_capacity(by_shard.len());
        for ((link, shard), topics) in self.topology.links().iter().zip(&*self.shards).zip(&by_shard) {
            let source = ReadSource { link, membership: &shard.membership };
            found.push(source.anchors(topics).await.into_iter());
        }
        let missing = || Err(StreamUnavailable("a response is missing".into()));
        let own = topics.iter().map(|topic| placement.shard(topic.as_str()));
        own.map(|shard| found[shard].next().unwrap_or_else(missing)).collect()
    }

    pub(super) async fn forget(&self, topics: &[Topic]) -> Result<(), StreamUnavailable> {
        for topics in self.by_shard(topics) {
            if let Some(first) = topics.first() {
                self.source(first).forget(&topics).await?;
            }
        }
        Ok(())
    }

    fn by_shard<'a>(&self, topics: &'a [Topic]) -> Vec<Vec<&'a Topic>> {
        let placement = self.topology.placement();
        let mut by_shard = vec![Vec::new(); self.shards.len()];
        for topic in topics {
            by_shard[placement.shard(topic.as_str())].push(topic);
        }
        by_shard
    }

    pub(super) fn history(&self, topic: &Topic) -> Arc<Generations> {
        self.source(topic).membership.history()
    }

    pub(super) fn doubt(&self, topic: &Topic) {
        self.source(topic).membership.doubt_dataset();
    }

    /// Hands over what this replica acknowledged, and leaves.
    pub(super) async fn leave(&self) {
        join_all(self.shards.iter().map(BackplaneShard::leave)).await;
    }

    pub(super) async fn heads(&self, topics: &[Topic]) -> Vec<Result<Option<StreamId>, HeadError>> {
        let (placement, by_shard) = (self.topology.placement(), self.by_shard(topics));
        let sources = self.topology.links().iter().zip(&*self.shards);
        let sources = sources.map(|(link, shard)| ReadSource { link, membership: &shard.membership });
        let reads = sources.zip(&by_shard).map(async |(source, topics)| match topics[..] {
            [] => Ok(Vec::new()),
            _ => source.heads(topics).await,
        });
        let mut found: Vec<_> = join_all(reads).await.into_iter().map(|heads| heads.map(Vec::into_iter)).collect();
        let head = |topic: &Topic| match &mut found[placement.shard(topic.as_str())] {
            Ok(heads) => heads.next().unwrap_or_else(|| Err(StreamUnavailable("a response is missing".into()).into())),
            Err(error) => Err(error.clone().into()),
        };
        topics.iter().map(head).collect()
    }

    pub(super) fn health(&self) -> Health {
        let all = || self.topology.links().iter().map(RedisLink::health);
        let least = |down: fn(LinkHealth) -> Duration| all().map(down).min().unwrap_or_default();
        Health {
            kind: "redis",
            reached: all().any(|health| health.reached),
            commands_down: least(|health| health.commands_down),
            commands_obstacle: self.topology.links().iter().find_map(RedisLink::obstacle),
            pubsub_down: least(|health| health.pubsub_down),
            obstacle: self.shards.iter().find_map(|shard| shard.membership.obstacle()),
            acknowledges: self.shards.iter().all(|shard| shard.membership.standing().is_some()),
        }
    }
}

/// Records an epoch that a server gave.
fn saw(membership: &Membership, id: Option<StreamId>) {
    if let Some(id) = id {
        membership.saw(id.epoch);
    }
}

/// Reports events of a link to the follower. Runs in the link's task.
fn translate(link: &RedisLink, membership: &Membership, receiver: &Receiver, event: redis_link::ChannelEvent<'_>) {
    let topic = |channel| link.keys().topic_of_channel(channel);
    match event {
        redis_link::ChannelEvent::Message { channel, payload } => {
            if let Some(topic) = topic(channel) {
                arrived(link, membership, receiver, (&topic, payload));
            }
        }
        redis_link::ChannelEvent::Confirmed { channel } => {
            if let Some(topic) = topic(channel) {
                receiver(BackplaneEvent::Confirmed { topic: &topic });
            }
        }
        redis_link::ChannelEvent::Lost { channel } => {
            if let Some(topic) = topic(channel) {
                receiver(BackplaneEvent::Lost { topic: &topic });
            }
        }
        redis_link::ChannelEvent::GenerationChanged => receiver(BackplaneEvent::GenerationChanged),
    }
}

fn arrived(link: &RedisLink, membership: &Membership, receiver: &Receiver, (topic, payload): (&str, Vec<u8>)) {
    match arrival::from_channel(&Bytes::from(payload)) {
        // A message of another generation must not move the topic: the stream decides.
        Ok(heard) if heard.message.id.is_some() && heard.generation != membership.history().generation => {
            membership.wake();
            receiver(BackplaneEvent::Foreign { topic });
        }
        Ok(heard) => {
            saw(membership, heard.message.id);
            receiver(BackplaneEvent::Arrived { topic, message: heard.message });
        }
        Err(malformed) => {
            link.report_malformed();
            tracing::debug!(namespace = Topic::from_wire(topic).namespace(), ?malformed, "not a publication");
        }
    }
}
