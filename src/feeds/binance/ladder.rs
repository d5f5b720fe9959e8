//! Decides when to connect, with growing delays between attempts, and when to abandon a connection, based only on the
//! data that it delivers. Pure: clock and randomness are arguments.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Bounds of the delays between attempts.
const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);
/// Minimum delay after any failure.
const LEAST: Duration = Duration::from_millis(500);
/// Delay after a disconnection for breaking the exchange's rules.
const AFTER_RULES: Duration = Duration::from_secs(10);
/// Delay between attempts while the exchange does not serve this region or address.
const RESTRICTED: Duration = Duration::from_secs(90);
/// Maximum number of attempts in [`WINDOW`].
const ATTEMPTS_MAX: usize = 100;
const WINDOW: Duration = Duration::from_secs(300);
/// How long data must flow before earlier failures are forgotten.
const PROVEN: Duration = Duration::from_secs(10);
/// Timeout for the first data on a connection.
const FIRST_DATA_MAX: Duration = Duration::from_secs(10);
/// Timeout for data after resubscribing to a stream.
const AGAIN_MAX: Duration = Duration::from_secs(3);
/// Bounds of the delays between remedies for a stream that stays silent even on a new connection.
const REMEDY_FIRST: Duration = Duration::from_secs(30);
const REMEDY_MOST: Duration = Duration::from_secs(600);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectFailure {
    /// Lost, unreachable, invalid data, or silent.
    Ordinary,
    /// Closed with 1008.
    Rules,
    /// 451 or 403: waiting does not help.
    Restricted,
    /// 429 or 418, with the delay that the exchange requests.
    Limited(Duration),
}

/// Decides when to make the next connection, and to which of the exchange's addresses.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    failures: u32,
    attempts: VecDeque<Instant>,
    ready: Option<Instant>,
    /// Grows without limit: each failure selects the next address.
    address: usize,
}

impl Ladder {
    /// Whether a connection may be made now.
    pub(super) fn may_connect(&self, now: Instant) -> bool {
        self.ready.is_none_or(|ready| ready <= now)
    }

    /// Counts an attempt; returns its address as a number to take modulo the number of addresses.
    pub(super) fn attempt(&mut self, now: Instant) -> usize {
        self.attempts.retain(|at| now < *at + WINDOW);
        self.attempts.push_back(now);
        self.address
    }

    /// Records a failure. `chance` is a random number.
    pub(super) fn failed(&mut self, failure: ConnectFailure, now: Instant, chance: u64) {
        let part = |of: Duration| Duration::from_millis(chance % (of.as_millis() as u64 + 1));
        let doubled = |first: Duration, most: Duration| first.saturating_mul(1 << self.failures.min(10)).min(most);
        let wait = match failure {
            ConnectFailure::Ordinary => part(doubled(FIRST, MOST)).max(LEAST),
            ConnectFailure::Rules => doubled(AFTER_RULES, WINDOW) + part(AFTER_RULES),
            ConnectFailure::Restricted => RESTRICTED + part(RESTRICTED),
            ConnectFailure::Limited(demanded) => demanded + part(LEAST),
        };
        self.failures += 1;
        self.turn();
        let crowded = self.attempts.len() >= ATTEMPTS_MAX;
        let window = self.attempts.front().filter(|_| crowded).map(|first| *first + WINDOW);
        self.wait_until((now + wait).max(window.unwrap_or(now)));
    }

    /// The next connection uses another address.
    pub(super) const fn turn(&mut self) {
        self.address += 1;
    }

    /// No connection may be made before this time.
    pub(super) fn wait_until(&mut self, ready: Instant) {
        self.ready = Some(self.ready.map_or(ready, |known| known.max(ready)));
    }

    /// Records for how long a connection has delivered data.
    pub(super) fn flowed(&mut self, time: Duration) {
        if time >= PROVEN {
            self.failures = 0;
        }
    }
}

