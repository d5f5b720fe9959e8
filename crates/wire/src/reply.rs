//! What the gateway sends to one client: replies to commands, errors, and notices about the connection. These are values;
//! a dialect encodes them. Their serde form is the JSON dialect.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

mod error;

pub use error::{Advice, ClosingNotice, Details, ErrorObject, FailureReply};

use crate::{
    command::Json,
    model::{Class, SessionSecret, StreamId, UserId},
    push::GapPush,
    time::Timestamp,
};

/// The types of the gateway's own messages. Publishers may use them too: `_meta` distinguishes their messages.
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
    /// The reply to `subscribe`.
    Subscribed(SubscribedReply),
    /// The reply to `unsubscribe`.
    Unsubscribed(UnsubscribedReply),
    /// A notice: the server ended subscriptions.
    #[serde(rename = "unsubscribed")]
    Ended(EndedNotice),
    /// The reply to `ping`.
    Pong(Pong),
    /// The reply to `auth`.
    Authenticated(AuthenticatedReply),
    /// Contains pushes, which the JSON dialect writes without serde.
    #[serde(skip_serializing)]
    History(HistoryReply),
    /// A publication is stored.
    Published(PublishedReply),
    /// A command is stored for the engine of the run.
    CommandAccepted(CommandAccepted),
    /// A producer's message is stored in all its topics.
    Ingested(Ingested),
    /// The reply to `presence`.
    Presence(PresenceReply),
    /// The reply to `configure`.
    Configured(Configured),
    /// A notice: the backlog of channels has been sent.
    CaughtUp(CaughtUpNotice),
    /// A notice.
    Heartbeat(HeartbeatNotice),
    /// A notice.
    TokenExpiring(TokenExpiring),
    /// A notice: the Close frame follows.
    Closing(ClosingNotice),
    /// A command failed.
    Error(FailureReply),
}

/// The first message of a connection: who is connected, and under which limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// When it was written.
    pub timestamp: Timestamp,
    /// The profile's text for people.
    pub message: String,
    /// Identifies the connection in logs. Not a secret.
    pub connection_id: String,
    /// Releases the place of this connection when its client reconnects; a secret. `None` on endpoints without
    /// sessions.
    pub session: Option<SessionSecret>,
    /// The user of the token; `None` without a token.
    pub user: Option<UserId>,
    /// When the token expires; `None` without a token.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// The server's clock, for clients that compare it with their own.
    pub server_time: Timestamp,
    /// In seconds.
    pub heartbeat_interval: u64,
    /// The limits of this connection.
    pub limits: WelcomeLimits,
    /// Whether the connection took over an earlier session.
    pub resumed: bool,
    /// Name and version of the program.
    #[serde(default)]
    pub server: Cow<'static, str>,
    /// Features of this server beyond the first release of the contract.
    #[serde(default)]
    pub features: Vec<Cow<'static, str>>,
}

/// The limits that apply to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WelcomeLimits {
    /// Maximum message size, in bytes.
    pub message_bytes: u64,
    /// Messages per second that a client may send on average.
    pub messages_per_second: u64,
    /// Messages that a client may send at once.
    pub messages_burst: u64,
    /// Channel names per second that subscribes may contain on average.
    pub names_per_second: u64,
    /// Channel names that subscribes may contain at once.
    pub names_burst: u64,
    /// Maximum number of subscriptions of the connection.
    pub subscriptions: u64,
    /// Number of messages that may wait for a slow client before the delivery class applies.
    pub queued_messages: u64,
}

/// The name under which the channels of a user's stream share their positions. No channel can have it.
pub const USER_STREAM: &str = "@";

/// Which channels were subscribed and which were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribedReply {
    /// The command's `id`; `None` for subscriptions on connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The active subscriptions.
    pub channels: Vec<SubscribedChannel>,
    /// The refused channels, each with its reason.
    pub errors: Vec<RefusedChannel>,
}

/// One active subscription and the position at which it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribedChannel {
    /// The channel's name.
    pub channel: Arc<str>,
    /// An unknown class is read as `event`.
    #[serde(deserialize_with = "class_or_event")]
    pub class: Class,
    /// The name under which the channel shares its positions; `None`: it has its own stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Cow<'static, str>>,
    /// The position before everything that follows; `None` without retention.
    pub cursor: Option<StreamId>,
    /// No backlog follows. Otherwise [`CaughtUpNotice`] comes after it.
    pub live: bool,
}

