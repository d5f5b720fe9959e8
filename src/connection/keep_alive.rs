//! Decides when a connection sends a heartbeat or a ping, and when it is closed. Pure: time is an argument.

use std::time::Duration;

use tickgate_wire::code::CloseCode;

use crate::{config, metrics::DisconnectReason};

/// Maximum time between two checks, and thus the maximum delay in detecting a socket that accepts nothing.
const CHECK_INTERVAL_MS: u64 = 5_000;
/// Pings in a row that a client may leave unanswered while it sends other messages.
const UNANSWERED_MAX: u8 = 3;

/// The slowest supported reader. The buffers of both kernels lie before a ping, and the gateway cannot see whether the
/// client reads them.
const SLOWEST_KIB_PER_S: u32 = 16;
/// Upper bound on the extra time that a client gets to read what lies before a ping, in seconds.
const READING_MAX_S: u16 = 600;

/// Settings shared by all connections of a replica.
#[derive(Clone, Copy, Debug)]
pub struct KeepAliveConfig {
    /// Milliseconds in which a client must send something after a ping.
    pub heartbeat_timeout_ms: u64,
    /// Milliseconds that a socket may accept nothing.
    pub write_timeout_ms: u64,
    /// Milliseconds in which a client without a token must send `auth`.
    pub auth_timeout_ms: u64,
    /// Seconds before its token expires at which a client is warned.
    pub expiry_warning_s: u64,
    /// Tolerated clock difference, in seconds.
    pub leeway_s: u64,
}

impl KeepAliveConfig {
    /// Converts the settings to the units of the timers.
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

/// The state of a connection at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts {
    /// The monotonic clock, and the wall clock.
    pub now_ms: u64,
    /// Wall-clock time in milliseconds since 1970, for the expiry of tokens.
    pub unix_ms: u64,
    /// When the client last sent something.
    pub seen_ms: u64,
    /// Bytes written and confirmed so far, and whether the socket accepts no more.
    pub written: u64,
    /// Time since the last write.
    pub quiet_ms: u64,
    /// The socket accepts less than is queued.
    pub blocked: bool,
    /// A position moved without a push.
    pub moved: bool,
}

/// Actions that are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAliveActions {
    /// Send a heartbeat and a ping.
    pub heartbeat: bool,
    /// Number of the ping to send.
    pub ping: Option<u32>,
    /// Warn the client that its token expires at this time, in seconds since 1970.
    pub expiring: Option<u64>,
    /// Close the connection, for this reason.
    pub close: Option<(CloseCode, DisconnectReason)>,
}

/// How long the token allows the connection to stay open.
#[derive(Clone, Copy, Debug)]
enum TokenTerm {
    /// There is no token, and none is awaited.
    Unlimited,
    /// The first token must arrive before this time.
    AwaitsToken { by_ms: u64 },
    /// The token expires at this time, in seconds since 1970; `warned`: the client was warned. `phase`: see
    /// [`KeepAlive::set_expiry`].
    Ends { at_s: u64, warned: bool, phase: u8 },
}

/// The closes of tokens that expire in the same second are spread over this time.
const SPREAD_MS: u64 = 768;

/// The keep-alive state of one connection. Small: every connection has one.
#[derive(Debug)]
pub struct KeepAlive {
    heartbeat_ms: u32,
    term: TokenTerm,
    /// When the connection reaches its maximum age; 0: never.
    leave_at_ms: u64,
    /// Bytes written when the last heartbeat or ping was sent, and when anything was last sent.
    written: u64,
    sent_ms: u64,
    /// When the last heartbeat was sent.
    beat_ms: u64,
    /// Bytes written when the socket last made progress, and when that was.
    progressed: u64,
    progress_ms: u64,
    pings: u32,
    /// When the last ping was sent, or was last seen waiting for the socket.
    pinged_ms: u64,
    awaiting_pong: bool,
    /// KiB written when the ping was sent, modulo 4 TiB; and the extra time for reading them, in seconds.
    pinged_kib: u32,
    reading_s: u16,
    unanswered: u8,
}

