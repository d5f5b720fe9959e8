//! The content of the `{gen}` hash: the generation, who may acknowledge in it, and what is known of the boundaries. Pure: what
//! follows from it is for `roster`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tickgate_wire::model::StreamId;

use crate::history::{BorderState, History};

/// As long as a dataset may go back: marks of members that left are kept, in seconds.
pub(super) const MARK_KEPT_S: u64 = 86_400;
/// Boundaries remembered; the oldest is forgotten, and cursors from before it are told.
pub(super) const BORDERS_MAX: usize = 256;
/// Lost ids remembered. Beyond it the boundary is set to doubt.
pub(super) const LOST_MAX: usize = 10_000;

/// The content of `{gen}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// The present generation.
    pub(super) g: u64,
    /// The replication id of the server for which it was made.
    pub(super) identity: String,
    /// The greatest epoch given.
    pub(super) alloc: u64,
    pub(super) state: State,
}

/// The part of `{gen}` that is written as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Raised when a member joins.
    pub(super) v: u64,
    pub(super) members: BTreeMap<String, Entry>,
    pub(super) borders: Vec<Border>,
    /// Lost ids by topic.
    pub(super) lost: BTreeMap<String, BTreeSet<StreamId>>,
    /// Boundaries before this generation are forgotten.
    pub(super) floor: u64,
    /// Engines publish in this generation themselves, outside the roster: nobody can say what they acknowledged.
    #[serde(default)]
    pub(super) engines: bool,
}

/// A gateway that may acknowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// It has attached to this generation and was not counted out.
    pub(super) present: bool,
    /// It may acknowledge: all who had to have confirmed it.
    pub(super) ready: bool,
    /// When it left or was counted out, in seconds since 1970: all that it acknowledged lies before this mark. 0: not.
    pub(super) gone: u64,
    /// The version of the roster in which it joined, and the one that it has confirmed.
    pub(super) since: u64,
    pub(super) confirmed: u64,
    /// Whose claims it took over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) heirs: BTreeSet<String>,
    /// The process, as others on the same machine can look it up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) process: String,
    /// The topic rules that all have to agree on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rules: Vec<String>,
}

/// A boundary: where a generation begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Border {
    pub(super) g: u64,
    pub(super) state: BorderState,
    /// When it was made, in seconds since 1970.
    pub(super) at: u64,
    /// Generations that end here.
    pub(super) ends: BTreeSet<u64>,
    /// Who may have acknowledged in them, and who of those is accounted for.
    pub(super) needed: BTreeSet<String>,
    pub(super) accounted: BTreeSet<String>,
    /// Somebody vouches that `needed` is complete.
    pub(super) certified: bool,
    /// Whose word counts once every gateway that is needed has given it.
    pub(super) vouched: BTreeSet<String>,
}

impl Border {
    /// Whether this generation begins or ends here.
    pub(super) fn names(&self, g: u64) -> bool {
        self.g == g || self.ends.contains(&g)
    }
}

impl Stored {
    pub(super) fn open(&self) -> BTreeSet<String> {
        self.state.open()
    }

    pub(super) fn knows(&self, g: u64) -> bool {
        g == self.g || self.state.borders.iter().any(|border| border.names(g))
    }

    /// Whether a member of generation `own`, which knows `copy`, comes from a branch that the dataset has not heard of
    /// (somebody began on an empty or older server without knowing what this member knows), and what one branch
    /// acknowledged may lie below positions that readers of the other have. No range names it to them, so the boundary at
    /// which they meet is in doubt, though everybody has reported.
    pub(super) fn is_foreign_to(&self, own: u64, copy: &State) -> bool {
        if own == 0 || self.knows(own) {
            return false;
        }
        let (mine, theirs) = (&copy.borders, &self.state.borders);
        let is_mine = |g: u64| g == own || g <= copy.floor || mine.iter().any(|border| border.names(g));
        let is_theirs = |g: u64| g <= self.state.floor || self.knows(g);
        // Readers wait before the first boundary that has no verdict.
        let pending = theirs.iter().position(|border| border.state == BorderState::Pending);
        let reached = pending.map_or(self.g, |at| {
            theirs[..at].iter().map(|border| border.g).chain(theirs[at].ends.iter().copied()).max().unwrap_or(0)
        });
        let mut given_there = theirs.iter().map(|border| border.g).chain([self.g]);
        let mut given_here = mine.iter().map(|border| border.g).chain([own]);
        given_there.any(|g| g < own && !is_mine(g)) || given_here.any(|g| g < reached && !is_theirs(g))
    }

    /// Whether a member of generation `own`, which knows `copy`, saw this generation end, and this dataset has not heard of
    /// that. Where it went on here, two servers took publications: what was acknowledged in it lies below the positions of
    /// those who began where the member was.
    pub(super) fn was_left(&self, own: u64, copy: &State) -> bool {
        let ended = |border: &Border| border.g > self.g && border.ends.contains(&self.g);
        own > self.g && !self.knows(own) && copy.borders.iter().any(ended)
    }

    /// Whether that generation ended here, and what it lost has its verdict.
    pub(super) fn has_decided(&self, own: u64) -> bool {
        let pending = self.state.borders.iter().any(|border| border.state == BorderState::Pending);
        own != 0 && own < self.g && self.knows(own) && !pending
    }

    /// For readers.
    pub(super) fn history(&self) -> History {
        let State { borders, lost, floor, .. } = &self.state;
        History {
            generation: self.g,
            alloc: self.alloc,
            floor: *floor,
            borders: borders.iter().map(|border| (border.g, border.state)).collect(),
            lost: lost.iter().map(|(topic, ids)| (topic.as_str().into(), ids.iter().copied().collect())).collect(),
        }
    }
}

impl State {
    /// Who is still missing at a pending boundary.
    pub(super) fn open(&self) -> BTreeSet<String> {
        let pending = self.borders.iter().filter(|border| border.state == BorderState::Pending);
        pending.flat_map(|border| border.needed.difference(&border.accounted).cloned()).collect()
    }

    pub(super) fn last_pending(&mut self) -> Option<&mut Border> {
        self.borders.last_mut().filter(|border| border.state == BorderState::Pending)
    }

    pub(super) fn resolve(&mut self, to: BorderState) {
        for border in self.borders.iter_mut().filter(|border| border.state == BorderState::Pending) {
            border.state = to;
        }
    }

    /// Nobody waits any longer for those that are missing: what they acknowledged lies before a boundary in doubt. Later
    /// boundaries do not need them again.
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

    /// Whether all who count know it as one that may acknowledge.
    pub(super) fn counts_on(&self, name: &str) -> bool {
        let known = self.members.get(name).filter(|entry| entry.ready && entry.gone == 0);
        known.is_some_and(|entry| entry.present || self.open().contains(name))
    }

    /// All are accounted for, and somebody vouches that they are all.
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

    /// Whether all gateways that have to have confirmed that they know it.
    pub(super) fn is_confirmed(&self, name: &str) -> bool {
        let Some(since) = self.members.get(name).map(|entry| entry.since) else { return false };
        let open = self.open();
        let counts = |other: &String, entry: &Entry| entry.present || open.contains(other);
        let mut others = self.members.iter().filter(|(other, entry)| *other != name && counts(other, entry));
        let unknown = open.iter().any(|other| other != name && !self.members.contains_key(other));
        !unknown && others.all(|(_, entry)| entry.confirmed >= since)
    }

    /// Forgets what is older than a dataset may go back, and the oldest boundaries.
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
