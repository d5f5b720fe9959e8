//! Market data made inside the gateway. A feed publishes like everybody else, through the one door; over all replicas,
//! each feed runs on the one that holds its lease. Never a way around the publisher.

mod lease;
mod synthetic;

pub use synthetic::SyntheticMarket;

use crate::{config, publisher::Publisher, registry::Registry, tasks::Tasks};

/// Starts the configured feeds.
pub fn start(feeds: &config::Feeds, publisher: &Publisher, registry: &Registry, tasks: &Tasks) {
    if let Some(config) = &feeds.synthetic {
        let feed = synthetic::run(config.clone(), publisher.clone(), registry.clone(), tasks.stop());
        tasks.spawn("synthetic_feed", feed);
    }
}
