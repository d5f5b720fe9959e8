//! One topic's position on this replica: order, hole check, fill. Pure: it decides, its caller reads and delivers.
//!
//! What arrives live and what is read from the stream are merged here, and nowhere else. After it, a topic's messages
//! are in stream order, none twice, and where one is missing there is a [`Step::Gap`] in its place.

use std::sync::Arc;

use tickgate_wire::model::{Content, Message, StreamId};

use super::{
    gap::Gap,
    ring::{Ring, RingLimits},
    step::{Arrival, Judge, Next, Step},
};
use crate::{
    backplane::{Lack, Page},
    defect::{self, Defect},
    history::{History, StillPending, Verdict},
};

/// Live messages of a topic held while a read is under way, in number and bytes. Past it they are forgotten: the stream
/// has them.
const HELD_MAX: usize = 4_096;
const HELD_BYTES_MAX: usize = 4 << 20;

/// Where a topic stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The subscription is not confirmed, or not yet compared with the stream.
    Syncing,
    /// Each arriving message is checked and delivered at once.
    Live,
    /// A hole was seen: the stream is being read from the position on.
    Filling,
}

/// The position, what was recently delivered, and what waits.
#[derive(Debug)]
pub struct Position {
    state: State,
    /// The last id delivered; `None` until first compared with the stream.
    at: Option<StreamId>,
    ring: Ring,
    limits: RingLimits,
    /// Only the newest counts: holes are no holes.
    newest_only: bool,
    held: Vec<Arc<Message>>,
    held_bytes: usize,
    hole: Hole,
    /// Everything was heard since the position was the end of the stream.
    unbroken: bool,
}

/// What lies between the position and the first message that waits.
#[derive(Clone, Copy, Debug, Default)]
struct Hole {
    /// Both ends.
    range: Option<(StreamId, StreamId)>,
    /// Tells apart the holes of this topic: only a read that was asked for this one says anything about it.
    number: u64,
    /// A read brought nothing that fills it: one more chance, then it is told.
    doubted: bool,
}

/// A read of the stream, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Read what comes after this.
    pub cursor: StreamId,
    hole: u64,
}

impl Position {
    /// A topic nobody has looked at yet. `newest_only` for topics of class `state`.
    #[must_use]
    pub fn new(newest_only: bool, limits: RingLimits) -> Self {
        Self {
            state: State::Syncing,
            at: None,
            ring: Ring::default(),
            limits: if newest_only { RingLimits { messages_max: 1, ..limits } } else { limits },
            newest_only,
            held: Vec::new(),
            held_bytes: 0,
            hole: Hole::default(),
            unbroken: false,
        }
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The last id delivered on this replica, once known.
    #[must_use]
    pub fn at(&self) -> Option<StreamId> {
        self.at
    }

    /// How many messages are known to lie between the position and the newest that was heard; 0 where it is in step, or
    /// that can't be counted.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let newest = self.held.iter().filter_map(|message| message.id).max();
        let known = self.at.zip(newest).and_then(|(at, newest)| StreamId::missing_between(at, newest.next()));
        if self.newest_only { 0 } else { known.unwrap_or_default() }
    }

    /// The link was lost: the topic is to be compared with its stream again.
    pub fn lost(&mut self) {
        self.state = State::Syncing;
        self.unbroken = false;
        self.forget_held();
    }

    /// A message came in. `Next` moves the position; the caller delivers it.
    ///
    /// What provably comes next needs no stream, so it goes out also while the topic waits to be compared.
    pub fn arrive(&mut self, message: &Arc<Message>, judge: Judge<'_>) -> Arrival {
        let Some(id) = message.id else { return Arrival::Next };
        let Some(at) = self.at else {
            self.hold(message);
            return Arrival::Held;
        };
        if id <= at {
            return match () {
                () if defect::is(Defect::NoRepeatFilter) => Arrival::Next,
                () if id == at || self.ring.has(id) || self.state != State::Live => Arrival::Repeat,
                () => Arrival::Past,
            };
        }
        let undisturbed = self.state != State::Filling && self.held.is_empty();
        let unbroken = self.unbroken && self.state == State::Live;
        let next = self.newest_only || (undisturbed && judge.step(at, message, unbroken) == Verdict::Direct);
        if next && judge.is_given(id) {
            self.advance(message);
            return Arrival::Next;
        }
        self.hold(message);
        if self.state != State::Live {
            return Arrival::Held;
        }
        self.state = State::Filling;
        self.name_hole(at, id);
        Arrival::Hole
    }

