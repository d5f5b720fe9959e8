//! Judges what a client received by what publishers were told. Pure: compares two records and reports violations.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use tickgate_wire::model::{Class, StreamId};

use crate::record::{AcknowledgedPublication, HeardEvent};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokenPromise {
    /// Acknowledged, never delivered, and not covered by a gap.
    Lost(StreamId),
    /// Delivered twice: at all to a client that keeps a cursor, without `replayed` to one that does not.
    Repeated(StreamId),
    /// Arrived after a greater one on the same connection.
    Misordered {
        before: StreamId,
        after: StreamId,
    },
    /// Numbers between two consecutive pushes are missing, without a gap between them.
    Hole {
        from: StreamId,
        to: StreamId,
    },
    /// The content of an id differs from what was acknowledged under it.
    Forked {
        id: StreamId,
        acknowledged: u64,
        delivered: u64,
    },
    /// One publication arrived under two ids of one epoch.
    PublishedTwice {
        number: u64,
        first: StreamId,
        second: StreamId,
    },
    Malformed(String),
}

/// The client's state while its diary is read.
#[derive(Default)]
struct DiaryState {
    /// The greatest id delivered, and the last one of this connection.
    most: Option<StreamId>,
    last: Option<StreamId>,
    delivered: BTreeMap<StreamId, u64>,
    numbers: HashMap<u64, StreamId>,
    /// Ranges reported as missing; an open one ends at the next push.
    gaps: Vec<(StreamId, Option<StreamId>)>,
    /// Gaps reported since the last push.
    fresh: usize,
    /// The client's positions over time.
    stood: Vec<(Instant, StreamId)>,
    /// When it received a gap in doubt.
    doubts: Vec<Instant>,
    began: Option<StreamId>,
    violations: Vec<BrokenPromise>,
}

/// Judges one stream of one client. `acknowledged`: everything that publishers were told about it.
pub fn judge<'a>(
    class: Class,
    acknowledged: &BTreeMap<StreamId, AcknowledgedPublication>,
    heard: impl Iterator<Item = &'a (Instant, HeardEvent)>,
) -> Vec<BrokenPromise> {
    let mut reading = DiaryState::default();
    for (at, heard) in heard {
        match heard {
            HeardEvent::Connected => reading.last = None,
            HeardEvent::Began(position) => reading.begin(*position),
            HeardEvent::Malformed(text) => reading.violations.push(BrokenPromise::Malformed(text.clone())),
            HeardEvent::Gap { after, before, is_counted, .. } => {
                reading.fresh += 1;
                reading.gaps.push((*after, *before));
                reading.doubts.extend((!is_counted).then_some(*at));
            }
            HeardEvent::Push { id, number, replayed, snapshot } => {
                reading.push(class, (*id, *number), *replayed || *snapshot);
            }
        }
        reading.stood.extend(reading.most.map(|most| (*at, most)));
    }
    reading.close(class, acknowledged);
    reading.violations
}

impl DiaryState {
    fn begin(&mut self, at: StreamId) {
        self.began.get_or_insert(at);
        self.last = None;
        self.most = self.most.max(Some(at));
    }

    fn push(&mut self, class: Class, (id, number): (StreamId, u64), marked: bool) {
        if let Some(last) = self.last
            && id <= last
            && !(class == Class::State && marked)
        {
            self.violations.push(BrokenPromise::Misordered { before: last, after: id });
        }
        if self.delivered.contains_key(&id) {
            if class != Class::State || !marked {
                self.violations.push(BrokenPromise::Repeated(id));
            }
        } else if class != Class::State {
            self.check_hole(id);
        }
        if let Some(first) = self.numbers.insert(number, id)
            && first != id
            && first.epoch == id.epoch
        {
            self.violations.push(BrokenPromise::PublishedTwice { number, first, second: id });
        }
        for gap in self.gaps.iter_mut().filter(|(_, before)| before.is_none()) {
            gap.1 = Some(id);
        }
        self.delivered.insert(id, number);
        self.last = Some(id);
        self.most = self.most.max(Some(id));
        self.fresh = 0;
    }

