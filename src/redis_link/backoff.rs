//! Delays between attempts to connect. Never gives up.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
/// Early in an outage: short, so that the link is back within 0.3 s after Redis.
const YOUNG_MAX: Duration = Duration::from_millis(200);
const OLD_MAX: Duration = Duration::from_secs(2);
/// Attempts (about a minute) after which the delays grow.
const YOUNG_ATTEMPTS: u32 = 350;

/// Doubling delays with jitter: 50 ms to 200 ms in the first minute, then up to 2 s.
#[derive(Debug, Default)]
pub(super) struct LinkBackoff {
    attempts: u32,
}

impl LinkBackoff {
    /// The next delay: between half and all of the step.
    pub(super) fn next(&mut self) -> Duration {
        let exponent = self.attempts.min(10);
        self.attempts = self.attempts.saturating_add(1);
        let max = if self.attempts > YOUNG_ATTEMPTS { OLD_MAX } else { YOUNG_MAX };
        let step = (FIRST * 2_u32.pow(exponent)).min(max);
        step / 2 + step.mul_f64(random_unit() / 2.0)
    }

    /// A link was established: the next outage starts with short delays.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A number from 0 to 1, for jitter.
fn random_unit() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from((high >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_outage_is_retried_quickly_and_a_long_one_slowly() {
        let mut backoff = LinkBackoff::default();
        assert!(backoff.next() <= FIRST);
        assert!((0..300).all(|_| backoff.next() <= YOUNG_MAX));
        let late = (0..200).map(|_| backoff.next()).last().unwrap();
        assert!(late >= OLD_MAX / 2 && late <= OLD_MAX);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
