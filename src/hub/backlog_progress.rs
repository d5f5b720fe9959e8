//! The backlog that a subscription owes its client: where each channel starts, what was sent, and the notice of its
//! end. Dropped once the subscription is live.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tickgate_wire::{
    model::{Content, Message, StreamId},
    protocol::Protocol,
    reply::{CaughtUpNotice, ChannelEnd, Reply},
};

use super::{
    backlog::{ReplayLimits, ResumeAllowance},
    batch::PushBatch,
    form::Form,
};
use crate::clock;

/// The backlog of one subscription.
#[derive(Clone, Debug)]
pub struct BacklogProgress {
    channels: Vec<BacklogChannel>,
    /// No gap was sent.
    complete: bool,
    has_cursor: bool,
    /// The messages in memory were sent as the backlog; what follows is live.
    pub(super) at_hand_sent: bool,
    /// The remaining allowance for reads.
    left: ResumeAllowance,
}

#[derive(Clone, Debug)]
struct BacklogChannel {
    channel: Arc<str>,
    /// Only messages after this position are wanted.
    after: StreamId,
    replayed: u64,
    /// The client receives a notice at the end. Otherwise the channel starts with the next message.
    told: bool,
}

impl BacklogProgress {
    /// Creates it for a topic with or without cursors, within these limits.
    #[must_use]
    pub fn new(has_cursor: bool, limits: ReplayLimits) -> Self {
        Self { channels: Vec::new(), complete: true, has_cursor, at_hand_sent: false, left: limits.less(0, 0) }
    }

    /// Adds a channel that starts after `after`. `told`: its client waits for the notice of the end.
    pub fn add(&mut self, channel: Arc<str>, after: StreamId, told: bool) {
        self.channels.push(BacklogChannel { channel, after, replayed: 0, told });
    }

    /// Disables the notices of the end.
    pub fn hush(&mut self) {
        self.channels.iter_mut().for_each(|own| own.told = false);
    }

    /// Removes a channel that was unsubscribed.
    pub fn remove(&mut self, channel: &str) {
        self.channels.retain(|own| *own.channel != *channel);
    }

    /// Whether a message of a user's stream is wanted by its channel. Reports of losses always are.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        let Some(channel) = &message.channel else { return true };
        let own = self.channels.iter().find(|own| own.channel == *channel);
        own.is_some_and(|own| message.id > Some(own.after))
    }

    /// Counts messages that are about to be sent.
    pub(super) fn count<'a>(&mut self, form: &Form, messages: impl IntoIterator<Item = &'a Arc<Message>>) {
        for message in messages {
            match (&message.content, form.channel_of(message)) {
                (Content::Unreadable, _) => self.complete = false,
                (Content::Data(_), None) => {}
                (Content::Data(_), Some(channel)) => {
                    let own = self.channels.iter_mut().find(|own| own.channel == *channel);
                    own.into_iter().for_each(|own| own.replayed += 1);
                }
            }
        }
    }

    /// Deducts fetched messages from the allowance.
    pub(super) fn spend(&mut self, messages: &[Arc<Message>]) {
        self.left.spend(messages.len(), messages.iter().map(|message| message.payload_bytes()).sum());
    }

    /// Whether the allowance is used up.
    pub(super) fn is_spent(&self) -> bool {
        self.left.is_spent()
    }

    /// Records that a gap is about to be sent.
    pub(super) fn gap(&mut self) {
        self.complete = false;
    }

    /// The channels whose clients wait for the end, which is at this position.
    pub fn ended(&self, at: StreamId) -> impl Iterator<Item = ChannelEnd> {
        let told = self.channels.iter().filter(|own| own.told);
        told.map(move |own| ChannelEnd {
            channel: own.channel.clone(),
            // In a stream without entries, a later loss could not be reported from here: the client keeps its cursor.
            cursor: self.has_cursor.then_some(if at == StreamId::ZERO { own.after } else { at }),
            replayed: own.replayed,
            complete: self.complete,
        })
    }

    /// The notice of the end; `None` if no channel waits for it.
    pub(super) fn end(&self, form: &Form, at: StreamId) -> Option<PushBatch> {
        let bytes = caught_up(form.protocol, self.ended(at).collect())?;
        Some(PushBatch { bytes, count: 0, skipped: 0, after: at, last: at, newest: None, form: form.clone() })
    }
}

/// The notice for these channels; `None` if there are none.
#[must_use]
pub fn caught_up(protocol: Protocol, channels: Vec<ChannelEnd>) -> Option<Bytes> {
    if channels.is_empty() {
        return None;
    }
    let mut out = BytesMut::with_capacity(64 + channels.len() * 96);
    protocol.notice(&mut out, &Reply::CaughtUp(CaughtUpNotice { channels }), clock::stamp);
    Some(out.freeze())
}
