//! Decides how a member changes the `{gen}` hash: attach and report, join, remove silent members, decide boundaries,
//! leave. Pure: `member` reads and writes.
//!
//! The protocol, its reasons and its limits are in docs/adr; `tests/model` searches it for mistakes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tickgate_wire::model::StreamId;

use super::generation::{GenerationRecord, GenerationStart, GenerationState, MARK_KEPT_S, MemberEntry};
use crate::history::BorderState;

/// How long a member may be silent before a ready member removes it.
pub(super) const LEASE_MS: u64 = 10_000;
/// The same if no other member has confirmed the removing member.
pub(super) const LONE_LEASE_MS: u64 = 60_000;
/// How long a boundary waits for members that may have acknowledged before it. Doubt is always safe; links reconnect
/// within a second or two.
const VERDICT_MS: u64 = 5_000;
/// Adds a margin: clocks differ by less than a tenth.
const fn with_margin(lease_ms: u64) -> u64 {
    lease_ms + lease_ms / 10
}
/// What a member remembers about itself in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberMemory {
    base: String,
    /// How often it had to join under a new name.
    joins: u32,
    pub(super) process: String,
    pub(super) rules: Vec<String>,
    /// Engines publish without the roster.
    engines: bool,
    /// The generation that it is attached to, and the server's identity; 0 before the first.
    pub(super) g: u64,
    pub(super) identity: String,
    /// The greatest epoch that it has seen.
    pub(super) known: u64,
    /// Every member that it has ever confirmed.
    view: BTreeMap<String, KnownMember>,
    /// The members whose claims it took over.
    pub(super) heirs: BTreeSet<String>,
    /// The member's copy of the state.
    pub(super) copy: GenerationState,
    /// The beats of other members: the number, and since when it is unchanged.
    seen: HashMap<String, (u64, u64)>,
    /// Since when the last boundary has been pending.
    waits: Option<(u64, u64)>,
}

/// What is remembered about a member.
#[derive(Clone, Debug, Default)]
struct KnownMember {
    process: String,
    /// When it was marked as gone, in seconds since 1970; 0: never seen so.
    gone: u64,
}

/// The state of the server on attaching, apart from the hash.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerState {
    /// The server's replication id.
    pub(super) identity: String,
    pub(super) now_s: u64,
    pub(super) random: u64,
    /// The dataset went back although its identity is the same.
    pub(super) went_back: bool,
    /// Another member has sent beats since this member left it.
    pub(super) went_on: bool,
    /// Time since the last answered beat was sent; `None`: never.
    pub(super) silent_ms: Option<u64>,
    /// Acknowledged ids that are missing from this dataset.
    pub(super) lost: Vec<(String, StreamId)>,
    /// It is unknown which are missing, because acknowledged ids were dropped.
    pub(super) forgot: bool,
}

impl MemberMemory {
    pub(super) fn new(base: &str, process: String, rules: Vec<String>, engines: bool) -> Self {
        Self { base: base.to_owned(), process, rules, engines, ..Self::default() }
    }

