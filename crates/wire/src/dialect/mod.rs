//! The protocols that endpoints use with their clients, one folder per dialect behind one interface: a message is
//! decoded to a request; replies, publications and gaps are encoded to text. Makes no decisions, and does not depend on
//! the transport.
//!
//! A dialect is a variant of [`Dialect`], matched in every method here.

use bytes::BytesMut;
use uuid::Uuid;

use crate::{
    code::CloseCode,
    command::{Invalid, MessageLimits, Request},
    push::{GapPush, PushMeta, push_json},
    reply::Reply,
};

mod envelope;
mod fields;
pub mod json;

/// The protocol of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// JSON commands, replies and pushes.
    #[default]
    Json,
    /// `SocketMessage` envelopes of producers.
    Envelope,
}

/// The time and the unique id of a message from the gateway.
#[derive(Clone, Copy, Debug)]
pub struct MessageStamp {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// A new id for the message.
    pub msg_id: Uuid,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Json, Self::Envelope];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Envelope => "envelope",
        }
    }

    /// Decodes one message from a client; `None` if it requires no reply.
    ///
    /// # Errors
    /// [`Invalid`], which is reported to the client as an error.
    pub fn decode(self, text: &str, limits: &MessageLimits) -> Result<Option<Request>, Invalid> {
        match self {
            Self::Json => json::decode(text, limits).map(Some),
            Self::Envelope => envelope::decode(text, limits),
        }
    }

    /// Encodes a reply; appends nothing if the dialect has no such message. `ignored` names the fields of the command
    /// that had no meaning. `stamp` is called only if it is needed.
    pub fn encode(self, out: &mut BytesMut, reply: &Reply, ignored: &[String], stamp: impl FnOnce() -> MessageStamp) {
        match self {
            Self::Json => json::encode(out, reply, ignored),
            Self::Envelope => envelope::encode(out, reply, ignored, stamp),
        }
    }

    /// Encodes a publication. The result is the same for all clients of the dialect.
    pub fn push(self, out: &mut BytesMut, meta: &PushMeta<'_>, payload: &[u8]) {
        match self {
            Self::Json | Self::Envelope => push_json(out, meta, payload),
        }
    }

    /// Encodes a gap. The result is the same for all clients of the dialect.
    pub fn gap(self, out: &mut BytesMut, gap: &GapPush<'_>, stamp: impl FnOnce() -> MessageStamp) {
        match self {
            Self::Json => json::gap(out, gap),
            Self::Envelope => envelope::gap(out, gap, stamp),
        }
    }

    /// The number in the Close frame.
    #[must_use]
    pub const fn close_code(self, reason: CloseCode) -> u16 {
        match self {
            Self::Json | Self::Envelope => reason.number(),
        }
    }

    /// Whether a subscription is acknowledged, given whether the command has an id.
    #[must_use]
    pub const fn acknowledges_subscriptions(self, has_id: bool) -> bool {
        match self {
            Self::Json => true,
            Self::Envelope => has_id,
        }
    }

    /// Whether clients are notified when the server ends a subscription.
    #[must_use]
    pub const fn tells_ends(self) -> bool {
        match self {
            Self::Json => true,
            Self::Envelope => false,
        }
    }

    /// Whether clients receive their session.
    #[must_use]
    pub const fn has_sessions(self) -> bool {
        match self {
            Self::Json => true,
            Self::Envelope => false,
        }
    }
}
