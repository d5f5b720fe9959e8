//! When a connection hears a heartbeat or a ping, and when it has to end. Pure: time is an argument.

use std::time::Duration;

use tickgate_wire::code::CloseCode;

use crate::{config, metrics::Disconnect};

/// Time between two pings of a connection that is written to: each answer confirms what was written before it, which
/// is where a resumed session begins.
const CONFIRM_INTERVAL_MS: u64 = 5_000;
/// Pings in a row that a client may leave unanswered while other things come from it.
const UNANSWERED_MAX: u8 = 3;

/// A client that takes less than this is not waited for: what both kernels hold for it lies before a ping, and whether
/// it is being read is not seen here.
const SLOWEST_KIB_PER_S: u32 = 16;
/// A ping is waited for no longer than this on account of what lies before it, in seconds.
const PATIENCE_MAX_S: u16 = 600;

/// Settings that all pulses of a replica share.
#[derive(Clone, Copy, Debug)]
pub struct Beats {
    pub heartbeat_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub auth_timeout_ms: u64,
    pub expiry_warning_s: u64,
    pub leeway_s: u64,
}

impl Beats {
    #[must_use]
    pub fn new(session: &config::Session, auth: &config::Auth) -> Self {
        Self {
            heartbeat_timeout_ms: ms(session.heartbeat_timeout),
            write_timeout_ms: ms(session.write_timeout),
            auth_timeout_ms: ms(auth.auth_timeout),
            expiry_warning_s: auth.expiry_warning.as_secs(),
            leeway_s: auth.leeway.as_secs(),
        }
    }
}

/// What is known of a connection at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// A clock that only grows, and the time of day.
    pub now_ms: u64,
    pub unix_ms: u64,
    /// When something last came from the client.
    pub seen_ms: u64,
    /// Bytes written so far, and whether the socket is behind.
    pub written: u64,
    pub blocked: bool,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub heartbeat: bool,
    /// Number of the ping to send.
    pub ping: Option<u32>,
    /// The token ends at this time.
    pub expiring: Option<u64>,
    pub close: Option<(CloseCode, Disconnect)>,
}

/// How long a connection may stay, by its token.
#[derive(Clone, Copy, Debug)]
enum Term {
    /// It has none, and none is awaited.
    Free,
    /// The first one must come before this time.
    AwaitsToken { by_ms: u64 },
    /// It ends at this time, seconds since 1970; the client was told that it is near. The phase is the connection's own.
    Ends { at_s: u64, warned: bool, phase: u8 },
}

/// What tokens that end in one second are spread over.
const SPREAD_MS: u64 = 768;

/// One connection's rhythm.
#[derive(Debug)]
pub struct Pulse {
    heartbeat_ms: u32,
    term: Term,
    /// The connection is asked to move after this time; 0: never.
    leave_at_ms: u64,
    /// Bytes written when the last beat was sent, and when anything was last sent.
    written: u64,
    spoken_ms: u64,
    /// Bytes written when the socket was last seen to move, and when.
    moved: u64,
    moved_ms: u64,
    pings: u32,
    /// When the last ping was sent, or was last seen to wait for the socket.
    pinged_ms: u64,
    awaiting_pong: bool,
    /// KiB written when it was, modulo 4 TiB; and how long a slow client may take to read them, in seconds.
    pinged_kib: u32,
    patience_s: u16,
    unanswered: u8,
}

impl Pulse {
    /// A pulse that begins now. `phase` is the connection's own, by chance: it spreads the ends of those that opened
    /// together.
    #[must_use]
    pub fn new(session: &config::Session, now_ms: u64, phase: u8) -> Self {
        let age_ms = ms(session.age_max);
        let jitter = f64::from(phase) / 256.0;
        Self {
            heartbeat_ms: beat_ms(session.heartbeat_interval),
            term: Term::Free,
            // Ten per cent either way, so that connections that came together do not leave together.
            leave_at_ms: if age_ms == 0 { 0 } else { now_ms + (age_ms as f64 * (0.9 + 0.2 * jitter)) as u64 },
            written: 0,
            spoken_ms: now_ms,
            moved: 0,
            moved_ms: now_ms,
            pings: 0,
            pinged_ms: now_ms,
            awaiting_pong: false,
            pinged_kib: 0,
            patience_s: 0,
            unanswered: 0,
        }
    }