    /// The name in the roster. Each join has a new name: a mark does not apply to a later join.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.base, self.joins)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        (0..=self.joins).map(|join| format!("{}.{join}", self.base))
    }

    /// Whether it must attach: its server or generation changed, or the others no longer rely on it.
    pub(super) fn must_attach(&self, stored: Option<&GenerationRecord>, place: &ServerState) -> bool {
        let Some(stored) = stored else { return true };
        place.went_back
            || stored.g != self.g
            || stored.identity != place.identity
            || self.identity != place.identity
            || stored.alloc < self.known
            || !stored.state.is_present(&self.name())
    }

    /// Attaches: adopts the server's state, joins the roster, and reports what it knows about earlier generations.
    pub(super) fn attach(&mut self, stored: Option<GenerationRecord>, place: &ServerState) -> GenerationRecord {
        let same = stored.as_ref().is_some_and(|stored| {
            stored.identity == place.identity
                && stored.alloc >= self.known
                && !place.went_back
                && !self.is_of_a_side_branch(stored)
        });
        let is_foreign = stored.as_ref().is_some_and(|stored| {
            let went_on = place.went_on || stored.identity == place.identity;
            stored.is_foreign_to(self.g, &self.copy) || went_on && stored.was_left(self.g, &self.copy)
        });
        let is_late = stored.as_ref().is_some_and(|stored| self.is_late(stored, place));
        let same = same && !is_late;
        let mut next = match stored {
            Some(stored) if same => stored,
            stored => self.begin(stored, place),
        };
        // Before the report: members that have reported were needed.
        let was_ready = next.state.counts_on(&self.name());
        if self.g != 0 && self.g != next.g {
            self.report(&mut next, place);
        }
        // A pending boundary behind a decided one would never get a verdict.
        if is_foreign || is_late || next.state.last_pending().is_none() {
            next.state.resolve(BorderState::Doubt);
        }
        next.state.settle();
        self.join(&mut next, was_ready);
        next.state.prune(place.now_s);
        next
    }

    fn is_of_a_side_branch(&self, stored: &GenerationRecord) -> bool {
        let pending = stored.state.borders.last().is_some_and(|border| border.state == BorderState::Pending);
        self.g != 0 && !stored.knows(self.g) && !pending
    }

    /// Whether it reports a loss of a generation whose end is decided: it continued alone after the other members had
    /// left, and later readers have positions above what it acknowledged.
    fn is_late(&self, stored: &GenerationRecord, place: &ServerState) -> bool {
        let known = |(topic, id): &(String, StreamId)| stored.state.lost.get(topic).is_some_and(|ids| ids.contains(id));
        let lacks = place.forgot || !place.lost.iter().all(known);
        lacks && stored.has_decided(self.g)
    }

    /// Starts a generation above every number that was ever seen.
    fn begin(&self, stored: Option<GenerationRecord>, place: &ServerState) -> GenerationRecord {
        let is_mine = self.identity == place.identity && place.silent_ms.is_some_and(|ms| ms < LEASE_MS);
        // The dataset cannot have been rolled back if its identity is the one for which it was created.
        let intact = !place.went_back && stored.as_ref().map_or(is_mine, |stored| stored.identity == place.identity);
        let known = stored.as_ref().map_or(0, |stored| stored.alloc).max(self.known).max(place.now_s << 21);
        let g = known + 1 + place.random % (1 << 28);
        let (ends, open) = stored.as_ref().map_or_else(Default::default, |old| (BTreeSet::from([old.g]), old.open()));
        let was_missing = stored.is_none();
        let mut state = stored.map_or_else(|| self.copy_of_mine(intact), |stored| stored.state);
        let mut needed = open;
        for (name, entry) in &mut state.members {
            if !intact {
                if entry.present && entry.ready {
                    needed.insert(name.clone());
                }
                entry.present = false;
            }
            entry.confirmed = 0;
        }
        if was_missing {
            state.members.values_mut().for_each(|entry| entry.ready = false);
        }
        // Engines do not report.
        let doubt = !intact && (state.engines || self.copy.engines);
        state.engines = self.engines;
        if doubt {
            state.resolve(BorderState::Doubt);
        }
        state.borders.push(GenerationStart {
            g,
            state: if doubt { BorderState::Doubt } else { BorderState::Pending },
            at: place.now_s,
            ends,
            needed,
            accounted: BTreeSet::new(),
            certified: intact,
            vouched: BTreeSet::new(),
        });
        GenerationRecord { g, identity: place.identity.clone(), alloc: g, state }
    }

    /// This member's copy, if only the hash was removed.
    fn copy_of_mine(&self, intact: bool) -> GenerationState {
        let mut state = if intact { self.copy.clone() } else { GenerationState::default() };
        state.v = self.copy.v;
        state
    }

    /// Reports what it knows about earlier generations. A report is a promise: from now on it acknowledges no response
    /// of an earlier generation.
    fn report(&self, next: &mut GenerationRecord, place: &ServerState) {
        let g = next.g;
        let state = &mut next.state;
        self.bring_borders(state, g);
        let inherited = state.open();
        let mine: BTreeSet<_> = self.names().collect();
        let marks: BTreeSet<_> = state.marks().filter(|name| !mine.contains(name)).collect();
        if place.forgot {
            state.resolve(BorderState::Doubt);
        }
        let Some(border) = state.last_pending() else { return };
        border.ends.insert(self.g);
        if self.identity != place.identity || place.went_back {
            border.needed.extend(self.view.keys().cloned());
            border.certified |= place.silent_ms.is_some_and(|ms| ms < LEASE_MS);
            if place.silent_ms.is_some_and(|ms| ms < LONE_LEASE_MS) {
                border.vouched.extend(mine.iter().chain(&self.heirs).cloned());
            }
        }
        border.needed.extend(inherited);
        border.accounted.extend(mine);
        border.accounted.extend(self.heirs.iter().cloned());
        border.accounted.extend(marks);
        for (topic, id) in &place.lost {
            state.lost.entry(topic.clone()).or_default().insert(*id);
        }
    }

    /// Boundaries and lost ids are stored in Redis and by every member: the copy in Redis may be lost with the tail.
    fn bring_borders(&self, state: &mut GenerationState, g: u64) {
        for border in self.copy.borders.iter().filter(|border| border.g < g && border.g > state.floor) {
            match state.borders.iter_mut().find(|known| known.g == border.g) {
                None => state.borders.push(border.clone()),
                Some(known) if known.state == BorderState::Pending && border.state == BorderState::Doubt => {
                    known.state = BorderState::Doubt;
                }
                Some(_) => {}
            }
        }
        state.borders.sort_by_key(|border| border.g);
        for (topic, ids) in &self.copy.lost {
            state.lost.entry(topic.clone()).or_default().extend(ids);
        }
    }

    fn join(&mut self, next: &mut GenerationRecord, was_ready: bool) {
        let state = &mut next.state;
        if state.members.get(&self.name()).is_some_and(|entry| entry.gone > 0) {
            self.joins += 1;
        }
        let name = self.name();
        if !state.is_present(&name) {
            state.v += 1;
        }
        let v = state.v;
        let entry = state.members.entry(name).or_default();
        if !entry.present {
            entry.since = v;
        }
        (entry.present, entry.ready, entry.confirmed) = (true, was_ready, v);
        (entry.process, entry.rules) = (self.process.clone(), self.rules.clone());
        entry.heirs = self.heirs.clone();
    }

    /// How a beat changes the roster: confirms, admits, removes, decides. True if it changed.
    pub(super) fn tend(
        &mut self,
        state: &mut GenerationState,
        beats: &BTreeMap<String, u64>,
        is_dead: impl Fn(&str) -> bool,
        (now_ms, now_s): (u64, u64),
    ) -> bool {
        let before = state.clone();
        let name = self.name();
        let v = state.v;
        if let Some(own) = state.members.get_mut(&name) {
            own.confirmed = v;
            own.heirs = self.heirs.clone();
        }
        self.count_out(state, beats, &is_dead, (now_ms, now_s));
        let may_be_ready = state.is_confirmed(&name) && self.disagreement(state).is_none();
        if let Some(own) = state.members.get_mut(&name) {
            own.ready |= own.present && may_be_ready;
        }
        state.engines |= self.engines;
        // A member that left longer ago than a dataset may go back cannot return.
        self.view.retain(|_, known| known.gone == 0 || now_s < known.gone + MARK_KEPT_S);
        self.decide(state, &is_dead, (now_ms, now_s));
        state.prune(now_s);
        *state != before
    }

    fn count_out(
        &mut self,
        state: &mut GenerationState,
        beats: &BTreeMap<String, u64>,
        is_dead: impl Fn(&str) -> bool,
        (now_ms, now_s): (u64, u64),
    ) {
        let own = self.name();
        let lease = if state.members.get(&own).is_some_and(|entry| entry.ready) { LEASE_MS } else { LONE_LEASE_MS };
        let open = state.open();
        self.seen.retain(|name, _| state.is_present(name));
        for (name, entry) in &mut state.members {
            if *name == own || !entry.present {
                continue;
            }
            let beat = beats.get(name).copied().unwrap_or(0);
            let seen = self.seen.entry(name.clone()).or_insert((beat, now_ms));
            if seen.0 != beat {
                *seen = (beat, now_ms);
            }
            let silent = now_ms - seen.1 > with_margin(lease);
            if silent || is_dead(&entry.process) {
                (entry.present, entry.ready) = (false, false);
                // For a pending boundary, only the verdict decides.
                if !open.contains(name) {
                    entry.gone = now_s.max(1);
                }
            }
        }
    }

    /// The verdict: waits only for a limited time, and not for members that have certainly ended.
    fn decide(&mut self, state: &mut GenerationState, is_dead: impl Fn(&str) -> bool, (now_ms, now_s): (u64, u64)) {
        let open = state.open();
        let ended = |name| self.view.get(name).is_some_and(|known| is_dead(&known.process));
        if !open.is_empty() && open.iter().all(ended) {
            state.give_up(now_s);
        }
        let pending = state.last_pending().map(|border| border.g);
        match (pending, self.waits) {
            (Some(g), Some((waited, since))) if waited == g => {
                if now_ms - since > VERDICT_MS {
                    state.give_up(now_s);
                }
            }
            (pending, _) => self.waits = pending.map(|g| (g, now_ms)),
        }
    }

    /// The first topic rule that differs between this replica and a ready one.
    pub(super) fn disagreement(&self, state: &GenerationState) -> Option<String> {
        let name = self.name();
        let own = state.members.get(&name)?;
        let ready = |(other, entry): &(&String, &MemberEntry)| **other != name && entry.present && entry.ready;
        let (other, entry) = state.members.iter().filter(ready).find(|(_, entry)| entry.rules != own.rules)?;
        let differs = |at: &usize| own.rules.get(*at) != entry.rules.get(*at);
        let at = (0..own.rules.len().max(entry.rules.len())).find(differs).unwrap_or(0);
        let rule = |rules: &[String]| rules.get(at).cloned().unwrap_or_else(|| "none".into());
        Some(format!("{} here, {} at {other}", rule(&own.rules), rule(&entry.rules)))
    }

    /// Adopts the roster entry that was just read or written.
    pub(super) fn settled(&mut self, stored: &GenerationRecord) {
        (self.g, self.identity) = (stored.g, stored.identity.clone());
        self.known = self.known.max(stored.alloc);
        self.note(&stored.state);
    }

    /// Adopts what it has read.
    pub(super) fn note(&mut self, state: &GenerationState) {
        let open = state.open();
        let counts = |name: &String| state.is_present(name) || open.contains(name);
        for name in state.members.keys().chain(&open).filter(|name| counts(name)) {
            self.view.entry(name.clone()).or_default();
        }
        for (name, entry) in &state.members {
            if let Some(known) = self.view.get_mut(name) {
                known.process.clone_from(&entry.process);
                known.gone = known.gone.max(entry.gone);
            }
        }
        self.copy = state.clone();
    }

    pub(super) fn is_ready(&self) -> bool {
        self.copy.members.get(&self.name()).is_some_and(|entry| entry.present && entry.ready)
    }

    /// Leaves: everything that it acknowledged precedes this mark.
    pub(super) fn leave(&self, state: &mut GenerationState, now_s: u64) {
        if let Some(entry) = state.members.get_mut(&self.name()) {
            (entry.present, entry.ready, entry.gone) = (false, false, now_s.max(1));
        }
    }

    /// The gateways that should take over what this one acknowledged, and whether each has.
    pub(super) fn heirs_of_mine(&self, state: &GenerationState) -> Vec<(String, bool)> {
        let own = self.name();
        let others = state.members.iter().filter(|(name, entry)| **name != own && entry.present);
        others.map(|(name, entry)| (name.clone(), entry.heirs.contains(&own))).collect()
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
