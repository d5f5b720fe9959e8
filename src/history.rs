//! The generations of a dataset, and what a reader's step across them means: directly after, or a gap, and of which
//! kind. One function judges live messages, fills and replays. Pure.

use std::collections::HashMap;

use tickgate_wire::model::StreamId;

/// Whether an id is the end of an epoch: no entry has it; it is the position before the next epoch's first entry.
const fn is_beginning(id: StreamId) -> bool {
    id.seq == StreamId::SEQ_END
}

/// What is known about the boundary at which a generation starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BorderState {
    /// A member that may have acknowledged before it has not reported yet.
    Pending,
    /// Everything that was lost is known.
    Proven,
    /// It is unknown what was lost.
    Doubt,
}

/// Why entries between two positions are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No longer retained, or nothing proves what was there.
    Retention,
    /// Acknowledged, and lost with a server; with their number, if known.
    Lost(Option<u64>),
    /// A change of server in between, with unknown losses.
    Doubt,
}

/// The meaning of a step from a position to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepVerdict {
    /// Nothing lies between them.
    Direct,
    /// Entries in between are missing.
    Gap(Missing),
    /// Undecided: the boundary in between is pending.
    Pending,
}

/// The generations of one dataset, as known by a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// The current generation; 0 before the first one is known.
    pub generation: u64,
    /// The greatest known epoch.
    pub alloc: u64,
    /// Boundaries before this generation were removed.
    pub floor: u64,
    /// The starts of generations, in ascending order. Before the first of them nothing is known.
    pub borders: Vec<(u64, BorderState)>,
    /// Lost ids by topic, in ascending order.
    pub lost: HashMap<Box<str>, Vec<StreamId>>,
}

impl Generations {
    /// The history of a dataset that never changes its server.
    #[must_use]
    pub fn single(generation: u64) -> Self {
        Self { generation, alloc: generation, ..Self::default() }
    }

    /// The position before the first entry of the current generation.
    #[must_use]
    pub const fn beginning(&self) -> StreamId {
        StreamId::new(self.generation, 0).previous()
    }

    /// Whether a boundary has no verdict yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.borders.iter().any(|(_, state)| *state == BorderState::Pending)
    }

    /// Whether a position precedes everything that is remembered. It is unknown whether it was ever given, so it proves
    /// nothing about a server: strangers can make up such cursors.
    fn is_forgotten(&self, at: StreamId) -> bool {
        let first = match (self.floor, self.borders.first()) {
            (0, Some((generation, _))) => *generation,
            (floor, _) => floor,
        };
        at < StreamId::new(first, 0).previous()
    }

    /// Whether a step between the two crosses a pending boundary.
    fn awaits(&self, at: StreamId, to: StreamId) -> bool {
        self.crossed(at, to).any(|state| state == BorderState::Pending)
    }

    /// Judges the step from `at` to the next entry, whose predecessor is `prev` ([`StreamId::ZERO`]: unknown; `None`:
    /// not recorded). `unbroken`: the subscription has received everything since it was at the end of the stream.
    #[must_use]
    pub fn step(
        &self,
        topic: &str,
        at: StreamId,
        (id, prev): (StreamId, Option<StreamId>),
        unbroken: bool,
    ) -> StepVerdict {
        if at == StreamId::ZERO {
            // A reader without a position cannot know what preceded.
            return StepVerdict::Gap(Missing::Retention);
        }
        if self.is_forgotten(at) {
            return if id.directly_after(at) { StepVerdict::Direct } else { StepVerdict::Gap(Missing::Retention) };
        }
        if self.awaits(at, id) {
            return StepVerdict::Pending;
        }
        let hole = match prev {
            _ if id.directly_after(at) => None,
            Some(prev) if prev == at => None,
            Some(StreamId::ZERO) if unbroken => None,
            Some(StreamId::ZERO) | None => Some(Missing::Retention),
            Some(prev) if prev > at => Some(Missing::Retention),
            Some(prev) => (!self.is_known_branch(topic, at, prev)).then_some(Missing::Doubt),
        };
        self.told(topic, at, id, hole)
    }

    /// Judges what lies between `at` and the end of a stream whose last id is `last`, from the current generation: what
    /// is missing, and the position after it. That position is before `at` if `at` was never given.
    ///
    /// # Errors
    /// The boundary in between is pending.
    pub fn end(&self, topic: &str, at: StreamId, last: StreamId) -> Result<Option<(Missing, StreamId)>, StillPending> {
        let to = last.max(self.beginning());
        if at > last && at.epoch >= self.generation && self.generation > 0 {
            // A reader cannot have what this generation has not given.
            return Ok(Some((Missing::Retention, to)));
        }
        if at >= to {
            return Ok(None);
        }
        if self.is_forgotten(at) || at == StreamId::ZERO {
            return Ok(Some((Missing::Retention, to)));
        }
        if self.awaits(at, to) {
            return Err(StillPending);
        }
        let hole = match () {
            () if at < last => Some(Missing::Retention),
            () if at > last && !self.is_known_branch(topic, at, last) => Some(Missing::Doubt),
            () => None,
        };
        Ok(match self.told(topic, at, to.next(), hole) {
            StepVerdict::Gap(missing) => Some((missing, to)),
            StepVerdict::Direct | StepVerdict::Pending => None,
        })
    }

    /// The result, including lost ids and boundaries in between.
    fn told(&self, topic: &str, at: StreamId, to: StreamId, hole: Option<Missing>) -> StepVerdict {
        let lost = self.lost.get(topic).into_iter().flatten().filter(|lost| at < **lost && **lost < to);
        let (mut count, mut any) = (Some(0), false);
        for lost in lost {
            any = true;
            count = count.and_then(|_| StreamId::missing_between(at, lost.next()));
        }
        let doubt = self.crossed(at, to).any(|state| state == BorderState::Doubt);
        if any {
            // What is known to be lost is all of it only where nothing is in doubt.
            let whole = hole.is_none() && !doubt;
            return StepVerdict::Gap(Missing::Lost(count.filter(|_| whole)));
        }
        if let Some(missing) = hole {
            return StepVerdict::Gap(missing);
        }
        if doubt { StepVerdict::Gap(Missing::Doubt) } else { StepVerdict::Direct }
    }

    /// The boundaries between two positions.
    fn crossed(&self, at: StreamId, to: StreamId) -> impl Iterator<Item = BorderState> {
        let between = move |generation: u64| {
            let beginning = StreamId::new(generation, 0).previous();
            at < beginning && beginning <= to
        };
        self.borders.iter().filter(move |(generation, _)| between(*generation)).map(|(_, state)| *state)
    }

    /// Whether a position ahead of the remaining entries belongs to this history: then the server went back, and the
    /// cursor is valid.
    fn is_known_branch(&self, topic: &str, at: StreamId, left: StreamId) -> bool {
        let mut lost = self.lost.get(topic).into_iter().flatten();
        at.epoch == left.epoch || is_beginning(at) || lost.any(|lost| lost.epoch == at.epoch && *lost >= at)
    }
}

