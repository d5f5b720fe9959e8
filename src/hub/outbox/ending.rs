//! How the end of a connection comes about. Never sends anything.

use crate::metrics;

impl Close {
    /// Without a delay.
    #[must_use]
    pub fn new(code: u16, reason: impl Into<String>, cause: metrics::Disconnect) -> Self {
        Self { code, reason: reason.into(), after_ms: None, cause }
    }

    /// The connection ended without the server's wish.
    #[must_use]
    pub fn none(cause: metrics::Disconnect) -> Self {
        Self::new(0, "", cause)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Open,
    /// Someone wants the connection closed: its task has not seen it yet.
    Asked(Box<Close>),
    /// The last frame is queued (or the socket is broken): nothing more is taken.
    Shut,
}

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: String,
    /// When the client may reconnect.
    pub after_ms: Option<u64>,
    /// Label of the disconnect in the metrics.
    pub cause: metrics::Disconnect,
}
