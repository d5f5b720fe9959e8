//! What clients and the gateway say to each other, one folder per dialect behind one seam: a message becomes a request,
//! and replies, publications and gaps become text. Never decides anything, and never knows what carries the text.
//!
//! A dialect is a variant of [`Dialect`], matched in every method here.

use bytes::BytesMut;
use uuid::Uuid;

use crate::{
    code::CloseCode,
    command::{Invalid, Limits, Request},
    push::{Gap, Meta, push_json},
    reply::Reply,
};

mod envelope;
mod fields;
pub mod json;

/// How an endpoint and its clients talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// JSON commands, replies and pushes.
    #[default]
    Json,
    /// `SocketMessage` envelopes of producers.
    Envelope,
}

/// What marks a message of the gateway as a new one.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Milliseconds since 1970.
    pub now_ms: u64,
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

    /// Reads one message of a client; `None` for one that asks nothing.
    ///
    /// # Errors
    /// [`Invalid`], to be answered with an error.
    pub fn decode(self, text: &str, limits: &Limits) -> Result<Option<Request>, Invalid> {
        match self {
            Self::Json => json::decode(text, limits).map(Some),
            Self::Envelope => envelope::decode(text, limits),
        }
    }

    /// Appends the text of a reply; nothing where the dialect has no words for it. `stamp` is asked where one is needed.
    pub fn encode(self, out: &mut BytesMut, reply: &Reply, stamp: impl FnOnce() -> Stamp) {
        match self {
            Self::Json => json::encode(out, reply),
            Self::Envelope => envelope::encode(out, reply, stamp),
        }
    }

    /// Appends the text of a publication, the same for all clients of the dialect.
    pub fn push(self, out: &mut BytesMut, meta: &Meta<'_>, payload: &[u8]) {
        match self {
            Self::Json | Self::Envelope => push_json(out, meta, payload),
        }
    }

    /// Appends the text of a gap, the same for all clients of the dialect.
    pub fn gap(self, out: &mut BytesMut, gap: &Gap<'_>, stamp: impl FnOnce() -> Stamp) {
        match self {
            Self::Json => json::gap(out, gap),
            Self::Envelope => envelope::gap(out, gap, stamp),
        }
    }

    /// What a client is closed with for a reason.
    #[must_use]
    pub const fn close_code(self, reason: CloseCode) -> u16 {
        match self {
            Self::Json | Self::Envelope => reason.number(),
        }
    }

    /// Whether clients learn by which session they can resume.
    #[must_use]
    pub const fn has_sessions(self) -> bool {
        match self {
            Self::Json => true,
            Self::Envelope => false,
        }
    }
}
