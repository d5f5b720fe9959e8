//! The content of the `{gen}` hash: the generation, its members, and what is known about boundaries. Pure: `roster`
//! decides what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tickgate_wire::model::StreamId;

use crate::history::{BorderState, Generations};

/// How far back a dataset may go, in seconds: marks of members that left are kept this long.
pub(super) const MARK_KEPT_S: u64 = 86_400;
/// Maximum number of remembered boundaries; the oldest is removed, and older cursors receive a gap.
pub(super) const BORDERS_MAX: usize = 256;
/// Maximum number of remembered lost ids. Beyond it the boundary becomes doubtful.
pub(super) const LOST_MAX: usize = 10_000;

/// The content of `{gen}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GenerationRecord {
    /// The current generation.
    pub(super) g: u64,
    /// The replication id of the server for which it was created.
    pub(super) identity: String,
    /// The greatest epoch given.
    pub(super) alloc: u64,
    pub(super) state: GenerationState,
}

/// The part of `{gen}` that is written as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationState {
    /// The version, incremented when a member joins.
    pub(super) v: u64,
    pub(super) members: BTreeMap<String, MemberEntry>,
    pub(super) borders: Vec<GenerationStart>,
    /// Lost ids by topic.
    pub(super) lost: BTreeMap<String, BTreeSet<StreamId>>,
    /// Boundaries before this generation were removed.
    pub(super) floor: u64,
    /// Engines publish in this generation directly, so it is unknown what they acknowledged.
    #[serde(default)]
    pub(super) engines: bool,
}

/// A member: a gateway that may acknowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberEntry {
    /// It has attached to this generation and was not removed.
    pub(super) present: bool,
    /// It may acknowledge: all required members have confirmed it.
    pub(super) ready: bool,
    /// When it left or was removed, in seconds since 1970: everything that it acknowledged precedes this mark. 0:
    /// neither.
    pub(super) gone: u64,
    /// The version of the roster in which it joined, and the one that it has confirmed.
    pub(super) since: u64,
    pub(super) confirmed: u64,
    /// The members whose claims it took over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) heirs: BTreeSet<String>,
    /// The process, in a form that others on the same machine can check.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) process: String,
    /// The topic rules, which must be equal for all members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rules: Vec<String>,
}

/// A boundary: the start of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationStart {
    pub(super) g: u64,
    pub(super) state: BorderState,
    /// When it was created, in seconds since 1970.
    pub(super) at: u64,
    /// The generations that end here.
    pub(super) ends: BTreeSet<u64>,
    /// The members that may have acknowledged in them, and those of them that have reported.
    pub(super) needed: BTreeSet<String>,
    pub(super) accounted: BTreeSet<String>,
    /// A member certifies that `needed` is complete.
    pub(super) certified: bool,
    /// Members whose certification counts once every required gateway has given it.
    pub(super) vouched: BTreeSet<String>,
}

impl GenerationStart {
    /// Whether this generation starts or ends here.
    pub(super) fn names(&self, g: u64) -> bool {
        self.g == g || self.ends.contains(&g)
    }
}

impl GenerationRecord {
    pub(super) fn open(&self) -> BTreeSet<String> {
        self.state.open()
    }

    pub(super) fn knows(&self, g: u64) -> bool {
        g == self.g || self.state.borders.iter().any(|border| border.names(g))
    }

    /// Whether a member of generation `own`, which knows `copy`, comes from a branch unknown to the dataset (a member
    /// started on an empty or older server without this member's knowledge), and ids acknowledged in one branch may be
    /// below positions of readers of the other. No range describes them, so the boundary at which they meet is doubtful
    /// even if every member has reported.
    pub(super) fn is_foreign_to(&self, own: u64, copy: &GenerationState) -> bool {
        if own == 0 || self.knows(own) {
            return false;
        }
        let (mine, theirs) = (&copy.borders, &self.state.borders);
        let is_mine = |g: u64| g == own || g <= copy.floor || mine.iter().any(|border| border.names(g));
        let is_theirs = |g: u64| g <= self.state.floor || self.knows(g);
        // Readers wait before the first boundary without a verdict.
        let pending = theirs.iter().position(|border| border.state == BorderState::Pending);
        let reached = pending.map_or(self.g, |at| {
            theirs[..at].iter().map(|border| border.g).chain(theirs[at].ends.iter().copied()).max().unwrap_or(0)
        });
        let mut given_there = theirs.iter().map(|border| border.g).chain([self.g]);
        let mut given_here = mine.iter().map(|border| border.g).chain([own]);
        given_there.any(|g| g < own && !is_mine(g)) || given_here.any(|g| g < reached && !is_theirs(g))
    }

