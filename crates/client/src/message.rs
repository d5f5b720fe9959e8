//! What a gateway sends to a client, as far as a client acts on it. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use tickgate_wire::model::StreamId;

/// One message of the gateway.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message {
    /// What was published: the message's text is the publisher's object with `_meta` as its last field.
    Publication(Meta),
    /// The welcome of a new connection.
    Welcome,
    /// The answer to a subscription.
    Subscribed(Subscribed),
    /// Messages of a channel are missing and can't be replayed.
    Gap(Gap),
    /// The past of channels has been sent.
    CaughtUp(CaughtUp),
    /// The gateway is about to close the connection: come back after this time, where it names one.
    Closing(Option<Duration>),
    /// A sign of life, with positions that moved without a push.
    Heartbeat(Heartbeat),
    /// The answer to a ping.
    Pong,
    /// Anything else, such as an error.
    Other,
}

/// What the gateway adds to a publication.
#[derive(Clone, Debug, Deserialize)]
pub struct Meta {
    /// Where it was published.
    pub channel: String,
    /// Its position; `None` where the topic is not retained.
    pub id: Option<StreamId>,
    /// It was published before the subscription began, or while the client was away.
    #[serde(default)]
    pub replayed: bool,
    /// It is the current value at the beginning of a subscription.
    #[serde(default)]
    pub snapshot: bool,
    /// How many older values it replaced on its way.
    #[serde(default)]
    pub conflated: u64,
}

/// The answer to a subscription.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Subscribed {
    /// The channels that are subscribed now.
    #[serde(default)]
    pub channels: Vec<SubscribedChannel>,
    /// The channels that were refused.
    #[serde(default)]
    pub errors: Vec<RefusedChannel>,
}

/// A channel that is subscribed.
#[derive(Clone, Debug, Deserialize)]
pub struct SubscribedChannel {
    /// Its name.
    pub channel: String,
    /// What it shares its position with; `None`: nothing.
    pub stream: Option<String>,
    /// The position before everything that follows; `None` where the topic is not retained.
    pub cursor: Option<StreamId>,
    /// Nothing of the past follows.
    #[serde(default)]
    pub live: bool,
}

/// The end of the past of channels.
#[derive(Clone, Debug, Deserialize)]
pub struct CaughtUp {
    /// Those that are live from here on.
    pub channels: Vec<CaughtUpChannel>,
}

/// A channel whose past has been sent.
#[derive(Clone, Debug, Deserialize)]
pub struct CaughtUpChannel {
    /// Its name.
    pub channel: String,
    /// The position after the past; `None` where the topic is not retained.
    pub cursor: Option<StreamId>,
    /// How many messages of the past came.
    pub replayed: u64,
    /// None of them is missing.
    pub complete: bool,
}

/// A sign of life.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Heartbeat {
    /// Positions by stream, up to which everything has been sent.
    #[serde(default)]
    pub cursors: BTreeMap<String, StreamId>,
}

/// A channel that was refused.
#[derive(Clone, Debug, Deserialize)]
pub struct RefusedChannel {
    /// Its name.
    pub channel: String,
    /// Why, as a sentence.
    pub message: String,
}

/// A notice that messages are missing.
#[derive(Clone, Debug, Deserialize)]
pub struct Gap {
    /// The channels that share the stream.
    pub channels: Vec<String>,
    /// The position to continue from; `None` where the topic has none.
    pub cursor: Option<StreamId>,
}

impl Subscribed {
    /// The channels that were refused, and why; empty when all were granted.
    #[must_use]
    pub fn refusals(&self) -> String {
        let refusals = self.errors.iter().map(|refused| format!("{}: {}", refused.channel, refused.message));
        refusals.collect::<Vec<_>>().join("; ")
    }
}

/// What the gateway says itself.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    ConnectionEstablished,
    Subscribed(Subscribed),
    Gap(Gap),
    CaughtUp(CaughtUp),
    Closing {
        after_ms: Option<u64>,
    },
    Heartbeat(Heartbeat),
    Pong,
    #[serde(other)]
    Other,
}

impl Message {
    /// Reads a message. A publication may have fields with the names and types of the gateway's own messages: its
    /// `_meta` tells them apart.
    #[must_use]
    pub fn read(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Pushed {
            #[serde(rename = "_meta")]
            meta: Meta,
        }
        if let Ok(pushed) = serde_json::from_str::<Pushed>(text) {
            return Self::Publication(pushed.meta);
        }
        match serde_json::from_str(text) {
            Ok(Said::ConnectionEstablished) => Self::Welcome,
            Ok(Said::Subscribed(subscribed)) => Self::Subscribed(subscribed),
            Ok(Said::Gap(gap)) => Self::Gap(gap),
            Ok(Said::CaughtUp(caught_up)) => Self::CaughtUp(caught_up),
            Ok(Said::Closing { after_ms }) => Self::Closing(after_ms.map(Duration::from_millis)),
            Ok(Said::Heartbeat(heartbeat)) => Self::Heartbeat(heartbeat),
            Ok(Said::Pong) => Self::Pong,
            Ok(Said::Other) | Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_can_not_pose_as_the_gateway() {
        let push = r#"{"type":"closing","after_ms":1,"channels":5,"_meta":{"channel":"a","id":"1-2","replayed":true}}"#;
        let Message::Publication(meta) = Message::read(push) else { panic!("not a publication") };
        assert_eq!((meta.channel.as_str(), meta.id, meta.replayed), ("a", Some(StreamId::new(1, 2)), true));
    }

    #[test]
    fn what_the_gateway_says_is_told_apart() {
        let read = |text: &str| format!("{:?}", Message::read(text));
        assert_eq!(read(r#"{"type":"connection_established","session":"x"}"#), "Welcome");
        assert_eq!(read(r#"{"type":"closing","code":1012,"after_ms":20}"#), "Closing(Some(20ms))");
        assert_eq!(read(r#"{"type":"heartbeat","time":1}"#), "Heartbeat(Heartbeat { cursors: {} })");
        for other in [r#"{"type":"error","code":4004}"#, r#"{"type":"news"}"#, "[]", "", r#"{"type":"gap"}"#] {
            assert_eq!(read(other), "Other", "{other}");
        }
    }

    #[test]
    fn refusals_are_sentences() {
        let text =
            r#"{"type":"subscribed","channels":[],"errors":[{"channel":"x","code":4502,"message":"not allowed"}]}"#;
        let Message::Subscribed(subscribed) = Message::read(text) else { panic!("not an answer") };
        assert!(subscribed.channels.is_empty());
        assert_eq!(subscribed.refusals(), "x: not allowed");
    }
}
