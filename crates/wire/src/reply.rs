//! What the gateway sends to one client: replies to commands, errors, and messages about the connection. These are values;
//! a dialect encodes them. Their serde form is the JSON dialect (the wire contract, sections 5 and 6).

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    code::ErrorCode,
    command::Json,
    model::{Class, SessionId, StreamId, UserId},
    push::Meta,
    time::Timestamp,
};

/// One message to one client. The `id` of a reply is the command's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The first message of a connection.
    ConnectionEstablished(Welcome),
    Subscribed(Subscribed),
    Unsubscribed(Unsubscribed),
    Pong(Pong),
    Authenticated(Authenticated),
    /// Contains pushes, which the JSON dialect writes by hand.
    #[serde(skip_serializing)]
    History(History),
    /// A publication is stored.
    Published(Acknowledged),
    /// A command is stored for the engine of the run.
    CommandAccepted(Acknowledged),
    /// A producer's message is stored in all its topics.
    Ingested(Ingested),
    Presence(Presence),
    Configured(Configured),
    Heartbeat(Heartbeat),
    Reconnect(Reconnect),
    TokenExpiring(TokenExpiring),
    /// A command failed, or the connection is about to be closed.
    Error(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub timestamp: Timestamp,
    pub message: String,
    pub connection_id: String,
    /// Needed to resume the session; a secret. `None` if the session cannot be resumed.
    pub session: Option<SessionId>,
    pub user: Option<UserId>,
    pub server_time: Timestamp,
    /// In seconds.
    pub heartbeat_interval: u64,
    pub limits: WelcomeLimits,
    /// Whether the subscriptions of an earlier connection were restored.
    pub resumed: bool,
}

/// The limits that concern a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WelcomeLimits {
    /// Largest message, in bytes.
    pub message_bytes: u64,
    pub messages_per_second: u64,
    pub messages_burst: u64,
    pub subscriptions: u64,
    /// Messages that may wait for a slow client before the delivery class acts.
    pub queued_messages: u64,
}

/// Which channels were subscribed and which were refused. Replayed pushes follow it.
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
    pub class: Class,
    /// Where the subscription stands once the replayed and snapshot pushes are read; `None` without retention.
    pub cursor: Option<StreamId>,
    /// How many pushes of the past follow.
    pub replayed: u64,
    /// Whether nothing is missing between the client's cursor and the first live push.
    pub complete: bool,
    /// Whether the current value follows.
    pub snapshot: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedChannel {
    pub channel: String,
    pub code: u16,
    /// The name of the code.
    pub error: Cow<'static, str>,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// The requested names, including those that were not subscribed.
    pub channels: Vec<String>,
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
    pub expires_at: Timestamp,
}

/// Retained publications of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct History {
    pub id: Option<Json>,
    pub channel: Arc<str>,
    /// Each is encoded like a push.
    pub messages: Vec<Retained>,
    /// Nothing is missing between the requested cursor and the last message, and no limit was reached.
    pub complete: bool,
}

/// A retained publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    pub id: Option<StreamId>,
    /// The publisher's JSON object.
    pub payload: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The command's `id`; without one, the id of the publication, or `null` if it has none.
    pub id: Option<Json>,
    /// The same `msg_id` was published before; `meta` names that publication.
    pub duplicate: bool,
    /// The publication, as in a push.
    #[serde(rename = "_meta")]
    pub meta: Meta<'static>,
}

impl Acknowledged {
    /// Acknowledges a publication. `stored` is its id; `None` for topics without retention.
    #[must_use]
    pub fn new(id: Option<Json>, channel: String, stored: Option<StreamId>, duplicate: bool) -> Self {
        Self { id: id.or_else(|| stored.map(|id| Json::of(&id))), duplicate, meta: Meta::live(channel, stored) }
    }
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

/// The granted values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// Updates per second and channel; `None`: as published.
    pub max_rate: Option<u32>,
    /// In seconds.
    pub heartbeat_interval: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub timestamp: Timestamp,
    pub server_time: Timestamp,
    /// The head of the user's private stream, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<StreamId>,
}

/// The replica is shutting down; clients should reconnect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconnect {
    pub after_ms: u64,
    pub reason: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenExpiring {
    pub expires_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: u16,
    /// The name of the code.
    pub error: Cow<'static, str>,
    /// What was wrong and what would be right, for people.
    pub message: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Details::is_empty")]
    pub details: Details,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub timestamp: Timestamp,
}

/// Machine-readable details of a failure. Only those that apply are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// When to retry the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Of a publication: whether it was `refused`, certainly not stored, or its outcome is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Cow<'static, str>>,
    /// Which field was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Details {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Failure {
    /// A failure without details, of a command with this `id`.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>, id: Option<Json>, now_ms: u64) -> Self {
        Self {
            code: code.number(),
            error: code.name().into(),
            message: message.into(),
            details: Details::default(),
            id,
            timestamp: Timestamp::from_ms(now_ms),
        }
    }
}

impl RefusedChannel {
    #[must_use]
    pub fn new(channel: String, code: ErrorCode, message: String) -> Self {
        Self { channel, code: code.number(), error: code.name().into(), message }
    }
}
