//! Fixtures of this folder's unit tests.

use std::{sync::Arc, time::Duration};

use tickgate_wire::model::{Class, Pattern, Topic, TopicRule};

use super::{Hub, HubSettings, RingLimits, TurnLimits, topic::TopicState};
use crate::{
    backplane::{Backplane, Memory},
    config::Rate,
    metrics::Metrics,
    tasks::Tasks,
};

/// The rule of an event topic.
pub(super) fn rule() -> Arc<TopicRule> {
    Arc::new(TopicRule {
        pattern: Pattern::new("*").unwrap(),
        class: Class::Event,
        retain_max: 10,
        retain_ttl: Duration::ZERO,
        wait_replicas: 0,
        wait_aof: false,
        dedupe_ttl: Duration::from_secs(300),
        level_min: None,
    })
}

/// A topic outside any hub.
pub(super) fn topic(name: &str) -> Arc<TopicState> {
    let ring = RingLimits { messages_max: 1, bytes_max: 1 };
    Arc::new(TopicState::new(Topic::public(name).unwrap(), rule(), 1, ring))
}

pub(super) fn hub(tasks: &Tasks) -> (Arc<Hub>, Arc<TopicRule>) {
    hub_with(tasks, |_| {})
}

/// A hub that follows one topic by default.
pub(super) fn hub_with(tasks: &Tasks, set: impl FnOnce(&mut HubSettings)) -> (Arc<Hub>, Arc<TopicRule>) {
    let ring = RingLimits { messages_max: 16, bytes_max: 1 << 16 };
    let second = Duration::from_secs(1);
    let mut settings = HubSettings {
        shards: 1,
        topics_max: 1,
        unpublished_topics_max: 1_000,
        unpublished_per_address_max: 1_000,
        ring,
        linger: 10 * second,
        compare_interval: 60 * second,
        queue_grace: 10 * second,
        reads: TurnLimits {
            at_once: 4,
            bytes_max: 1 << 30,
            reader_bytes_max: 1 << 30,
            reader_rate: Rate { per_second: 0, burst: 0 },
            timeout: 10 * second,
        },
    };
    set(&mut settings);
    (Hub::start(Backplane::Memory(Memory::new()), settings, Metrics::new(), tasks), rule())
}
