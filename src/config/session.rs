//! Timeouts of connections and sessions, and the startup and shutdown of a replica.

use std::time::Duration;

use super::{Problems, raw, value::Section};

/// Lifetimes of connections and sessions.
#[derive(Clone, Debug)]
pub struct Session {
    /// Idle time after which a heartbeat and a ping are sent; set by `WS_HEARTBEAT_INTERVAL`.
    pub heartbeat_interval: Duration,
    /// A client that responds to neither within this time after the ping is closed (4101).
    pub heartbeat_timeout: Duration,
    /// A socket that accepts no data for this long is closed (4102).
    pub write_timeout: Duration,
    /// How long a session can be resumed; set by `WS_RECONNECT_TIMEOUT`.
    pub resume_ttl: Duration,
    /// Connections older than this are asked to reconnect (4104); 0: never.
    pub age_max: Duration,
    /// Lease of a replica: after a crash, its sessions are removed this much later.
    pub replica_ttl: Duration,
    /// Lease of a session in its user's set: a session that does not renew it is no longer counted.
    pub session_ttl: Duration,
}

/// The times of a shutdown.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Not ready, still accepting: the time in which load balancers notice.
    pub delay: Duration,
    /// Connections are closed in waves over this time.
    pub spread: Duration,
}

/// What makes the replica not ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Whether a Redis outage makes the replica not ready.
    pub redis_required: bool,
    /// How long the outage may last before that.
    pub redis_grace: Duration,
    /// How long the oldest topic may wait for the hub before that.
    pub queue_grace: Duration,
}

/// The value for "auto".
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

impl Session {
    pub(super) fn check(raw: &raw::RawSession, problems: &mut Problems) -> Self {
        let mut section = Section::new("session", problems);
        let heartbeat_interval = section.duration("heartbeat_interval", &raw.heartbeat_interval, ["1s", "10m"]);
        let session = Self {
            heartbeat_interval,
            heartbeat_timeout: match raw.heartbeat_timeout.as_str() {
                "auto" => HEARTBEAT_TIMEOUT.min(heartbeat_interval),
                timeout => section.duration("heartbeat_timeout", timeout, ["500ms", "10m"]),
            },
            write_timeout: section.duration("write_timeout", &raw.write_timeout, ["1s", "10m"]),
            resume_ttl: section.duration("resume_ttl", &raw.resume_ttl, ["1s", "24h"]),
            age_max: section.duration("age_max", &raw.age_max, ["0s", "30d"]),
            replica_ttl: section.duration("replica_ttl", &raw.replica_ttl, ["2s", "5m"]),
            session_ttl: section.duration("session_ttl", &raw.session_ttl, ["5s", "24h"]),
        };
        if session.heartbeat_timeout > session.heartbeat_interval {
            let text = format!(
                "must not exceed session.heartbeat_interval ({}): otherwise the next ping is sent before this one \
                 times out",
                raw.heartbeat_interval
            );
            section.report("heartbeat_timeout", text);
        }
        if session.session_ttl < session.replica_ttl {
            section.report("session_ttl", format!("must be at least session.replica_ttl ({})", raw.replica_ttl));
        }
        if !session.age_max.is_zero() && session.age_max < session.heartbeat_interval * 2 {
            section.report("age_max", "must be \"0s\" (never) or at least two heartbeat intervals");
        }
        session
    }
}

impl Drain {
    pub(super) fn check(raw: &raw::RawDrain, problems: &mut Problems) -> Self {
        let mut section = Section::new("drain", problems);
        Self {
            delay: section.duration("delay", &raw.delay, ["0s", "5m"]),
            spread: section.duration("spread", &raw.spread, ["0s", "30m"]),
        }
    }
}

impl Readiness {
    pub(super) fn check(raw: &raw::RawReadiness, problems: &mut Problems) -> Self {
        let mut section = Section::new("readiness", problems);
        let redis_grace = section.duration("redis_grace", &raw.redis_grace, ["0s", "1h"]);
        let queue_grace = section.duration("queue_grace", &raw.queue_grace, ["100ms", "1h"]);
        Self { redis_required: raw.redis_required, redis_grace, queue_grace }
    }
}
