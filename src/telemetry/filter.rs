//! What is logged, changed while the process runs. Never judges a filter beyond whether it can be read.

use tracing_subscriber::{Registry, filter::Targets, reload};

use super::TelemetryError;

/// Changes what is logged. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<Targets, Registry>);

/// The filter of the log's layer, and what changes it.
pub(super) fn layer(text: &str) -> Result<(reload::Layer<Targets, Registry>, LogFilter), TelemetryError> {
    let (layer, handle) = reload::Layer::new(parse(text)?);
    Ok((layer, LogFilter(handle)))
}

fn parse(text: &str) -> Result<Targets, TelemetryError> {
    text.parse().map_err(|_| TelemetryError::Filter)
}

impl LogFilter {
    /// Logs from now on what the filter says, written as in `log.filter`.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] when it can't be read; nothing changes then.
    pub fn set(&self, text: &str) -> Result<(), TelemetryError> {
        // Fails only when the subscriber is gone, and with it the log.
        let _ = self.0.reload(parse(text)?);
        Ok(())
    }
}

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFilter").finish_non_exhaustive()
    }
}
