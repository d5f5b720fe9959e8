//! Rate limits of one client's messages. Pure: time is an argument, in milliseconds of a monotonic clock.

use std::time::Duration;

use tickgate_wire::code::{CloseCode, ErrorCode};

use super::fault::MessageFault;
use crate::{
    bucket::Bucket,
    config::{Limits, Rate},
};

/// The remaining allowance of one connection. Repeated violations close it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ViolationAllowance {
    messages: Bucket,
    names: Bucket,
    rate_offences: RecentViolations,
    invalid: RecentViolations,
}

impl ViolationAllowance {
    /// Takes a token for one message from the connection's bucket.
    ///
    /// # Errors
    /// [`MessageFault`] 4100 with the time to wait; closes the connection after repeated violations.
    pub fn spend_message(&mut self, now_ms: u64, limits: &Limits) -> Result<(), MessageFault> {
        let taken = self.messages.take(1, Duration::from_millis(now_ms), limits.messages_per_connection);
        taken.map_err(|wait| self.limited("messages", wait, now_ms, limits))
    }

    /// Takes a token for one message from the bucket that all connections of the user share.
    ///
    /// # Errors
    /// As [`ViolationAllowance::spend_message`].
    pub fn spend_users(&mut self, user: &mut Bucket, now_ms: u64, limits: &Limits) -> Result<(), MessageFault> {
        let taken = user.take(1, Duration::from_millis(now_ms), limits.messages_per_user);
        taken.map_err(|wait| self.limited("messages", wait, now_ms, limits))
    }

    /// Takes a token for each of `count` channels in a message: each may be a topic that the replica has to follow.
    ///
    /// # Errors
    /// As [`ViolationAllowance::spend_message`].
    pub fn spend_names(&mut self, count: usize, now_ms: u64, limits: &Limits) -> Result<(), MessageFault> {
        let taken = self.names.take(count, Duration::from_millis(now_ms), names_rate(limits));
        taken.map_err(|wait| self.limited("channels", wait, now_ms, limits))
    }

    fn limited(&mut self, what: &str, wait: Duration, now_ms: u64, limits: &Limits) -> MessageFault {
        let wait_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let close = self.rate_offences.count(now_ms, limits.rate_offences_max).then_some(CloseCode::RateLimited);
        let message = format!("too many {what}; wait {wait_ms} ms");
        MessageFault { retry_after_ms: Some(wait_ms), close, ..MessageFault::new(ErrorCode::RateLimited, message) }
    }

    /// Counts an invalid message. Returns the close code if there were too many.
    pub fn offend(&mut self, now_ms: u64, limits: &Limits) -> Option<CloseCode> {
        self.invalid.count(now_ms, limits.invalid_messages_max).then_some(CloseCode::InvalidMessage)
    }
}

/// The rate of channel names in a connection's subscribes.
#[must_use]
pub fn names_rate(limits: &Limits) -> Rate {
    let Rate { per_second, burst } = limits.messages_per_connection;
    // Lets a client replace all its channels at once.
    let twice_all = u32::try_from(limits.subscriptions_max.max(1) * 2).unwrap_or(u32::MAX);
    Rate { per_second, burst: burst.max(twice_all) }
}

/// Violations within the last minute, counted in two half-open windows.
#[derive(Clone, Copy, Debug, Default)]
struct RecentViolations {
    window_index: u64,
    now: u32,
    before: u32,
}

impl RecentViolations {
    const WINDOW_MS: u64 = 60_000;

    /// Counts one. True if there were at least `max` within a minute.
    fn count(&mut self, now_ms: u64, max: u32) -> bool {
        let window = now_ms / Self::WINDOW_MS + 1;
        if window != self.window_index {
            self.before = if window == self.window_index + 1 { self.now } else { 0 };
            self.now = 0;
            self.window_index = window;
        }
        self.now += 1;
        let left_ms = Self::WINDOW_MS - now_ms % Self::WINDOW_MS;
        let weighted = u64::from(self.before) * left_ms / Self::WINDOW_MS;
        u64::from(self.now) + weighted >= u64::from(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_refused_message_gets_the_time_to_wait_and_the_last_violation_closes() {
        let messages_per_connection = Rate { per_second: 3, burst: 1 };
        let limits = Limits { messages_per_connection, rate_offences_max: 3, ..Config::development().limits };
        let mut allowance = ViolationAllowance::default();
        assert_eq!(allowance.spend_message(1_000, &limits), Ok(()));
        let closes = [1_000, 1_001, 1_002].map(|now_ms| {
            let fault = allowance.spend_message(now_ms, &limits).unwrap_err();
            assert_eq!((fault.code, fault.retry_after_ms), (ErrorCode::RateLimited, Some(1_334 - now_ms)));
            fault.close
        });
        assert_eq!(closes, [None, None, Some(CloseCode::RateLimited)]);
    }

    #[test]
    fn all_channels_may_be_replaced_at_once() {
        let limits = Config::development().limits;
        let mut allowance = ViolationAllowance::default();
        assert_eq!(allowance.spend_names(limits.subscriptions_max * 2, 1_000, &limits), Ok(()));
        assert!(allowance.spend_names(limits.subscriptions_max * 2, 1_000, &limits).is_err());
    }

    #[test]
    fn the_tenth_violation_within_a_minute_closes() {
        let mut offences = RecentViolations::default();
        for _ in 0..9 {
            assert!(!offences.count(5_000, 10));
        }
        assert!(offences.count(6_000, 10));
        let mut slow = RecentViolations::default();
        for minute in 0..100 {
            assert!(!slow.count(minute * 30_000, 10));
        }
    }
}
