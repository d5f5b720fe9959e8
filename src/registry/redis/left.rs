//! Records of sessions whose connections have ended, until their time is over: so many at the most, and none where Redis is
//! about to be full. Pure.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tickgate_wire::model::SessionId;

/// Records of this replica. Past it the oldest go.
const LEFT_MAX: usize = 16_384;

/// One of them: the session, and which of its connections left it.
pub(super) type Left = (SessionId, u64);

/// All of them, the oldest first, with when they end by themselves in milliseconds.
#[derive(Debug, Default)]
pub(super) struct LeftRecords(Mutex<VecDeque<(u64, Left)>>);

impl LeftRecords {
    /// A record is left that ends at `ends_ms`. Returns the one that has to go for it.
    pub(super) fn add(&self, left: Left, ends_ms: u64, now_ms: u64) -> Option<Left> {
        let mut all = self.0.lock();
        while all.front().is_some_and(|(ends_ms, _)| *ends_ms <= now_ms) {
            all.pop_front();
        }
        all.push_back((ends_ms, left));
        if all.len() > LEFT_MAX { all.pop_front().map(|(_, left)| left) } else { None }
    }

    /// All of them: none is left any more.
    pub(super) fn take(&self) -> Vec<Left> {
        self.0.lock().drain(..).map(|(_, left)| left).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_past_the_bound_and_those_whose_time_is_over_cost_nothing() {
        let (records, sessions) = (LeftRecords::default(), [(); 2].map(|()| SessionId::random()));
        assert_eq!(records.add((sessions[0], 1), 10, 5), None);
        for _ in 1..LEFT_MAX {
            assert_eq!(records.add((sessions[1], 2), 20, 6), None);
        }
        assert_eq!(records.add((sessions[1], 3), 20, 6), Some((sessions[0], 1)));
        assert_eq!(records.add((sessions[0], 4), 30, 20), None, "the others are over");
        assert_eq!((records.take(), records.take()), (vec![(sessions[0], 4)], vec![]));
    }
}
