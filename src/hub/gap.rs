//! A range of publications that a client does not receive, and the reason. Never detects one.

use tickgate_wire::{
    model::{Content, Loss, Message, StreamId},
    push::GapReason,
};

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
    /// The position to continue from.
    pub cursor: StreamId,
}

impl Gap {
    /// A gap between two known ids.
    #[must_use]
    pub fn new(after: StreamId, before: StreamId, reason: GapReason) -> Self {
        let cursor = before.previous().max(after);
        Self { after, before: Some(before), count: StreamId::missing_between(after, before), reason, cursor }
    }

    /// With the loss that a marker behind it stands for, where that is the next entry: both are one loss. The marker's may
    /// begin earlier, with publications that this replica never saw.
    #[must_use]
    pub fn with_marker(self, marker: &Message) -> Option<Self> {
        let (Content::Lost { after, before, loss }, Some(at)) = (&marker.content, marker.id) else { return None };
        let before = self.before.map_or(*before, |known| known.max(*before));
        Some(Self::marked(self.after.min(*after), before, *loss, at))
    }

    /// The gap that a marker in the stream stands for; the marker's id is `at`.
    #[must_use]
    pub fn marked(after: StreamId, before: StreamId, loss: Loss, at: StreamId) -> Self {
        let reason = match loss {
            Loss::Failover => GapReason::Failover,
            Loss::InvalidPayload => GapReason::InvalidPayload,
        };
        Self { cursor: at, ..Self::new(after, before, reason) }
    }
}

/// The label of the loss that a marker stands for, in the metrics.
pub(super) fn loss_label(content: &Content) -> Option<metrics::Gap> {
    match content {
        Content::Data(_) => None,
        Content::Lost { loss: Loss::Failover, .. } => Some(metrics::Gap::Failover),
        Content::Lost { loss: Loss::InvalidPayload, .. } => Some(metrics::Gap::InvalidPayload),
    }
}

/// The label of a gap in the metrics.
pub(super) fn gap_label(reason: GapReason) -> metrics::Gap {
    match reason {
        GapReason::SlowConsumer => metrics::Gap::SlowConsumer,
        GapReason::Retention => metrics::Gap::Retention,
        GapReason::Backplane => metrics::Gap::Backplane,
        GapReason::Failover => metrics::Gap::Failover,
        GapReason::InvalidPayload => metrics::Gap::InvalidPayload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gap_sends_its_client_back_to_the_beginning_of_a_stream() {
        let (first, second) = (StreamId::new(9, 0), StreamId::new(9, 1));
        for after in [StreamId::ZERO, StreamId::new(7, 3)] {
            let gap = Gap::new(after, first, GapReason::Failover);
            assert!(first.directly_after(gap.cursor), "{gap:?}");
            assert_eq!(Gap::new(after, second, GapReason::Retention).cursor, first);
        }
        assert_eq!(Gap::new(second, StreamId::new(9, 5), GapReason::Retention).cursor, StreamId::new(9, 4));
    }
}
