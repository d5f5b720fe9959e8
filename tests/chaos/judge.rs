//! What a client may have heard, given what publishers were told. Pure: it reads two records and names what is wrong.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use tickgate_wire::model::{Class, StreamId};

use crate::record::{Acknowledged, Heard};

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, never delivered, and no gap covers it.
    Lost(StreamId),
    /// Delivered twice: at all to a client that keeps a cursor, without `replayed` to one that does not.
    Repeated(StreamId),
    /// Came after a greater one of the same connection.
    Misordered {
        before: StreamId,
        after: StreamId,
    },
    /// Numbers are missing between two neighbours, and no gap was told between them.
    Hole {
        from: StreamId,
        to: StreamId,
    },
    /// The content of an id is not what was acknowledged under it.
    Forked {
        id: StreamId,
        acknowledged: u64,
        delivered: u64,
    },
    /// One publication came twice under two ids of one epoch.
    PublishedTwice {
        number: u64,
        first: StreamId,
        second: StreamId,
    },
    Malformed(String),
}

/// Where a client stands while its diary is read.
#[derive(Default)]
struct Reading {
    /// The greatest id delivered, and the last one of this connection.
    most: Option<StreamId>,
    last: Option<StreamId>,
    delivered: BTreeMap<StreamId, u64>,
    numbers: HashMap<u64, StreamId>,
    /// Ranges that were told as missing; an open one ends where the next push begins.
    gaps: Vec<(StreamId, Option<StreamId>)>,
    /// Gaps told since the last push.
    fresh: usize,
    /// Where the client stood from each moment on.
    stood: Vec<(Instant, StreamId)>,
    /// When it was told that nobody knows what is missing.
    doubts: Vec<Instant>,
    began: Option<StreamId>,
    violations: Vec<Violation>,
}

/// Judges one stream of one client. `acknowledged`: all that publishers were told of it.
pub fn judge<'a>(
    class: Class,
    acknowledged: &BTreeMap<StreamId, Acknowledged>,
    heard: impl Iterator<Item = &'a (Instant, Heard)>,
) -> Vec<Violation> {
    let mut reading = Reading::default();
    for (at, heard) in heard {
        match heard {
            Heard::Connected => reading.last = None,
            Heard::Began(position) => reading.begin(*position),
            Heard::Malformed(text) => reading.violations.push(Violation::Malformed(text.clone())),
            Heard::Gap { after, before, is_counted, .. } => {
                reading.fresh += 1;
                reading.gaps.push((*after, *before));
                reading.doubts.extend((!is_counted).then_some(*at));
            }
            Heard::Push { id, number, replayed, snapshot } => {
                reading.push(class, (*id, *number), *replayed || *snapshot);
            }
        }
        reading.stood.extend(reading.most.map(|most| (*at, most)));
    }
    reading.close(class, acknowledged);
    reading.violations
}