/// When to replace a connection: before its maximum age, by a random margin of up to 2 %, so that replicas do not
/// reconnect at the same time.
pub(super) fn leaves(opened: Instant, age_max: Duration, chance: u64) -> Instant {
    let spread = Duration::from_millis(chance % ((age_max / 50).as_millis() as u64 + 1));
    opened + age_max - spread
}

/// The remedy for silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    None,
    /// A stream should be subscribed again.
    Again,
    /// The connection should be replaced.
    Replace,
}

/// Detects silence on one connection.
#[derive(Debug)]
pub(super) struct Watchdog {
    opened: Instant,
    first_data: Option<Instant>,
    last_data: Option<Instant>,
    again: Option<Instant>,
    bad_in_a_row: u32,
}

/// Number of consecutive bad frames after which a connection is replaced.
const BAD_MAX: u32 = 10;

impl Watchdog {
    pub(super) const fn new(now: Instant) -> Self {
        Self { opened: now, first_data: None, last_data: None, again: None, bad_in_a_row: 0 }
    }

    /// An event of a stream arrived.
    pub(super) fn data(&mut self, now: Instant) {
        self.first_data.get_or_insert(now);
        self.last_data = Some(now);
        (self.again, self.bad_in_a_row) = (None, 0);
    }

    /// An unusable frame arrived. True if there were too many in a row.
    pub(super) const fn bad(&mut self) -> bool {
        self.bad_in_a_row += 1;
        self.bad_in_a_row >= BAD_MAX
    }

    /// For how long data has flowed.
    pub(super) fn flowed(&self, now: Instant) -> Duration {
        self.first_data.map_or(Duration::ZERO, |first| now.saturating_duration_since(first))
    }

    /// Whether data arrived recently.
    pub(super) fn is_live(&self, now: Instant, stale_after: Duration) -> bool {
        self.last_data.is_some_and(|last| now < last + stale_after)
    }

    /// When the last data arrived.
    pub(super) const fn last_data(&self) -> Option<Instant> {
        self.last_data
    }

    /// The remedy for silence at this time.
    pub(super) fn judge(&mut self, now: Instant, stale_after: Duration) -> Silence {
        let Some(last) = self.last_data else {
            let overdue = now >= self.opened + FIRST_DATA_MAX.max(stale_after);
            return if overdue { Silence::Replace } else { Silence::None };
        };
        if now < last + stale_after {
            return Silence::None;
        }
        match self.again {
            None => {
                self.again = Some(now);
                Silence::Again
            }
            Some(again) if now >= again + AGAIN_MAX => Silence::Replace,
            Some(_) => Silence::None,
        }
    }
}

/// The remedies applied so far to individual streams that are silent while others deliver data.
#[derive(Debug, Default)]
pub(super) struct Remedies {
    streams: HashMap<String, (u32, Instant)>,
}

