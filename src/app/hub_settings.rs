//! The hub's settings, derived from the configuration. Starts nothing.

use std::time::Duration;

use crate::{
    config::{self, Config},
    hub::{HubSettings, RingLimits, TurnLimits},
};

/// Maximum number of concurrent reads of missed messages from the memory backplane, where they never wait.
const READS_MAX: usize = 8;
const READS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn hub_settings(config: &Config) -> HubSettings {
    let shards = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let compare_interval = config.redis.as_ref().map_or(Duration::from_secs(60), |redis| redis.compare_interval);
    let ring = RingLimits { messages_max: config.hub.ring_messages_max, bytes_max: config.hub.ring_bytes_max };
    let config::Hub { topics_max, unpublished_topics_max, unpublished_per_address_max, linger, .. } = config.hub;
    let queue_grace = config.readiness.queue_grace;
    // The other half is reserved for what every subscriber waits for (topic positions) and for operators.
    let reads = TurnLimits {
        at_once: config.redis.as_ref().map_or(READS_MAX, |redis| redis.pool_size / 2),
        bytes_max: config.limits.replays_bytes_max,
        reader_bytes_max: config.limits.replays_per_address_bytes_max,
        reader_rate: config.limits.bytes_read_per_address,
        timeout: config.redis.as_ref().map_or(READS_TIMEOUT, |redis| redis.pool_wait_timeout),
    };
    HubSettings {
        shards,
        topics_max,
        unpublished_topics_max,
        unpublished_per_address_max,
        ring,
        linger,
        compare_interval,
        queue_grace,
        reads,
    }
}
