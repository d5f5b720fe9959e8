//! The starting point of a subscription.

use super::StreamId;

/// The starting point of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With the next publication.
    Live,
    /// With the current value, then live. The client has already seen `least`: no older value may follow while there is
    /// a newer one.
    Snapshot {
        /// The newest id that the client has already seen.
        least: StreamId,
    },
    /// After the last id that the client has.
    Since(StreamId),
    /// With the oldest retained publication.
    Earliest,
    /// With the last publications, this many.
    Last(usize),
}
