//! The position of one topic on this replica: order, hole check, fill. Pure: it decides; its caller reads and delivers.
//!
//! Live arrivals and stream reads are merged only here. After it, a topic's messages are in stream order and unique,
//! and a missing one is replaced by a [`Step::Gap`].

use std::sync::Arc;

use tickgate_wire::model::{Content, Message, StreamId};

use super::{
    gap::GapRange,
    ring::{Ring, RingLimits},
    step::{ArrivalAction, NextRead, Step, StepJudge},
};
use crate::{
    backplane::{MissingRange, StreamPage},
    defect::{self, Defect},
    history::{Generations, StepVerdict, StillPending},
};

/// Maximum number and size of a topic's live messages held during a read. Beyond it they are dropped, because the
/// stream has them.
const HELD_MAX: usize = 4_096;
const HELD_BYTES_MAX: usize = 4 << 20;

/// The state of a topic's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionState {
    /// The subscription is not confirmed, or not yet compared with the stream.
    Syncing,
    /// Each arriving message is checked and delivered at once.
    Live,
    /// A hole was detected: the stream is being read from the position on.
    Filling,
}

/// The position, recently delivered messages, and messages that wait.
#[derive(Debug)]
pub struct Position {
    state: PositionState,
    /// The last id delivered; `None` until first compared with the stream.
    at: Option<StreamId>,
    ring: Ring,
    limits: RingLimits,
    /// Only the newest value matters: holes are ignored.
    newest_only: bool,
    held: Vec<Arc<Message>>,
    held_bytes: usize,
    hole: PositionHole,
    /// Every message was received since the position was the end of the stream.
    unbroken: bool,
}

/// What lies between the position and the first waiting message.
#[derive(Clone, Copy, Debug, Default)]
struct PositionHole {
    /// Both ends.
    range: Option<(StreamId, StreamId)>,
    /// Identifies the hole: only a read that was started for it can resolve it.
    number: u64,
    /// One read did not fill it: after another one, it becomes a gap.
    doubted: bool,
}

/// The parameters of a stream read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRead {
    /// Read what comes after this.
    pub cursor: StreamId,
    hole: u64,
}

impl Position {
    /// The position of a new topic. `newest_only` for topics of class `state`.
    #[must_use]
    pub fn new(newest_only: bool, limits: RingLimits) -> Self {
        Self {
            state: PositionState::Syncing,
            at: None,
            ring: Ring::default(),
            limits: if newest_only { RingLimits { messages_max: 1, ..limits } } else { limits },
            newest_only,
            held: Vec::new(),
            held_bytes: 0,
            hole: PositionHole::default(),
            unbroken: false,
        }
    }

    /// Whether it is being compared, live, or filling a hole.
    #[must_use]
    pub fn state(&self) -> PositionState {
        self.state
    }

    /// The last id delivered on this replica, once known.
    #[must_use]
    pub fn at(&self) -> Option<StreamId> {
        self.at
    }

