//! The status of the feed itself: whether it is live, since when, and why not. Pure.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tickgate_wire::time::Timestamp;

pub(super) use crate::metrics::FeedState;

/// Time without live data after which the feed is down.
const DOWN_AFTER: Duration = Duration::from_secs(30);
/// How often the status is published again: an old one shows that no replica publishes the feed.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two messages that differ only in names.
const NAMES_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of names in one list.
const NAMES_MAX: usize = 100;

/// Why the feed is not live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Starting,
    NoData,
    Reconnecting,
    RateLimited,
    Banned,
    Restricted,
    /// The exchange has stopped all requested symbols.
    Maintenance,
    NoSymbols,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::NoData => "no_data",
            Self::Reconnecting => "reconnecting",
            Self::RateLimited => "rate_limited",
            Self::Banned => "banned",
            Self::Restricted => "restricted",
            Self::Maintenance => "maintenance",
            Self::NoSymbols => "no_symbols",
        }
    }

    /// Whether an early retry would not help.
    const fn is_final(self) -> bool {
        matches!(self, Self::Restricted | Self::Banned)
    }
}

/// The state of the feed over time.
#[derive(Debug)]
pub(super) struct FeedStatus {
    pub state: FeedState,
    pub reason: Option<Reason>,
    since_ms: u64,
    last_live: Instant,
    published: Option<Instant>,
    has_new_names: bool,
}

/// The names in a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Followed, with last values that may be out of date.
    pub stale: Vec<String>,
    /// Requested, but the exchange has no data for them.
    pub unknown: Vec<String>,
    /// Requested, beyond the limit.
    pub refused: Vec<String>,
}

impl FeedStatus {
    pub(super) const fn new(now: Instant, now_ms: u64) -> Self {
        let (state, reason) = (FeedState::Stale, Some(Reason::Starting));
        Self { state, reason, since_ms: now_ms, last_live: now, published: None, has_new_names: false }
    }

    /// Updates the state. True if it changed.
    pub(super) fn update(&mut self, is_live: bool, reason: Reason, now: Instant, now_ms: u64) -> bool {
        let state = if is_live {
            self.last_live = now;
            FeedState::Live
        } else if reason.is_final() || now >= self.last_live + DOWN_AFTER {
            FeedState::Down
        } else {
            FeedState::Stale
        };
        let starting = self.reason == Some(Reason::Starting) && reason == Reason::Reconnecting;
        let reason = (!is_live).then_some(if starting { Reason::Starting } else { reason });
        let changed = state != self.state;
        if changed {
            self.since_ms = now_ms;
        }
        if changed || reason != self.reason {
            (self.state, self.reason, self.published) = (state, reason, None);
        }
        changed
    }

    /// Publishes the status soon, because its names changed.
    pub(super) const fn has_new_names(&mut self) {
        self.has_new_names = true;
    }

    /// The message, if it is due.
    pub(super) fn due(&mut self, names: &Names, now: Instant, now_ms: u64) -> Option<Bytes> {
        let interval = if self.has_new_names { NAMES_INTERVAL } else { REPEAT_INTERVAL };
        if self.published.is_some_and(|published| now < published + interval) {
            return None;
        }
        (self.published, self.has_new_names) = (Some(now), false);
        let few = |names: &[String]| names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
        let mut message = json!({
            "type": "feed_status",
            "feed": "binance",
            "status": self.state.as_str(),
            "since": Timestamp::from_ms(self.since_ms),
            "symbols_stale": few(&names.stale),
            "symbols_unknown": few(&names.unknown),
            "symbols_refused": few(&names.refused),
            "timestamp": Timestamp::from_ms(now_ms),
        });
        if let Some(reason) = self.reason {
            message["reason"] = reason.as_str().into();
        }
        Some(message.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_message(status: &mut FeedStatus, now: Instant) -> Option<String> {
        let message = status.due(&Names::default(), now, 5_000)?;
        let message: serde_json::Value = serde_json::from_slice(&message).unwrap();
        let reason = message["reason"].as_str().unwrap_or("-");
        Some(format!("{} {reason} {}", message["status"].as_str().unwrap(), message["since"].as_str().unwrap()))
    }

    #[test]
    fn the_state_is_published_at_each_change_and_every_ten_seconds() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut status = FeedStatus::new(now, 1_000);
        assert_eq!(next_message(&mut status, now).unwrap(), "stale starting 1970-01-01T00:00:01.000Z");
        assert!(!status.update(false, Reason::Reconnecting, at(1), 1_500));
        assert_eq!(next_message(&mut status, at(1)), None, "still starting");
        assert!(status.update(true, Reason::NoData, at(2), 2_000));
        assert_eq!(next_message(&mut status, at(2)).unwrap(), "live - 1970-01-01T00:00:02.000Z");
        assert_eq!(next_message(&mut status, at(11)), None);
        assert!(next_message(&mut status, at(12)).is_some());
        assert!(status.update(false, Reason::NoData, at(20), 3_000));
        assert_eq!(next_message(&mut status, at(20)).unwrap(), "stale no_data 1970-01-01T00:00:03.000Z");
        assert!(status.update(false, Reason::Reconnecting, at(32), 4_000));
        assert_eq!(next_message(&mut status, at(32)).unwrap(), "down reconnecting 1970-01-01T00:00:04.000Z");
        assert!(!status.update(false, Reason::Restricted, at(33), 4_500));
        assert_eq!(next_message(&mut status, at(33)).unwrap(), "down restricted 1970-01-01T00:00:04.000Z");
    }

    #[test]
    fn new_names_are_published_within_a_second_and_not_more_often() {
        let now = Instant::now();
        let mut status = FeedStatus::new(now, 0);
        assert!(next_message(&mut status, now).is_some());
        status.has_new_names();
        assert_eq!(next_message(&mut status, now + NAMES_INTERVAL / 2), None);
        assert!(next_message(&mut status, now + NAMES_INTERVAL).is_some());
        assert_eq!(next_message(&mut status, now + NAMES_INTERVAL * 3), None);
    }

    #[test]
    fn a_permanent_refusal_is_down_at_once() {
        let now = Instant::now();
        let mut status = FeedStatus::new(now, 0);
        assert!(status.update(false, Reason::Restricted, now, 1) && status.state == FeedState::Down);
    }
}
