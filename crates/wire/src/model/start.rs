//! Where a subscription begins.

use super::StreamId;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    Live,
    /// With the current value, then live. Its client has seen `least` before: no older value may follow while there is a
    /// newer one.
    Snapshot { least: StreamId },
    /// After the last id that the client has.
    Since(StreamId),
    /// With the oldest publication that is kept.
    Earliest,
    /// With the last publications.
    Last(usize),
}
