//! Market data made inside the gateway, or brought into it. A feed publishes like everybody else, through the one door;
//! over all replicas, each feed runs on the one that holds its lease. Never a way around the publisher.

mod binance;
mod lease;
mod synthetic;

use std::{fs::File, sync::Arc};

pub use binance::{open_recording, text as exchange_text};
pub use synthetic::SyntheticMarket;

use crate::{backplane::Backplane, config, metrics::Metrics, publisher::Publisher, registry::Registry, tasks::Tasks};

/// Says which market topics clients of this replica follow.
pub type FollowedTopics = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What feeds stand on. Cheap to clone.
#[derive(Clone)]
pub struct Sources {
    pub publisher: Publisher,
    /// To read what was published last.
    pub backplane: Backplane,
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub followed: FollowedTopics,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Starts the configured feeds. What arrives from an exchange is recorded to the file.
pub fn start(feeds: &config::Feeds, recording: Option<File>, sources: &Sources, tasks: &Tasks) {
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
