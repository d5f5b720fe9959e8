//! Fixtures of this folder's unit tests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tickgate_wire::model::{Class, Pattern, Publication, Topic, TopicRule};

/// A reliable topic's rule.
pub(super) fn rule(retain_max: u32, retain_ttl: Duration) -> Arc<TopicRule> {
    Arc::new(TopicRule {
        pattern: Pattern::new("*").unwrap(),
        class: Class::Reliable,
        retain_max,
        retain_ttl,
        wait_replicas: 0,
        wait_aof: false,
        dedupe_ttl: Duration::from_secs(300),
        level_min: None,
    })
}

pub(super) fn publication(topic: &str, rule: Arc<TopicRule>) -> Publication {
    let topic = Topic::public(topic).unwrap();
    Publication { topic, rule, payload: Bytes::from_static(b"{}"), channel: None, once: None }
}
