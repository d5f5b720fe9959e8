//! The id of a retained publication: cursor, order, hole detection and fencing in one. Never a wall-clock time.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// `<epoch>-<seq>`, the entry id in the topic's stream.
///
/// Within an epoch, `seq` counts 0, 1, 2 … without holes. An epoch number is used only once; a new epoch starts with
/// the topic, and again after Redis changes server, so ids only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Below 2^53.
    pub epoch: u64,
    /// Position within the epoch, starting at 0.
    pub seq: u64,
}

/// The text does not have the form `<epoch>-<seq>` with two unsigned decimal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an id has the form <epoch>-<seq>, for example 1763700000000-42")]
pub struct InvalidStreamId;

impl StreamId {
    /// The position before the first entry of a stream without any past.
    pub const ZERO: Self = Self { epoch: 0, seq: 0 };
    /// Above every possible id.
    pub const MAX: Self = Self { epoch: u64::MAX, seq: u64::MAX };

    /// The last number of every epoch. No entry has it: it is the position before the next epoch's first entry.
    pub const SEQ_END: u64 = (1 << 53) - 1;

    /// An id from its two parts.
    #[must_use]
    pub const fn new(epoch: u64, seq: u64) -> Self {
        Self { epoch, seq }
    }

    /// The id that must come next: the next number, or the first of the epoch of which this is the position before; the
    /// maximum is its own successor.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.seq == Self::SEQ_END {
            return Self { epoch: self.epoch.saturating_add(1), seq: 0 };
        }
        Self { epoch: self.epoch, seq: self.seq.saturating_add(1) }
    }

    /// The position directly before an entry. For an epoch's first entry it differs from that of a stream without
    /// entries, from which no earlier loss could be reported.
    #[must_use]
    pub const fn previous(self) -> Self {
        match (self.epoch, self.seq) {
            (epoch, 1..) => Self { epoch, seq: self.seq - 1 },
            (1.., 0) => Self { epoch: self.epoch - 1, seq: Self::SEQ_END },
            (0, 0) => Self::ZERO,
        }
    }

    /// Whether `self` directly follows `before` without further proof.
    #[must_use]
    pub const fn directly_after(self, before: Self) -> bool {
        let next = before.next();
        self.epoch == next.epoch && self.seq == next.seq && before.seq != u64::MAX
    }

    /// How many entries lie between two ids, both excluded, if known (within one epoch).
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

/// Only digits: `str::parse` would also accept a leading `+`.
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
    fn every_entry_but_the_very_first_has_a_position_before_it_that_differs_from_the_start_of_a_stream() {
        for id in [StreamId::new(7, 0), StreamId::new(7, 1), StreamId::new(1, 0), StreamId::new(0, 1)] {
            let before = id.previous();
            assert!(before < id && id.directly_after(before) && before.next() == id, "{id}");
        }
        assert_eq!(StreamId::new(7, 0).previous(), StreamId::new(6, (1 << 53) - 1));
        assert_eq!((StreamId::ZERO.previous(), StreamId::MAX.next()), (StreamId::ZERO, StreamId::MAX));
        assert!(
            !StreamId::MAX.directly_after(StreamId::MAX) && !StreamId::new(8, 0).directly_after(StreamId::new(6, 9))
        );
    }

    #[test]
    fn text_form_round_trips() {
        let id: StreamId = "1763700000000-42".parse().unwrap();
        assert_eq!(id, StreamId::new(1_763_700_000_000, 42));
        assert_eq!(id.to_string(), "1763700000000-42");
    }

    #[test]
    fn other_texts_are_refused() {
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
        assert_eq!(StreamId::MAX.next(), StreamId::MAX, "an id that an external writer could store in Redis");
    }
}
