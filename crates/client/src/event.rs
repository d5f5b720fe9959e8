//! Events from a client to the application. Plain values.

use std::time::Duration;

use serde::Deserialize;

use crate::{error::Error, server_error::ServerError};

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A publication.
    Message(ReceivedMessage),
    /// Messages are missing and cannot be replayed: take a snapshot through the platform's own API, then continue.
    Gap(Gap),
    /// The gateway has welcomed the client.
    Connected {
        /// Index of the endpoint, in the order in which they were added.
        endpoint: usize,
        /// The user of the token; `None` without a token.
        user: Option<String>,
    },
    /// A channel is subscribed; its backlog follows, if there is one, and then [`Event::CaughtUp`].
    Subscribed {
        /// Its name.
        channel: String,
        /// Its delivery class: `state`, `event`, `reliable`, or one of a newer gateway.
        class: String,
        /// No backlog follows.
        live: bool,
    },
    /// The channel's backlog was delivered; live messages follow.
    CaughtUp {
        /// Its name.
        channel: String,
        /// Number of messages in the backlog.
        replayed: u64,
        /// Nothing is missing between the cursor and here.
        complete: bool,
    },
    /// A channel was refused, or its subscription was ended, permanently. It is no longer wanted.
    Refused {
        /// Its name.
        channel: String,
        /// Why.
        error: ServerError,
    },
    /// The client's state changed.
    State(ClientState),
    /// The gateway sent a notice of an unknown type. Reported once per type.
    Unknown {
        /// Its `type`.
        kind: String,
    },
}

/// State of a client.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// A connection is being opened.
    Connecting,
    /// Connected; a wanted channel is not live yet.
    CatchingUp,
    /// Every wanted channel that was not refused is live.
    Live,
    /// Nothing was received for longer than a heartbeat interval.
    Stale,
    /// Not connected; the next attempt follows after this delay.
    Waiting {
        /// Measured from now on.
        wait: Duration,
        /// Why.
        error: Error,
    },
    /// The client has stopped.
    Closed {
        /// Why; `None` if the application stopped it.
        error: Option<Error>,
    },
}

impl ClientState {
    /// The name used in `docs/client.md`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::CatchingUp => "catching_up",
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Waiting { .. } => "waiting",
            Self::Closed { .. } => "closed",
        }
    }
}

/// A publication.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// The gateway's metadata.
    pub meta: MessageMeta,
    /// The publisher's object with `_meta` as its last field, byte for byte as received.
    pub text: String,
}

impl ReceivedMessage {
    /// The publisher's object as it was published.
    #[must_use]
    pub fn payload(&self) -> String {
        // The gateway appends `_meta` as the last key, and its content does not contain this text.
        match self.text.rfind("\"_meta\":") {
            Some(at) => format!("{}}}", self.text[..at].trim_end_matches(',')),
            None => self.text.clone(),
        }
    }
}

/// The gateway's metadata of a publication.
#[derive(Clone, Debug, Deserialize)]
pub struct MessageMeta {
    /// The channel of the publication.
    pub channel: String,
    /// Its id, which is also the cursor after it; `None` if the topic is not retained.
    pub id: Option<String>,
    /// It was published before the subscription started, or while the client was disconnected.
    #[serde(default)]
    pub replayed: bool,
    /// It is the current value at the start of a subscription.
    #[serde(default)]
    pub snapshot: bool,
    /// How many older values it replaced before it was sent.
    #[serde(default)]
    pub conflated: u64,
}

/// A notice that messages are missing.
#[derive(Clone, Debug, Deserialize)]
pub struct Gap {
    /// The affected channels.
    pub channels: Vec<String>,
    /// The missing messages come after this id; `None` if not known.
    pub after: Option<String>,
    /// The missing messages come before this id; `None` if not known.
    pub before: Option<String>,
    /// Number of missing messages; `None` if not known.
    pub count: Option<u64>,
    /// The reason: `slow_consumer`, `retention`, `backplane`, `failover`, or one of a newer gateway.
    pub reason: String,
    /// The cursor to continue from.
    pub cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_the_published_object() {
        let meta: MessageMeta = serde_json::from_str(r#"{"channel":"a"}"#).unwrap();
        let of = |text: &str| ReceivedMessage { meta: meta.clone(), text: text.into() }.payload();
        assert_eq!(of(r#"{"a": {"_meta":1},"_meta":{"channel":"a"}}"#), r#"{"a": {"_meta":1}}"#);
        assert_eq!(of(r#"{"_meta":{"channel":"a"}}"#), "{}");
    }
}