/// The boundary in between is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillPending;

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Option<StreamId> = Some(StreamId::ZERO);

    fn id(epoch: u64, seq: u64) -> StreamId {
        StreamId::new(epoch, seq)
    }

    fn history(borders: &[(u64, BorderState)], lost: &[StreamId]) -> Generations {
        let generation = borders.last().map_or(4, |(generation, _)| *generation);
        let lost = HashMap::from([("t".into(), lost.to_vec())]);
        // The dataset's first generation has a boundary as well.
        let first = (4, BorderState::Proven);
        let borders = [first].into_iter().filter(|_| borders.first() != Some(&first)).chain(borders.iter().copied());
        Generations { generation, alloc: generation + 3, floor: 0, borders: borders.collect(), lost }
    }

    fn step(history: &Generations, at: StreamId, to: StreamId, prev: Option<StreamId>) -> StepVerdict {
        history.step("t", at, (to, prev), false)
    }

    #[test]
    fn only_a_direct_successor_follows_directly() {
        let history = history(&[(8, BorderState::Proven)], &[]);
        assert_eq!(step(&history, id(8, 1), id(8, 2), None), StepVerdict::Direct);
        assert_eq!(step(&history, id(8, 1), id(8, 3), None), StepVerdict::Gap(Missing::Retention), "one was removed");
        assert_eq!(step(&history, id(4, 9), id(8, 0), Some(id(4, 9))), StepVerdict::Direct);
        assert_eq!(step(&history, id(4, 8), id(8, 0), Some(id(4, 9))), StepVerdict::Gap(Missing::Retention));
        assert_eq!(
            step(&history, id(8, 0).previous(), id(8, 0), Some(id(4, 9))),
            StepVerdict::Direct,
            "crossed before"
        );
        assert_eq!(
            step(&history, id(6, 1), id(8, 0), Some(id(4, 9))),
            StepVerdict::Gap(Missing::Doubt),
            "another branch"
        );
        assert_eq!(
            step(&history, id(4, 9), id(8, 0), Some(id(4, 7))),
            StepVerdict::Direct,
            "the reader has more than the stream"
        );
    }

    #[test]
    fn a_stream_that_starts_without_a_past_is_direct_only_after_hearing_everything() {
        let history = history(&[], &[]);
        let at = id(4, 3);
        assert_eq!(history.step("t", at, (id(6, 0), UNKNOWN), true), StepVerdict::Direct);
        assert_eq!(history.step("t", at, (id(6, 0), UNKNOWN), false), StepVerdict::Gap(Missing::Retention));
        assert_eq!(history.step("t", StreamId::ZERO, (id(6, 0), UNKNOWN), true), StepVerdict::Gap(Missing::Retention));
    }

    #[test]
    fn a_boundary_is_reported_to_those_who_cross_it_and_a_pending_one_waits() {
        let doubt = history(&[(8, BorderState::Doubt)], &[]);
        assert_eq!(step(&doubt, id(4, 9), id(8, 0), Some(id(4, 9))), StepVerdict::Gap(Missing::Doubt));
        assert_eq!(step(&doubt, id(8, 0), id(8, 1), None), StepVerdict::Direct);
        assert_eq!(doubt.end("t", id(4, 9), id(4, 9)), Ok(Some((Missing::Doubt, id(8, 0).previous()))));
        assert_eq!(doubt.end("t", id(8, 0).previous(), id(4, 9)), Ok(None));
        let pending = history(&[(8, BorderState::Pending)], &[]);
        assert_eq!(step(&pending, id(4, 9), id(8, 0), Some(id(4, 9))), StepVerdict::Pending);
        assert_eq!(pending.end("t", id(4, 9), id(4, 9)), Err(StillPending));
        assert_eq!(step(&pending, id(8, 0), id(8, 1), None), StepVerdict::Direct);
    }

    #[test]
    fn a_lost_id_is_reported_only_to_those_who_pass_it() {
        let history = history(&[(8, BorderState::Proven)], &[id(4, 9)]);
        let over = |at| step(&history, at, id(8, 0), Some(id(4, 6)));
        assert_eq!(over(id(4, 6)), StepVerdict::Gap(Missing::Lost(Some(3))));
        assert_eq!(over(id(4, 8)), StepVerdict::Gap(Missing::Lost(Some(1))), "it received two of the three");
        assert_eq!(over(id(4, 9)), StepVerdict::Direct, "it has them all");
        assert_eq!(over(id(4, 5)), StepVerdict::Gap(Missing::Lost(None)), "and something was trimmed");
        assert_eq!(history.end("t", id(4, 6), id(4, 6)), Ok(Some((Missing::Lost(Some(3)), id(8, 0).previous()))));
        assert_eq!(history.end("other", id(4, 6), id(4, 6)), Ok(None));
    }

    #[test]
    fn a_loss_at_a_boundary_in_doubt_has_no_count() {
        let history = history(&[(8, BorderState::Doubt)], &[id(4, 9)]);
        assert_eq!(step(&history, id(4, 8), id(8, 0), Some(id(4, 8))), StepVerdict::Gap(Missing::Lost(None)));
        assert_eq!(history.end("t", id(4, 8), id(4, 8)), Ok(Some((Missing::Lost(None), id(8, 0).previous()))));
        assert_eq!(
            step(&history, id(4, 8), id(4, 10), None),
            StepVerdict::Gap(Missing::Lost(None)),
            "and one was removed"
        );
    }

    #[test]
    fn trimmed_entries_are_reported_and_retained_ones_are_not() {
        let history = history(&[], &[]);
        assert_eq!(history.end("t", id(4, 3), id(4, 5)), Ok(Some((Missing::Retention, id(4, 5)))));
        assert_eq!(history.end("t", id(4, 5), id(4, 5)), Ok(None));
        assert_eq!(history.end("t", id(4, 7), id(4, 5)), Ok(Some((Missing::Retention, id(4, 5)))), "never given");
        assert_eq!(history.end("t", StreamId::ZERO, id(4, 5)), Ok(Some((Missing::Retention, id(4, 5)))));
    }

    #[test]
    fn a_position_older_than_everything_remembered_is_reported_as_retention() {
        let history = Generations { floor: 8, ..history(&[(8, BorderState::Proven)], &[]) };
        assert_eq!(step(&history, id(4, 9), id(8, 0), Some(id(4, 9))), StepVerdict::Gap(Missing::Retention));
        assert_eq!(step(&history, id(4, 8), id(4, 9), None), StepVerdict::Direct, "neighbours of one epoch");
    }

    #[test]
    fn a_cursor_from_before_the_first_generation_does_not_indicate_a_loss() {
        let (made_up, lost) = (id(1, 5), [id(4, 9)]);
        for state in [BorderState::Pending, BorderState::Proven, BorderState::Doubt] {
            let history = history(&[(4, BorderState::Proven), (8, state)], &lost);
            for (to, prev) in [(id(4, 6), UNKNOWN), (id(8, 0), Some(id(4, 6))), (id(8, 3), None)] {
                assert_eq!(step(&history, made_up, to, prev), StepVerdict::Gap(Missing::Retention), "{state:?} {to}");
            }
            let (last, to) = (id(4, 6), id(8, 0).previous());
            assert_eq!(history.end("t", made_up, last), Ok(Some((Missing::Retention, to))), "{state:?}");
        }
    }
}
