//! What a member learns from a beat, and the beats of others that it remembers. Pure.

use std::collections::BTreeMap;

use super::generation::GenerationRecord;

/// The response to a beat.
pub(super) struct BeatResponse {
    pub(super) identity: String,
    /// The dataset's last beat of this member.
    pub(super) beat: Option<u64>,
    /// Why the beat was not written.
    pub(super) refused: String,
    pub(super) stored: Option<GenerationRecord>,
    pub(super) revision: String,
    pub(super) beats: BTreeMap<String, u64>,
}

/// The greatest beat seen of each member.
#[derive(Debug, Default)]
pub(super) struct KnownBeats(BTreeMap<String, u64>);

impl KnownBeats {
    /// Remembers the beats of a dataset, and removes members that are no longer in it.
    pub(super) fn note(&mut self, seen: &BTreeMap<String, u64>) {
        self.0.retain(|name, _| seen.contains_key(name));
        for (name, beat) in seen {
            let known = self.0.entry(name.clone()).or_default();
            *known = (*known).max(*beat);
        }
    }

    /// Whether a dataset has a later beat of any other member.
    pub(super) fn are_behind(&self, seen: &BTreeMap<String, u64>, own: &str) -> bool {
        seen.iter().any(|(name, beat)| name != own && self.0.get(name).is_some_and(|known| known < beat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_that_continued_shows_later_beats_of_others() {
        let seen = |b: u64| BTreeMap::from([("a".to_owned(), b), ("b".to_owned(), b)]);
        let mut beats = KnownBeats::default();
        assert!(!beats.are_behind(&seen(5), "a"), "no member is known yet");
        beats.note(&seen(5));
        // A stale copy confirms nothing.
        beats.note(&seen(3));
        assert!(!beats.are_behind(&seen(5), "a"));
        assert!(beats.are_behind(&seen(6), "a"));
        assert!(!beats.are_behind(&BTreeMap::from([("a".to_owned(), 6)]), "a"), "its own beat");
    }
}
