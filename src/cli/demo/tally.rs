//! Compares what publishers sent with what clients received. Pure.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use tickgate_wire::model::StreamId;

/// The results of the publishers.
#[derive(Debug, Default)]
pub(super) struct PublishResults {
    /// Accepted publications of each user: the id, and the publisher's number.
    pub accepted: Vec<BTreeMap<StreamId, u64>>,
    /// Attempts that were certainly not stored.
    pub refused: u64,
    /// Attempts with an unknown outcome.
    pub unknown: u64,
    /// Attempts whose publication had been stored before.
    pub repeated: u64,
}

/// What one client received.
#[derive(Debug, Default)]
pub(super) struct ClientRecord {
    /// The user whose orders it follows.
    pub user: usize,
    /// The replica that it is connected and subscribed to.
    pub replica: Option<usize>,
    /// How often it subscribed.
    pub connections: u64,
    pub received: Vec<(StreamId, u64)>,
    pub gaps: u64,
}

impl ClientRecord {
    /// The last id it received.
    pub(super) fn cursor(&self) -> Option<StreamId> {
        self.received.last().map(|(id, _)| *id)
    }

    /// Whether it has received everything that was accepted.
    pub(super) fn has_all(&self, results: &PublishResults) -> bool {
        results.accepted[self.user].last_key_value().is_none_or(|(last, _)| self.cursor() >= Some(*last))
    }
}

/// The final result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DemoResult {
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

impl DemoResult {
    pub(super) fn of<'a>(results: &PublishResults, records: impl IntoIterator<Item = &'a ClientRecord>) -> Self {
        let mut tally = Self {
            accepted: results.accepted.iter().map(|ids| ids.len() as u64).sum(),
            refused: results.refused,
            unknown: results.unknown,
            deduplicated: results.repeated,
            ..Self::default()
        };
        for record in records {
            tally.add(&results.accepted[record.user], record);
        }
        tally
    }

    fn add(&mut self, accepted: &BTreeMap<StreamId, u64>, record: &ClientRecord) {
        let mut numbers = HashSet::new();
        let repeats = record.received.iter().filter(|(_, number)| !numbers.insert(*number)).count();
        let disorder = record.received.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
        self.owed += accepted.len() as u64;
        self.delivered += numbers.len() as u64;
        self.repeated += repeats as u64;
        self.misordered += disorder as u64;
        self.lost += accepted.values().filter(|number| !numbers.contains(number)).count() as u64;
        self.gaps += record.gaps;
    }

    /// Whether every guarantee held and no gap was reported.
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

    /// One line per figure, for people.
    pub(super) fn text(&self) -> String {
        let rows = [
            ("publications accepted", self.accepted, ""),
            ("deliveries expected", self.owed, "each one to every client that follows"),
            ("delivered", self.delivered, ""),
            ("lost", self.lost, ""),
            ("repeated", self.repeated, ""),
            ("out of order", self.misordered, ""),
            ("gaps reported", self.gaps, ""),
            ("attempts refused", self.refused, "certainly not stored, then retried"),
            ("attempts unknown", self.unknown, "no response: retried with the same msg_id"),
            ("already stored", self.deduplicated, "and not published twice"),
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

    fn results(numbers: &[u64]) -> PublishResults {
        let accepted = vec![numbers.iter().map(|number| (id(*number), *number)).collect()];
        PublishResults { accepted, ..PublishResults::default() }
    }

    fn received(numbers: &[u64]) -> ClientRecord {
        ClientRecord {
            received: numbers.iter().map(|number| (id(*number), *number)).collect(),
            ..ClientRecord::default()
        }
    }

    #[test]
    fn all_in_order_and_once_is_clean() {
        let (results, record) = (results(&[1, 2, 3]), received(&[1, 2, 3]));
        assert!(record.has_all(&results));
        let tally = DemoResult::of(&results, [&record]);
        assert!(tally.is_clean());
        assert_eq!((tally.owed, tally.delivered), (3, 3));
    }

    #[test]
    fn every_fault_is_counted() {
        let results = results(&[1, 2, 3, 4]);
        let tally = DemoResult::of(&results, [&received(&[1, 3, 2, 2])]);
        assert_eq!((tally.lost, tally.repeated, tally.misordered), (1, 1, 1));
        assert!(!tally.is_clean() && !received(&[1, 3]).has_all(&results));
        assert!(!DemoResult::of(&results, [&ClientRecord { gaps: 1, ..received(&[1, 2, 3, 4]) }]).is_clean());
    }
}