    /// Within an epoch numbers are contiguous; an epoch starts at 0. The number of a marker of lost publications is
    /// covered by a gap.
    fn check_hole(&mut self, id: StreamId) {
        let Some(from) = self.last.or(self.most) else { return };
        if id <= from {
            return;
        }
        let skipped = if id.epoch == from.epoch { id.seq - from.seq - 1 } else { id.seq };
        if skipped == 0 || skipped <= self.fresh as u64 {
            return;
        }
        let covered = |at: StreamId| self.gaps.iter().any(|gap| covers(*gap, at));
        let missing = (id.seq - skipped..id.seq).map(|seq| StreamId::new(id.epoch, seq)).filter(|at| !covered(*at));
        if missing.count() > self.fresh {
            self.violations.push(BrokenPromise::Hole { from, to: id });
        }
    }

    fn close(&mut self, class: Class, acknowledged: &BTreeMap<StreamId, AcknowledgedPublication>) {
        let Some(began) = self.began else { return };
        for (id, number) in &self.delivered {
            if let Some(known) = acknowledged.get(id)
                && known.number != *number
            {
                let violation = BrokenPromise::Forked { id: *id, acknowledged: known.number, delivered: *number };
                self.violations.push(violation);
            }
        }
        let owed = acknowledged.keys().filter(|id| **id > began);
        // Only the newest value is guaranteed.
        let newest = owed.clone().next_back();
        let lost = owed
            .filter(|id| class != Class::State || Some(*id) == newest)
            .filter(|id| !self.delivered.contains_key(id) && !self.gaps.iter().any(|gap| covers(*gap, **id)))
            .filter(|id| !self.is_of_another_branch(**id, acknowledged[*id].at));
        let lost: Vec<_> = lost.map(|id| BrokenPromise::Lost(*id)).collect();
        self.violations.extend(lost);
    }

    /// Whether it was acknowledged on a branch that this client was not part of: the client was already in a later
    /// generation. Where the branches meet, the client receives a gap in doubt that starts at its position
    /// (docs/guarantees.md, "Two branches").
    fn is_of_another_branch(&self, id: StreamId, acknowledged: Instant) -> bool {
        let stood = self.stood.iter().take_while(|(at, _)| *at <= acknowledged).last();
        stood.is_some_and(|(_, position)| position.epoch > id.epoch) && self.doubts.iter().any(|at| *at > acknowledged)
    }
}

