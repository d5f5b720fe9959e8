//! What the server sends unprompted about topics: publications, encoded once for all subscribers with the same wire
//! form, and gaps. Keeps a payload's bytes: one key is inserted before the last brace.

use std::{borrow::Cow, sync::Arc};

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{json::Object, model::StreamId};

/// The `channel` of a message that was sent to one connection only. No channel can have this name.
pub const TO_CONNECTION: &str = "@connection";

/// The gateway's metadata of a publication, in its `_meta` key. Only applicable fields are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushMeta<'a> {
    /// The client's name of the topic.
    pub channel: Cow<'a, str>,
    /// `None` for topics without retention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<StreamId>,
    /// It was sent before, or may have been.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replayed: bool,
    /// How many older values the client does not receive because this one replaced them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conflated: u64,
    /// It is the current value at the time of the subscription.
    #[serde(default, skip_serializing_if = "is_default")]
    pub snapshot: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'a> PushMeta<'a> {
    /// A publication that is sent for the first time.
    #[must_use]
    pub fn live(channel: impl Into<Cow<'a, str>>, id: Option<StreamId>) -> Self {
        Self { channel: channel.into(), id, replayed: false, conflated: 0, snapshot: false }
    }

    /// Approximate length of a push of `payload`, in bytes. It determines the size of the reserved frame head.
    #[must_use]
    pub fn len_hint(&self, payload: &[u8]) -> usize {
        payload.len() + self.channel.len() + 64
    }
}

/// Appends a publication's JSON text. `payload` is one JSON object, as validated by [`super::payload`].
pub fn push_json(out: &mut BytesMut, meta: &PushMeta<'_>, payload: &[u8]) {
    let payload = payload.trim_ascii_end();
    let body = payload.strip_suffix(b"}").unwrap_or(payload).trim_ascii_end();
    out.reserve(meta.len_hint(payload));
    out.put_slice(body);
    // No value ends in an opening brace, so this one is the object's own: it has no fields before ours.
    out.put_slice(if body.ends_with(b"{") { b"\"_meta\":" } else { b",\"_meta\":" });
    let mut object = Object::begin(out);
    object.string("channel", &meta.channel);
    if let Some(id) = meta.id {
        object.id("id", id);
    }
    if meta.replayed {
        object.boolean("replayed", true);
    }
    if meta.conflated > 0 {
        object.number("conflated", meta.conflated);
    }
    if meta.snapshot {
        object.boolean("snapshot", true);
    }
    object.end();
    out.put_u8(b'}');
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The client did not read fast enough.
    SlowConsumer,
    /// They are no longer retained, or the cursor was never in this stream.
    Retention,
    /// The message path between replicas did not deliver them and they cannot be read back now.
    Backplane,
    /// Redis lost them after they were acknowledged.
    Failover,
    /// They cannot be sent to clients: an external writer stored something that is not a JSON object, or has a
    /// top-level `_meta`.
    InvalidPayload,
}

impl GapReason {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::Retention => "retention",
            Self::Backplane => "backplane",
            Self::Failover => "failover",
            Self::InvalidPayload => "invalid_payload",
        }
    }
}

/// Publications of a stream that the client will not receive: those after `after` and before `before`, both excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapPush<'a> {
    /// The subscribed channels that share the stream.
    pub channels: Cow<'a, [Arc<str>]>,
    /// The last id before the missing ones; `None` if the topic has no ids.
    pub after: Option<StreamId>,
    /// The first id after the missing ones; `None` if not known yet, or if the topic has no ids.
    pub before: Option<StreamId>,
    /// How many, if known.
    pub count: Option<u64>,
    /// The name of a [`GapReason`].
    pub reason: Cow<'static, str>,
    /// The position to continue from; `None` if the topic has no ids.
    pub cursor: Option<StreamId>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ID: StreamId = StreamId::new(1_763_700_000_000, 42);

    fn text(meta: &PushMeta<'_>, payload: &str) -> String {
        let mut out = BytesMut::new();
        push_json(&mut out, meta, payload.as_bytes());
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_publishers_bytes_are_kept_and_one_key_is_added() {
        let live = PushMeta::live("orders", Some(ID));
        let meta = r#""_meta":{"channel":"orders","id":"1763700000000-42"}}"#;
        let cases = [
            (r#"{"type":"order_update","price":"50000.00"}"#, r#"{"type":"order_update","price":"50000.00","#),
            (r#"{ "price" : 1.50 } "#, r#"{ "price" : 1.50,"#),
            ("{}", "{"),
            (" {\n}\r\n", " {"),
            (r#"{"a":{}}"#, r#"{"a":{},"#),
            (r#"{"a":"{"}"#, r#"{"a":"{","#),
        ];
        for (payload, before) in cases {
            assert_eq!(text(&live, payload), format!("{before}{meta}"), "{payload}");
        }
    }

    #[test]
    fn only_applicable_keys_are_written() {
        let none = PushMeta::live("ticker:BTCUSDT", None);
        assert_eq!(text(&none, "{}"), r#"{"_meta":{"channel":"ticker:BTCUSDT"}}"#);
        let all = PushMeta { channel: "x".into(), id: Some(ID), replayed: true, conflated: 3, snapshot: true };
        let expected =
            r#"{"_meta":{"channel":"x","id":"1763700000000-42","replayed":true,"conflated":3,"snapshot":true}}"#;
        assert_eq!(text(&all, "{}"), expected);
    }

    proptest! {
        #[test]
        fn a_push_is_the_payload_plus_meta(
            fields in prop::collection::btree_map("[a-z\"\\\\{}é ]{0,6}", ".{0,8}", 0..5),
            pretty in any::<bool>(),
            (epoch, seq, conflated) in any::<(u64, u64, u64)>(),
            (replayed, snapshot) in any::<(bool, bool)>(),
        ) {
            let payload = if pretty { serde_json::to_string_pretty(&fields) } else { serde_json::to_string(&fields) };
            let meta = PushMeta { channel: "a:b/c".into(), id: Some(StreamId::new(epoch, seq)), replayed, conflated, snapshot };
            let pushed = text(&meta, &payload.unwrap());
            let mut read: Value = serde_json::from_str(&pushed).unwrap();
            let said = read.as_object_mut().unwrap().remove("_meta").unwrap();
            prop_assert_eq!(read, json!(fields));
            let written = serde_json::to_string(&meta).unwrap();
            prop_assert!(pushed.ends_with(&format!("\"_meta\":{written}}}")), "{}", pushed);
            prop_assert_eq!(serde_json::from_value::<PushMeta<'_>>(said).unwrap(), meta);
        }
    }
}
