//! What a client can ask for, in any dialect. Never decides whether a command is allowed.

use std::ops::Deref;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    code::ErrorCode,
    model::{MsgId, StreamId},
};

/// A command with the client's own id of it, echoed in the reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// A string or a number of at most 64 characters.
    pub id: Option<Json>,
    pub command: Command,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Subscribe(Subscribe),
    Unsubscribe {
        channels: Vec<String>,
    },
    /// `subscribe_<verb>` with `symbols`: channels once the profile's prefix is put before.
    SubscribeSymbols {
        verb: String,
        symbols: Vec<String>,
    },
    /// `unsubscribe_<verb>` with `symbols`.
    UnsubscribeSymbols {
        verb: String,
        symbols: Vec<String>,
    },
    Ping {
        /// The client's own, a string or a number, echoed in the reply.
        timestamp: Option<Json>,
    },
    Auth {
        token: Token,
    },
    History {
        channel: String,
        since: Option<StreamId>,
        last: Option<u32>,
        limit: Option<u32>,
    },
    /// `data` is checked as every payload is.
    Publish {
        channel: String,
        data: Json,
        msg_id: Option<String>,
        user: Option<String>,
    },
    /// `command`: for the engine that executes the run.
    Run {
        command: String,
        args: Option<Json>,
    },
    Presence {
        channel: String,
    },
    /// `heartbeat_interval` in seconds, `max_rate` in updates per second and channel.
    Configure {
        max_rate: Option<u32>,
        heartbeat_interval: Option<u32>,
    },
    /// A message from a producer.
    Ingest(Ingest),
}

/// Channels to subscribe, and where to begin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe {
    pub channels: Vec<String>,
    pub since: Since,
    /// History of `event` channels to begin with.
    pub last: Option<u32>,
    /// Updates per second per `state` channel.
    pub max_rate: Option<u32>,
    /// Whether the current value of `state` channels is wanted (the default).
    pub snapshot: Option<bool>,
}

/// A producer's message. It is acknowledged once it is stored in each of its topics.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingest {
    /// Empty if the message only needs an acknowledgement. The right to publish to the first topic covers all of them.
    pub topics: Vec<String>,
    /// Identifies a repeated message, which is published only to the topics that the first attempt did not reach.
    pub msg_id: MsgId,
    /// As the producer wrote it.
    pub message: Bytes,
}

/// Cursors of a subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Since {
    #[default]
    Live,
    /// One cursor: for the private stream.
    Private(StreamId),
    /// A cursor per channel.
    PerChannel(Vec<(String, StreamId)>),
}

/// JSON text kept as it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Keeps a JSON text that was scanned before; `None` when it is none.
    pub(crate) fn keep(raw: &str) -> Option<Self> {
        RawValue::from_string(raw.to_owned()).ok().map(Self)
    }

    /// The JSON text of a value; `null` if JSON cannot express it.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        Self(to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl Eq for Json {}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// A token as the client sent it. Never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Bounds of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting; the message's own object is the first level.
    pub depth_max: usize,
    /// Channels or symbols that one message can name.
    pub channels_max: usize,
}

/// A message that is no command. The connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The message's `id`, if it could be read.
    pub id: Option<Json>,
    /// [`ErrorCode::InvalidMessage`], or [`ErrorCode::TooManySubscriptions`] for too many names in one message.
    pub code: ErrorCode,
    /// Which field is wrong, such as `channels[2]`.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}
