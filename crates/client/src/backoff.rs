//! Delays between connections. Pure: randomness is an argument.

use std::time::Duration;

use crate::defect::{OmittedRule, is};

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// Random delays below a bound that doubles with each failed attempt, up to 30 seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReconnectBackoff {
    failures: u32,
}

impl ReconnectBackoff {
    /// The next delay: between a tenth of the bound and the bound, so that clients that lost their connections together
    /// do not reconnect together, and at least what the gateway asks for. `chance` is a random number.
    pub(crate) fn next(&mut self, least: Option<Duration>, chance: u128) -> Duration {
        let failures = if is(OmittedRule::NoDoubling) { 0 } else { self.failures.min(10) };
        let bound = FIRST.saturating_mul(1 << failures).min(MOST);
        self.failures += 1;
        let part = Duration::from_millis((chance % ((bound * 9 / 10).as_millis() + 1)) as u64);
        let least = least.unwrap_or_default();
        let added = if is(OmittedRule::AddsBackOff) { least } else { Duration::ZERO };
        added + (bound / 10 + part).max(least.saturating_sub(added))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_never_zero() {
        let mut backoff = ReconnectBackoff::default();
        let longest: Vec<u64> = (0..9)
            .map(|_| {
                let bound = FIRST.saturating_mul(1 << backoff.failures.min(10)).min(MOST).as_millis();
                backoff.next(None, bound * 9 / 10).as_millis() as u64
            })
            .collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(ReconnectBackoff::default().next(None, 0), Duration::from_millis(50));
    }

    #[test]
    fn the_gateway_may_ask_for_longer() {
        for chance in [0, 1, 12_345, u128::MAX] {
            let wait = ReconnectBackoff::default().next(Some(Duration::from_secs(4)), chance);
            assert_eq!(wait, Duration::from_secs(4));
            assert!(
                ReconnectBackoff::default().next(Some(Duration::from_millis(1)), chance) >= Duration::from_millis(50)
            );
        }
    }
}