    /// Whether a member of generation `own`, which knows `copy`, saw this generation end, and the dataset does not know
    /// that. If the generation continued here, two servers accepted publications: ids acknowledged in it are below the
    /// positions of readers that started where the member was.
    pub(super) fn was_left(&self, own: u64, copy: &GenerationState) -> bool {
        let ended = |border: &GenerationStart| border.g > self.g && border.ends.contains(&self.g);
        own > self.g && !self.knows(own) && copy.borders.iter().any(ended)
    }

    /// Whether that generation ended here and its losses are decided.
    pub(super) fn has_decided(&self, own: u64) -> bool {
        let pending = self.state.borders.iter().any(|border| border.state == BorderState::Pending);
        own != 0 && own < self.g && self.knows(own) && !pending
    }

    /// The history for readers.
    pub(super) fn history(&self) -> Generations {
        let GenerationState { borders, lost, floor, .. } = &self.state;
        Generations {
            generation: self.g,
            alloc: self.alloc,
            floor: *floor,
            borders: borders.iter().map(|border| (border.g, border.state)).collect(),
            lost: lost.iter().map(|(topic, ids)| (topic.as_str().into(), ids.iter().copied().collect())).collect(),
        }
    }
}

impl GenerationState {
    /// The members that a pending boundary still waits for.
    pub(super) fn open(&self) -> BTreeSet<String> {
        let pending = self.borders.iter().filter(|border| border.state == BorderState::Pending);
        pending.flat_map(|border| border.needed.difference(&border.accounted).cloned()).collect()
    }

    pub(super) fn last_pending(&mut self) -> Option<&mut GenerationStart> {
        self.borders.last_mut().filter(|border| border.state == BorderState::Pending)
    }

    pub(super) fn resolve(&mut self, to: BorderState) {
        for border in self.borders.iter_mut().filter(|border| border.state == BorderState::Pending) {
            border.state = to;
        }
    }

    /// Stops waiting for missing members: what they acknowledged precedes a doubtful boundary. Later boundaries do not
    /// need them again.
    pub(super) fn give_up(&mut self, now_s: u64) {
        for name in self.open() {
            let entry = self.members.entry(name).or_default();
            if !entry.present {
                (entry.ready, entry.gone) = (false, now_s.max(1));
            }
        }
        self.resolve(BorderState::Doubt);
    }

    pub(super) fn is_present(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|entry| entry.present)
    }

    /// Whether all relevant members know it as one that may acknowledge.
    pub(super) fn counts_on(&self, name: &str) -> bool {
        let known = self.members.get(name).filter(|entry| entry.ready && entry.gone == 0);
        known.is_some_and(|entry| entry.present || self.open().contains(name))
    }

    /// Decides the boundary if all members have reported and the list is certified.
    pub(super) fn settle(&mut self) {
        let open = self.open();
        let marks: BTreeSet<_> = self.marks().collect();
        let Some(last) = self.last_pending() else { return };
        let mut gateways = last.needed.iter().filter(|name| !marks.contains(*name));
        let all_vouch = !last.vouched.is_empty() && gateways.all(|name| last.vouched.contains(name));
        let certified = last.certified || all_vouch;
        if certified && open.is_subset(&last.accounted) {
            self.resolve(BorderState::Proven);
        }
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = String> {
        self.members.iter().filter(|(_, entry)| entry.gone > 0).map(|(name, _)| name.clone())
    }

    /// Whether all required gateways have confirmed this member.
    pub(super) fn is_confirmed(&self, name: &str) -> bool {
        let Some(since) = self.members.get(name).map(|entry| entry.since) else { return false };
        let open = self.open();
        let counts = |other: &String, entry: &MemberEntry| entry.present || open.contains(other);
        let mut others = self.members.iter().filter(|(other, entry)| *other != name && counts(other, entry));
        let unknown = open.iter().any(|other| other != name && !self.members.contains_key(other));
        !unknown && others.all(|(_, entry)| entry.confirmed >= since)
    }

    /// Removes what is older than a dataset may go back, and the oldest boundaries.
    pub(super) fn prune(&mut self, now_s: u64) {
        self.members.retain(|_, entry| entry.gone == 0 || now_s < entry.gone + MARK_KEPT_S);
        while self.borders.len() > BORDERS_MAX && self.borders[0].state != BorderState::Pending {
            let gone = self.borders.remove(0);
            self.floor = self.floor.max(gone.g);
            self.lost.retain(|_, ids| {
                ids.retain(|id| id.epoch >= gone.g);
                !ids.is_empty()
            });
        }
        if self.lost.values().map(BTreeSet::len).sum::<usize>() > LOST_MAX {
            self.lost.clear();
            self.borders.iter_mut().for_each(|border| border.state = BorderState::Doubt);
        }
    }
}
