//! The events that the exchange sends on a stream.

use std::sync::Arc;

/// One event of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamEvent {
    pub stream: Arc<str>,
    pub payload: Arc<str>,
    /// Repeated although nothing changed: only for connections that have not received it yet.
    pub repeated: bool,
}
