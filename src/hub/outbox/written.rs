//! What writes bring to the counters, which all cores share: so they are added to seldom. Never kept.

use crate::metrics::Metrics;

/// What went out.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::hub) struct Written {
    pub(super) bytes: u64,
    pub(super) writes: u64,
}

impl Written {
    /// Adds to the counters: once for many writes, where there are many.
    pub(in crate::hub) fn count(self, metrics: &Metrics) {
        if self.writes > 0 {
            metrics.sent_bytes_total.inc_by(self.bytes);
            metrics.writes_total.inc_by(self.writes);
        }
    }

    pub(in crate::hub) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.writes += other.writes;
    }
}