fn class_or_event<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
    let name = Cow::<str>::deserialize(deserializer)?;
    let known = [Class::State, Class::Event, Class::Reliable].into_iter().find(|class| class.as_str() == name);
    Ok(known.unwrap_or(Class::Event))
}

/// A channel that was not subscribed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedChannel {
    /// Its name as the client wrote it.
    pub channel: String,
    /// Why it was refused.
    #[serde(flatten)]
    pub object: ErrorObject,
}

/// The reply to `unsubscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsubscribedReply {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The requested names, including those that were not subscribed.
    pub channels: Vec<String>,
    /// Invalid names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RefusedChannel>,
}

/// The server ended subscriptions. With `details.retry_after_ms` the client may subscribe again, with its cursors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedNotice {
    /// The affected channels.
    pub channels: Vec<String>,
    /// Why the subscriptions ended.
    #[serde(flatten)]
    pub object: ErrorObject,
}

/// The backlog of these channels has been sent; what follows is live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUpNotice {
    /// The channels that are live from now on.
    pub channels: Vec<ChannelEnd>,
}

/// The end of one channel's backlog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEnd {
    /// The channel's name.
    pub channel: Arc<str>,
    /// The position after the backlog; `None` without retention.
    pub cursor: Option<StreamId>,
    /// Number of publications in the backlog, including snapshots.
    pub replayed: u64,
    /// No gap was reported between the cursor of `subscribed` and this one.
    pub complete: bool,
}

/// The reply to `ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The timestamp of the ping, or the server's time if it had none.
    pub timestamp: Json,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// The reply to `auth`: the token was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticatedReply {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The user of the token.
    pub user: UserId,
    /// `None`: the token does not expire.
    pub expires_at: Option<Timestamp>,
}

/// Retained publications of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HistoryReply {
    /// The command's `id`.
    pub id: Option<Json>,
    /// The channel's name.
    pub channel: Arc<str>,
    /// Each is encoded like a push.
    pub messages: Vec<Retained>,
    /// Where the next page starts; `None` without retention.
    pub cursor: Option<StreamId>,
    /// There is a next page.
    pub more: bool,
    /// What is missing before the first of the messages.
    #[serde(default)]
    pub gap: Option<GapPush<'static>>,
}

/// A retained publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Its position; `None` without retention.
    pub id: Option<StreamId>,
    /// The publisher's JSON object.
    pub payload: Bytes,
}

/// The reply to `publish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedReply {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The channel's name, as the client wrote it.
    pub channel: Cow<'static, str>,
    /// `None` for topics without retention.
    pub publication_id: Option<StreamId>,
    /// The same `msg_id` was published before; `publication_id` is the earlier id.
    pub duplicate: bool,
    /// It is below the minimum level of the topic: nothing was stored or sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
    /// Connections that follow the channel, over all replicas, if requested and available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<u64>,
}

/// The reply to `command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAccepted {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// Its position in the commands' topic; `None` without retention.
    pub publication_id: Option<StreamId>,
    /// The same `msg_id` was sent before; `publication_id` is the earlier id.
    pub duplicate: bool,
}

/// The acknowledgement of a producer's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// The message's `msg_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
}

/// Counts over all replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceReply {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The channel's name.
    pub channel: Arc<str>,
    /// Number of connections that are subscribed to it.
    pub connections: u64,
    /// Exact up to a limit.
    pub users: u64,
    /// There are more users than listed in `users`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// The values in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// The command's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// In seconds.
    pub heartbeat_interval: u64,
}

/// A notice that the connection is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatNotice {
    /// When it was written.
    pub timestamp: Timestamp,
    /// The server's clock.
    pub server_time: Timestamp,
    /// Positions that moved without a push, by stream: everything up to them has been sent to this connection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<Cow<'static, str>, StreamId>,
}

/// A notice that the token expires soon and should be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenExpiring {
    /// When it expires.
    pub expires_at: Timestamp,
}
