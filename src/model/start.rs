//! Where a subscription begins.

use super::StreamId;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    Live,
    /// With the current value, then live.
    Snapshot,
    /// After the last id that the client has.
    Since(StreamId),
    /// With the last publications.
    Last(usize),
}
