//! How the end of a connection comes about. Never sends anything.

use crate::metrics;

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
    /// Label of the disconnect in the metrics.
    pub cause: metrics::Disconnect,
}
