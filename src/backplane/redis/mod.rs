//! The backplane over Redis: a stream per retained topic, and a pub/sub channel of the same name.
//!
//! - Each server is a `shard`, with its link, its `lane`s and its `ledger`; the topology says which topic is on which.
//! - `scripts/publish.lua` appends and publishes in one step; a `lane` sends publications to it in order, several in a
//!   `batch`; `acknowledge` says what the answers mean.
//! - `arrival` reads what comes back over the pub/sub link; `read` reads streams, and `page` judges what was read.
//! - `word` spells a private channel for both directions.
//! - `ledger` remembers what was acknowledged; `verify` decides what follows when the server has changed.
//!
//! `acknowledge`, `arrival`, `ledger`, `page`, `verify` and `word` decide without I/O. Never delivers a publication by any other
//! path than its return through Redis.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tickgate_wire::model::{Publication, StreamId, Topic};

use super::{Event, HeadError, Health, Newest, Page, ReadLimits, Receiver, Ticket, Unavailable};
use crate::{
    redis_link::{self, LinkHealth, RedisLink, Topology},
    tasks::Tasks,
};

mod acknowledge;
mod arrival;
mod batch;
mod books;
mod claims;
mod durable;
#[cfg(test)]
mod for_tests;
mod lane;
mod ledger;
mod page;
mod read;
mod shard;
mod verify;
mod word;

use shard::BackplaneShard;

/// Streams and channels in Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis {
    topology: Topology,
    shards: Arc<[BackplaneShard]>,
}

impl Redis {
    /// Works over the topology's links; starts the tasks that publish.
    #[must_use]
    pub fn start_on(topology: &Topology, tasks: &Tasks) -> Self {
        let (placement, links) = (topology.placement(), topology.links());
        let shards = links.iter().map(|link| BackplaneShard::start(link, placement, links.len(), tasks)).collect();
        Self { topology: topology.clone(), shards }
    }

    /// The link to the topic's server.
    fn link(&self, topic: &Topic) -> &RedisLink {
        self.topology.at(topic.as_str())
    }

    pub(super) fn start(&self, receiver: Receiver) {
        let receiver = Arc::new(receiver);
        for link in self.topology.links() {
            let (own, receiver) = (link.clone(), Arc::clone(&receiver));
            link.receive(Box::new(move |event| translate(&own, &receiver, event)));
        }
    }

    pub(super) fn publish(&self, publication: Publication) -> Ticket {
        self.shards[self.topology.placement().shard(publication.topic.as_str())].publish(publication)
    }

    pub(super) fn follow(&self, topic: &Topic) {
        let link = self.link(topic);
        link.follow(&link.keys().stream(topic));
    }

    pub(super) fn unfollow(&self, topic: &Topic) {
        let link = self.link(topic);
        link.unfollow(&link.keys().stream(topic));
    }

    pub(super) async fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> Result<Page, Unavailable> {
        let link = self.link(topic);
        let page = read::page(link, topic, after, limits).await?;
        saw(link, page.messages.last().and_then(|message| message.id));
        Ok(page)
    }

    pub(super) async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
        let link = self.link(topic);
        let newest = read::newest(link, topic, limits).await?;
        saw(link, newest.messages.last().and_then(|message| message.id));
        Ok(newest)
    }

    pub(super) fn generation(&self, topic: &Topic) -> u64 {
        self.link(topic).generation()
    }

    pub(super) async fn heads(&self, topics: &[Topic]) -> Vec<Result<StreamId, HeadError>> {
        let placement = self.topology.placement();
        let mut by_shard = vec![Vec::new(); self.shards.len()];
        for topic in topics {
            by_shard[placement.shard(topic.as_str())].push(topic);
        }
        let reads = self.topology.links().iter().zip(&by_shard).map(async |(link, topics)| match topics[..] {
            [] => Ok(Vec::new()),
            _ => read::heads(link, topics).await,
        });
        let mut found: Vec<_> = join_all(reads).await.into_iter().map(|heads| heads.map(Vec::into_iter)).collect();
        let head = |topic: &Topic| match &mut found[placement.shard(topic.as_str())] {
            Ok(heads) => heads.next().unwrap_or_else(|| Err(Unavailable("an answer is missing".into()).into())),
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
            pubsub_down: least(|health| health.pubsub_down),
        }
    }
}

/// Notes an epoch that a server gave.
fn saw(link: &RedisLink, id: Option<StreamId>) {
    if let Some(id) = id {
        link.saw_epoch(id.epoch);
    }
}

/// Reports to the follower what happened on a link. Runs in the link's own task.
fn translate(link: &RedisLink, receiver: &Receiver, event: redis_link::Event<'_>) {
    let topic = |channel| link.keys().topic_of_channel(channel);
    match event {
        redis_link::Event::Message { channel, payload } => {
            if let Some(topic) = topic(channel) {
                arrived(link, receiver, &topic, payload);
            }
        }
        redis_link::Event::Confirmed { channel } => {
            if let Some(topic) = topic(channel) {
                receiver(Event::Confirmed { topic: &topic });
            }
        }
        redis_link::Event::Lost { channel } => {
            if let Some(topic) = topic(channel) {
                receiver(Event::Lost { topic: &topic });
            }
        }
        redis_link::Event::GenerationChanged => receiver(Event::GenerationChanged),
    }
}

fn arrived(link: &RedisLink, receiver: &Receiver, topic: &str, payload: Vec<u8>) {
    match arrival::from_channel(&Bytes::from(payload)) {
        Ok(message) => {
            saw(link, message.id);
            receiver(Event::Arrived { topic, message });
        }
        Err(malformed) => {
            link.report_malformed();
            tracing::debug!(namespace = Topic::from_wire(topic).namespace(), ?malformed, "not a publication");
        }
    }
}
