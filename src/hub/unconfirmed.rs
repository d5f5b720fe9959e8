//! Limits the unconfirmed bytes of a client to what it reads in about a second, wherever the rest is buffered: in the
//! network or in the client. Pings between messages contain positions, which their pongs confirm. Pure: time is an
//! argument.

use std::time::{Duration, Instant};

/// The initial window, for a client of unknown speed.
const FIRST: u32 = 64 * 1024;
const MIN: u32 = 16 * 1024;
/// The maximum window: one second of a fast line, or the data in flight on a long one.
const MAX: u32 = 4 << 20;
/// Target time in which the client reads what is unconfirmed.
const AGE: Duration = Duration::from_secs(1);
/// Minimum time over which the client's speed is measured.
const MEASURED_MIN: Duration = Duration::from_millis(250);
/// Number of probes per full window.
const PROBES: u32 = 8;

/// Bytes between two probes of a client that was never behind: rare enough to have no cost, and frequent enough that a
/// client that becomes slow answers some of them while reading.
const EARLY_PROBE: u32 = 32 * 1024;

/// The window of a client. Positions count the bytes written to it.
#[derive(Clone, Debug)]
pub(super) struct ConfirmWindow {
    bytes: u32,
    /// Set once the client has been behind: from then on the window limits writes.
    bounds: bool,
    confirmed: u64,
    /// Position of the last probe.
    probed: u64,
    /// When the measurement of the client's speed started, and the position confirmed by then.
    measured: Option<(Instant, u64)>,
}

impl ConfirmWindow {
    /// For a client that is about to receive values.
    pub(super) fn new(written: u64) -> Self {
        Self { bytes: FIRST, bounds: false, confirmed: written, probed: written, measured: None }
    }

    /// The position up to which the client has certainly read.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Bytes that may be written before the next probe; 0 until more is confirmed.
    pub(super) fn room(&self, written: u64) -> usize {
        if !self.bounds {
            return usize::MAX;
        }
        let room = u64::from(self.bytes).saturating_sub(written.saturating_sub(self.confirmed));
        room.min((self.bytes / PROBES).into()) as usize
    }

    /// Payload of a ping to send now, after everything written. A full window always has one in flight, if this is
    /// called after each write and each confirmation.
    pub(super) fn probe(&mut self, written: u64) -> Option<[u8; 8]> {
        let interval = if self.bounds { self.bytes / PROBES } else { EARLY_PROBE };
        let due = written.saturating_sub(self.probed) >= interval.into();
        due.then(|| {
            self.probed = written;
            written.to_be_bytes()
        })
    }

