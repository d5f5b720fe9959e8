//! The allocator's statistics. Does not choose the allocator: the program does.

use mimalloc::MiMalloc;
use serde::Deserialize;

use super::Metrics;

/// The statistics that are read, in bytes.
#[derive(Debug, Default, Deserialize)]
struct AllocatorStats {
    #[serde(default)]
    committed: AllocatedBytes,
    #[serde(default)]
    reserved: AllocatedBytes,
}

#[derive(Debug, Default, Deserialize)]
struct AllocatedBytes {
    #[serde(default)]
    current: i64,
}

impl AllocatorStats {
    fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl Metrics {
    /// Exports the allocator's statistics. Scans its data structures: not for a hot path.
    pub fn look_at_allocator(&self) {
        let account = MiMalloc::stats_json().ok().and_then(|text| AllocatorStats::parse(text.to_bytes()));
        let AllocatorStats { committed, reserved } = account.unwrap_or_default();
        self.allocator_committed_bytes.set(committed.current);
        self.allocator_reserved_bytes.set(reserved.current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_statistics_are_read() {
        let account = AllocatorStats::parse(
            br#"{"pages":{"total":1,"peak":2,"current":3},"committed":{"current":7},"reserved":{"current":9}}"#,
        )
        .unwrap();
        assert_eq!((account.committed.current, account.reserved.current), (7, 9));
        let text = MiMalloc::stats_json().unwrap();
        let shown = text.to_string_lossy();
        assert!(AllocatorStats::parse(text.to_bytes()).is_some() && shown.contains("committed"), "{shown}");
    }
}