    /// The end of the stream was read after the subscription was confirmed (or because the topic is quiet); `None`: there is
    /// no stream. `before`: the position when it was asked for.
    pub fn compare(
        &mut self,
        end: Option<StreamId>,
        before: Option<StreamId>,
        judge: Judge<'_>,
        steps: &mut Vec<Step>,
    ) -> Next {
        let history = judge.history;
        match (self.at, end) {
            (None, None) => return Next::Anchor,
            // Whoever begins now has nothing to do with what lies before this generation, but with what is acknowledged
            // elsewhere while nobody has decided where that one ends.
            (None, Some(end)) if history.is_pending() => self.at = Some(end),
            (None, Some(end)) => self.at = Some(end.max(history.beginning())),
            (Some(_), None) if self.newest_only => {}
            // What came last is known, and the next entry will be.
            (Some(at), None) if self.unbroken && at.seq != StreamId::SEQ_END => {}
            // A place is never restored: what was published there may be gone with it, and must not be given twice.
            (Some(_), None) => return Next::Anchor,
            (Some(_), Some(_)) if defect::is(Defect::NoCompare) => {}
            (Some(at), Some(end)) => {
                if went_back(before, end, history) {
                    return Next::Doubt;
                }
                match history.end(judge.topic, at, end) {
                    Ok(None) => {}
                    // It moved on since the end was read.
                    Ok(Some((_, to))) if to < at => {}
                    Ok(Some(_)) => {
                        self.state = State::Filling;
                        return Next::Read;
                    }
                    Err(StillPending) => {
                        self.state = State::Filling;
                        return if at < end { Next::Read } else { Next::Wait };
                    }
                }
            }
        }
        self.unbroken = true;
        self.settle(judge, steps)
    }

    /// Nothing is kept, so there is nothing to compare with: whatever comes is live.
    pub fn begin_unkept(&mut self) -> Next {
        self.at.get_or_insert(StreamId::ZERO);
        self.state = State::Live;
        Next::Live
    }

    /// What the stream is to be asked now.
    #[must_use]
    pub fn ask(&self) -> Asked {
        Asked { cursor: self.at.unwrap_or_default(), hole: self.hole.number }
    }

    /// A page came back. Several reads may be under way, and what they bring may overlap.
    pub fn filled(&mut self, asked: Asked, page: &Page, judge: Judge<'_>, steps: &mut Vec<Step>) -> Next {
        let Some(mut at) = self.at else { return Next::Live };
        let from = page.messages.partition_point(|m| m.id.is_none_or(|id| id <= at));
        for message in &page.messages[from..] {
            match judge.step(at, message, self.unbroken) {
                _ if self.newest_only => {}
                Verdict::Direct => {}
                Verdict::Gap(missing) => {
                    let before = message.id.unwrap_or(at);
                    self.tell(&Lack::between(missing, at, before), steps);
                }
                Verdict::Pending => return Next::Wait,
            }
            self.advance(message);
            steps.push(Step::Message(message.clone()));
            at = message.id.unwrap_or(at);
        }
        if page.more {
            return Next::Read;
        }
        if let Some(next) = self.end(at, (asked.cursor, page.end), judge, steps) {
            return next;
        }
        let doubts = asked.hole == self.hole.number && self.hole.range.is_some() && self.hole.range == self.open_hole();
        if doubts && std::mem::replace(&mut self.hole.doubted, true) {
            // Twice the stream did not have what was heard: nobody stored it.
            self.forget_held();
        }
        self.unbroken = true;
        self.settle(judge, steps)
    }

