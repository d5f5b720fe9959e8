//! The log filter, changed at runtime. Does not validate filters beyond parsing them.

use tracing_subscriber::{Registry, filter::Targets, reload};

use super::TelemetryError;

/// Changes the log filter. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<Targets, Registry>);

/// The filter of the log's layer, and the handle that changes it.
pub(super) fn layer(text: &str) -> Result<(reload::Layer<Targets, Registry>, LogFilter), TelemetryError> {
    let (layer, handle) = reload::Layer::new(parse(text)?);
    Ok((layer, LogFilter(handle)))
}

fn parse(text: &str) -> Result<Targets, TelemetryError> {
    text.parse().map_err(|_| TelemetryError::Filter)
}

impl LogFilter {
    /// Applies a filter, written as in `log.filter`, from now on.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] if it is invalid; nothing changes in this case.
    pub fn set(&self, text: &str) -> Result<(), TelemetryError> {
        // Fails only if the subscriber was dropped, and the log with it.
        let _ = self.0.reload(parse(text)?);
        Ok(())
    }
}

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFilter").finish_non_exhaustive()
    }
}