impl Remedies {
    /// The remedy for a silent stream at this time: resubscribe it, then replace the connection, then both in turn with
    /// growing delays.
    pub(super) fn next(&mut self, stream: &str, now: Instant) -> Silence {
        self.streams.retain(|_, (_, at)| now < *at + REMEDY_MOST * 2);
        let (steps, at) = self.streams.get(stream).copied().unwrap_or((0, now));
        let wait = match steps {
            0 => Duration::ZERO,
            1 => AGAIN_MAX,
            more => REMEDY_FIRST.saturating_mul(1 << (more - 2).min(10)).min(REMEDY_MOST),
        };
        if now < at + wait {
            return Silence::None;
        }
        self.streams.insert(stream.to_owned(), (steps + 1, now));
        if steps.is_multiple_of(2) { Silence::Again } else { Silence::Replace }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(5);

    #[test]
    fn delays_double_up_to_half_a_minute_and_keep_their_minimum() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        let wait = |ladder: &mut Ladder, failure, chance| {
            ladder.ready = None;
            ladder.failed(failure, now, chance);
            (ladder.ready.unwrap() - now).as_millis()
        };
        assert_eq!(wait(&mut ladder, ConnectFailure::Ordinary, 0), 500);
        let longest: Vec<_> =
            (1..8).map(|n: u32| wait(&mut ladder, ConnectFailure::Ordinary, (500_u64 << n).min(30_000))).collect();
        assert_eq!(longest, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        ladder.flowed(PROVEN);
        assert_eq!(wait(&mut ladder, ConnectFailure::Rules, 0), 10_000);
        assert_eq!(wait(&mut ladder, ConnectFailure::Rules, 0), 20_000);
        assert!(wait(&mut ladder, ConnectFailure::Restricted, 7) >= 90_000);
        assert_eq!(wait(&mut ladder, ConnectFailure::Limited(Duration::from_secs(42)), 0), 42_000);
        assert!(!ladder.may_connect(now) && ladder.may_connect(now + Duration::from_secs(43)));
    }

    #[test]
    fn each_failure_selects_the_next_address_and_attempts_are_counted() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        let addresses: Vec<_> = (0..3)
            .map(|_| {
                let address = ladder.attempt(now);
                ladder.failed(ConnectFailure::Ordinary, now, 0);
                address
            })
            .collect();
        assert_eq!(addresses, [0, 1, 2]);
        let _ = (0..ATTEMPTS_MAX).map(|_| ladder.attempt(now)).count();
        ladder.flowed(PROVEN);
        ladder.failed(ConnectFailure::Ordinary, now, 0);
        assert!(!ladder.may_connect(now + WINDOW - LEAST) && ladder.may_connect(now + WINDOW));
    }

    #[test]
    fn silence_leads_to_resubscribing_and_then_to_a_new_connection() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut watchdog = Watchdog::new(now);
        assert_eq!(watchdog.judge(at(9_999), STALE), Silence::None);
        assert_eq!(watchdog.judge(at(10_000), STALE), Silence::Replace, "no data received yet");
        watchdog.data(at(1_000));
        assert!(watchdog.is_live(at(5_999), STALE) && !watchdog.is_live(at(6_000), STALE));
        let judged = [5_999, 6_000, 6_001, 9_000].map(|ms| watchdog.judge(at(ms), STALE));
        assert_eq!(judged, [Silence::None, Silence::Again, Silence::None, Silence::Replace]);
        watchdog.data(at(9_001));
        assert_eq!(watchdog.judge(at(9_002), STALE), Silence::None);
    }

    #[test]
    fn a_connection_is_replaced_within_its_maximum_age_and_not_much_earlier() {
        let (now, age) = (Instant::now(), Duration::from_secs(23 * 3_600));
        for chance in [0, 1_000, u64::MAX] {
            let at = leaves(now, age, chance);
            assert!(at <= now + age && at >= now + age - age / 50, "{chance}");
        }
    }

    #[test]
    fn a_silent_stream_is_resubscribed_then_moved_then_retried_ever_less_often() {
        let (mut remedies, now) = (Remedies::default(), Instant::now());
        let mut last = 0;
        let steps: Vec<_> = (0..3_600)
            .filter_map(|second| {
                let step = remedies.next("a@ticker", now + Duration::from_secs(second));
                let after = second - last;
                (step != Silence::None).then(|| last = second);
                (step != Silence::None).then_some((after, step))
            })
            .collect();
        let first = [(0, Silence::Again), (3, Silence::Replace), (30, Silence::Again), (60, Silence::Replace)];
        assert_eq!(steps[..4], first);
        assert!(steps.len() < 14 && steps.windows(2).all(|pair| pair[0].1 != pair[1].1), "{steps:?}");
    }

    #[test]
    fn ten_bad_frames_in_a_row_are_too_many() {
        let mut watchdog = Watchdog::new(Instant::now());
        assert_eq!((0..9).filter(|_| watchdog.bad()).count(), 0);
        watchdog.data(Instant::now());
        assert_eq!((0..10).filter(|_| watchdog.bad()).count(), 1);
    }
}
