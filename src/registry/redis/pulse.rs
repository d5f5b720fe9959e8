//! Tracks when this process was suspended (SIGSTOP, a frozen container, a paused machine). A client that gave up meanwhile
//! may have connected to another replica, while its request still waits here: such a request must not end the newer
//! connection. Pure: the uptime is an argument, in microseconds.

use std::time::Duration;

use parking_lot::Mutex;

use super::times::micros;

/// How often the pulse beats.
pub(super) const BEAT: Duration = Duration::from_millis(500);
/// A pulse without a beat for longer than this means that the process was suspended. Clients wait longer for a welcome.
const SUSPENDED: Duration = Duration::from_secs(2);
/// How long after it continued a process may still find requests that waited.
const BACKLOG: Duration = Duration::from_secs(3);

/// The last beat, and the last suspension.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<PulseState>);

#[derive(Debug, Default)]
struct PulseState {
    beat_us: u64,
    /// When it began and ended.
    suspended: Option<(u64, u64)>,
}

impl Pulse {
    /// Records that the process runs.
    pub(super) fn beat(&self, now_us: u64) {
        let mut state = self.0.lock();
        if state.is_late(now_us) {
            state.suspended = Some((state.beat_us, now_us));
        }
        state.beat_us = now_us;
    }

    /// Since when a request that is processed now may have waited, if the process was suspended just before.
    pub(super) fn waiting_since(&self, now_us: u64) -> Option<u64> {
        let state = self.0.lock();
        if state.is_late(now_us) {
            return Some(state.beat_us);
        }
        let (began, ended) = state.suspended?;
        (now_us < ended + micros(BACKLOG)).then_some(began)
    }
}

impl PulseState {
    fn is_late(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.beat_us) > micros(SUSPENDED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_request_may_have_waited_since_the_process_was_suspended() {
        let pulse = Pulse::default();
        for beat in 1..=20 {
            pulse.beat(beat * S / 2);
        }
        assert_eq!((pulse.waiting_since(10 * S), pulse.waiting_since(12 * S)), (None, None), "it runs");
        assert_eq!(pulse.waiting_since(15 * S), Some(10 * S), "before the first beat");
        pulse.beat(15 * S);
        pulse.beat(16 * S);
        assert_eq!(pulse.waiting_since(17 * S), Some(10 * S), "its backlog");
        pulse.beat(17 * S);
        assert_eq!(pulse.waiting_since(18 * S), None, "all that waited was processed");
    }
}
