//! What the server's answers to a verification mean. Pure: the shard asks, this decides.

use std::time::Instant;

use tickgate_wire::model::StreamId;

use super::{claims::Claim, ledger::Ledger};

/// What the server says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It has it, or had it before it was trimmed.
    Present,
    /// It could not honour it.
    Lost {
        /// The entry that reports the loss now.
        marker: StreamId,
        /// The last entry that was not lost.
        after: StreamId,
        report: Report,
    },
}

/// Who reported a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// This replica, now.
    New,
    /// Another replica, which counts it.
    Earlier,
    /// This replica, although it may be no loss: the stream was trimmed beyond the claim.
    Doubtful,
}

impl Finding {
    /// Reads the script's answer: `<marker> <after>`, with ` told` or ` doubted` or neither; or `-`. `None` for anything
    /// else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let (marker, after, report) = match words[..] {
            ["-"] => return Some(Self::Present),
            [marker, after] => (marker, after, Report::New),
            [marker, after, "told"] => (marker, after, Report::Earlier),
            [marker, after, "doubted"] => (marker, after, Report::Doubtful),
            _ => return None,
        };
        Some(Self::Lost { marker: marker.parse().ok()?, after: after.parse().ok()?, report })
    }
}

/// What a verification amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Publications that were lost.
    pub(super) lost: u64,
    /// Topics of which nobody can say.
    pub(super) doubtful: u64,
}

impl Ledger {
    /// Takes what the server of this generation says of a claim.
    pub(super) fn settle_claim(
        &mut self,
        claim: &Claim,
        finding: Finding,
        generation: u64,
        tally: &mut Tally,
        now: Instant,
    ) {
        match finding {
            Finding::Present => self.verified(claim, generation),
            Finding::Lost { marker, after, report } => {
                match report {
                    // A marker that was lost itself is no further loss.
                    Report::New if claim.marker.is_none() => tally.lost += lost_count(after, claim.id),
                    Report::Doubtful => tally.doubtful += 1,
                    Report::New | Report::Earlier => {}
                }
                self.lost(&claim.topic, claim.id, marker, now);
            }
        }
    }
}

/// How many publications were lost with the one that was claimed: of an epoch that began after what is left, all.
const fn lost_count(after: StreamId, claimed: StreamId) -> u64 {
    match StreamId::missing_between(after, claimed) {
        Some(between) => between + 1,
        None => claimed.seq.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        backplane::redis::for_tests::{claim, rule},
        redis_link::Keys,
    };

    #[test]
    fn a_loss_is_counted_from_what_is_left() {
        let claimed = StreamId::new(5, 9);
        assert_eq!(lost_count(StreamId::new(5, 6), claimed), 3);
        assert_eq!(lost_count(StreamId::new(4, 6), claimed), 10);
        assert_eq!(lost_count(StreamId::ZERO, claimed), 10);
    }

    #[test]
    fn only_the_scripts_own_answers_count() {
        let lost = |report| Some(Finding::Lost { marker: StreamId::new(7, 0), after: StreamId::new(5, 6), report });
        assert_eq!(Finding::parse("-"), Some(Finding::Present));
        assert_eq!(Finding::parse("7-0 5-6"), lost(Report::New));
        assert_eq!(Finding::parse("7-0 5-6 told"), lost(Report::Earlier));
        assert_eq!(Finding::parse("7-0 5-6 doubted"), lost(Report::Doubtful));
        assert!(["7-0", "", "- -", "7-0 5-6 x", "7-0 5-6 told x"].iter().all(|text| Finding::parse(text).is_none()));
    }

    #[test]
    fn a_loss_is_counted_once_and_verified_again_by_its_marker() {
        let (keys, now, mut ledger) = (Keys::new("x:"), Instant::now(), Ledger::default());
        let (id, marker) = (StreamId::new(5, 9), StreamId::new(6, 0));
        let topic = claim(id, None).topic;
        ledger.adopt(5, now);
        ledger.open(&keys, &topic, &rule(100, Duration::ZERO)).store(id, 1, now);
        let mut tally = Tally::default();
        let mut settle = |ledger: &mut Ledger, claim: &Claim, marker, report| {
            let finding = Finding::Lost { marker, after: StreamId::new(5, 6), report };
            ledger.settle_claim(claim, finding, 6, &mut tally, now);
            tally
        };
        assert_eq!(settle(&mut ledger, &claim(id, None), marker, Report::New), Tally { lost: 3, doubtful: 0 });
        ledger.adopt(7, now);
        let waiting = ledger.claims.take();
        assert_eq!(waiting.iter().map(|claim| (claim.id, claim.marker)).collect::<Vec<_>>(), [(id, Some(marker))]);
        let tally = settle(&mut ledger, &waiting[0], StreamId::new(7, 0), Report::New);
        assert_eq!(tally, Tally { lost: 3, doubtful: 0 }, "the marker was lost, no further publication");
        assert_eq!(settle(&mut ledger, &waiting[0], marker, Report::Doubtful), Tally { lost: 3, doubtful: 1 });
    }
}
