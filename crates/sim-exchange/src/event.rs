//! What the exchange sends on a stream.

use std::sync::Arc;

/// One event of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub stream: Arc<str>,
    pub payload: Arc<str>,
    /// Told again although nothing changed: only for those who have not had it yet.
    pub repeated: bool,
}
