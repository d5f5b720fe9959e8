//! Collects statistics of writes before adding them to the counters, which all cores share.

use crate::metrics::Metrics;

/// The statistics of some writes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::hub) struct WriteStats {
    pub(super) bytes: u64,
    pub(super) writes: u64,
}

impl WriteStats {
    /// Adds them to the counters.
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
