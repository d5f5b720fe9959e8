//! What one subscription requests of its topic: which names, and from which position. Does not know the topic's current
//! position.

use std::{sync::Arc, time::Duration};

use tickgate_wire::{model::StartAt, protocol::Protocol};

use crate::hub::{Form, Pacer, TopicHandle};

/// The subscribed part of a topic.
#[derive(Debug)]
pub(super) enum TopicSelection {
    /// All of it, under this name.
    Topic(Arc<str>),
    /// These channels of the user's stream.
    OfUser(Arc<[Arc<str>]>),
}

impl TopicSelection {
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

/// Limits a subscription to `max_rate` values per second; `None` without a limit, at no cost for the fan-out.
pub(super) fn pacer(max_rate: Option<u32>) -> Option<Arc<Pacer>> {
    max_rate.filter(|rate| *rate > 0).map(|rate| Pacer::new(Duration::from_secs(1) / rate))
}

/// The channel's name, sharing the topic's own copy if both are equal, so that many subscribers share one.
pub(super) fn shared(channel: Arc<str>, interest: &TopicHandle) -> Arc<str> {
    let topic = &interest.topic().topic;
    if *channel == *topic.as_str() { topic.shared() } else { channel }
}

/// The earlier of two starting positions of one stream.
pub(super) fn earlier(one: StartAt, other: StartAt) -> StartAt {
    match (one, other) {
        (StartAt::Since(a), StartAt::Since(b)) => StartAt::Since(a.min(b)),
        (StartAt::Earliest, _) | (_, StartAt::Earliest) => StartAt::Earliest,
        (StartAt::Live, other) => other,
        (one, _) => one,
    }
}
