//! How long to wait before the next connection. Pure: chance is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);

/// Doubles with each failed attempt; a fresh one follows a connection that worked.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: what the gateway hinted and half as much by chance, or a random part of a doubling bound, so that
    /// clients that were cut off together do not come back together.
    pub(super) fn next(&mut self, hint: Option<Duration>, chance: u128) -> Duration {
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
