//! What the gateway sends to one client: replies to commands, errors, and notices about the connection. These are values;
//! a dialect encodes them. Their serde form is the JSON dialect.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

mod error;

pub use error::{Advice, Closing, Details, ErrorObject, Failure};

use crate::{
    command::Json,
    model::{Class, SessionSecret, StreamId, UserId},
    push::Gap,
    time::Timestamp,
};

/// The types of the gateway's own messages. Publishers may use them: `_meta` tells their messages apart.
pub const TYPES: &[&str] = &[
    "connection_established",
    "subscribed",
    "unsubscribed",
    "caught_up",
    "pong",
    "authenticated",
    "history",
    "published",
    "command_accepted",
    "presence",
    "configured",
    "gap",
    "heartbeat",
    "token_expiring",
    "closing",
    "error",
];

/// One message to one client. The `id` of a reply is the command's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The first message of a connection.
    ConnectionEstablished(Welcome),
    Subscribed(Subscribed),
    Unsubscribed(Unsubscribed),
    /// A notice: the server ended subscriptions.
    #[serde(rename = "unsubscribed")]
    Ended(Ended),
    Pong(Pong),
    Authenticated(Authenticated),
    /// Contains pushes, which the JSON dialect writes by hand.
    #[serde(skip_serializing)]
    History(History),
    /// A publication is stored.
    Published(Published),
    /// A command is stored for the engine of the run.
    CommandAccepted(CommandAccepted),
    /// A producer's message is stored in all its topics.
    Ingested(Ingested),
    Presence(Presence),
    Configured(Configured),
    /// A notice: the past of channels has been sent.
    CaughtUp(CaughtUp),
    /// A notice.
    Heartbeat(Heartbeat),
    /// A notice.
    TokenExpiring(TokenExpiring),
    /// A notice: the Close frame follows.
    Closing(Closing),
    /// A command failed.
    Error(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub timestamp: Timestamp,
    pub message: String,
    /// Names the connection in logs. Not a secret.
    pub connection_id: String,
    /// Frees the place of this connection when its client reconnects; a secret. `None` on endpoints without sessions.
    pub session: Option<SessionSecret>,
    pub user: Option<UserId>,
    /// When the token ends; `None` without a token.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    pub server_time: Timestamp,
    /// In seconds.
    pub heartbeat_interval: u64,
    pub limits: WelcomeLimits,
    /// Whether the connection took over the session of an earlier one.
    pub resumed: bool,
    /// Name and version of the program.
    #[serde(default)]
    pub server: Cow<'static, str>,
    /// What this server can do beyond the first release of the contract.
    #[serde(default)]
    pub features: Vec<Cow<'static, str>>,
}

/// The limits that concern a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WelcomeLimits {
    /// Largest message, in bytes.
    pub message_bytes: u64,
    pub messages_per_second: u64,
    pub messages_burst: u64,
    /// Channels that subscribes may name.
    pub names_per_second: u64,
    pub names_burst: u64,
    pub subscriptions: u64,
    /// Messages that may wait for a slow client before the delivery class acts.
    pub queued_messages: u64,
}

/// What the channels of a user's stream share their positions with. No channel can be called so.
pub const USER_STREAM: &str = "@";

/// Which channels were subscribed and which were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub channels: Vec<SubscribedChannel>,
    pub errors: Vec<RefusedChannel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribedChannel {
    pub channel: Arc<str>,
    /// A class that is not known is read as `event`.
    #[serde(deserialize_with = "class_or_event")]
    pub class: Class,
    /// What the channel shares its positions with; `None`: it has a stream of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Cow<'static, str>>,
    /// The position before everything that follows; `None` without retention.
    pub cursor: Option<StreamId>,
    /// Nothing of the past follows. Otherwise [`CaughtUp`] comes after it.
    pub live: bool,
}

fn class_or_event<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
    let name = Cow::<str>::deserialize(deserializer)?;
    let known = [Class::State, Class::Event, Class::Reliable].into_iter().find(|class| class.as_str() == name);
    Ok(known.unwrap_or(Class::Event))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedChannel {
    pub channel: String,
    #[serde(flatten)]
    pub object: ErrorObject,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The requested names, including those that were not subscribed.
    pub channels: Vec<String>,
    /// What can't be a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RefusedChannel>,
}

/// The server ended subscriptions. With `details.retry_after_ms` the client may subscribe again, with its cursors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub channels: Vec<String>,
    #[serde(flatten)]
    pub object: ErrorObject,
}

/// The past of these channels has been sent; what follows is live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    pub channels: Vec<CaughtUpChannel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUpChannel {
    pub channel: Arc<str>,
    /// The position after the past; `None` without retention.
    pub cursor: Option<StreamId>,
    /// Publications of the past that were sent, snapshots included.
    pub replayed: u64,
    /// No gap was reported between the cursor of `subscribed` and this one.
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The timestamp of the ping, or the server's time if it had none.
    pub timestamp: Json,
    pub server_time: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticated {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub user: UserId,
    /// `None`: the token has no end.
    pub expires_at: Option<Timestamp>,
}

/// Retained publications of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct History {
    pub id: Option<Json>,
    pub channel: Arc<str>,
    /// Each is encoded like a push.
    pub messages: Vec<Retained>,
    /// Where the next page starts; `None` without retention.
    pub cursor: Option<StreamId>,
    /// There is a next page.
    pub more: bool,
    /// What is missing before the first of the messages.
    #[serde(default)]
    pub gap: Option<Gap<'static>>,
}

/// A retained publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    pub id: Option<StreamId>,
    /// The publisher's JSON object.
    pub payload: Bytes,
}

/// The reply to `publish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub channel: Cow<'static, str>,
    /// `None` for topics without retention.
    pub publication_id: Option<StreamId>,
    /// The same `msg_id` was published before; `publication_id` is of that time.
    pub duplicate: bool,
    /// It is below the level from which the topic has publications: nothing was stored or sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
    /// Connections that follow the channel, over all replicas, where that was asked for and could be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<u64>,
}

/// The reply to `command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAccepted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub publication_id: Option<StreamId>,
    pub duplicate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
}

/// Counts over all replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub channel: Arc<str>,
    pub connections: u64,
    /// Exact up to a bound.
    pub users: u64,
    /// There are more users than `users`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The values in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// In seconds.
    pub heartbeat_interval: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub timestamp: Timestamp,
    pub server_time: Timestamp,
    /// Positions that moved without a push, by stream: up to there this connection was sent everything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<Cow<'static, str>, StreamId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenExpiring {
    pub expires_at: Timestamp,
}
