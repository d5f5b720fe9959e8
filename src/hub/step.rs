//! The inputs and results of a topic's position. Pure.

use std::sync::Arc;

use tickgate_wire::model::{Message, StreamId};

use super::gap::GapRange;
use crate::history::{Generations, StepVerdict};

/// What subscribers receive next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next publication.
    Message(Arc<Message>),
    /// Something is missing. Followed by the message after it, if there is one.
    Gap(GapRange),
}

impl Step {
    /// The publication, if it is one.
    pub(super) fn message(&self) -> Option<&Arc<Message>> {
        if let Self::Message(message) = self { Some(message) } else { None }
    }

    /// Whether it reports a publication that clients cannot see.
    pub(super) fn is_loss(&self) -> bool {
        self.message().is_some_and(|message| message.is_unreadable())
    }

    /// The position after it.
    pub(super) fn position(&self) -> Option<StreamId> {
        match self {
            Self::Message(message) => message.id,
            Self::Gap(gap) => Some(gap.cursor),
        }
    }
}

/// What steps of a topic are judged by.
#[derive(Clone, Copy, Debug)]
pub struct StepJudge<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The generations that are known.
    pub history: &'a Generations,
}

impl StepJudge<'_> {
    pub(super) fn step(&self, at: StreamId, message: &Message, unbroken: bool) -> StepVerdict {
        let id = message.id.unwrap_or(at);
        self.history.step(self.topic, at, (id, message.prev), unbroken)
    }

    /// Whether a message that was not found in the stream may move the topic.
    pub(super) fn is_given(&self, id: StreamId) -> bool {
        id.epoch <= self.history.alloc
    }
}

/// What to do with an arriving message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivalAction {
    /// Deliver it now.
    Next,
    /// It was already delivered.
    Repeat,
    /// It precedes the position, and may not have been delivered: the stream must be read.
    Past,
    /// It waits for a read in flight, or for the first comparison.
    Held,
    /// It waits, and a fill must start now.
    Hole,
}

/// What to do after a comparison or a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextRead {
    /// Nothing: the topic is live.
    Live,
    /// Read the stream after the position.
    Read,
    /// Compare again soon: it is undecided what lies between.
    Wait,
    /// There is no stream: give it a position, and compare with that.
    Anchor,
    /// The stream is older than what was read of it before.
    Doubt,
}

/// What the caller must do after an arrival or a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FillAction {
    Nothing,
    Read,
    /// Compare with the stream, at once or soon.
    Compare,
    Wait,
    /// Give the topic a position instead of a stream, and compare with that.
    Anchor,
    /// The topic's server was rolled back.
    Doubt,
}
