//! The JSON dialect, client to server (the wire contract, section 3).

use serde_json::value::RawValue;

use crate::model::StreamId;

/// A command with the client's own id of it, echoed in the reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// JSON text of the `id` (a string or a number of at most 64 characters), as the client wrote it.
    pub id: Option<Box<str>>,
    pub command: Command,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Subscribe(Subscribe),
    Unsubscribe {
        channels: Vec<String>,
    },
    /// `subscribe_<verb>` and `unsubscribe_<verb>` with `symbols`: channels once the profile's prefix is put before.
    SubscribeSymbols {
        verb: String,
        symbols: Vec<String>,
    },
    UnsubscribeSymbols {
        verb: String,
        symbols: Vec<String>,
    },
    Ping {
        timestamp: Option<Box<str>>,
    },
    Auth {
        token: String,
    },
    History {
        channel: String,
        since: Option<StreamId>,
        last: Option<u32>,
        limit: Option<u32>,
    },
    Publish {
        channel: String,
        data: Json,
        msg_id: Option<String>,
        user: Option<String>,
    },
    Run {
        command: String,
        args: Option<Json>,
    },
    Presence {
        channel: String,
    },
    Configure {
        max_rate: Option<u32>,
        heartbeat_interval: Option<u32>,
    },
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
#[derive(Clone, Debug)]
pub struct Json(pub Box<RawValue>);

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}
