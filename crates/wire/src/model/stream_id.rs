//! The id of a retained publication: cursor, order, hole detector and fence in one. Never a wall-clock time.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// `<epoch>-<seq>`, the entry id in the topic's stream.
///
/// Within an epoch `seq` counts 0, 1, 2 … without a hole. An epoch (milliseconds when it began) starts with the
/// topic, and again after Redis changed server, so ids only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// When the epoch began, in milliseconds since 1970.
    pub epoch: u64,
    /// Position within the epoch, from 0.
    pub seq: u64,
}

/// The text is not of the form `<epoch>-<seq>` with two unsigned decimal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an id has the form <epoch>-<seq>, for example 1763700000000-42")]
pub struct InvalidStreamId;

impl StreamId {
    /// The position before the first entry of a stream that never had one.
    pub const ZERO: Self = Self { epoch: 0, seq: 0 };
    /// Above every id that can exist.
    pub const MAX: Self = Self { epoch: u64::MAX, seq: u64::MAX };

    /// An id from its two parts.
    #[must_use]
    pub const fn new(epoch: u64, seq: u64) -> Self {
        Self { epoch, seq }
    }

    /// The id that must come next within the same epoch; after the last one there can be, itself.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq.saturating_add(1) }
    }

    /// Whether `self` comes directly after `before` without needing more proof: same epoch, next number.
    #[must_use]
    pub const fn directly_after(self, before: Self) -> bool {
        self.epoch == before.epoch && before.seq != u64::MAX && self.seq == before.seq + 1
    }

    /// How many entries lie between two ids, both ends excluded, where that can be known (one epoch).
    #[must_use]
    pub const fn missing_between(after: Self, before: Self) -> Option<u64> {
        if after.epoch == before.epoch && after.seq < before.seq { Some(before.seq - after.seq - 1) } else { None }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        let (epoch, seq) = text.split_once('-').ok_or(InvalidStreamId)?;
        Ok(Self { epoch: decimal(epoch)?, seq: decimal(seq)? })
    }
}

/// Plain digits only: `str::parse` alone would take a leading `+`.
fn decimal(text: &str) -> Result<u64, InvalidStreamId> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidStreamId);
    }
    text.parse().map_err(|_| InvalidStreamId)
}

impl serde::Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id: StreamId = "1763700000000-42".parse().unwrap();
        assert_eq!(id, StreamId::new(1_763_700_000_000, 42));
        assert_eq!(id.to_string(), "1763700000000-42");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "-", "1", "1-", "-1", "+1-2", "1-+2", "1-2-3", "a-b", " 1-2", "99999999999999999999-0"] {
            assert_eq!(text.parse::<StreamId>(), Err(InvalidStreamId), "{text}");
        }
    }

    #[test]
    fn order_is_epoch_then_seq() {
        assert!(StreamId::new(2, 0) > StreamId::new(1, 99));
        assert!(StreamId::new(1, 3).directly_after(StreamId::new(1, 2)));
        assert!(!StreamId::new(2, 0).directly_after(StreamId::new(1, 2)));
        assert_eq!(StreamId::missing_between(StreamId::new(1, 2), StreamId::new(1, 6)), Some(3));
        assert_eq!(StreamId::missing_between(StreamId::new(1, 2), StreamId::new(2, 0)), None);
        assert_eq!(StreamId::new(1, 2).next(), StreamId::new(1, 3));
        assert_eq!(StreamId::MAX.next(), StreamId::MAX, "an id that anybody could write into Redis");
    }
}
