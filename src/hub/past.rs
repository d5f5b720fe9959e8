//! What a subscription owes its client of the past: from where each channel wants it, what was sent of it, and the notice
//! that tells the end. Never kept once the subscription is live.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tickgate_wire::{
    model::{Content, Message, StreamId},
    protocol::Protocol,
    reply::{CaughtUp, CaughtUpChannel, Reply},
};

use super::{
    backlog::{Allowance, ReplayLimits},
    batch::Batch,
    form::Form,
};
use crate::clock;

/// The past of one subscription.
#[derive(Clone, Debug)]
pub struct Past {
    channels: Vec<PastChannel>,
    /// No gap was told.
    complete: bool,
    has_cursor: bool,
    /// What this replica has at hand was sent as the past; what follows is live.
    pub(super) at_hand_sent: bool,
    /// What may still be fetched for it.
    left: Allowance,
}

#[derive(Clone, Debug)]
struct PastChannel {
    channel: Arc<str>,
    /// Nothing up to here is wanted.
    after: StreamId,
    replayed: u64,
    /// The client is told when it ends. Otherwise the channel begins with what happens next.
    told: bool,
}

impl Past {
    /// Of a topic that has cursors, or not, within these bounds.
    #[must_use]
    pub fn new(has_cursor: bool, limits: ReplayLimits) -> Self {
        Self { channels: Vec::new(), complete: true, has_cursor, at_hand_sent: false, left: limits.less(0, 0) }
    }

    /// Adds a channel that wants what comes after `after`. `told`: its client waits for the end.
    pub fn add(&mut self, channel: Arc<str>, after: StreamId, told: bool) {
        self.channels.push(PastChannel { channel, after, replayed: 0, told });
    }

    /// Nobody waits for the end.
    pub fn hush(&mut self) {
        self.channels.iter_mut().for_each(|own| own.told = false);
    }

    /// A channel that is not subscribed any more.
    pub fn remove(&mut self, channel: &str) {
        self.channels.retain(|own| *own.channel != *channel);
    }

    /// Whether a message of a user's stream is one that its channel wants. What tells of a loss always is.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        let Some(channel) = &message.channel else { return true };
        let own = self.channels.iter().find(|own| own.channel == *channel);
        own.is_some_and(|own| message.id > Some(own.after))
    }

    /// Counts what is about to be sent.
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

    /// So much was fetched for it.
    pub(super) fn spend(&mut self, messages: &[Arc<Message>]) {
        self.left.spend(messages.len(), messages.iter().map(|message| message.payload_bytes()).sum());
    }

    /// Whether no more may be fetched for it.
    pub(super) fn is_spent(&self) -> bool {
        self.left.is_spent()
    }

    /// A gap is about to be told.
    pub(super) fn gap(&mut self) {
        self.complete = false;
    }

    /// The channels whose client waits for the end, which is at this position.
    pub fn ended(&self, at: StreamId) -> impl Iterator<Item = CaughtUpChannel> {
        let told = self.channels.iter().filter(|own| own.told);
        told.map(move |own| CaughtUpChannel {
            channel: own.channel.clone(),
            // From a stream without entries nothing that is lost later could be reported: the client keeps its own.
            cursor: self.has_cursor.then_some(if at == StreamId::ZERO { own.after } else { at }),
            replayed: own.replayed,
            complete: self.complete,
        })
    }

    /// Tells the end; `None` where nobody waits for it.
    pub(super) fn end(&self, form: &Form, at: StreamId) -> Option<Batch> {
        let bytes = caught_up(form.protocol, self.ended(at).collect())?;
        Some(Batch { bytes, count: 0, skipped: 0, after: at, last: at, newest: None, form: form.clone() })
    }
}

/// The notice for these channels; `None` for none.
#[must_use]
pub fn caught_up(protocol: Protocol, channels: Vec<CaughtUpChannel>) -> Option<Bytes> {
    if channels.is_empty() {
        return None;
    }
    let mut out = BytesMut::with_capacity(64 + channels.len() * 96);
    protocol.notice(&mut out, &Reply::CaughtUp(CaughtUp { channels }), clock::stamp);
    Some(out.freeze())
}
