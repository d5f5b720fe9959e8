//! What a client can ask for, in any dialect. Never decides whether a command is allowed.

use std::{ops::Deref, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    code::ErrorCode,
    model::{InvalidStreamId, MsgId, StreamId},
};

/// A command with the client's own id of it, echoed in the reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// A string or a number of at most 64 characters.
    pub id: Option<Json>,
    pub command: Command,
    /// Names of fields that mean nothing in this command, a bounded number of them.
    pub ignored: Vec<String>,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Subscribe {
        elements: Vec<Element>,
    },
    Unsubscribe {
        channels: Vec<ListedName>,
    },
    /// `subscribe_<verb>` with `symbols`: channels once the profile's prefix is put before.
    SubscribeSymbols {
        verb: String,
        symbols: Vec<ListedName>,
    },
    /// `unsubscribe_<verb>` with `symbols`.
    UnsubscribeSymbols {
        verb: String,
        symbols: Vec<ListedName>,
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
        from: HistoryFrom,
    },
    /// `data` is checked as every payload is.
    Publish {
        channel: String,
        data: Json,
        msg_id: Option<String>,
        user: Option<String>,
        /// Whether to count who may have received it.
        count: bool,
    },
    /// `command`: for the engine that executes the run.
    Run {
        command: String,
        args: Option<Json>,
        msg_id: Option<String>,
    },
    Presence {
        channel: String,
    },
    /// `heartbeat_interval` in seconds.
    Configure {
        heartbeat_interval: Option<u32>,
    },
    /// A message from a producer.
    Ingest(Ingest),
}

impl Command {
    /// What is asked, in one word; nothing of what the client sent is in it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Subscribe { .. } | Self::SubscribeSymbols { .. } => "subscribe",
            Self::Unsubscribe { .. } | Self::UnsubscribeSymbols { .. } => "unsubscribe",
            Self::Ping { .. } => "ping",
            Self::Auth { .. } => "auth",
            Self::History { .. } => "history",
            Self::Publish { .. } => "publish",
            Self::Run { .. } => "command",
            Self::Presence { .. } => "presence",
            Self::Configure { .. } => "configure",
            Self::Ingest(_) => "ingest",
        }
    }
}

/// One element of a subscribe: a channel and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// As it was written; empty where the element names none.
    pub channel: String,
    /// The field of the list, and the place in it.
    pub list: &'static str,
    pub index: usize,
    /// What can't be a name, and an option that is not known or is wrong, refuse this element alone.
    pub options: Result<Options, InvalidElement>,
}

impl Element {
    /// Where it stands, such as `channels[2]`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}[{}]", self.list, self.index)
    }
}

/// One name of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedName {
    /// As it was written; empty where the element is no text.
    pub name: String,
    /// Its place in the list.
    pub index: usize,
    /// Why it can't be a name. That refuses this element alone.
    pub fault: Option<String>,
}

/// Where a subscription begins, and what it brings. Each is absent unless the client gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub since: Option<Since>,
    /// So many of the newest publications of an `event` channel to begin with; at least 1.
    pub last: Option<u32>,
    /// Updates per second of a `state` channel, at the most; at least 1.
    pub max_rate: Option<u32>,
    /// Whether the current value of a `state` channel is wanted (the default).
    pub snapshot: Option<bool>,
}

/// Why an element of a list is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidElement {
    /// Such as `channels[2]` or `channels[2].since`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A position to continue from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Before everything that is kept.
    Earliest,
    After(StreamId),
}

impl FromStr for Since {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        if text == "earliest" { Ok(Self::Earliest) } else { text.parse().map(Self::After) }
    }
}

/// Which retained publications are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryFrom {
    /// A page of what follows a position.
    Since(Since),
    /// So many of the newest; `None`: as many as the server gives without being asked.
    Last(Option<u32>),
}

/// A producer's message. It is acknowledged once it is stored in each of its topics.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingest {
    /// Empty if the message only needs an acknowledgement. The right to publish to the first topic covers all of them.
    pub topics: Vec<String>,
    /// Identifies a repeated message, which is published only to the topics that the first attempt did not reach.
    pub msg_id: MsgId,
    /// Who sends, as the producer says. Producers of different names do not share `msg_id`s.
    pub source: String,
    /// As the producer wrote it.
    pub message: Bytes,
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
    /// Deepest nesting of what is published; its own object is the first level. A message of the JSON dialect, which carries
    /// it in a field, has one level more.
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
