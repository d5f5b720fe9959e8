//! A range of publications that a client does not receive, and the reason. Never detects one.

use tickgate_wire::{model::StreamId, push::GapReason};

use crate::{backplane::MissingRange, history::Missing, metrics};

/// A range of publications that a client does not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapRange {
    /// The last position before the range.
    pub after: StreamId,
    /// `None` if nothing is known about what follows.
    pub before: Option<StreamId>,
    /// The number of publications, if known.
    pub count: Option<u64>,
    /// Why they are missing, as sent to clients.
    pub reason: GapReason,
    /// The position to continue from.
    pub cursor: StreamId,
}

impl GapRange {
    /// A gap between two known ids.
    #[must_use]
    pub fn new(after: StreamId, before: StreamId, reason: GapReason) -> Self {
        let cursor = before.previous().max(after);
        Self { after, before: Some(before), count: StreamId::missing_between(after, before), reason, cursor }
    }

    /// The gap for missing entries that were found.
    #[must_use]
    pub fn of(lack: &MissingRange) -> Self {
        let MissingRange { missing, after, before, cursor } = *lack;
        let (reason, count) = match missing {
            Missing::Retention => {
                (GapReason::Retention, before.and_then(|before| StreamId::missing_between(after, before)))
            }
            Missing::Lost(count) => (GapReason::Failover, count),
            Missing::Doubt => (GapReason::Failover, None),
        };
        Self { after, before, count, reason, cursor }
    }

    /// A gap for one entry that clients must not see.
    #[must_use]
    pub fn unreadable(id: StreamId) -> Self {
        let (after, before) = (id.previous(), Some(id.next()));
        Self { after, before, count: Some(1), reason: GapReason::InvalidPayload, cursor: id }
    }
}

/// The metric label of a gap. `resumed`: it follows a position that the client supplied, which a stranger can choose;
/// alerts count only gaps sent to connected subscribers.
pub(super) fn gap_label(reason: GapReason, resumed: bool) -> metrics::GapLabel {
    match reason {
        GapReason::Failover if resumed => metrics::GapLabel::FailoverResumed,
        GapReason::SlowConsumer => metrics::GapLabel::SlowConsumer,
        GapReason::Retention => metrics::GapLabel::Retention,
        GapReason::Backplane => metrics::GapLabel::Backplane,
        GapReason::Failover => metrics::GapLabel::Failover,
        GapReason::InvalidPayload => metrics::GapLabel::InvalidPayload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gap_sets_its_client_back_to_the_start_of_a_stream() {
        let (first, second) = (StreamId::new(9, 0), StreamId::new(9, 1));
        for after in [StreamId::ZERO, StreamId::new(7, 3)] {
            let gap = GapRange::new(after, first, GapReason::Failover);
            assert!(first.directly_after(gap.cursor), "{gap:?}");
            assert_eq!(GapRange::new(after, second, GapReason::Retention).cursor, first);
        }
        assert_eq!(GapRange::new(second, StreamId::new(9, 5), GapReason::Retention).cursor, StreamId::new(9, 4));
    }
}
