//! A message to a topic: as a publisher submits it, and as every replica receives it.

use std::sync::Arc;

use bytes::Bytes;

use super::{StreamId, Topic, TopicRule};

/// A validated publication on its way to the backplane.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The destination.
    pub topic: Topic,
    /// The private channel within a user's stream; `None` otherwise.
    pub channel: Option<Arc<str>>,
    /// One JSON object, as the publisher wrote it.
    pub payload: Bytes,
    /// What identifies a repetition, if the publisher gave it a `msg_id`.
    pub once: Option<Once>,
    /// Class and retention of the topic.
    pub rule: Arc<TopicRule>,
}

/// What identifies a repetition of a publication. Digests, because names and payloads may be long and clients choose
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// Of the channel, the publisher and its `msg_id`.
    pub name: u128,
    /// Of the published content. The same name with different content is not a repetition.
    pub content: u64,
}

/// A publication as received from the backplane, live or read from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `None` for topics without retention.
    pub id: Option<StreamId>,
    /// The id of the previous entry. Present on the first entry of an epoch, as proof that connects two epochs.
    /// [`StreamId::ZERO`]: the stream began without a known past.
    pub prev: Option<StreamId>,
    /// When the publisher's replica accepted it, in milliseconds since 1970; 0 if read from history.
    pub published_ms: u64,
    /// The private channel within a user's stream.
    pub channel: Option<Arc<str>>,
    /// The content.
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

    /// Whether clients must not receive its content.
    #[must_use]
    pub const fn is_unreadable(&self) -> bool {
        matches!(self.content, Content::Unreadable)
    }
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The publisher's JSON object.
    Data(Bytes),
    /// An external writer stored something that clients must not receive. It keeps its position; clients are notified
    /// that it is missing.
    Unreadable,
}
