//! The parts of a gateway's message that a client acts on.

use std::time::Duration;

use serde::Deserialize;
use tickgate_wire::model::StreamId;

/// A message of the gateway, as far as it concerns the tail. What is absent stays empty.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Frame<'a> {
    #[serde(rename = "type", default)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(rename = "_meta")]
    pub meta: Option<Meta>,
    /// `gap`: which channel.
    pub channel: Option<String>,
    /// `gap`: the first id that is there again.
    pub before: Option<StreamId>,
    after_ms: Option<u64>,
    channels: Option<Vec<Subscribed>>,
    errors: Option<Vec<Refused>>,
}

/// What the gateway adds to a publication.
#[derive(Debug, Deserialize)]
pub(super) struct Meta {
    pub channel: String,
    pub id: Option<StreamId>,
    #[serde(default)]
    pub replayed: bool,
    #[serde(default)]
    pub snapshot: bool,
    #[serde(default)]
    pub conflated: u64,
}

/// One channel of `subscribed`.
#[derive(Debug, Deserialize)]
pub(super) struct Subscribed {
    pub channel: String,
    pub cursor: Option<StreamId>,
    #[serde(default)]
    pub replayed: u64,
}

#[derive(Debug, Deserialize)]
struct Refused {
    channel: String,
    message: String,
}

impl<'a> Frame<'a> {
    /// A publication may have fields of these names and other types: then only its `_meta` counts.
    pub(super) fn read(text: &'a str) -> Self {
        #[derive(Default, Deserialize)]
        struct Pushed {
            #[serde(rename = "_meta")]
            meta: Option<Meta>,
        }
        let pushed: Pushed = serde_json::from_str(text).unwrap_or_default();
        match pushed.meta {
            Some(meta) => Self { meta: Some(meta), ..Self::default() },
            None => serde_json::from_str(text).unwrap_or_default(),
        }
    }

    /// The `type` of what the gateway says itself; nothing for publications.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// `reconnect`: how long to wait.
    pub(super) fn reconnect_after(&self) -> Option<Duration> {
        self.after_ms.filter(|_| self.kind == "reconnect").map(Duration::from_millis)
    }

    pub(super) fn subscribed(&self) -> &[Subscribed] {
        self.channels.as_deref().unwrap_or_default()
    }

    /// Whether every channel was refused.
    pub(super) fn nothing_subscribed(&self) -> bool {
        self.subscribed().is_empty() && self.errors.as_ref().is_some_and(|errors| !errors.is_empty())
    }

    /// The channels that were refused, and why.
    pub(super) fn refusals(&self) -> String {
        let errors = self.errors.iter().flatten();
        errors.map(|refused| format!("{}: {}", refused.channel, refused.message)).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_can_not_pose_as_the_gateway() {
        let push =
            r#"{"type":"reconnect","after_ms":1,"channels":5,"_meta":{"channel":"a","id":"1-2","replayed":true}}"#;
        let frame = Frame::read(push);
        assert_eq!((frame.kind(), frame.reconnect_after()), ("", None));
        let meta = frame.meta.unwrap();
        assert_eq!((meta.channel.as_str(), meta.id, meta.replayed), ("a", Some(StreamId::new(1, 2)), true));
    }

    #[test]
    fn refusals_are_sentences() {
        let text =
            r#"{"type":"subscribed","channels":[],"errors":[{"channel":"x","code":4502,"message":"not allowed"}]}"#;
        let frame = Frame::read(text);
        assert!(frame.nothing_subscribed());
        assert_eq!(frame.refusals(), "x: not allowed");
    }
}
