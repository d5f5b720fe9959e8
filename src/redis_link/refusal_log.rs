//! The log line of a command that Redis did not execute: each kind at most once a minute, with Redis's own text. Never
//! a key or a payload.

use std::time::{Duration, Instant};

use super::RedisFailure;
use crate::{log_limit::LogLimit, metrics::RedisError};

const INTERVAL: Duration = Duration::from_secs(60);

/// One rate limit per kind of failure.
#[derive(Debug)]
pub(super) struct RefusalLog([LogLimit; RedisError::ALL.len()]);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(std::array::from_fn(|_| LogLimit::new(INTERVAL)))
    }
}

impl RefusalLog {
    /// Logs the failure unless one of its kind was logged within the last minute.
    pub(super) fn write(&self, failure: &RedisFailure) {
        // Links log their own failures, and a script that Redis forgot is loaded again.
        if failure.label() == RedisError::Closed || failure.is_no_script() {
            return;
        }
        let Some(left_out) = self.0[failure.label() as usize].admit(Instant::now()) else { return };
        let left_out = Some(left_out).filter(|count| *count > 0);
        tracing::warn!(kind = failure.label().as_str(), %failure, left_out, "redis did not carry out a command");
    }
}