impl KeepAlive {
    /// Starts now. `phase` is a random number per connection that spreads the closes of connections that opened
    /// together.
    #[must_use]
    pub fn new(session: &config::Session, now_ms: u64, phase: u8) -> Self {
        let age_ms = ms(session.age_max);
        let jitter = f64::from(phase) / 256.0;
        Self {
            heartbeat_ms: heartbeat_ms(session.heartbeat_interval),
            term: TokenTerm::Unlimited,
            // ±10 %, so that connections that opened together do not close together.
            leave_at_ms: if age_ms == 0 { 0 } else { now_ms + (age_ms as f64 * (0.9 + 0.2 * jitter)) as u64 },
            written: 0,
            sent_ms: now_ms,
            beat_ms: now_ms,
            progressed: 0,
            progress_ms: now_ms,
            pings: 0,
            pinged_ms: now_ms,
            awaiting_pong: false,
            pinged_kib: 0,
            reading_s: 0,
            unanswered: 0,
        }
    }

    /// Sets the token's expiry to `unix_s`, and ends the wait for a first token. `phase` is a random number per
    /// connection that spreads the closes of tokens that expire together.
    pub fn set_expiry(&mut self, unix_s: u64, phase: u8) {
        self.term = TokenTerm::Ends { at_s: unix_s, warned: false, phase };
    }

    /// Requires the first token within the authentication timeout.
    pub fn await_token(&mut self, now_ms: u64, config: &KeepAliveConfig) {
        self.term = TokenTerm::AwaitsToken { by_ms: now_ms + config.auth_timeout_ms };
    }

    /// The time between heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }

    /// Changes the time between heartbeats.
    pub fn set_heartbeat(&mut self, interval: Duration) {
        self.heartbeat_ms = heartbeat_ms(interval);
    }

    /// Time of the first check: not immediate, spread over connections that opened together, and no later than the
    /// first heartbeat.
    #[must_use]
    pub fn first_check_ms(&self, phase: u8) -> u64 {
        (1_000 + u64::from(phase) * 4_000 / 256).min(self.heartbeat_ms.into())
    }

    /// Handles a pong. Returns whether it answers the last ping.
    pub fn pong(&mut self, number: u32) -> bool {
        let last = number == self.pings;
        if last {
            self.awaiting_pong = false;
            self.unanswered = 0;
        }
        last
    }

    /// The actions that are due, and the time of the next check.
    pub fn check(&mut self, facts: &ConnectionFacts, config: &KeepAliveConfig) -> (KeepAliveActions, u64) {
        let mut actions = KeepAliveActions { close: self.close(facts, config), ..KeepAliveActions::default() };
        if actions.close.is_some() {
            return (actions, facts.now_ms);
        }
        actions.expiring = self.warn(facts, config);
        if facts.written != self.written {
            // Silence starts at the last message, not at this check.
            self.sent_ms = facts.now_ms.saturating_sub(facts.quiet_ms).max(self.sent_ms);
        }
        let silent = facts.now_ms >= self.sent_ms + u64::from(self.heartbeat_ms);
        let overdue = facts.now_ms >= self.pinged_ms + u64::from(self.heartbeat_ms);
        actions.heartbeat = silent || facts.moved && facts.now_ms >= self.beat_ms + u64::from(self.heartbeat_ms);
        if (silent || overdue) && !self.awaiting_pong {
            self.pings = self.pings.wrapping_add(1);
            self.pinged_ms = facts.now_ms;
            self.reading_s = 0;
            self.allow_reading_time(facts);
            self.awaiting_pong = true;
            actions.ping = Some(self.pings);
        }
        if actions.heartbeat {
            (self.sent_ms, self.beat_ms) = (facts.now_ms, facts.now_ms);
        }
        (actions, facts.now_ms + self.pause(facts, config))
    }

    /// Records the bytes written, including the heartbeat or ping itself.
    pub fn sent(&mut self, written: u64) {
        self.written = written;
    }

    fn close(&mut self, facts: &ConnectionFacts, config: &KeepAliveConfig) -> Option<(CloseCode, DisconnectReason)> {
        if facts.written != self.progressed || !facts.blocked {
            self.progressed = facts.written;
            self.progress_ms = facts.now_ms;
        }
        match self.term {
            TokenTerm::Ends { at_s, phase, .. } if facts.unix_ms >= ends_ms(at_s, phase, config) => {
                return Some((CloseCode::AuthRequired, DisconnectReason::TokenExpired));
            }
            TokenTerm::AwaitsToken { by_ms } if facts.now_ms >= by_ms => {
                return Some((CloseCode::AuthTimeout, DisconnectReason::AuthTimeout));
            }
            _ => {}
        }
        if self.is_unanswered(facts, config) {
            if facts.seen_ms < self.pinged_ms || self.unanswered + 1 >= UNANSWERED_MAX {
                return Some((CloseCode::HeartbeatTimeout, DisconnectReason::HeartbeatTimeout));
            }
            self.unanswered += 1;
            self.awaiting_pong = false;
        }
        if facts.blocked && facts.now_ms >= self.progress_ms + config.write_timeout_ms {
            return Some((CloseCode::SlowConsumer, DisconnectReason::SlowConsumer));
        }
        if self.leave_at_ms > 0 && facts.now_ms >= self.leave_at_ms {
            return Some((CloseCode::MaxAge, DisconnectReason::MaxAge));
        }
        None
    }

