//! What an allowed command asks `connection` to do. Values only: never decides and never performs anything.

use tickgate_wire::{
    command::{HistoryFrom, Ingest, Json, Token},
    model::StartAt,
};

use super::{ChannelRefusal, ResolvedChannel};

/// One channel to subscribe to.
#[derive(Clone, Debug)]
pub struct RequestedChannel {
    /// The channel and its topic.
    pub resolved: ResolvedChannel,
    /// Where its messages start.
    pub start: StartAt,
    /// Maximum number of values per second; `None`: no limit.
    pub max_rate: Option<u32>,
    /// Whether an existing subscription restarts from there.
    pub restarts: bool,
}

/// The result of an allowed command.
#[derive(Debug)]
pub enum SessionAction {
    /// Subscribe to the allowed channels, and report the others.
    Subscribe {
        /// The allowed channels; may be empty.
        wanted: Vec<RequestedChannel>,
        /// The refused ones, with the reason for each.
        refused: Vec<ChannelRefusal>,
    },
    /// End the subscriptions to these channels.
    Unsubscribe {
        /// The channels, whether or not they are subscribed.
        channels: Vec<String>,
        /// Names that are not valid channels.
        refused: Vec<ChannelRefusal>,
    },
    /// Answer a `ping`.
    Pong {
        /// The client's value, returned unchanged.
        timestamp: Option<Json>,
    },
    /// Verify the token, and continue with its rights.
    Authenticate {
        /// A first token, or a newer one of the same user.
        token: Token,
    },
    /// Read retained publications of a channel.
    History {
        /// The channel and its topic.
        resolved: ResolvedChannel,
        /// Which part of the stream.
        from: HistoryFrom,
        /// Maximum number of publications.
        count: usize,
    },
    /// Publish to a channel that the token's `publish` right covers.
    Publish {
        /// The name that the client used.
        channel: String,
        /// The owner of a private channel; `None`: the channel is public.
        user: Option<String>,
        /// The payload, as written.
        data: Json,
        /// Makes a retry safe.
        msg_id: Option<String>,
        /// Whether the reply states the number of receivers.
        count: bool,
    },
    /// A command to the engine that executes a run.
    Command {
        /// `commands_topic` of the profile.
        topic: String,
        /// The command's name.
        command: String,
        /// Its arguments, as written.
        args: Option<Json>,
        /// Makes a retry safe.
        msg_id: Option<String>,
    },
    /// Count the subscribers of a channel on all replicas.
    Presence {
        /// The channel and its topic.
        resolved: ResolvedChannel,
    },
    /// Change the connection's own settings.
    Configure {
        /// Seconds of silence before a heartbeat; `None`: unchanged.
        heartbeat_s: Option<u32>,
    },
    /// A producer's message.
    Ingest(Ingest),
}
