//! What REST may cost: the weight of the last minute, and the refusals that the whole process must honour. Pure.

use std::time::{Duration, Instant};

use crate::defect::{self, Defect};

/// Weight that is used of the 6,000 a minute that the exchange allows: the rest is for others at the same address.
const WEIGHT_MAX: u64 = 4_000;
const MINUTE: Duration = Duration::from_secs(60);
/// Without a time to wait in a refusal.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// A longer ban than this is asked about again.
const BAN_MAX: Duration = Duration::from_secs(3 * 86_400);

/// The budget of a process.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When the minute began that is counted, and its weight.
    minute: Option<(Instant, u64)>,
    /// No request before.
    ready: Option<Instant>,
}

impl Budget {
    /// Takes the weight of a request, or says when it may be asked for again.
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

    /// Takes over what the exchange counts, which includes others at the same address.
    pub(super) fn counted(&mut self, used: u64, now: Instant) {
        let began = self.minute.map_or(now, |(began, _)| began);
        self.minute = Some((began, used));
    }

    /// Weight of the minute that is counted.
    pub(super) fn used(&self) -> u64 {
        self.minute.map_or(0, |(_, used)| used)
    }

    /// Notes a refusal: nobody asks before the exchange says so.
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
    fn no_more_is_spent_in_a_minute_than_is_left_to_us() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        assert_eq!(budget.take(WEIGHT_MAX, now), Ok(()));
        assert_eq!(budget.take(1, now), Err(now + MINUTE));
        assert_eq!(budget.take(1, now + MINUTE), Ok(()));
        budget.counted(WEIGHT_MAX, now + MINUTE);
        assert!(budget.take(1, now + MINUTE).is_err(), "others spend it too");
    }

    #[test]
    fn a_refusal_holds_for_everything_until_its_end() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        let ready = budget.refused(Some(Duration::from_secs(7)), now);
        assert_eq!(budget.take(1, now + Duration::from_secs(6)), Err(ready));
        assert_eq!(budget.refused(Some(Duration::from_secs(1)), now), ready, "the longer one counts");
        assert_eq!(budget.take(1, ready), Ok(()));
        assert_eq!(budget.refused(None, ready), ready + RETRY_AFTER);
    }
}