    /// Whether the last ping timed out. A ping that still waits for the socket cannot be answered yet.
    fn is_unanswered(&mut self, facts: &ConnectionFacts, config: &KeepAliveConfig) -> bool {
        if facts.blocked && self.awaiting_pong {
            self.pinged_ms = facts.now_ms;
            self.allow_reading_time(facts);
        }
        self.awaiting_pong && facts.now_ms >= self.answer_by_ms(config)
    }

    fn answer_by_ms(&self, config: &KeepAliveConfig) -> u64 {
        self.pinged_ms + config.heartbeat_timeout_ms + u64::from(self.reading_s) * 1_000
    }

    /// Extends the timeout: the client must first read everything written since the previous ping.
    fn allow_reading_time(&mut self, facts: &ConnectionFacts) {
        let written_kib = (facts.written >> 10) as u32;
        let seconds = written_kib.wrapping_sub(self.pinged_kib) / SLOWEST_KIB_PER_S;
        if seconds > 0 || !self.awaiting_pong {
            self.pinged_kib = written_kib;
            let more = u16::try_from(seconds).unwrap_or(u16::MAX);
            self.reading_s = self.reading_s.saturating_add(more).min(READING_MAX_S);
        }
    }

    fn warn(&mut self, facts: &ConnectionFacts, config: &KeepAliveConfig) -> Option<u64> {
        let TokenTerm::Ends { at_s, warned, .. } = &mut self.term else { return None };
        let near = facts.unix_ms / 1_000 + config.expiry_warning_s >= *at_s;
        (near && !std::mem::replace(warned, true)).then_some(*at_s)
    }

    /// Time in milliseconds in which nothing becomes due.
    fn pause(&self, facts: &ConnectionFacts, config: &KeepAliveConfig) -> u64 {
        let mut pause = CHECK_INTERVAL_MS.min(self.heartbeat_ms.into());
        let mut until = |at_ms: u64| pause = pause.min(at_ms.saturating_sub(facts.now_ms).max(100));
        if self.awaiting_pong {
            until(self.answer_by_ms(config));
        }
        if facts.blocked {
            until(self.progress_ms + config.write_timeout_ms);
        }
        match self.term {
            TokenTerm::Unlimited => {}
            TokenTerm::AwaitsToken { by_ms } => until(by_ms),
            TokenTerm::Ends { at_s, warned, phase } => {
                let warns_ms = at_s.saturating_sub(config.expiry_warning_s) * 1_000;
                let next_ms = if warned { ends_ms(at_s, phase, config) } else { warns_ms };
                until(facts.now_ms + next_ms.saturating_sub(facts.unix_ms));
            }
        }
        until(self.sent_ms + u64::from(self.heartbeat_ms));
        pause
    }
}

/// When a connection with a token that expires at `at_s` is closed, in milliseconds since 1970: within that second.
fn ends_ms(at_s: u64, phase: u8, config: &KeepAliveConfig) -> u64 {
    (at_s + config.leeway_s) * 1_000 + u64::from(phase) * SPREAD_MS / 256
}