fn covers((after, before): (StreamId, Option<StreamId>), id: StreamId) -> bool {
    after < id && before.is_none_or(|before| id < before)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn id(epoch: u64, seq: u64) -> StreamId {
        StreamId::new(epoch, seq)
    }

    fn acknowledged(ids: &[(u64, u64)]) -> BTreeMap<StreamId, AcknowledgedPublication> {
        let at = Instant::now();
        let number = |id: StreamId| id.epoch * 100 + id.seq;
        ids.iter().map(|(e, s)| (id(*e, *s), AcknowledgedPublication { number: number(id(*e, *s)), at })).collect()
    }

    fn push(epoch: u64, seq: u64) -> HeardEvent {
        HeardEvent::Push { id: id(epoch, seq), number: epoch * 100 + seq, replayed: false, snapshot: false }
    }

    fn replayed(epoch: u64, seq: u64) -> HeardEvent {
        HeardEvent::Push { id: id(epoch, seq), number: epoch * 100 + seq, replayed: true, snapshot: false }
    }

    fn gap(after: StreamId, before: Option<StreamId>) -> HeardEvent {
        HeardEvent::Gap { after, before, reason: "failover".into(), is_counted: true }
    }

    fn now(heard: &[HeardEvent]) -> Vec<(Instant, HeardEvent)> {
        heard.iter().map(|heard| (Instant::now(), heard.clone())).collect()
    }

    fn judged(ids: &[(u64, u64)], heard: &[HeardEvent]) -> Vec<BrokenPromise> {
        judge(Class::Reliable, &acknowledged(ids), now(heard).iter())
    }

    #[test]
    fn a_complete_stream_has_no_violations() {
        let heard = [HeardEvent::Began(id(1, 0)), push(1, 1), push(1, 2), push(5, 0), push(5, 1)];
        assert_eq!(judged(&[(1, 0), (1, 1), (1, 2), (5, 0), (5, 1)], &heard), []);
    }

    #[test]
    fn an_undelivered_publication_is_lost_unless_a_gap_covers_it() {
        let heard = [HeardEvent::Began(id(1, 0)), push(1, 1)];
        assert_eq!(judged(&[(1, 1), (1, 2)], &heard), [BrokenPromise::Lost(id(1, 2))]);
        let told = [HeardEvent::Began(id(1, 0)), push(1, 1), gap(id(1, 1), Some(id(2, 0))), push(2, 0)];
        assert_eq!(judged(&[(1, 1), (1, 2), (2, 0)], &told), []);
        let open = [HeardEvent::Began(id(1, 0)), push(1, 1), gap(id(1, 1), None), push(2, 0)];
        assert_eq!(judged(&[(1, 1), (1, 2), (2, 0), (2, 1)], &open), [BrokenPromise::Lost(id(2, 1))]);
    }

    #[test]
    fn a_hole_is_detected_even_if_its_content_is_unknown() {
        let heard = [HeardEvent::Began(id(1, 0)), push(1, 1), push(1, 3)];
        assert_eq!(judged(&[], &heard), [BrokenPromise::Hole { from: id(1, 1), to: id(1, 3) }]);
        let late = [HeardEvent::Began(id(1, 0)), push(1, 1), push(2, 1)];
        assert_eq!(judged(&[], &late), [BrokenPromise::Hole { from: id(1, 1), to: id(2, 1) }]);
        let marker = [HeardEvent::Began(id(1, 0)), push(1, 1), gap(id(0, 4), Some(id(1, 0))), push(1, 3)];
        assert_eq!(judged(&[], &marker), []);
    }

    #[test]
    fn a_repetition_is_detected_even_if_it_is_marked() {
        let again =
            [HeardEvent::Began(id(1, 0)), push(1, 1), push(1, 2), HeardEvent::Connected, replayed(1, 2), push(1, 3)];
        assert_eq!(judged(&[], &again), [BrokenPromise::Repeated(id(1, 2))]);
    }

    #[test]
    fn order_and_content_are_checked() {
        let heard = [HeardEvent::Began(id(1, 0)), push(1, 2), push(1, 1)];
        let found = judged(&[], &heard);
        assert!(found.contains(&BrokenPromise::Misordered { before: id(1, 2), after: id(1, 1) }), "{found:?}");
        let forked = HeardEvent::Push { id: id(1, 1), number: 7, replayed: false, snapshot: false };
        let found = judged(&[(1, 1)], &[HeardEvent::Began(id(1, 0)), forked]);
        assert_eq!(found, [BrokenPromise::Forked { id: id(1, 1), acknowledged: 101, delivered: 7 }]);
    }

    #[test]
    fn only_the_newest_value_is_guaranteed() {
        let heard = [HeardEvent::Began(id(1, 0)), push(1, 2), push(1, 5)];
        let known = acknowledged(&[(1, 1), (1, 2), (1, 5)]);
        assert_eq!(judge(Class::State, &known, now(&heard).iter()), []);
        let known = acknowledged(&[(1, 5), (1, 6)]);
        assert_eq!(judge(Class::State, &known, now(&heard).iter()), [BrokenPromise::Lost(id(1, 6))]);
    }

    #[test]
    fn another_branch_is_excused_by_a_later_doubt() {
        let doubt =
            HeardEvent::Gap { after: id(5, 0), before: Some(id(9, 0)), reason: "failover".into(), is_counted: false };
        let heard = [HeardEvent::Began(id(1, 0)), push(1, 1), push(5, 0), doubt, push(9, 0)];
        let began = Instant::now();
        let second = |number: usize| began + Duration::from_secs(number as u64);
        let heard: Vec<_> = heard.into_iter().enumerate().map(|(number, heard)| (second(number), heard)).collect();
        let of = |seconds: usize| {
            let mut known = acknowledged(&[(1, 1), (3, 0), (5, 0), (9, 0)]);
            known.get_mut(&id(3, 0)).unwrap().at = second(seconds);
            judge(Class::Reliable, &known, heard.iter())
        };
        assert_eq!(of(2), [], "it was in generation 5, and the doubt was reported later");
        assert_eq!(of(1), [BrokenPromise::Lost(id(3, 0))], "it was before it, and passed it");
        assert_eq!(of(3), [BrokenPromise::Lost(id(3, 0))], "the doubt was reported before");
    }
}
