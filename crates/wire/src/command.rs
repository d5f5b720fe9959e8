//! What a client can request, in any dialect. Does not decide whether a command is allowed.

use std::{borrow::Borrow, ops::Deref, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    code::ErrorCode,
    model::{InvalidStreamId, MsgId, StreamId},
};

/// A command with the client's own id, which the reply echoes.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// A string or a number of at most 64 characters.
    pub id: Option<Json>,
    /// The command itself.
    pub command: Command,
    /// Names of fields that have no meaning in this command, a bounded number of them.
    pub ignored: Vec<String>,
}

/// The maximum number of ignored names that a client is told, and the characters of each.
const IGNORED_MAX: usize = 16;
const IGNORED_CHARS_MAX: usize = 64;

/// Names without a meaning, in a form that can be told to the client: a bounded number, each once, of bounded length and
/// without control characters.
pub fn ignored<S: Borrow<str>>(names: impl IntoIterator<Item = S>) -> Vec<String> {
    let mut told = Vec::new();
    for name in names {
        let name: String = name.borrow().chars().filter(|c| !c.is_control()).take(IGNORED_CHARS_MAX).collect();
        if told.len() == IGNORED_MAX {
            break;
        }
        if !told.contains(&name) {
            told.push(name);
        }
    }
    told
}

/// The requests of clients.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// `subscribe`: starts subscriptions.
    Subscribe {
        /// The channels, each with its options.
        elements: Vec<ChannelRequest>,
    },
    /// `unsubscribe`: ends subscriptions.
    Unsubscribe {
        /// The names of the channels.
        channels: Vec<ListedName>,
    },
    /// `subscribe_<verb>` with `symbols`: channels after the profile's prefix is added.
    SubscribeSymbols {
        /// Selects the profile's prefix, such as `ticker`.
        verb: String,
        /// The names without the prefix.
        symbols: Vec<ListedName>,
    },
    /// `unsubscribe_<verb>` with `symbols`.
    UnsubscribeSymbols {
        /// Selects the profile's prefix, such as `ticker`.
        verb: String,
        /// The names without the prefix.
        symbols: Vec<ListedName>,
    },
    /// `ping`: requests a pong.
    Ping {
        /// The client's own value, a string or a number, echoed in the reply.
        timestamp: Option<Json>,
    },
    /// `auth`: identifies the user of the connection, or renews its token.
    Auth {
        /// The token to verify.
        token: Token,
    },
    /// `history`: requests retained publications of one channel.
    History {
        /// The channel's name.
        channel: String,
        /// Which of its publications.
        from: HistoryFrom,
    },
    /// `data` is validated like every payload.
    Publish {
        /// The public channel, or the private one of `user`.
        channel: String,
        /// The payload, one JSON object.
        data: Json,
        /// The publisher's own id, which makes a retry safe.
        msg_id: Option<String>,
        /// The owner of a private channel; `None` for a public one.
        user: Option<String>,
        /// Whether to count the connections that may have received it.
        count: bool,
    },
    /// `command`: for the engine that executes the run.
    Run {
        /// What the engine should do, such as `pause`.
        command: String,
        /// Arguments for the engine, as the client wrote them.
        args: Option<Json>,
        /// The client's own id, which makes a retry safe.
        msg_id: Option<String>,
    },
    /// `presence`: requests the users of a channel.
    Presence {
        /// The channel's name.
        channel: String,
    },
    /// `heartbeat_interval` in seconds.
    Configure {
        /// The requested interval between heartbeats, in seconds; `None`: unchanged.
        heartbeat_interval: Option<u32>,
    },
    /// A message from a producer.
    Ingest(Ingest),
}

impl Command {
    /// The kind of command as one word; contains no client data.
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
pub struct ChannelRequest {
    /// As written; empty if the element names none.
    pub channel: String,
    /// The list's field, and the index in it.
    pub list: &'static str,
    /// Its index in the list.
    pub index: usize,
    /// An invalid name, or an unknown or invalid option, refuses only this element.
    pub options: Result<SubscribeOptions, InvalidElement>,
}

impl ChannelRequest {
    /// Its position, such as `channels[2]`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}[{}]", self.list, self.index)
    }
}

/// One name of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedName {
    /// As written; empty if the element is not text.
    pub name: String,
    /// Its index in the list.
    pub index: usize,
    /// Why it is not a valid name. That refuses only this element.
    pub fault: Option<String>,
}

/// Where a subscription starts, and what it includes. Each option is `None` unless the client set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// The position after which it starts.
    pub since: Option<Since>,
    /// How many of the newest publications of an `event` channel to start with; at least 1.
    pub last: Option<u32>,
    /// Maximum updates per second of a `state` channel; at least 1.
    pub max_rate: Option<u32>,
    /// Whether the client wants the current value of a `state` channel (the default).
    pub snapshot: Option<bool>,
}

/// Why an element of a list is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidElement {
    /// Such as `channels[2]` or `channels[2].since`.
    pub field: String,
    /// What is wrong and what is expected.
    pub message: String,
}

/// A position to continue from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Before everything that is retained.
    Earliest,
    /// After this id.
    After(StreamId),
}

impl FromStr for Since {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        if text == "earliest" { Ok(Self::Earliest) } else { text.parse().map(Self::After) }
    }
}

/// Which retained publications are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryFrom {
    /// A page of what follows a position.
    Since(Since),
    /// The newest ones, this many; `None`: the server's default.
    Last(Option<u32>),
}

/// A producer's message. It is acknowledged after it is stored in each of its topics.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingest {
    /// Empty if the message only requires an acknowledgement. The right to publish to the first topic covers all of
    /// them.
    pub topics: Vec<String>,
    /// Identifies a repeated message, which is published only to the topics that the first attempt did not reach.
    pub msg_id: MsgId,
    /// The sender's name, as given by the producer. Producers with different names do not share `msg_id`s.
    pub source: String,
    /// As the producer wrote it.
    pub message: Bytes,
}

/// JSON text kept as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Keeps a JSON text that was scanned before; `None` if it is invalid.
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

/// A token as the client sent it. Never shown.
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
pub struct MessageLimits {
    /// Maximum nesting depth of a publication; its own object is the first level. A message of the JSON dialect, which
    /// carries it in a field, may have one more level.
    pub depth_max: usize,
    /// Maximum number of channels or symbols in one message.
    pub channels_max: usize,
}

/// A message that is not a valid command. The connection stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The message's `id`, if it could be read.
    pub id: Option<Json>,
    /// [`ErrorCode::InvalidMessage`], or [`ErrorCode::TooManySubscriptions`] for too many names in one message.
    pub code: ErrorCode,
    /// Which field is wrong, such as `channels[2]`.
    pub field: Option<String>,
    /// What is wrong and what is expected.
    pub message: String,
}
