//! Latencies, counted in buckets of 1.6 % width at the most. Never sorts, never allocates after it was made.

/// Buckets per doubling.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// A distribution of durations in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; STEPS * (65 - STEP_BITS as usize)], count: 0, max_ns: 0 }
    }

    pub(super) fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub(super) fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.max_ns) = (0, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn max_ms(&self) -> f64 {
        self.max_ns as f64 / 1e6
    }

    /// The value that `share` of all values do not exceed, in milliseconds: the upper edge of its bucket.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(bucket).min(self.max_ns) as f64 / 1e6;
            }
        }
        self.max_ms()
    }
}

fn bucket(ns: u64) -> usize {
    if ns < STEPS as u64 {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    let step = (ns >> (exponent - STEP_BITS)) as usize & (STEPS - 1);
    (exponent - STEP_BITS + 1) as usize * STEPS + step
}

fn upper_edge(bucket: usize) -> u64 {
    let (doubling, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    if doubling == 0 {
        return step;
    }
    let shift = doubling as u32 - 1;
    ((STEPS as u64 + step) << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket_and_buckets_are_narrow() {
        for ns in (0..20_000)
            .chain((14..64).map(|bit| (1 << bit) - 1))
            .chain((14..64).map(|bit| 3 << (bit - 1)))
            .chain([u64::MAX])
        {
            let edge = upper_edge(bucket(ns));
            assert!(edge >= ns && edge - ns <= ns / 63, "{ns} {edge}");
            assert!(bucket(ns) < Histogram::new().counts.len());
        }
    }

    #[test]
    fn quantiles_of_a_ramp_are_the_ramp() {
        let mut ramp = Histogram::new();
        (1..=10_000_u64).for_each(|value| ramp.record(value * 1_000));
        for (share, ms) in [(0.5, 5.0), (0.9, 9.0), (0.99, 9.9), (0.999, 9.99)] {
            let got = ramp.quantile_ms(share);
            assert!(got >= ms && got <= ms * 1.016, "{share}: {got}");
        }
        assert_eq!(ramp.max_ms(), 10.0);
        assert_eq!(ramp.quantile_ms(1.0), 10.0);
    }
}
