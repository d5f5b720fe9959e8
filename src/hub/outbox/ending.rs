//! How a connection closes. Never sends anything.

use crate::metrics;

impl Close {
    /// A close without a reconnect delay.
    #[must_use]
    pub fn new(code: u16, reason: impl Into<String>, cause: metrics::DisconnectReason) -> Self {
        Self { code, reason: reason.into(), after_ms: None, cause }
    }

    /// A close that the server did not initiate.
    #[must_use]
    pub fn none(cause: metrics::DisconnectReason) -> Self {
        Self::new(0, "", cause)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Open,
    /// A close was requested, and the connection's task has not seen it yet.
    Asked(Box<Close>),
    /// The last frame is queued (or the socket is broken): nothing more is accepted.
    Shut,
}

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The close code sent to the client.
    pub code: u16,
    /// The text of the Close frame, at most 123 bytes.
    pub reason: String,
    /// The delay after which the client may reconnect.
    pub after_ms: Option<u64>,
    /// The metric label of the disconnect.
    pub cause: metrics::DisconnectReason,
}