    /// The token ends at `unix_s`. Also ends the wait for a first token. `phase` is the connection's own, by chance: it
    /// spreads the ends of those whose tokens end together.
    pub fn set_expiry(&mut self, unix_s: u64, phase: u8) {
        self.term = Term::Ends { at_s: unix_s, warned: false, phase };
    }

    /// A token must come by then.
    pub fn await_token(&mut self, now_ms: u64, beats: &Beats) {
        self.term = Term::AwaitsToken { by_ms: now_ms + beats.auth_timeout_ms };
    }

    /// Changes the time between heartbeats.
    pub fn set_heartbeat(&mut self, interval: Duration) {
        self.heartbeat_ms = beat_ms(interval);
    }

    /// A pong came back. True when it answers the last ping: what was written before that is confirmed.
    pub fn pong(&mut self, number: u32) -> bool {
        let last = number == self.pings;
        if last {
            self.awaiting_pong = false;
            self.unanswered = 0;
        }
        last
    }

    /// What is due now, and when to look again.
    pub fn beat(&mut self, facts: &Facts, beats: &Beats) -> (Due, u64) {
        let mut due = Due { close: self.close(facts, beats), ..Due::default() };
        if due.close.is_some() {
            return (due, facts.now_ms);
        }
        due.expiring = self.warn(facts, beats);
        if facts.written != self.written {
            self.spoken_ms = facts.now_ms;
        }
        let silent = facts.now_ms >= self.spoken_ms + u64::from(self.heartbeat_ms);
        let unconfirmed = facts.written != self.written && facts.now_ms >= self.pinged_ms + CONFIRM_INTERVAL_MS;
        let overdue = facts.now_ms >= self.pinged_ms + u64::from(self.heartbeat_ms);
        due.heartbeat = silent;
        if (silent || unconfirmed || overdue) && !self.awaiting_pong {
            self.pings = self.pings.wrapping_add(1);
            self.pinged_ms = facts.now_ms;
            self.patience_s = 0;
            self.wait_for_reader(facts);
            self.awaiting_pong = true;
            due.ping = Some(self.pings);
        }
        if silent {
            self.spoken_ms = facts.now_ms;
        }
        (due, facts.now_ms + self.pause(facts, beats))
    }

    /// Bytes written once the beat itself was sent: those are no news.
    pub fn spoke(&mut self, written: u64) {
        self.written = written;
    }

    fn close(&mut self, facts: &Facts, beats: &Beats) -> Option<(CloseCode, Disconnect)> {
        if facts.written != self.moved || !facts.blocked {
            self.moved = facts.written;
            self.moved_ms = facts.now_ms;
        }
        match self.term {
            Term::Ends { at_s, phase, .. } if facts.unix_ms >= ends_ms(at_s, phase, beats) => {
                return Some((CloseCode::AuthRequired, Disconnect::TokenExpired));
            }
            Term::AwaitsToken { by_ms } if facts.now_ms >= by_ms => {
                return Some((CloseCode::AuthTimeout, Disconnect::AuthTimeout));
            }
            _ => {}
        }
        if self.is_unanswered(facts, beats) {
            if facts.seen_ms < self.pinged_ms || self.unanswered + 1 >= UNANSWERED_MAX {
                return Some((CloseCode::HeartbeatTimeout, Disconnect::HeartbeatTimeout));
            }
            self.unanswered += 1;
            self.awaiting_pong = false;
        }
        if facts.blocked && facts.now_ms >= self.moved_ms + beats.write_timeout_ms {
            return Some((CloseCode::SlowConsumer, Disconnect::SlowConsumer));
        }
        if self.leave_at_ms > 0 && facts.now_ms >= self.leave_at_ms {
            return Some((CloseCode::MaxAge, Disconnect::MaxAge));
        }
        None
    }

    /// Whether the last ping was not answered in time. One that waits for the socket itself can't be.
    fn is_unanswered(&mut self, facts: &Facts, beats: &Beats) -> bool {
        if facts.blocked && self.awaiting_pong {
            self.pinged_ms = facts.now_ms;
            self.wait_for_reader(facts);
        }
        self.awaiting_pong && facts.now_ms >= self.answer_by_ms(beats)
    }

