//! Rate limit for log lines that external events can cause. Pure: the time is an argument. Writes no lines.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Allows one line per interval, and counts the omitted ones.
#[derive(Debug)]
pub struct LogLimit {
    interval: Duration,
    // Held for a comparison.
    state: Mutex<LimitState>,
}

#[derive(Debug, Default)]
struct LimitState {
    last: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    /// Allows the first line at once, and then one per interval.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// Whether a line may be written as of `now`, and how many were omitted since the previous one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_is_written_with_the_number_of_omitted_lines() {
        let (limit, began) = (LogLimit::new(Duration::from_secs(60)), Instant::now());
        let at = |seconds| limit.admit(began + Duration::from_secs(seconds));
        assert_eq!([at(0), at(1), at(59), at(60), at(61), at(300)], [Some(0), None, None, Some(2), None, Some(1)]);
        assert_eq!(limit.admit(began), None, "a time that another thread read earlier");
    }
}
