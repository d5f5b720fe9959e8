//! How long to wait before the next connection. Pure: chance is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// Waits that double with each failed attempt, up to 30 seconds. A connection that worked is followed by a new one.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: the gateway's hint and up to half as much by chance; without a hint a random part of a bound that
    /// doubles, so that clients that were cut off together do not come back together. `chance` is any random number.
    pub fn next(&mut self, hint: Option<Duration>, chance: u128) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(10)).min(MOST);
        self.failures += 1;
        let part = |of: Duration| Duration::from_millis((chance % (of.as_millis() + 1)) as u64);
        match hint {
            Some(hint) => hint.min(MOST) + part(hint.min(MOST) / 2),
            None => bound / 10 + part(bound * 9 / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_never_zero() {
        let mut backoff = Backoff::default();
        let longest: Vec<u64> = (0..9)
            .map(|_| {
                let bound = FIRST.saturating_mul(1 << backoff.failures.min(10)).min(MOST).as_millis();
                backoff.next(None, bound * 9 / 10).as_millis() as u64
            })
            .collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(Backoff::default().next(None, 0), Duration::from_millis(50));
    }

    #[test]
    fn a_hint_is_the_least_wait() {
        for chance in [0, 1, 12_345, u128::MAX] {
            let wait = Backoff::default().next(Some(Duration::from_secs(4)), chance);
            assert!((4000..=6000).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
