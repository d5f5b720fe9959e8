//! The parts of a replica that feeds use. Contains no rules of feeds.

use std::{fs::File, sync::Arc};

use super::BuildError;
use crate::{config::Config, connection::replica::Replica, feeds};

/// Topics that feeds publish.
const PREFIXES: [&str; 3] = ["ticker:", "trades:", "orderbook:"];

/// Opens the file that `serve --record` names.
pub(super) fn open_recording(config: &Config) -> Result<Option<File>, BuildError> {
    let Some(path) = &config.feeds.record else { return Ok(None) };
    let opened = feeds::open_recording(path);
    opened.map(Some).map_err(|source| BuildError::Record { path: path.clone(), source })
}

/// The parts on which feeds build.
pub(super) fn feed_sources(replica: &Arc<Replica>) -> feeds::FeedContext {
    let hub = replica.hub.clone();
    feeds::FeedContext {
        publisher: replica.publisher.clone(),
        backplane: replica.backplane.clone(),
        registry: replica.registry.clone(),
        metrics: replica.metrics.clone(),
        followed: Arc::new(move || hub.followed_names(&PREFIXES)),
    }
}
