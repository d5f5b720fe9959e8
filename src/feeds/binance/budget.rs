//! The cost of REST requests: the weight used in the last minute, and the refusals that the whole process must honor.
//! Pure.

use std::time::{Duration, Instant};

use crate::defect::{self, Defect};

/// The weight that this process may use, of the 6,000 per minute that the exchange allows: the rest is left to others
/// at the same address.
const WEIGHT_MAX: u64 = 4_000;
const MINUTE: Duration = Duration::from_secs(60);
/// Wait after a refusal that does not give one.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// During a ban longer than this, the exchange is asked again after this time.
const BAN_MAX: Duration = Duration::from_secs(3 * 86_400);

/// The budget of a process.
#[derive(Debug, Default)]
pub(super) struct WeightBudget {
    /// The start of the current minute, and the weight used in it.
    minute: Option<(Instant, u64)>,
    /// No requests before this time.
    ready: Option<Instant>,
}

impl WeightBudget {
    /// Reserves the weight of a request, or returns when it may be tried again.
    pub(super) fn take(&mut self, weight: u64, now: Instant) -> Result<(), Instant> {
        if let Some(ready) = self.ready
            && now < ready
        {
            return Err(ready);
        }
        let (began, used) = match self.minute {
            Some((began, used)) if now < began + MINUTE => (began, used),
            _ => (now, 0),
        };
        if used + weight > WEIGHT_MAX {
            return Err(began + MINUTE);
        }
        self.minute = Some((began, used + weight));
        Ok(())
    }

    /// Adopts the exchange's count, which includes others at the same address.
    pub(super) fn counted(&mut self, used: u64, now: Instant) {
        let began = self.minute.map_or(now, |(began, _)| began);
        self.minute = Some((began, used));
    }

    /// Weight used in the current minute.
    pub(super) fn used(&self) -> u64 {
        self.minute.map_or(0, |(_, used)| used)
    }

    /// Records a refusal: no requests until the exchange allows them.
    pub(super) fn refused(&mut self, retry_after: Option<Duration>, now: Instant) -> Instant {
        if defect::is(Defect::FeedImpatience) {
            return now;
        }
        let wait = retry_after.unwrap_or(RETRY_AFTER).min(BAN_MAX);
        let ready = self.ready.map_or(now + wait, |ready| ready.max(now + wait));
        self.ready = Some(ready);
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_a_minute_is_not_exceeded() {
        let (mut budget, now) = (WeightBudget::default(), Instant::now());
        assert_eq!(budget.take(WEIGHT_MAX, now), Ok(()));
        assert_eq!(budget.take(1, now), Err(now + MINUTE));
        assert_eq!(budget.take(1, now + MINUTE), Ok(()));
        budget.counted(WEIGHT_MAX, now + MINUTE);
        assert!(budget.take(1, now + MINUTE).is_err(), "others use it as well");
    }

    #[test]
    fn a_refusal_applies_to_all_requests_until_it_ends() {
        let (mut budget, now) = (WeightBudget::default(), Instant::now());
        let ready = budget.refused(Some(Duration::from_secs(7)), now);
        assert_eq!(budget.take(1, now + Duration::from_secs(6)), Err(ready));
        assert_eq!(budget.refused(Some(Duration::from_secs(1)), now), ready, "the longer one applies");
        assert_eq!(budget.take(1, ready), Ok(()));
        assert_eq!(budget.refused(None, ready), ready + RETRY_AFTER);
    }
}