/// Time between heartbeats: at least a second, at most 49 days.
fn heartbeat_ms(interval: Duration) -> u32 {
    u32::try_from(interval.as_millis()).unwrap_or(u32::MAX).max(1_000)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: KeepAliveConfig = KeepAliveConfig {
        heartbeat_timeout_ms: 10_000,
        write_timeout_ms: 60_000,
        auth_timeout_ms: 5_000,
        expiry_warning_s: 60,
        leeway_s: 5,
    };

    /// A simulated connection and clock, checked as often as required.
    struct KeepAliveScene {
        keep_alive: KeepAlive,
        facts: ConnectionFacts,
        next_ms: u64,
    }

    impl KeepAliveScene {
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
            let facts = ConnectionFacts {
                now_ms: 0,
                unix_ms: 1_000_000_000,
                seen_ms: 0,
                written: 0,
                quiet_ms: 0,
                blocked: false,
                moved: false,
            };
            Self { keep_alive: KeepAlive::new(&session, 0, 128), facts, next_ms: 0 }
        }

        /// Advances to the next due action.
        fn until_due(&mut self) -> KeepAliveActions {
            loop {
                let passed_ms = self.next_ms.saturating_sub(self.facts.now_ms);
                self.facts.now_ms += passed_ms;
                self.facts.unix_ms += passed_ms;
                self.facts.quiet_ms += passed_ms;
                let (actions, next_ms) = self.keep_alive.check(&self.facts, &CONFIG);
                assert!(next_ms > self.facts.now_ms || actions.close.is_some(), "the next check is later");
                self.next_ms = next_ms;
                if actions != KeepAliveActions::default() {
                    return actions;
                }
            }
        }

        /// Writes bytes.
        fn writes(&mut self, bytes: u64) {
            self.facts.written += bytes;
            self.facts.quiet_ms = 0;
        }

        /// Advances until the connection closes, ignoring heartbeats.
        fn until_closed(&mut self) -> Option<(CloseCode, DisconnectReason)> {
            loop {
                let actions = self.until_due();
                if actions.close.is_some() {
                    return actions.close;
                }
                assert_eq!(actions.ping, None, "a ping is already pending");
            }
        }

        fn ping(&mut self) -> u32 {
            let actions = self.until_due();
            actions.ping.unwrap_or_else(|| panic!("{actions:?} at {}", self.facts.now_ms))
        }
    }

    const DEAD: Option<(CloseCode, DisconnectReason)> =
        Some((CloseCode::HeartbeatTimeout, DisconnectReason::HeartbeatTimeout));

    #[test]
    fn a_client_that_answers_stays_open_and_a_silent_one_is_closed() {
        let mut scene = KeepAliveScene::new();
        for number in 1..=5 {
            assert_eq!(scene.ping(), number);
            assert!(scene.keep_alive.pong(number));
        }
        scene.ping();
        let pinged_ms = scene.facts.now_ms;
        assert_eq!(scene.until_due().close, DEAD);
        assert_eq!(scene.facts.now_ms, pinged_ms + 10_000);
    }

    #[test]
    fn a_client_that_sends_but_never_answers_pings_is_pinged_again_and_then_closed() {
        let mut scene = KeepAliveScene::new();
        for number in 1..=3 {
            assert_eq!(scene.ping(), number);
            scene.facts.seen_ms = scene.facts.now_ms + 1;
        }
        assert_eq!(scene.until_due().close, DEAD);
        // A late pong also counts.
        let mut scene = KeepAliveScene::new();
        for _ in 0..10 {
            scene.ping();
            scene.facts.seen_ms = scene.facts.now_ms + 1;
            let late = scene.ping();
            scene.facts.seen_ms = scene.facts.now_ms + 1;
            assert!(scene.keep_alive.pong(late));
        }
    }

    #[test]
    fn the_first_check_is_no_later_than_the_first_heartbeat() {
        let mut keep_alive = KeepAliveScene::new().keep_alive;
        let checks = |keep_alive: &KeepAlive| [0, 128, 255].map(|phase| keep_alive.first_check_ms(phase));
        assert_eq!(checks(&keep_alive), [1_000, 3_000, 4_984]);
        keep_alive.set_heartbeat(Duration::from_secs(2));
        assert_eq!(checks(&keep_alive), [1_000, 2_000, 2_000]);
    }

    #[test]
    fn tokens_that_expire_together_close_within_a_second_but_not_at_once() {
        let ends = |phase| {
            let mut scene = KeepAliveScene::new();
            scene.facts.unix_ms += 900;
            let expires_at = scene.facts.unix_ms / 1_000 + 3;
            scene.keep_alive.set_expiry(expires_at, phase);
            assert_eq!(scene.until_due().expiring, Some(expires_at));
            assert_eq!(scene.until_due().close, Some((CloseCode::AuthRequired, DisconnectReason::TokenExpired)));
            scene.facts.unix_ms - (expires_at + CONFIG.leeway_s) * 1_000
        };
        assert_eq!((ends(0), ends(128), ends(255)), (0, 384, 765));
    }

    #[test]
    fn a_client_that_received_much_gets_time_to_read_up_to_the_ping() {
        let mut scene = KeepAliveScene::new();
        let number = scene.ping();
        assert!(scene.keep_alive.pong(number));
        scene.writes(2 << 20);
        let number = scene.ping();
        let pinged_ms = scene.facts.now_ms;
        // Nothing is queued, and the client sends nothing: it reads 16 KiB per second.
        scene.facts.now_ms += 137_000;
        assert_eq!(scene.keep_alive.check(&scene.facts, &CONFIG).0.close, None);
        assert!(scene.keep_alive.pong(number));
        // After that, the usual timeout applies to the next ping.
        scene.ping();
        let next_ms = scene.facts.now_ms;
        assert_eq!(scene.until_closed(), DEAD);
        assert_eq!(scene.facts.now_ms, next_ms + 10_000);
        assert!(next_ms - pinged_ms < 180_000);

        let mut scene = KeepAliveScene::new();
        scene.writes(2 << 20);
        scene.ping();
        let pinged_ms = scene.facts.now_ms;
        assert_eq!(scene.until_closed(), DEAD);
        assert_eq!(scene.facts.now_ms, pinged_ms + 10_000 + 128_000);
    }

    #[test]
    fn a_heartbeat_follows_one_interval_after_the_last_message() {
        for interval_ms in [1_000, 5_000, 12_000, 30_000] {
            for sent_ms in [1, 700, 3_100, 4_900, 11_000, 29_999] {
                let mut scene = KeepAliveScene::new();
                scene.keep_alive.set_heartbeat(Duration::from_millis(interval_ms));
                let (mut sent, mut beats) = (false, Vec::new());
                while beats.len() < 40 && scene.facts.now_ms < sent_ms + 3 * interval_ms {
                    let now_ms = scene.next_ms;
                    if !sent && now_ms >= sent_ms {
                        // The last heartbeat before it is older than the message.
                        (scene.facts.written, sent) = (scene.facts.written + 100, true);
                        scene.facts.quiet_ms = now_ms - sent_ms;
                    } else {
                        scene.facts.quiet_ms += now_ms - scene.facts.now_ms;
                    }
                    scene.facts.now_ms = now_ms;
                    let (actions, next_ms) = scene.keep_alive.check(&scene.facts, &CONFIG);
                    actions.ping.into_iter().for_each(|number| assert!(scene.keep_alive.pong(number)));
                    if actions.heartbeat {
                        scene.keep_alive.sent(scene.facts.written);
                        beats.push(now_ms);
                    }
                    scene.next_ms = next_ms;
                }
                let first = beats.iter().find(|at_ms| **at_ms >= sent_ms + interval_ms);
                let late_ms = first.expect("a heartbeat") - (sent_ms + interval_ms);
                assert!(late_ms <= 100, "{late_ms} ms late: {interval_ms} {sent_ms} {beats:?}");
            }
        }
    }

    #[test]
    fn a_position_that_moved_without_a_push_is_sent_once_per_interval_on_busy_connections_too() {
        let mut scene = KeepAliveScene::new();
        scene.facts.moved = true;
        let mut beats = 0;
        for _ in 0..60 {
            scene.facts.now_ms += 1_000;
            scene.facts.written += 1_000;
            let (actions, _) = scene.keep_alive.check(&scene.facts, &CONFIG);
            scene.keep_alive.sent(scene.facts.written - 500);
            actions.ping.into_iter().for_each(|number| assert!(scene.keep_alive.pong(number)));
            beats += u32::from(actions.heartbeat);
        }
        assert_eq!(beats, 2);
    }

    #[test]
    fn time_in_which_a_ping_waits_for_the_socket_does_not_count() {
        let mut scene = KeepAliveScene::new();
        let number = scene.ping();
        scene.facts.blocked = true;
        for _ in 0..8 {
            scene.facts.now_ms += 5_000;
            assert_eq!(scene.keep_alive.check(&scene.facts, &CONFIG).0.close, None);
        }
        scene.facts.blocked = false;
        scene.facts.now_ms += 9_000;
        assert_eq!(scene.keep_alive.check(&scene.facts, &CONFIG).0.close, None);
        assert!(scene.keep_alive.pong(number));
    }
}
