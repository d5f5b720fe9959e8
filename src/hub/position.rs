//! One topic's position on this replica: order, hole check, fill. Pure: it decides, its caller reads and delivers.
//!
//! What arrives live and what is read from the stream are merged here, and nowhere else. After it, a topic's messages
//! are in stream order, none twice, and where one is missing there is a [`Step::Gap`] in its place.

use std::sync::Arc;

use tickgate_wire::{
    model::{Content, Message, StreamId},
    push::GapReason,
};

use super::ring::{Ring, RingLimits};
use crate::{
    backplane::Page,
    defect::{self, Defect},
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

/// Why there is a hole between two neighbours of what is left: another epoch means another server.
#[must_use]
pub fn reason_between(after: StreamId, before: StreamId) -> GapReason {
    if after.epoch == before.epoch || after.epoch == 0 { GapReason::Retention } else { GapReason::Failover }
}

/// What subscribers get next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Message(Arc<Message>),
    /// Everything after `after` and before `before` is missing. Always followed by the message `before`.
    Gap {
        after: StreamId,
        before: StreamId,
        reason: GapReason,
    },
}

impl Step {
    /// Whether it tells of publications that the server lost.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Message(message) if matches!(message.content, Content::Lost { .. }))
    }
}

/// What to do with an arriving message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Deliver it now.
    Next,
    /// It was delivered before.
    Repeat,
    /// It waits for a read that is under way, or for the first comparison.
    Held,
    /// It waits, and a fill must start now.
    Hole,
}

/// What is to be done after a comparison or a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the topic is live.
    Live,
    /// Read the stream after the position.
    Read,
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

    /// The link was lost: the topic is to be compared with its stream again.
    pub fn lost(&mut self) {
        self.state = State::Syncing;
        self.forget_held();
    }

    /// A message came in. `Next` moves the position; the caller delivers it.
    ///
    /// What provably comes next needs no stream, so it goes out also while the topic waits to be compared.
    pub fn arrive(&mut self, message: &Arc<Message>) -> Arrival {
        let Some(id) = message.id else { return Arrival::Next };
        let Some(at) = self.at else {
            self.hold(message);
            return Arrival::Held;
        };
        if id <= at {
            return if defect::is(Defect::NoRepeatFilter) { Arrival::Next } else { Arrival::Repeat };
        }
        let undisturbed = self.state != State::Filling && self.held.is_empty();
        if self.newest_only || (undisturbed && follows(at, message)) {
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

    /// The stream's head was read after the subscription was confirmed (or because the topic is quiet).
    pub fn compare(&mut self, head: StreamId, steps: &mut Vec<Step>) -> Next {
        match self.at {
            None => self.at = Some(head),
            // Behind the position lies a server that lost its last entries. Those here had them; the next
            // publication opens a new epoch, and the hole check tells.
            Some(at) if head <= at || defect::is(Defect::NoCompare) => {}
            Some(_) => {
                self.state = State::Filling;
                return Next::Read;
            }
        }
        self.settle(steps)
    }

    /// What the stream is to be asked now.
    #[must_use]
    pub fn ask(&self) -> Asked {
        Asked { cursor: self.at.unwrap_or_default(), hole: self.hole.number }
    }

    /// A page came back. Several reads may be under way, and what they bring may overlap.
    pub fn filled(&mut self, asked: Asked, page: &Page, steps: &mut Vec<Step>) -> Next {
        let Some(at) = self.at else { return Next::Live };
        let from = page.messages.partition_point(|m| m.id.is_none_or(|id| id <= at));
        // Another read may have moved the position meanwhile: then it is the neighbour in the page that proves.
        let neighbour = if from > 0 { page.messages[from - 1].id } else { page.contiguous.then_some(asked.cursor) };
        for (index, message) in page.messages[from..].iter().enumerate() {
            let proven = index > 0 || neighbour == Some(at) || follows(at, message);
            if !proven && !self.newest_only {
                self.tell_gap(message, reason_between, steps);
            }
            self.advance(message);
            steps.push(Step::Message(message.clone()));
        }
        if page.more {
            return Next::Read;
        }
        let doubts = asked.hole == self.hole.number && self.hole.range.is_some() && self.hole.range == self.open_hole();
        if doubts && std::mem::replace(&mut self.hole.doubted, true) {
            self.give_up(steps);
        }
        self.settle(steps)
    }

    /// The read failed: the topic waits for the next comparison.
    pub fn unfilled(&mut self) {
        self.lost();
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
    fn settle(&mut self, steps: &mut Vec<Step>) -> Next {
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|m| m.id);
        let mut waiting = held.into_iter();
        for message in waiting.by_ref() {
            let at = self.at.unwrap_or_default();
            if message.id.is_some_and(|id| id <= at) {
                continue;
            }
            if !self.newest_only && !follows(at, &message) {
                self.name_hole(at, message.id.unwrap_or_default());
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

    /// The stream does not have what would join the position to what is held: the hole is told.
    fn give_up(&mut self, steps: &mut Vec<Step>) {
        self.held.sort_by_key(|m| m.id);
        let at = self.at.unwrap_or_default();
        let Some(first) = self.held.iter().find(|m| m.id.is_some_and(|id| id > at)).cloned() else { return };
        self.tell_gap(&first, |_, _| GapReason::Backplane, steps);
        self.advance(&first);
        steps.push(Step::Message(first));
    }

    fn tell_gap(&mut self, message: &Message, reason: impl Fn(StreamId, StreamId) -> GapReason, steps: &mut Vec<Step>) {
        let (Some(after), Some(before)) = (self.at, message.id) else { return };
        self.ring.clear();
        steps.push(Step::Gap { after, before, reason: reason(after, before) });
    }

    fn advance(&mut self, message: &Arc<Message>) {
        self.at = message.id;
        // What tells of a loss is no value: the last one stays at hand.
        if !(self.newest_only && matches!(message.content, Content::Lost { .. })) {
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
        self.held.clear();
        self.held_bytes = 0;
    }
}

/// Whether `message` comes directly after `at`: the next number, or the first of an epoch that names `at` as the id
/// before it.
fn follows(at: StreamId, message: &Message) -> bool {
    let Some(id) = message.id else { return false };
    if defect::is(Defect::NoHoleCheck) {
        return true;
    }
    id.directly_after(at) || (id.seq == 0 && message.prev == Some(at))
}

#[cfg(test)]
#[path = "position_tests.rs"]
mod tests;
