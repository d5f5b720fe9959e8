//! What one subscription wants of its topic: by which names, and from where on. Never knows where the topic stands.

use std::{sync::Arc, time::Duration};

use tickgate_wire::{model::Start, protocol::Protocol};

use crate::hub::{Form, Interest, Pacer};

/// What is subscribed of a topic.
#[derive(Debug)]
pub(super) enum Wants {
    /// All of it, by this name.
    Topic(Arc<str>),
    /// These channels of the user's stream.
    OfUser(Arc<[Arc<str>]>),
}

impl Wants {
    pub(super) fn channels(&self) -> &[Arc<str>] {
        match self {
            Self::Topic(channel) => std::slice::from_ref(channel),
            Self::OfUser(channels) => channels,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.channels().iter().any(|channel| **channel == *name)
    }

    pub(super) fn form(&self, protocol: Protocol) -> Form {
        match self {
            Self::Topic(channel) => Form::of_topic(protocol, channel.clone()),
            Self::OfUser(channels) => Form::of_user(protocol, channels.clone()),
        }
    }
}

/// Limits a subscription to `max_rate` values per second; without a limit it costs the fan-out nothing.
pub(super) fn pacer(max_rate: Option<u32>) -> Option<Arc<Pacer>> {
    max_rate.filter(|rate| *rate > 0).map(|rate| Pacer::new(Duration::from_secs(1) / rate))
}

/// The channel's name: the topic's own copy where both are called the same, so that a crowd shares one.
pub(super) fn shared(channel: Arc<str>, interest: &Interest) -> Arc<str> {
    let topic = &interest.topic().topic;
    if *channel == *topic.as_str() { topic.shared() } else { channel }
}

/// Of two beginnings of one stream, the one that misses less.
pub(super) fn earlier(one: Start, other: Start) -> Start {
    match (one, other) {
        (Start::Since(a), Start::Since(b)) => Start::Since(a.min(b)),
        (Start::Earliest, _) | (_, Start::Earliest) => Start::Earliest,
        (Start::Live, other) => other,
        (one, _) => one,
    }
}
