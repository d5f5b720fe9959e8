//! Records of sessions whose connections have closed, until they expire: a bounded number, and none while Redis is
//! almost full. Pure.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tickgate_wire::model::SessionId;

/// Maximum number of records of this replica. Beyond it the oldest are removed.
const LEFT_MAX: usize = 16_384;

/// A session, and the stamp of the connection that left the record.
pub(super) type LeftRecord = (SessionId, u64);

/// All records, oldest first, with their expiry in milliseconds.
#[derive(Debug, Default)]
pub(super) struct LeftRecords(Mutex<VecDeque<(u64, LeftRecord)>>);

impl LeftRecords {
    /// Adds a record that expires at `ends_ms`. Returns the one to remove for it.
    pub(super) fn add(&self, left: LeftRecord, ends_ms: u64, now_ms: u64) -> Option<LeftRecord> {
        let mut all = self.0.lock();
        while all.front().is_some_and(|(ends_ms, _)| *ends_ms <= now_ms) {
            all.pop_front();
        }
        all.push_back((ends_ms, left));
        if all.len() > LEFT_MAX { all.pop_front().map(|(_, left)| left) } else { None }
    }

    /// Takes all records.
    pub(super) fn take(&self) -> Vec<LeftRecord> {
        self.0.lock().drain(..).map(|(_, left)| left).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_removed_beyond_the_bound_and_expired_ones_are_not_counted() {
        let (records, sessions) = (LeftRecords::default(), [(); 2].map(|()| SessionId::random()));
        assert_eq!(records.add((sessions[0], 1), 10, 5), None);
        for _ in 1..LEFT_MAX {
            assert_eq!(records.add((sessions[1], 2), 20, 6), None);
        }
        assert_eq!(records.add((sessions[1], 3), 20, 6), Some((sessions[0], 1)));
        assert_eq!(records.add((sessions[0], 4), 30, 20), None, "the others have expired");
        assert_eq!((records.take(), records.take()), (vec![(sessions[0], 4)], vec![]));
    }
}
