//! Everything that determines the bytes of a push, so that equal forms are encoded once. Knows nothing about
//! subscribers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tickgate_wire::{
    model::{Message, StreamId},
    protocol::Protocol,
    push::{self, PushMeta},
};

use super::gap::GapRange;
use crate::clock;

/// The wire form of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// The dialect and the transport.
    pub protocol: Protocol,
    /// The client's name for the topic; `None` in a user's stream, where each message names its channel.
    pub channel: Option<Arc<str>>,
    /// The subscribed channels of a user's stream; `None`: the whole topic.
    pub filter: Option<Arc<[Arc<str>]>>,
}

impl Form {
    /// A whole topic under the name `channel`.
    #[must_use]
    pub fn of_topic(protocol: Protocol, channel: Arc<str>) -> Self {
        Self { protocol, channel: Some(channel), filter: None }
    }

    /// Some channels of a user's stream.
    #[must_use]
    pub fn of_user(protocol: Protocol, channels: Arc<[Arc<str>]>) -> Self {
        Self { protocol, channel: None, filter: Some(channels) }
    }

    /// The channel of a message; `None` if the message is filtered out.
    pub(super) fn channel_of<'a>(&'a self, message: &'a Message) -> Option<&'a Arc<str>> {
        let channel = self.channel.as_ref().or(message.channel.as_ref())?;
        self.filter.as_ref().is_none_or(|wanted| wanted.contains(channel)).then_some(channel)
    }

    /// Appends a publication.
    pub(super) fn push(&self, out: &mut BytesMut, meta: &PushMeta<'_>, payload: &[u8]) {
        self.protocol.push(out, meta, payload);
    }

    /// Encodes a gap.
    #[must_use]
    pub fn encode_gap(&self, gap: GapRange) -> Bytes {
        let mut buf = BytesMut::with_capacity(192);
        self.gap(&mut buf, gap);
        buf.freeze()
    }

    /// Appends one gap for all channels that share the stream.
    pub(super) fn gap(&self, out: &mut BytesMut, gap: GapRange) {
        let GapRange { after, before, count, reason, cursor } = gap;
        // Without ids, both ends and the position to continue from are unknown.
        let has_ids = before.is_some() || after != StreamId::ZERO;
        let wanted = self.filter.as_deref().unwrap_or_default();
        let gap = push::GapPush {
            channels: self.channel.as_ref().map_or(wanted, std::slice::from_ref).into(),
            after: has_ids.then_some(after),
            before,
            count,
            reason: reason.as_str().into(),
            cursor: has_ids.then_some(cursor),
        };
        self.protocol.gap(out, &gap, clock::stamp);
    }
}