    fn answer_by_ms(&self, beats: &Beats) -> u64 {
        self.pinged_ms + beats.heartbeat_timeout_ms + u64::from(self.patience_s) * 1_000
    }

    /// All that was written since the ping before may lie unread before this one.
    fn wait_for_reader(&mut self, facts: &Facts) {
        let written_kib = (facts.written >> 10) as u32;
        let seconds = written_kib.wrapping_sub(self.pinged_kib) / SLOWEST_KIB_PER_S;
        if seconds > 0 || !self.awaiting_pong {
            self.pinged_kib = written_kib;
            let more = u16::try_from(seconds).unwrap_or(u16::MAX);
            self.patience_s = self.patience_s.saturating_add(more).min(PATIENCE_MAX_S);
        }
    }

    fn warn(&mut self, facts: &Facts, beats: &Beats) -> Option<u64> {
        let Term::Ends { at_s, warned, .. } = &mut self.term else { return None };
        let near = facts.unix_ms / 1_000 + beats.expiry_warning_s >= *at_s;
        (near && !std::mem::replace(warned, true)).then_some(*at_s)
    }

    /// How long nothing can become due.
    fn pause(&self, facts: &Facts, beats: &Beats) -> u64 {
        let mut pause = CONFIRM_INTERVAL_MS.min(self.heartbeat_ms.into());
        let mut until = |at_ms: u64| pause = pause.min(at_ms.saturating_sub(facts.now_ms).max(100));
        if self.awaiting_pong {
            until(self.answer_by_ms(beats));
        }
        if facts.blocked {
            until(self.moved_ms + beats.write_timeout_ms);
        }
        match self.term {
            Term::Free => {}
            Term::AwaitsToken { by_ms } => until(by_ms),
            Term::Ends { at_s, warned, phase } => {
                let warns_ms = at_s.saturating_sub(beats.expiry_warning_s) * 1_000;
                let next_ms = if warned { ends_ms(at_s, phase, beats) } else { warns_ms };
                until(facts.now_ms + next_ms.saturating_sub(facts.unix_ms));
            }
        }
        until(self.spoken_ms + u64::from(self.heartbeat_ms));
        pause
    }
}

/// When a connection ends whose token ends at `at_s`, in milliseconds since 1970: within that second.
fn ends_ms(at_s: u64, phase: u8, beats: &Beats) -> u64 {
    (at_s + beats.leeway_s) * 1_000 + u64::from(phase) * SPREAD_MS / 256
}