    /// Handles the pong for the probe at this position. `behind`: output is queued, so that only the client's speed
    /// limits what it confirms.
    pub(super) fn confirm(&mut self, position: u64, behind: bool, now: Instant) {
        // A position without a probe: not a pong for one of these pings.
        if position <= self.confirmed || position > self.probed {
            return;
        }
        self.confirmed = position;
        let Some((since, from)) = self.measured else {
            self.measured = Some((now, position));
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= MEASURED_MIN {
            self.measured = Some((now, position));
            let fitting = (position - from) as f64 * AGE.div_duration_f64(elapsed);
            let fitting = fitting.clamp(MIN.into(), MAX.into()) as u32;
            self.bytes = if behind { fitting } else { self.bytes.max(fitting) };
        }
    }

    /// The client fell behind: earlier measurements do not apply.
    pub(super) fn fell_behind(&mut self) {
        self.bounds = true;
        self.measured = None;
    }

    /// The client has received everything queued.
    pub(super) fn recovered(&mut self) {
        self.measured = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A simulated client with a delay each way, for which more is queued than it reads.
    struct DelayedClient {
        window: ConfirmWindow,
        now: Instant,
        delay: Duration,
        written: u64,
        read: f64,
        probes: VecDeque<u64>,
        pongs: VecDeque<(Instant, u64)>,
    }

    impl DelayedClient {
        fn new(delay_ms: u64, written: u64) -> Self {
            let delay = Duration::from_millis(delay_ms);
            let mut window = ConfirmWindow::new(0);
            window.fell_behind();
            let probes = window.probe(written).map(u64::from_be_bytes).into_iter().collect();
            Self { window, now: Instant::now(), delay, written, read: 0.0, probes, pongs: VecDeque::new() }
        }

        /// Reads for this time at this speed. Returns the maximum time from writing a byte to reading it, in seconds,
        /// over the last half.
        fn read(&mut self, bytes_per_s: f64, seconds: u32) -> f64 {
            const STEP: Duration = Duration::from_millis(2);
            let (begun, mut age_max) = (self.now, 0.0_f64);
            while self.now < begun + Duration::from_secs(seconds.into()) {
                self.now += STEP;
                while let room @ 1.. = self.window.room(self.written) as u64 {
                    self.written += room;
                    self.probes.extend(self.window.probe(self.written).map(u64::from_be_bytes));
                }
                self.read = (self.read + bytes_per_s * STEP.as_secs_f64()).min(self.written as f64);
                while self.probes.front().is_some_and(|position| *position as f64 <= self.read) {
                    let position = self.probes.pop_front().unwrap();
                    self.pongs.push_back((self.now + 2 * self.delay, position));
                }
                while self.pongs.front().is_some_and(|(at, _)| *at <= self.now) {
                    let (_, position) = self.pongs.pop_front().unwrap();
                    self.window.confirm(position, true, self.now);
                    self.probes.extend(self.window.probe(self.written).map(u64::from_be_bytes));
                }
                if self.now > begun + Duration::from_secs(u64::from(seconds) / 2) {
                    age_max = age_max.max((self.written as f64 - self.read) / bytes_per_s);
                }
            }
            age_max
        }
    }

    #[test]
    fn what_is_in_flight_is_read_within_about_a_second_at_any_speed() {
        let mut client = DelayedClient::new(20, 200_000);
        for kib_per_s in [64.0, 16.0, 500.0, 32.0] {
            let age = client.read(kib_per_s * 1024.0, 60);
            assert!((0.5..1.5).contains(&age), "{kib_per_s} KiB/s: {age} s");
        }
    }

    #[test]
    fn a_long_and_fast_line_is_fully_used() {
        let mut client = DelayedClient::new(150, 100_000);
        client.read(1e6, 20);
        let before = client.read;
        client.read(1e6, 10);
        assert!(client.read - before > 9e6, "{} in 10 s", client.read - before);
    }

    #[test]
    fn a_full_window_always_has_a_probe_in_flight() {
        let mut window = ConfirmWindow::new(0);
        window.fell_behind();
        assert_eq!(window.room(1 << 20), 0);
        assert_eq!(window.probe(1 << 20), Some((1_u64 << 20).to_be_bytes()));
        assert_eq!(window.probe(1 << 20), None);
        let now = Instant::now();
        window.confirm(2 << 20, true, now);
        assert_eq!(window.room(1 << 20), 0, "there is no probe at this position");
        window.confirm(1 << 20, true, now);
        assert_eq!(window.room(1 << 20), (FIRST / PROBES) as usize);
    }

    #[test]
    fn a_client_that_keeps_up_is_not_considered_slow() {
        let mut window = ConfirmWindow::new(0);
        window.fell_behind();
        let mut now = Instant::now();
        for number in 1..=100 {
            let written = number * 10_000;
            let position = window.probe(written).map(u64::from_be_bytes).expect("a probe is due");
            now += Duration::from_secs(1);
            window.confirm(position, false, now);
        }
        assert_eq!(window.bytes, FIRST);
    }
    #[test]
    fn a_client_that_was_never_behind_is_probed_rarely_and_not_limited() {
        let mut window = ConfirmWindow::new(1_000);
        assert_eq!(window.room(1 << 30), usize::MAX);
        assert_eq!(window.probe(1_000 + u64::from(EARLY_PROBE) - 1), None);
        let position = 1_000 + u64::from(EARLY_PROBE);
        assert_eq!(window.probe(position), Some(position.to_be_bytes()));
        window.confirm(position, false, Instant::now());
        assert_eq!(window.confirmed(), position);
        window.fell_behind();
        assert_eq!(window.room(position), (FIRST / PROBES) as usize);
    }
}