impl Reading {
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
            self.violations.push(Violation::Misordered { before: last, after: id });
        }
        if self.delivered.contains_key(&id) {
            if class != Class::State || !marked {
                self.violations.push(Violation::Repeated(id));
            }
        } else if class != Class::State {
            self.check_hole(id);
        }
        if let Some(first) = self.numbers.insert(number, id)
            && first != id
            && first.epoch == id.epoch
        {
            self.violations.push(Violation::PublishedTwice { number, first, second: id });
        }
        for gap in self.gaps.iter_mut().filter(|(_, before)| before.is_none()) {
            gap.1 = Some(id);
        }
        self.delivered.insert(id, number);
        self.last = Some(id);
        self.most = self.most.max(Some(id));
        self.fresh = 0;
    }

    /// Within an epoch numbers are contiguous; an epoch begins at 0. What a marker of lost publications takes up is
    /// told as a gap in its place.
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
            self.violations.push(Violation::Hole { from, to: id });
        }
    }

    fn close(&mut self, class: Class, acknowledged: &BTreeMap<StreamId, Acknowledged>) {
        let Some(began) = self.began else { return };
        for (id, number) in &self.delivered {
            if let Some(known) = acknowledged.get(id)
                && known.number != *number
            {
                let violation = Violation::Forked { id: *id, acknowledged: known.number, delivered: *number };
                self.violations.push(violation);
            }
        }
        let owed = acknowledged.keys().filter(|id| **id > began);
        // Of values only the newest is owed.
        let newest = owed.clone().next_back();
        let lost = owed
            .filter(|id| class != Class::State || Some(*id) == newest)
            .filter(|id| !self.delivered.contains_key(id) && !self.gaps.iter().any(|gap| covers(*gap, **id)))
            .filter(|id| !self.is_of_another_branch(**id, acknowledged[*id].at));
        let lost: Vec<_> = lost.map(|id| Violation::Lost(*id)).collect();
        self.violations.extend(lost);
    }

    /// Acknowledged on a branch that this client had no part in: it stood in a later generation already. Where the
    /// branches meet it is told of a doubt, whose range begins where it stands (docs/guarantees.md, "Two branches").
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

    fn acknowledged(ids: &[(u64, u64)]) -> BTreeMap<StreamId, Acknowledged> {
        let at = Instant::now();
        let number = |id: StreamId| id.epoch * 100 + id.seq;
        ids.iter().map(|(e, s)| (id(*e, *s), Acknowledged { number: number(id(*e, *s)), at })).collect()
    }

    fn push(epoch: u64, seq: u64) -> Heard {
        Heard::Push { id: id(epoch, seq), number: epoch * 100 + seq, replayed: false, snapshot: false }
    }

    fn replayed(epoch: u64, seq: u64) -> Heard {
        Heard::Push { id: id(epoch, seq), number: epoch * 100 + seq, replayed: true, snapshot: false }
    }

    fn gap(after: StreamId, before: Option<StreamId>) -> Heard {
        Heard::Gap { after, before, reason: "failover".into(), is_counted: true }
    }

    fn now(heard: &[Heard]) -> Vec<(Instant, Heard)> {
        heard.iter().map(|heard| (Instant::now(), heard.clone())).collect()
    }

    fn judged(ids: &[(u64, u64)], heard: &[Heard]) -> Vec<Violation> {
        judge(Class::Reliable, &acknowledged(ids), now(heard).iter())
    }

    #[test]
    fn a_whole_stream_is_fine() {
        let heard = [Heard::Began(id(1, 0)), push(1, 1), push(1, 2), push(5, 0), push(5, 1)];
        assert_eq!(judged(&[(1, 0), (1, 1), (1, 2), (5, 0), (5, 1)], &heard), []);
    }

    #[test]
    fn what_never_came_is_lost_unless_it_was_told() {
        let heard = [Heard::Began(id(1, 0)), push(1, 1)];
        assert_eq!(judged(&[(1, 1), (1, 2)], &heard), [Violation::Lost(id(1, 2))]);
        let told = [Heard::Began(id(1, 0)), push(1, 1), gap(id(1, 1), Some(id(2, 0))), push(2, 0)];
        assert_eq!(judged(&[(1, 1), (1, 2), (2, 0)], &told), []);
        let open = [Heard::Began(id(1, 0)), push(1, 1), gap(id(1, 1), None), push(2, 0)];
        assert_eq!(judged(&[(1, 1), (1, 2), (2, 0), (2, 1)], &open), [Violation::Lost(id(2, 1))]);
    }

    #[test]
    fn a_hole_is_seen_even_where_nobody_knows_what_was_in_it() {
        let heard = [Heard::Began(id(1, 0)), push(1, 1), push(1, 3)];
        assert_eq!(judged(&[], &heard), [Violation::Hole { from: id(1, 1), to: id(1, 3) }]);
        let late = [Heard::Began(id(1, 0)), push(1, 1), push(2, 1)];
        assert_eq!(judged(&[], &late), [Violation::Hole { from: id(1, 1), to: id(2, 1) }]);
        let marker = [Heard::Began(id(1, 0)), push(1, 1), gap(id(0, 4), Some(id(1, 0))), push(1, 3)];
        assert_eq!(judged(&[], &marker), []);
    }

    #[test]
    fn a_repeat_is_one_also_where_it_is_marked() {
        let again = [Heard::Began(id(1, 0)), push(1, 1), push(1, 2), Heard::Connected, replayed(1, 2), push(1, 3)];
        assert_eq!(judged(&[], &again), [Violation::Repeated(id(1, 2))]);
    }

    #[test]
    fn order_and_content_are_checked() {
        let heard = [Heard::Began(id(1, 0)), push(1, 2), push(1, 1)];
        let found = judged(&[], &heard);
        assert!(found.contains(&Violation::Misordered { before: id(1, 2), after: id(1, 1) }), "{found:?}");
        let forked = Heard::Push { id: id(1, 1), number: 7, replayed: false, snapshot: false };
        let found = judged(&[(1, 1)], &[Heard::Began(id(1, 0)), forked]);
        assert_eq!(found, [Violation::Forked { id: id(1, 1), acknowledged: 101, delivered: 7 }]);
    }

    #[test]
    fn of_values_only_the_newest_is_owed() {
        let heard = [Heard::Began(id(1, 0)), push(1, 2), push(1, 5)];
        let known = acknowledged(&[(1, 1), (1, 2), (1, 5)]);
        assert_eq!(judge(Class::State, &known, now(&heard).iter()), []);
        let known = acknowledged(&[(1, 5), (1, 6)]);
        assert_eq!(judge(Class::State, &known, now(&heard).iter()), [Violation::Lost(id(1, 6))]);
    }

    #[test]
    fn another_branch_is_excused_by_a_doubt_that_came_after_it() {
        let doubt =
            Heard::Gap { after: id(5, 0), before: Some(id(9, 0)), reason: "failover".into(), is_counted: false };
        let heard = [Heard::Began(id(1, 0)), push(1, 1), push(5, 0), doubt, push(9, 0)];
        let began = Instant::now();
        let second = |number: usize| began + Duration::from_secs(number as u64);
        let heard: Vec<_> = heard.into_iter().enumerate().map(|(number, heard)| (second(number), heard)).collect();
        let of = |seconds: usize| {
            let mut known = acknowledged(&[(1, 1), (3, 0), (5, 0), (9, 0)]);
            known.get_mut(&id(3, 0)).unwrap().at = second(seconds);
            judge(Class::Reliable, &known, heard.iter())
        };
        assert_eq!(of(2), [], "it stood in generation 5, and the doubt came later");
        assert_eq!(of(1), [Violation::Lost(id(3, 0))], "it stood before, and went past it");
        assert_eq!(of(3), [Violation::Lost(id(3, 0))], "the doubt was told before");
    }
}
