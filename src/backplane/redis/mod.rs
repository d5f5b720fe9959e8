//! The backplane of several replicas: a Redis stream per retained topic, with a pub/sub channel beside it.
//!
//! - `scripts/publish.lua` appends and publishes in one step; `lane` brings publications to it in order.
//! - `arrival` reads what comes back over the pub/sub link; `read` reads streams.
//! - `ledger` remembers what was acknowledged; `verify` looks after it when the server has changed.
//!
//! Never delivers a publication by any way but its return through Redis.

use std::sync::Arc;

use bytes::Bytes;
use tickgate_wire::model::{Message, Publication, StreamId, Topic};

use super::{Event, Health, Newest, Page, ReadLimits, Receiver, Ticket, Unavailable};
use crate::{
    redis_link::{self, RedisLink},
    tasks::Tasks,
};

mod arrival;
mod batch;
mod durable;
mod lane;
mod ledger;
mod read;
mod verify;

use lane::{Lane, Road};

/// Streams and channels in Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis {
    link: RedisLink,
    lane: Lane,
    /// For topics that are acknowledged only when replicas or the disk have them. No topic uses both.
    durable: Lane,
}

impl Redis {
    /// Works over the link; starts the tasks that publish.
    #[must_use]
    pub fn start_on(link: &RedisLink, tasks: &Tasks) -> Self {
        link.preload(lane::SCRIPT);
        link.preload(verify::SCRIPT);
        Self {
            link: link.clone(),
            lane: Lane::start(link, Road::Shared, tasks),
            durable: Lane::start(link, Road::Own(durable::Own::default()), tasks),
        }
    }

    pub(super) fn start(&self, receiver: Receiver) {
        let link = self.link.clone();
        self.link.receive(Box::new(move |event| translate(&link, &receiver, event)));
    }

    pub(super) fn publish(&self, publication: Publication) -> Ticket {
        let rule = &publication.rule;
        let durable = rule.retain_max > 0 && (rule.wait_replicas > 0 || rule.wait_aof);
        if durable { self.durable.publish(publication) } else { self.lane.publish(publication) }
    }

    pub(super) fn want(&self, topic: &Topic) {
        self.link.follow(&self.link.keys().stream(topic));
    }

    pub(super) fn unwant(&self, topic: &Topic) {
        self.link.unfollow(&self.link.keys().stream(topic));
    }

    pub(super) async fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> Result<Page, Unavailable> {
        let page = read::page(&self.link, topic, after, limits).await?;
        self.saw(page.messages.last());
        Ok(page)
    }

    pub(super) async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
        let newest = read::newest(&self.link, topic, limits).await?;
        self.saw(newest.messages.last());
        Ok(newest)
    }

    pub(super) fn generation(&self) -> u64 {
        self.link.generation()
    }

    pub(super) async fn heads(&self, topics: &[Topic]) -> Result<Vec<StreamId>, Unavailable> {
        read::heads(&self.link, topics).await
    }

    pub(super) fn health(&self) -> Health {
        let redis_link::LinkHealth { reached, commands_down, pubsub_down } = self.link.health();
        Health { kind: "redis", reached, commands_down, pubsub_down }
    }

    fn saw(&self, newest: Option<&Arc<Message>>) {
        if let Some(id) = newest.and_then(|message| message.id) {
            self.link.saw_epoch(id.epoch);
        }
    }
}

/// Tells the follower what happened on the link. Runs in the link's own task.
fn translate(link: &RedisLink, receiver: &Receiver, event: redis_link::Event<'_>) {
    match event {
        redis_link::Event::Message { channel, payload } => {
            let Some(topic) = link.keys().topic_of_channel(channel) else { return };
            match arrival::from_channel(&Bytes::from(payload)) {
                Ok(message) => {
                    if let Some(id) = message.id {
                        link.saw_epoch(id.epoch);
                    }
                    receiver(Event::Arrived { topic: &topic, message });
                }
                Err(malformed) => {
                    link.report_malformed();
                    tracing::debug!(namespace = Topic::from_wire(&topic).namespace(), ?malformed, "not a publication");
                }
            }
        }
        redis_link::Event::Confirmed { channel } => {
            if let Some(topic) = link.keys().topic_of_channel(channel) {
                receiver(Event::Confirmed { topic: &topic });
            }
        }
        redis_link::Event::Lost => receiver(Event::LinkLost),
        redis_link::Event::GenerationChanged => receiver(Event::GenerationChanged),
    }
}
