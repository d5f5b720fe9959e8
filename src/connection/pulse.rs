//! When a connection hears a heartbeat or a ping, and when it has to end. Pure: time is an argument.

use std::time::Duration;

use crate::{config, metrics::Disconnect, protocol::code::CloseCode};

/// Time between two pings of a connection that is written to: each answer confirms what was written before it, which
/// is where a resumed session begins.
const CONFIRM_INTERVAL_MS: u64 = 5_000;

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
    pub unix_s: u64,
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

/// One connection's rhythm.
#[derive(Debug)]
pub struct Pulse {
    heartbeat_ms: u64,
    /// End of the token, seconds since 1970; 0 without one.
    expires_at: u64,
    warned: bool,
    /// A token must come before this time; 0: not awaited.
    auth_by_ms: u64,
    /// The connection is asked to move after this time; 0: never.
    leave_at_ms: u64,
    /// Bytes written when the last beat was sent, and when anything was last sent.
    written: u64,
    spoken_ms: u64,
    /// Bytes written when the socket was last seen to move, and when.
    moved: u64,
    moved_ms: u64,
    pings: u32,
    pinged_ms: u64,
    awaiting_pong: bool,
}

impl Pulse {
    /// A pulse that begins now. `jitter` (0 to 1) spreads the beats of connections that opened together.
    #[must_use]
    pub fn new(session: &config::Session, now_ms: u64, jitter: f64) -> Self {
        let age_ms = ms(session.age_max);
        Self {
            heartbeat_ms: ms(session.heartbeat_interval).max(1_000),
            expires_at: 0,
            warned: false,
            auth_by_ms: 0,
            // Ten per cent either way, so that connections that came together do not leave together.
            leave_at_ms: if age_ms == 0 { 0 } else { now_ms + (age_ms as f64 * (0.9 + 0.2 * jitter)) as u64 },
            written: 0,
            spoken_ms: now_ms,
            moved: 0,
            moved_ms: now_ms,
            pings: 0,
            pinged_ms: now_ms,
            awaiting_pong: false,
        }
    }

    /// The token ends at `unix_s`. Also ends the wait for a first token.
    pub fn set_expiry(&mut self, unix_s: u64) {
        self.expires_at = unix_s;
        self.warned = false;
        self.auth_by_ms = 0;
    }

    /// A token must come by then.
    pub fn await_token(&mut self, now_ms: u64, beats: &Beats) {
        self.auth_by_ms = now_ms + beats.auth_timeout_ms;
    }

    /// Changes the time between heartbeats.
    pub fn set_heartbeat(&mut self, interval: Duration) {
        self.heartbeat_ms = ms(interval).max(1_000);
    }

    /// A pong came back. True when it answers the last ping: what was written before that is confirmed.
    pub fn pong(&mut self, number: u32) -> bool {
        let last = number == self.pings;
        if last {
            self.awaiting_pong = false;
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
        let silent = facts.now_ms >= self.spoken_ms + self.heartbeat_ms;
        let unconfirmed = facts.written != self.written && facts.now_ms >= self.pinged_ms + CONFIRM_INTERVAL_MS;
        let overdue = facts.now_ms >= self.pinged_ms + self.heartbeat_ms;
        due.heartbeat = silent;
        if (silent || unconfirmed || overdue) && !self.awaiting_pong {
            self.pings = self.pings.wrapping_add(1);
            self.pinged_ms = facts.now_ms;
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
        if self.expires_at > 0 && facts.unix_s >= self.expires_at + beats.leeway_s {
            return Some((CloseCode::AuthRequired, Disconnect::TokenExpired));
        }
        if self.auth_by_ms > 0 && facts.now_ms >= self.auth_by_ms {
            return Some((CloseCode::AuthTimeout, Disconnect::AuthTimeout));
        }
        if self.awaiting_pong
            && facts.seen_ms < self.pinged_ms
            && facts.now_ms >= self.pinged_ms + beats.heartbeat_timeout_ms
            && !facts.blocked
        {
            return Some((CloseCode::HeartbeatTimeout, Disconnect::HeartbeatTimeout));
        }
        if facts.blocked && facts.now_ms >= self.moved_ms + beats.write_timeout_ms {
            return Some((CloseCode::SlowConsumer, Disconnect::SlowConsumer));
        }
        if self.leave_at_ms > 0 && facts.now_ms >= self.leave_at_ms {
            return Some((CloseCode::MaxAge, Disconnect::MaxAge));
        }
        None
    }

    fn warn(&mut self, facts: &Facts, beats: &Beats) -> Option<u64> {
        let near = self.expires_at > 0 && facts.unix_s + beats.expiry_warning_s >= self.expires_at;
        (near && !std::mem::replace(&mut self.warned, true)).then_some(self.expires_at)
    }

    /// How long nothing can become due.
    fn pause(&self, facts: &Facts, beats: &Beats) -> u64 {
        let mut pause = CONFIRM_INTERVAL_MS.min(self.heartbeat_ms);
        let mut until = |at_ms: u64| pause = pause.min(at_ms.saturating_sub(facts.now_ms).max(100));
        if self.awaiting_pong {
            until(self.pinged_ms + beats.heartbeat_timeout_ms);
        }
        if self.auth_by_ms > 0 {
            until(self.auth_by_ms);
        }
        if facts.blocked {
            until(self.moved_ms + beats.write_timeout_ms);
        }
        if self.expires_at > 0 {
            let ends = self.expires_at + if self.warned { beats.leeway_s } else { 0 };
            let warns = if self.warned { ends } else { ends.saturating_sub(beats.expiry_warning_s) };
            until(facts.now_ms + warns.saturating_sub(facts.unix_s) * 1_000);
        }
        until(self.spoken_ms + self.heartbeat_ms);
        pause
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
