//! A range of publications that a client does not receive, and the reason. Never detects one.

use tickgate_wire::{model::StreamId, push::GapReason};

use crate::metrics;

/// A range of publications that a client does not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub after: StreamId,
    /// `None` when nothing is known of what comes next.
    pub before: Option<StreamId>,
    /// How many, where that is known.
    pub count: Option<u64>,
    pub reason: GapReason,
}

impl Gap {
    /// A gap between two known ids.
    #[must_use]
    pub fn new(after: StreamId, before: StreamId, reason: GapReason) -> Self {
        Self { after, before: Some(before), count: StreamId::missing_between(after, before), reason }
    }
}

/// The label of a gap in the metrics.
pub(super) fn gap_label(reason: GapReason) -> metrics::Gap {
    match reason {
        GapReason::SlowConsumer => metrics::Gap::SlowConsumer,
        GapReason::Retention => metrics::Gap::Retention,
        GapReason::Backplane => metrics::Gap::Backplane,
        GapReason::Failover => metrics::Gap::Failover,
    }
}
