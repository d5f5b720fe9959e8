//! What the server sends unasked about topics: publications, encoded once for all who share a wire form, and gaps. Never
//! parses a payload and never changes its bytes: one key is spliced in before the last brace.

use bytes::{BufMut, BytesMut};

use super::json::Object;
use crate::{model::StreamId, transport::Transport};

/// What the gateway says about a publication, in its `_meta` key. Only what applies is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    /// What the client calls the topic.
    pub channel: &'a str,
    /// `None` for topics without retention.
    pub id: Option<StreamId>,
    /// It was sent before, or may have been.
    pub replayed: bool,
    /// How many older values the client does not get because this one replaced them.
    pub conflated: u64,
    /// It is the current value at the time of the subscription.
    pub snapshot: bool,
}

impl<'a> Meta<'a> {
    /// A publication on its way for the first time.
    #[must_use]
    pub const fn live(channel: &'a str, id: Option<StreamId>) -> Self {
        Self { channel, id, replayed: false, conflated: 0, snapshot: false }
    }
}

/// Appends a publication. `payload` is one JSON object, as [`super::payload`] checks it.
pub fn push(out: &mut BytesMut, transport: Transport, meta: &Meta<'_>, payload: &[u8]) {
    transport.message(out, len_guess(meta, payload), |out| push_json(out, meta, payload));
}

/// Appends the bare JSON text of a publication.
pub fn push_json(out: &mut BytesMut, meta: &Meta<'_>, payload: &[u8]) {
    let payload = payload.trim_ascii_end();
    let body = payload.strip_suffix(b"}").unwrap_or(payload).trim_ascii_end();
    out.reserve(len_guess(meta, payload));
    out.put_slice(body);
    // No value ends in an opening brace, so this one is the object's own: there is no field before ours.
    out.put_slice(if body.ends_with(b"{") { b"\"_meta\":" } else { b",\"_meta\":" });
    let mut object = Object::begin(out);
    object.string("channel", meta.channel);
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

/// About how long the text becomes: right in its order of magnitude, which decides the size of the frame's header.
fn len_guess(meta: &Meta<'_>, payload: &[u8]) -> usize {
    payload.len() + meta.channel.len() + 64
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The client did not read fast enough.
    SlowConsumer,
    /// They are no longer kept, or the cursor never was in this stream.
    Retention,
    /// The road between replicas did not hand them over and they can't be read back now.
    Backplane,
    /// Redis lost them after they had been acknowledged.
    Failover,
}

impl GapReason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::Retention => "retention",
            Self::Backplane => "backplane",
            Self::Failover => "failover",
        }
    }
}

/// Messages of a channel that the client will not get: those after `after` and before `before`, both excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap<'a> {
    pub channel: &'a str,
    /// The last id before the missing ones; `None` where the topic has no ids.
    pub after: Option<StreamId>,
    /// The first id after the missing ones; `None` where it is not known yet, or the topic has no ids.
    pub before: Option<StreamId>,
    /// How many, where that can be known.
    pub count: Option<u64>,
    pub reason: GapReason,
}

/// Appends the JSON text of a gap.
pub fn gap(out: &mut BytesMut, gap: &Gap<'_>) {
    let mut object = Object::begin(out);
    object.string("type", "gap");
    object.string("channel", gap.channel);
    object.id_or_null("after", gap.after);
    object.id_or_null("before", gap.before);
    match gap.count {
        Some(count) => object.number("count", count),
        None => object.raw("count", "null"),
    }
    object.string("reason", gap.reason.as_str());
    object.end();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ID: StreamId = StreamId::new(1_763_700_000_000, 42);

    fn text(meta: &Meta<'_>, payload: &str) -> String {
        let mut out = BytesMut::new();
        push_json(&mut out, meta, payload.as_bytes());
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_publishers_bytes_are_kept_and_one_key_is_added() {
        let live = Meta::live("orders", Some(ID));
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
    fn only_the_keys_that_apply_are_there() {
        let none = Meta::live("ticker:BTCUSDT", None);
        assert_eq!(text(&none, "{}"), r#"{"_meta":{"channel":"ticker:BTCUSDT"}}"#);
        let all = Meta { channel: "x", id: Some(ID), replayed: true, conflated: 3, snapshot: true };
        let expected =
            r#"{"_meta":{"channel":"x","id":"1763700000000-42","replayed":true,"conflated":3,"snapshot":true}}"#;
        assert_eq!(text(&all, "{}"), expected);
    }

    #[test]
    fn frames_and_events_hold_the_same_text() {
        let (meta, payload) = (Meta::live("x", Some(ID)), r#"{"a":1}"#);
        let json = text(&meta, payload);
        let mut frame = BytesMut::new();
        push(&mut frame, Transport::WebSocket, &meta, payload.as_bytes());
        assert_eq!(&frame[..], [&[0x81, json.len() as u8][..], json.as_bytes()].concat());
        let mut event = BytesMut::new();
        push(&mut event, Transport::EventStream, &meta, b"{\n\"a\":1}");
        let expected = "data: {\ndata: \"a\":1,\"_meta\":{\"channel\":\"x\",\"id\":\"1763700000000-42\"}}\n\n";
        assert_eq!(std::str::from_utf8(&event).unwrap(), expected);
    }

    #[test]
    fn a_gap_says_what_is_missing() {
        let mut out = BytesMut::new();
        let lost = Gap { channel: "orders", after: Some(ID), before: None, count: None, reason: GapReason::Failover };
        gap(&mut out, &lost);
        let expected = r#"{"type":"gap","channel":"orders","after":"1763700000000-42","before":null,"count":null,"reason":"failover"}"#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
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
            let meta = Meta { channel: "a:b/c", id: Some(StreamId::new(epoch, seq)), replayed, conflated, snapshot };
            let mut pushed: Value = serde_json::from_str(&text(&meta, &payload.unwrap())).unwrap();
            let said = pushed.as_object_mut().unwrap().remove("_meta").unwrap();
            prop_assert_eq!(pushed, json!(fields));
            prop_assert_eq!(&said["id"], &json!(format!("{epoch}-{seq}")));
            prop_assert_eq!(said.get("replayed").is_some(), replayed);
            prop_assert_eq!(said.get("conflated").and_then(Value::as_u64).unwrap_or(0), conflated);
            prop_assert_eq!(said.get("snapshot").is_some(), snapshot);
        }
    }
}