    /// A read came to the end of the stream. What else has to be done, if the topic can't go on.
    fn end(
        &mut self,
        at: StreamId,
        (asked, end): (StreamId, Option<StreamId>),
        judge: Judge<'_>,
        steps: &mut Vec<Step>,
    ) -> Option<Next> {
        if self.newest_only {
            return None;
        }
        let Some(end) = end else { return (!self.unbroken).then_some(Next::Anchor) };
        if went_back(Some(asked), end, judge.history) {
            return Some(Next::Doubt);
        }
        match judge.history.end(judge.topic, at, end) {
            Ok(Some((missing, to))) if to > at => {
                self.tell(&Lack::until(missing, at, to), steps);
                self.at = Some(to);
                None
            }
            Ok(_) => None,
            Err(StillPending) => Some(Next::Wait),
        }
    }

    /// The read failed: the topic waits for the next comparison.
    pub fn unfilled(&mut self) {
        self.state = State::Syncing;
        self.forget_held();
    }

    /// Messages after `cursor` up to the position, when that can be proven without reading the stream.
    #[must_use]
    pub fn since(&self, cursor: StreamId) -> Option<Vec<Arc<Message>>> {
        if defect::is(Defect::NoRepeatFilter) {
            return Some(self.ring.all());
        }
        if self.at == Some(cursor) {
            return Some(Vec::new());
        }
        self.ring.after(cursor)
    }

    /// The newest message delivered here, if it is still at hand.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Message>> {
        self.ring.newest().cloned()
    }

    /// The last `count` messages up to the position, if all are at hand.
    #[must_use]
    pub fn last(&self, count: usize) -> Option<Vec<Arc<Message>>> {
        self.ring.last(count)
    }

    /// Delivers what was held as far as it follows; live when nothing is left.
    fn settle(&mut self, judge: Judge<'_>, steps: &mut Vec<Step>) -> Next {
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|m| m.id);
        let mut waiting = held.into_iter();
        for message in waiting.by_ref() {
            let (at, id) = (self.at.unwrap_or_default(), message.id.unwrap_or_default());
            if id <= at {
                continue;
            }
            let next = self.newest_only || judge.step(at, &message, self.unbroken) == Verdict::Direct;
            if !next || !judge.is_given(id) {
                self.name_hole(at, id);
                self.held.push(message);
                break;
            }
            self.advance(&message);
            steps.push(Step::Message(message));
        }
        self.held.extend(waiting);
        self.held_bytes = self.held.iter().map(|m| m.payload_bytes()).sum();
        if self.held.is_empty() {
            self.state = State::Live;
            return Next::Live;
        }
        self.state = State::Filling;
        Next::Read
    }

    /// What lies between the position and the first message that waits behind it.
    fn open_hole(&self) -> Option<(StreamId, StreamId)> {
        let at = self.at?;
        let first = self.held.iter().filter_map(|m| m.id).filter(|id| *id > at).min()?;
        Some((at, first))
    }

    fn name_hole(&mut self, after: StreamId, before: StreamId) {
        let range = Some((after, before));
        if self.hole.range != range {
            self.hole = Hole { range, number: self.hole.number + 1, doubted: false };
        }
    }

    fn tell(&mut self, lack: &Lack, steps: &mut Vec<Step>) {
        self.ring.clear();
        steps.push(Step::Gap(Gap::of(lack)));
    }

    fn advance(&mut self, message: &Arc<Message>) {
        self.at = message.id;
        // What tells of a loss is no value: the last one stays at hand.
        if !(self.newest_only && matches!(message.content, Content::Unreadable)) {
            self.ring.push(message.clone(), self.limits);
        }
    }

    fn hold(&mut self, message: &Arc<Message>) {
        if self.held.len() == HELD_MAX || self.held_bytes > HELD_BYTES_MAX {
            self.forget_held();
        }
        self.held_bytes += message.payload_bytes();
        self.held.push(message.clone());
    }

    fn forget_held(&mut self) {
        // What was heard and is forgotten was not heard.
        self.unbroken &= self.held.is_empty();
        self.held.clear();
        self.held_bytes = 0;
    }
}

/// Whether the stream is older than a position that was given in this generation.
fn went_back(before: Option<StreamId>, end: StreamId, history: &History) -> bool {
    before.is_some_and(|at| at > end && at.seq != StreamId::SEQ_END && at.epoch >= history.generation)
}

#[cfg(test)]
#[path = "position_tests.rs"]
mod tests;
