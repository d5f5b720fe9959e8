//! What is sent to a topic: as a publisher hands it in, and as it arrives on every replica.

use std::sync::Arc;

use bytes::Bytes;

use super::{StreamId, Topic, TopicRule};

/// A checked publication on its way into the backplane.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Where it goes.
    pub topic: Topic,
    /// Which private channel it belongs to, inside a user's stream; `None` elsewhere.
    pub channel: Option<Arc<str>>,
    /// One JSON object, as the publisher wrote it.
    pub payload: Bytes,
    /// By what a repetition is known, where the publisher gave it a `msg_id`.
    pub once: Option<Once>,
    /// Class and retention of the topic.
    pub rule: Arc<TopicRule>,
}

/// By what a repetition of a publication is known. Digests: names and payloads may be long, and others choose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// Of the channel, the publisher and its `msg_id`.
    pub name: u128,
    /// Of what is published under that name. With the same name and another content it is no repetition.
    pub content: u64,
}

/// A publication as it comes back from the backplane, live or read from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `None` for topics without retention.
    pub id: Option<StreamId>,
    /// The id of the entry before it. Present on the first entry of an epoch, as the proof that joins two epochs.
    /// [`StreamId::ZERO`]: the stream began without a past that is known.
    pub prev: Option<StreamId>,
    /// When the publisher's replica took it, in milliseconds since 1970; 0 when read from history.
    pub published_ms: u64,
    /// The private channel inside a user's stream.
    pub channel: Option<Arc<str>>,
    /// What it says.
    pub content: Content,
}

impl Message {
    /// Bytes of its payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match &self.content {
            Content::Data(payload) => payload.len(),
            Content::Unreadable => 0,
        }
    }

    /// Whether clients can't be shown what it says.
    #[must_use]
    pub const fn is_unreadable(&self) -> bool {
        matches!(self.content, Content::Unreadable)
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The publisher's JSON object.
    Data(Bytes),
    /// Somebody stored what clients must not be shown. It keeps its place; everyone is told that it is missing.
    Unreadable,
}
