//! The distribution of latencies. Does not sort, and does not allocate after creation.

use hdrhistogram::Histogram;

/// Longer latencies count as this one: an hour, in nanoseconds.
const NS_MAX: u64 = 3_600_000_000_000;
/// Quantiles are at most 0.8 % too large: the counters fit in the first-level cache of a core.
const DIGITS: u8 = 2;

/// Latencies, recorded in nanoseconds and shown in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, NS_MAX, DIGITS).expect("constant bounds, in order"))
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.quantile_ms(1.0)
    }

    /// The value that a share (0 to 1) of all values does not exceed.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_ramp_are_the_ramp() {
        let mut ramp = Latencies::new();
        (1..=10_000_u64).for_each(|value| ramp.record(value * 1_000));
        for (share, ms) in [(0.5, 5.0), (0.9, 9.0), (0.99, 9.9), (0.999, 9.99), (1.0, 10.0)] {
            let got = ramp.quantile_ms(share);
            assert!(got >= ms && got <= ms * 1.008, "{share}: {got}");
        }
        ramp.clear();
        assert!(ramp.is_empty() && ramp.max_ms() == 0.0);
    }

    #[test]
    fn an_excessive_latency_counts_as_an_hour() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX);
        assert!((3_600_000.0..3_630_000.0).contains(&latencies.max_ms()), "{}", latencies.max_ms());
    }
}
