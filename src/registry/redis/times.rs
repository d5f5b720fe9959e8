//! The lifetimes of the registry's keys, and an estimate of Redis's clock without a round trip. Pure: the uptime is an
//! argument.
//!
//! Every key expires, and this machine's wall clock is used only before Redis first responds.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::config;

/// The lifetime of each kind of key, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    /// Lease of a connection in its replica's index.
    pub(super) session: u64,
    /// Lease of a replica.
    pub(super) replica: u64,
    /// Record of a session after its connection closed.
    pub(super) resume: u64,
}

impl Lifetimes {
    pub(super) fn new(session: &config::Session) -> Self {
        Self {
            session: millis(session.session_ttl),
            replica: millis(session.replica_ttl),
            resume: millis(session.resume_ttl),
        }
    }

    /// Lease of a connection until it is indexed: a sweep would not find it, so it expires by the time a sweep would
    /// run.
    pub(super) fn admission(self) -> u64 {
        self.replica.min(self.session)
    }

    /// A user's set after its last renewal: it outlives the leases in it.
    pub(super) const fn members(self) -> u64 {
        self.session + 5_000
    }

    /// Record of a connected session: it outlives the lease by the resume window.
    pub(super) const fn record(self) -> u64 {
        self.session + self.resume
    }

    /// A replica's index after its last renewal: long enough for another replica's sweep to use it, but no longer than
    /// the leases of its sessions.
    pub(super) const fn index(self) -> u64 {
        self.session + self.replica * 3
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tracks the clock of one Redis server from its last reading, and assigns stamps to connections. All times are in
/// microseconds; `uptime_us` is the uptime of this process.
///
/// A reading is never ahead of Redis, because a response takes time to arrive. So a stamp that Redis assigns later
/// (`recall`, admission) is greater than every earlier stamp.
#[derive(Debug)]
pub(super) struct StampClock {
    /// Redis's time at uptime zero, since 1970.
    start_us: AtomicU64,
    /// The greatest stamp that was assigned or seen.
    stamp: AtomicU64,
    /// Whether Redis has responded.
    is_read: AtomicBool,
}

impl StampClock {
    /// `start_us`: this machine's time at uptime zero, used until Redis first responds.
    pub(super) const fn new(start_us: u64) -> Self {
        Self { start_us: AtomicU64::new(start_us), stamp: AtomicU64::new(0), is_read: AtomicBool::new(false) }
    }

    /// Microseconds since 1970.
    pub(super) fn now_us(&self, uptime_us: u64) -> u64 {
        self.start_us.load(Ordering::Relaxed) + uptime_us
    }

    /// Takes a reading that has just arrived from Redis. If its clock went back, stamps still increase: they define an
    /// order.
    pub(super) fn set(&self, now_us: u64, uptime_us: u64) {
        if self.is_read.swap(true, Ordering::Relaxed) {
            self.saw(self.now_us(uptime_us));
        }
        self.start_us.store(now_us.saturating_sub(uptime_us), Ordering::Relaxed);
    }

    /// The stamp of a new connection: the current time, but greater than every stamp assigned or seen here. So the
    /// newest connection of a session has the greatest one, wherever the older ones were.
    pub(super) fn stamp(&self, uptime_us: u64) -> u64 {
        let now_us = self.now_us(uptime_us);
        let next = |stamp: u64| now_us.max(stamp + 1);
        self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |stamp| Some(next(stamp))).map_or(now_us, next)
    }

    /// Records a stamp, or a reading of Redis's clock: later stamps are greater.
    pub(super) fn saw(&self, stamp: u64) -> u64 {
        self.stamp.fetch_max(stamp, Ordering::Relaxed);
        stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_increase_and_follow_redis() {
        let clock = StampClock::new(1_000);
        assert_eq!((clock.stamp(5), clock.stamp(5)), (1_005, 1_006));
        // Redis's clock is behind this machine's, then ahead of it.
        clock.set(100, 10);
        assert_eq!(
            (clock.now_us(20), clock.stamp(20)),
            (110, 1_007),
            "this machine's clock does not count as a reading"
        );
        clock.set(5_000, 20);
        clock.set(200, 30);
        assert_eq!((clock.now_us(30), clock.stamp(30)), (200, 5_011), "the clock went back");
        clock.set(9_000, 30);
        assert_eq!((clock.now_us(30), clock.stamp(40)), (9_000, 9_010));
        clock.saw(20_000);
        assert_eq!(clock.stamp(50), 20_001, "greater than a stamp of another replica");
    }

    #[test]
    fn every_key_outlives_what_depends_on_it() {
        let times = Lifetimes { session: 300_000, replica: 10_000, resume: 60_000 };
        assert!(times.members() > times.session && times.record() >= times.session + times.resume);
        assert!(times.index() > times.session + times.replica);
        assert_eq!(times.admission(), times.replica);
        assert_eq!(Lifetimes { session: 5_000, ..times }.admission(), 5_000);
    }
}