    /// The known number of messages between the position and the newest received one; 0 if none are missing or it is
    /// unknown.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let newest = self.held.iter().filter_map(|message| message.id).max();
        let known = self.at.zip(newest).and_then(|(at, newest)| StreamId::missing_between(at, newest.next()));
        if self.newest_only { 0 } else { known.unwrap_or_default() }
    }

    /// The link was lost: the topic must be compared with its stream again.
    pub fn lost(&mut self) {
        self.state = PositionState::Syncing;
        self.unbroken = false;
        self.forget_held();
    }

    /// Classifies an arriving message. `NextRead` moves the position; the caller delivers it.
    ///
    /// A message that provably comes next needs no stream, so it is also delivered while the topic waits for a
    /// comparison.
    pub fn arrive(&mut self, message: &Arc<Message>, judge: StepJudge<'_>) -> ArrivalAction {
        let Some(id) = message.id else { return ArrivalAction::Next };
        let Some(at) = self.at else {
            self.hold(message);
            return ArrivalAction::Held;
        };
        if id <= at {
            return match () {
                () if defect::is(Defect::NoRepeatFilter) => ArrivalAction::Next,
                () if id == at || self.ring.has(id) || self.state != PositionState::Live => ArrivalAction::Repeat,
                () => ArrivalAction::Past,
            };
        }
        let undisturbed = self.state != PositionState::Filling && self.held.is_empty();
        let unbroken = self.unbroken && self.state == PositionState::Live;
        let next = self.newest_only || (undisturbed && judge.step(at, message, unbroken) == StepVerdict::Direct);
        if next && judge.is_given(id) {
            self.advance(message);
            return ArrivalAction::Next;
        }
        self.hold(message);
        if self.state != PositionState::Live {
            return ArrivalAction::Held;
        }
        self.state = PositionState::Filling;
        self.name_hole(at, id);
        ArrivalAction::Hole
    }

    /// Compares with the end of the stream, which was read after the subscription was confirmed (or because the topic
    /// is quiet); `None`: there is no stream. `before`: the position when the read started.
    pub fn compare(
        &mut self,
        end: Option<StreamId>,
        before: Option<StreamId>,
        judge: StepJudge<'_>,
        steps: &mut Vec<Step>,
    ) -> NextRead {
        let history = judge.history;
        match (self.at, end) {
            (None, None) => return NextRead::Anchor,
            // A new topic ignores what precedes this generation, but not what is acknowledged elsewhere while the end
            // of the previous one is undecided.
            (None, Some(end)) if history.is_pending() => self.at = Some(end),
            (None, Some(end)) => self.at = Some(end.max(history.beginning())),
            (Some(_), None) if self.newest_only => {}
            // The last message is known, so the next entry will be recognized.
            (Some(at), None) if self.unbroken && at.seq != StreamId::SEQ_END => {}
            // A position without a stream is never restored: what was published there may be lost with it, and ids must
            // not be reused.
            (Some(_), None) => return NextRead::Anchor,
            (Some(_), Some(_)) if defect::is(Defect::NoCompare) => {}
            (Some(at), Some(end)) => {
                if went_back(before, end, history) {
                    return NextRead::Doubt;
                }
                match history.end(judge.topic, at, end) {
                    Ok(None) => {}
                    // It has moved on since the end was read.
                    Ok(Some((_, to))) if to < at => {}
                    Ok(Some(_)) => {
                        self.state = PositionState::Filling;
                        return NextRead::Read;
                    }
                    Err(StillPending) => {
                        self.state = PositionState::Filling;
                        return if at < end { NextRead::Read } else { NextRead::Wait };
                    }
                }
            }
        }
        self.unbroken = true;
        self.settle(judge, steps)
    }

    /// Starts a topic without retention, which has nothing to compare with: every arrival is live.
    pub fn begin_unkept(&mut self) -> NextRead {
        self.at.get_or_insert(StreamId::ZERO);
        self.state = PositionState::Live;
        NextRead::Live
    }

    /// The parameters of the next stream read.
    #[must_use]
    pub fn ask(&self) -> StreamRead {
        StreamRead { cursor: self.at.unwrap_or_default(), hole: self.hole.number }
    }

    /// Processes a page. Several reads may be in flight, and their results may overlap.
    pub fn filled(
        &mut self,
        asked: StreamRead,
        page: &StreamPage,
        judge: StepJudge<'_>,
        steps: &mut Vec<Step>,
    ) -> NextRead {
        let Some(mut at) = self.at else { return NextRead::Live };
        let from = page.messages.partition_point(|m| m.id.is_none_or(|id| id <= at));
        for message in &page.messages[from..] {
            match judge.step(at, message, self.unbroken) {
                _ if self.newest_only => {}
                StepVerdict::Direct => {}
                StepVerdict::Gap(missing) => {
                    let before = message.id.unwrap_or(at);
                    self.tell(&MissingRange::between(missing, at, before), steps);
                }
                StepVerdict::Pending => return NextRead::Wait,
            }
            self.advance(message);
            steps.push(Step::Message(message.clone()));
            at = message.id.unwrap_or(at);
        }
        if page.more {
            return NextRead::Read;
        }
        if let Some(next) = self.end(at, (asked.cursor, page.end), judge, steps) {
            return next;
        }
        let doubts = asked.hole == self.hole.number && self.hole.range.is_some() && self.hole.range == self.open_hole();
        if doubts && std::mem::replace(&mut self.hole.doubted, true) {
            // Two reads did not find what arrived: it was not stored.
            self.forget_held();
        }
        self.unbroken = true;
        self.settle(judge, steps)
    }

    /// A read reached the end of the stream. Returns what has to be done if the topic cannot continue.
    fn end(
        &mut self,
        at: StreamId,
        (asked, end): (StreamId, Option<StreamId>),
        judge: StepJudge<'_>,
        steps: &mut Vec<Step>,
    ) -> Option<NextRead> {
        if self.newest_only {
            return None;
        }
        let Some(end) = end else { return (!self.unbroken).then_some(NextRead::Anchor) };
        if went_back(Some(asked), end, judge.history) {
            return Some(NextRead::Doubt);
        }
        match judge.history.end(judge.topic, at, end) {
            Ok(Some((missing, to))) if to > at => {
                self.tell(&MissingRange::until(missing, at, to), steps);
                self.at = Some(to);
                None
            }
            Ok(_) => None,
            Err(StillPending) => Some(NextRead::Wait),
        }
    }

    /// The read failed: the topic waits for the next comparison.
    pub fn unfilled(&mut self) {
        self.state = PositionState::Syncing;
        self.forget_held();
    }

    /// The messages after `cursor` up to the position, if that can be proven without reading the stream.
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

    /// The newest delivered message, if it is still in memory.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Message>> {
        self.ring.newest().cloned()
    }

    /// The last `count` messages up to the position, if all are in memory.
    #[must_use]
    pub fn last(&self, count: usize) -> Option<Vec<Arc<Message>>> {
        self.ring.last(count)
    }

    /// Delivers held messages as far as they are consecutive; live if none are left.
    fn settle(&mut self, judge: StepJudge<'_>, steps: &mut Vec<Step>) -> NextRead {
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|m| m.id);
        let mut waiting = held.into_iter();
        for message in waiting.by_ref() {
            let (at, id) = (self.at.unwrap_or_default(), message.id.unwrap_or_default());
            if id <= at {
                continue;
            }
            let next = self.newest_only || judge.step(at, &message, self.unbroken) == StepVerdict::Direct;
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
            self.state = PositionState::Live;
            return NextRead::Live;
        }
        self.state = PositionState::Filling;
        NextRead::Read
    }

    /// The range between the position and the first held message.
    fn open_hole(&self) -> Option<(StreamId, StreamId)> {
        let at = self.at?;
        let first = self.held.iter().filter_map(|m| m.id).filter(|id| *id > at).min()?;
        Some((at, first))
    }

    fn name_hole(&mut self, after: StreamId, before: StreamId) {
        let range = Some((after, before));
        if self.hole.range != range {
            self.hole = PositionHole { range, number: self.hole.number + 1, doubted: false };
        }
    }

    fn tell(&mut self, lack: &MissingRange, steps: &mut Vec<Step>) {
        self.ring.clear();
        steps.push(Step::Gap(GapRange::of(lack)));
    }

    fn advance(&mut self, message: &Arc<Message>) {
        self.at = message.id;
        // A report of a loss is not a value: the last value stays in memory.
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
        // Dropped messages count as not received.
        self.unbroken &= self.held.is_empty();
        self.held.clear();
        self.held_bytes = 0;
    }
}

/// Whether the stream is older than a position that was given in this generation.
fn went_back(before: Option<StreamId>, end: StreamId, history: &Generations) -> bool {
    before.is_some_and(|at| at > end && at.seq != StreamId::SEQ_END && at.epoch >= history.generation)
}

#[cfg(test)]
#[path = "position_tests.rs"]
mod tests;
