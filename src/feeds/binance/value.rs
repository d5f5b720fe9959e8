//! The newest value of one kind of data of one symbol: its order, whether it is overdue, and whether it is marked as
//! stale. Pure.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::payload;

/// A value older than this is replaced by any other, so that an exchange that restarts its numbering, as a test network
/// does after a reset, is followed. Values of two overlapping connections are much closer in time.
const RANK_TIME: Duration = Duration::from_secs(3);

/// The newest value of one kind.
#[derive(Debug, Default)]
pub(super) struct NewestValue {
    order: Option<(u64, u64)>,
    payload: Option<Bytes>,
    /// The last value was marked as stale: an equal value counts as new.
    is_marked: bool,
    received: Option<Instant>,
    /// Since when a value is expected, because another stream of the symbol implies it.
    expected: Option<Instant>,
}

impl NewestValue {
    /// Handles an arrival; true if it is newer than the last one.
    pub(super) fn receive(&mut self, order: (u64, u64), now: Instant) -> bool {
        let is_old = self.received.is_none_or(|received| now >= received + RANK_TIME);
        self.expected = None;
        let is_news = self
            .order
            .is_none_or(|known| order > known || (self.is_marked && order == known) || (is_old && order != known));
        if is_news || self.order == Some(order) {
            self.received = Some(now);
        }
        is_news
    }

    /// Stores the message of a newer value.
    pub(super) fn set(&mut self, order: (u64, u64), payload: Bytes) {
        (self.order, self.payload, self.is_marked) = (Some(order), Some(payload), false);
    }

    /// Records that a value must arrive soon.
    pub(super) fn expect(&mut self, now: Instant) {
        self.expected.get_or_insert(now);
    }

    /// Whether an expected value is overdue. True once per `stale_after`.
    pub(super) fn is_overdue(&mut self, stale_after: Duration, now: Instant) -> bool {
        let is_overdue = self.expected.is_some_and(|expected| now >= expected + stale_after);
        if is_overdue {
            self.expected = Some(now);
        }
        is_overdue
    }

    /// Marks the last value as stale; returns the message if there is anything new to say.
    pub(super) fn mark(&mut self, status: Option<&str>) -> Option<Bytes> {
        let marked = payload::stale(self.payload.as_ref()?, status)?;
        self.is_marked = true;
        self.payload = Some(marked.clone());
        Some(marked)
    }

    pub(super) const fn is_marked(&self) -> bool {
        self.is_marked
    }

    pub(super) const fn is_known(&self) -> bool {
        self.payload.is_some()
    }

    pub(super) fn payload(&self) -> Option<Bytes> {
        self.payload.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Bytes {
        Bytes::from_static(br#"{"a":1}"#)
    }

    #[test]
    fn newer_values_replace_older_ones_and_a_marked_one_is_replaced_by_its_equal() {
        let (mut newest, now) = (NewestValue::default(), Instant::now());
        assert!(newest.receive((5, 0), now));
        newest.set((5, 0), value());
        assert!(!newest.receive((5, 0), now) && !newest.receive((4, 9), now));
        assert_eq!(newest.mark(None).unwrap(), r#"{"a":1,"stale":true}"#);
        assert_eq!(newest.mark(None), None, "already marked");
        assert!(newest.receive((5, 0), now));
        newest.set((5, 0), value());
        assert!(!newest.is_marked());
    }

    #[test]
    fn restarted_numbering_is_followed_when_the_last_value_is_old() {
        let (mut newest, now) = (NewestValue::default(), Instant::now());
        assert!(newest.receive((1_000, 0), now));
        newest.set((1_000, 0), value());
        assert!(!newest.receive((7, 0), now + RANK_TIME / 2));
        assert!(newest.receive((8, 0), now + RANK_TIME));
    }

    #[test]
    fn an_expected_value_is_overdue_once_per_period() {
        let (mut newest, now, stale_after) = (NewestValue::default(), Instant::now(), Duration::from_secs(5));
        newest.expect(now);
        newest.expect(now + Duration::from_secs(4));
        assert!(!newest.is_overdue(stale_after, now + Duration::from_secs(4)));
        assert!(newest.is_overdue(stale_after, now + stale_after));
        assert!(!newest.is_overdue(stale_after, now + stale_after));
        assert!(newest.is_overdue(stale_after, now + stale_after * 2));
        newest.receive((1, 0), now + stale_after * 2);
        assert!(!newest.is_overdue(stale_after, now + stale_after * 9));
    }
}
