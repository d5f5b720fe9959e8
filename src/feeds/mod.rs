//! Market data that the gateway produces or imports. A feed publishes through the publisher like any other source; over
//! all replicas, each feed runs on the one that holds its lease.

mod binance;
mod lease;
mod synthetic;

use std::{fs::File, sync::Arc};

pub use binance::{open_recording, text as exchange_text};
pub use synthetic::SyntheticMarket;

use crate::{backplane::Backplane, config, metrics::Metrics, publisher::Publisher, registry::Registry, tasks::Tasks};

/// Returns the market topics that clients of this replica follow.
pub type FollowedTopics = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What feeds build on. Cheap to clone.
#[derive(Clone)]
pub struct FeedContext {
    /// Takes the feed's publications.
    pub publisher: Publisher,
    /// Reads the last publications.
    pub backplane: Backplane,
    /// Holds the lease of the feed.
    pub registry: Registry,
    /// The feed's state and counters.
    pub metrics: Arc<Metrics>,
    /// Tells which symbols to follow on demand.
    pub followed: FollowedTopics,
}

impl std::fmt::Debug for FeedContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Starts the configured feeds. Data that arrives from an exchange is recorded to the file.
pub fn start(feeds: &config::Feeds, recording: Option<File>, sources: &FeedContext, tasks: &Tasks) {
    if let Some(config) = &feeds.synthetic {
        let held = lease::start(sources.registry.clone(), "feed:synthetic", tasks);
        let feed = synthetic::run(config.clone(), sources.publisher.clone(), held, tasks.stop());
        tasks.spawn("synthetic_feed", feed);
    }
    if let Some(config) = &feeds.binance {
        let others = feeds.synthetic.as_ref().map_or(&[][..], |synthetic| &synthetic.symbols);
        binance::start(config, others, recording, sources, tasks);
    }
}