/// Time between heartbeats: a second at least, 49 days at most.
fn beat_ms(interval: Duration) -> u32 {
    u32::try_from(interval.as_millis()).unwrap_or(u32::MAX).max(1_000)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEATS: Beats = Beats {
        heartbeat_timeout_ms: 10_000,
        write_timeout_ms: 60_000,
        auth_timeout_ms: 5_000,
        expiry_warning_s: 60,
        leeway_s: 5,
    };

    /// One connection and its clock; it looks as often as it is told to.
    struct Scene {
        pulse: Pulse,
        facts: Facts,
        next_ms: u64,
    }

    impl Scene {
        fn new() -> Self {
            let session = config::Session {
                heartbeat_interval: Duration::from_secs(30),
                heartbeat_timeout: Duration::from_secs(10),
                write_timeout: Duration::from_secs(60),
                resume_ttl: Duration::from_secs(60),
                age_max: Duration::ZERO,
                replica_ttl: Duration::from_secs(10),
                session_ttl: Duration::from_secs(300),
            };
            let facts = Facts { now_ms: 0, unix_ms: 1_000_000_000, seen_ms: 0, written: 0, blocked: false };
            Self { pulse: Pulse::new(&session, 0, 128), facts, next_ms: 0 }
        }

        /// The next time something is due.
        fn until_due(&mut self) -> Due {
            loop {
                let passed_ms = self.next_ms.saturating_sub(self.facts.now_ms);
                self.facts.now_ms += passed_ms;
                self.facts.unix_ms += passed_ms;
                let (due, next_ms) = self.pulse.beat(&self.facts, &BEATS);
                assert!(next_ms > self.facts.now_ms || due.close.is_some(), "it looks again later");
                self.next_ms = next_ms;
                if due != Due::default() {
                    return due;
                }
            }
        }

        fn ping(&mut self) -> u32 {
            let due = self.until_due();
            due.ping.unwrap_or_else(|| panic!("{due:?} at {}", self.facts.now_ms))
        }
    }

    const DEAD: Option<(CloseCode, Disconnect)> = Some((CloseCode::HeartbeatTimeout, Disconnect::HeartbeatTimeout));

    #[test]
    fn whoever_answers_stays_and_whoever_falls_silent_is_closed() {
        let mut scene = Scene::new();
        for number in 1..=5 {
            assert_eq!(scene.ping(), number);
            assert!(scene.pulse.pong(number));
        }
        scene.ping();
        let pinged_ms = scene.facts.now_ms;
        assert_eq!(scene.until_due().close, DEAD);
        assert_eq!(scene.facts.now_ms, pinged_ms + 10_000);
    }

    #[test]
    fn whoever_sends_but_never_answers_is_asked_again_and_closed_in_the_end() {
        let mut scene = Scene::new();
        for number in 1..=3 {
            assert_eq!(scene.ping(), number);
            scene.facts.seen_ms = scene.facts.now_ms + 1;
        }
        assert_eq!(scene.until_due().close, DEAD);
        // One answer, be it late, is enough.
        let mut scene = Scene::new();
        for _ in 0..10 {
            scene.ping();
            scene.facts.seen_ms = scene.facts.now_ms + 1;
            let late = scene.ping();
            scene.facts.seen_ms = scene.facts.now_ms + 1;
            assert!(scene.pulse.pong(late));
        }
    }

    #[test]
    fn a_token_ends_with_its_second_but_not_all_of_them_at_once() {
        let ends = |phase| {
            let mut scene = Scene::new();
            scene.facts.unix_ms += 900;
            let expires_at = scene.facts.unix_ms / 1_000 + 3;
            scene.pulse.set_expiry(expires_at, phase);
            assert_eq!(scene.until_due().expiring, Some(expires_at));
            assert_eq!(scene.until_due().close, Some((CloseCode::AuthRequired, Disconnect::TokenExpired)));
            scene.facts.unix_ms - (expires_at + BEATS.leeway_s) * 1_000
        };
        assert_eq!((ends(0), ends(128), ends(255)), (0, 384, 765));
    }

    #[test]
    fn whoever_was_sent_much_may_take_long_to_come_to_the_ping() {
        let mut scene = Scene::new();
        let number = scene.ping();
        assert!(scene.pulse.pong(number));
        scene.facts.written += 2 << 20;
        let number = scene.ping();
        let pinged_ms = scene.facts.now_ms;
        // Nothing waits on this side, and nothing comes from the client: it reads 16 KiB a second.
        scene.facts.now_ms += 137_000;
        assert_eq!(scene.pulse.beat(&scene.facts, &BEATS).0.close, None);
        assert!(scene.pulse.pong(number));
        // Having read all that, it has the usual time for the next one.
        scene.ping();
        let next_ms = scene.facts.now_ms;
        assert_eq!(scene.until_due().close, DEAD);
        assert_eq!(scene.facts.now_ms, next_ms + 10_000);
        assert!(next_ms - pinged_ms < 180_000);

        let mut scene = Scene::new();
        scene.facts.written += 2 << 20;
        scene.ping();
        let pinged_ms = scene.facts.now_ms;
        assert_eq!(scene.until_due().close, DEAD);
        assert_eq!(scene.facts.now_ms, pinged_ms + 10_000 + 128_000);
    }

    #[test]
    fn a_ping_that_waits_for_the_socket_is_not_held_against_the_client() {
        let mut scene = Scene::new();
        let number = scene.ping();
        scene.facts.blocked = true;
        for _ in 0..8 {
            scene.facts.now_ms += 5_000;
            assert_eq!(scene.pulse.beat(&scene.facts, &BEATS).0.close, None);
        }
        scene.facts.blocked = false;
        scene.facts.now_ms += 9_000;
        assert_eq!(scene.pulse.beat(&scene.facts, &BEATS).0.close, None);
        assert!(scene.pulse.pong(number));
    }
}
