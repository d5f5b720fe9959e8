//! What publishers were told against what clients heard. Pure.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tickgate_wire::model::StreamId;

/// What publishers were told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Accepted publications of each user: the id, and the number that the publisher gave it.
    pub accepted: Vec<BTreeMap<StreamId, u64>>,
    /// Attempts that were certainly not stored.
    pub refused: u64,
    /// Attempts of which nobody knew.
    pub unknown: u64,
    /// Attempts that turned out to have been stored before.
    pub repeated: u64,
}

/// What one client heard.
#[derive(Debug, Default)]
pub(super) struct Diary {
    /// Which user's orders it follows.
    pub user: usize,
    /// Replica that it is connected and subscribed to.
    pub replica: Option<usize>,
    /// How often it was.
    pub connections: u64,
    pub heard: Vec<(StreamId, u64)>,
    pub gaps: u64,
}

impl Diary {
    /// The last id that it has.
    pub(super) fn cursor(&self) -> Option<StreamId> {
        self.heard.last().map(|(id, _)| *id)
    }

    /// Whether it has everything that was accepted.
    pub(super) fn has_all(&self, told: &Told) -> bool {
        told.accepted[self.user].last_key_value().is_none_or(|(last, _)| self.cursor() >= Some(*last))
    }
}

/// The end of the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub accepted: u64,
    pub owed: u64,
    pub delivered: u64,
    pub lost: u64,
    pub repeated: u64,
    pub misordered: u64,
    pub gaps: u64,
    pub refused: u64,
    pub unknown: u64,
    pub deduplicated: u64,
}

impl Tally {
    pub(super) fn of<'a>(told: &Told, diaries: impl IntoIterator<Item = &'a Diary>) -> Self {
        let mut tally = Self {
            accepted: told.accepted.iter().map(|ids| ids.len() as u64).sum(),
            refused: told.refused,
            unknown: told.unknown,
            deduplicated: told.repeated,
            ..Self::default()
        };
        for diary in diaries {
            tally.add(&told.accepted[diary.user], diary);
        }
        tally
    }

    fn add(&mut self, accepted: &BTreeMap<StreamId, u64>, diary: &Diary) {
        let mut numbers = HashSet::new();
        let repeats = diary.heard.iter().filter(|(_, number)| !numbers.insert(*number)).count();
        let disorder = diary.heard.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
        self.owed += accepted.len() as u64;
        self.delivered += numbers.len() as u64;
        self.repeated += repeats as u64;
        self.misordered += disorder as u64;
        self.lost += accepted.values().filter(|number| !numbers.contains(number)).count() as u64;
        self.gaps += diary.gaps;
    }

    /// Whether every promise was kept, and nothing had to be told as missing.
    pub(super) const fn is_clean(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.misordered == 0 && self.gaps == 0
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "accepted": self.accepted,
            "owed": self.owed,
            "delivered": self.delivered,
            "lost": self.lost,
            "repeated": self.repeated,
            "misordered": self.misordered,
            "gaps": self.gaps,
            "refused_attempts": self.refused,
            "unknown_attempts": self.unknown,
            "deduplicated": self.deduplicated,
        })
    }

    /// A line a figure, for people.
    pub(super) fn text(&self) -> String {
        let rows = [
            ("publications accepted", self.accepted, ""),
            ("deliveries owed", self.owed, "every one to each client that follows"),
            ("delivered", self.delivered, ""),
            ("lost", self.lost, ""),
            ("repeated", self.repeated, ""),
            ("out of order", self.misordered, ""),
            ("gaps told", self.gaps, ""),
            ("attempts refused", self.refused, "certainly not stored, and sent again"),
            ("attempts unknown", self.unknown, "no answer: sent again with the same msg_id"),
            ("found stored before", self.deduplicated, "and not published twice"),
        ];
        let line =
            |(name, count, note): (&str, u64, &str)| format!("  {name:<22}{count:>8}   {note}").trim_end().to_owned();
        rows.map(line).to_vec().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(seq: u64) -> StreamId {
        StreamId::new(1, seq)
    }

    fn told(numbers: &[u64]) -> Told {
        let accepted = vec![numbers.iter().map(|number| (id(*number), *number)).collect()];
        Told { accepted, ..Told::default() }
    }

    fn heard(numbers: &[u64]) -> Diary {
        Diary { heard: numbers.iter().map(|number| (id(*number), *number)).collect(), ..Diary::default() }
    }

    #[test]
    fn all_in_order_and_once_is_clean() {
        let (told, diary) = (told(&[1, 2, 3]), heard(&[1, 2, 3]));
        assert!(diary.has_all(&told));
        let tally = Tally::of(&told, [&diary]);
        assert!(tally.is_clean());
        assert_eq!((tally.owed, tally.delivered), (3, 3));
    }

    #[test]
    fn whatever_is_wrong_is_counted() {
        let told = told(&[1, 2, 3, 4]);
        let tally = Tally::of(&told, [&heard(&[1, 3, 2, 2])]);
        assert_eq!((tally.lost, tally.repeated, tally.misordered), (1, 1, 1));
        assert!(!tally.is_clean() && !heard(&[1, 3]).has_all(&told));
        assert!(!Tally::of(&told, [&Diary { gaps: 1, ..heard(&[1, 2, 3, 4]) }]).is_clean());
    }
}
