//! Reads the server's messages, for clients. Unknown types and fields are not errors: new ones may be added.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

use crate::{
    json::scan_object,
    payload::META_KEY,
    push::{GapPush, PushMeta},
    reply::{Reply, Retained},
};

/// Maximum nesting depth.
const DEPTH_MAX: usize = 128;

/// One message from the server. `_meta` makes a push. Of all others, those with an `id` are replies, and the rest are
/// notices.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage<'a> {
    /// A publication: the gateway's `_meta`, and the publisher's object without it.
    Push(PushMeta<'a>, Bytes),
    /// A notice of missing messages.
    Gap(GapPush<'a>),
    /// A reply or a notice, with the fields of the command that the server ignored.
    Reply(Reply, Vec<String>),
    /// A message of an unknown type.
    Unknown,
}

/// The messages of one text frame: it holds an object, or an array of objects.
///
/// # Errors
/// If an array is not well-formed.
pub fn frame(text: &str) -> Result<Vec<&str>, serde_json::Error> {
    if !text.starts_with('[') {
        return Ok(vec![text]);
    }
    let messages: Vec<&RawValue> = serde_json::from_str(text)?;
    Ok(messages.into_iter().map(RawValue::get).collect())
}

/// Reads one message from the server.
///
/// # Errors
/// If the text is not a JSON object, or a known message lacks a required field.
pub fn read(text: &str) -> Result<ServerMessage<'_>, serde_json::Error> {
    // A publication can have any fields, even `type` and `id`. A message with `_meta` is therefore never read as a reply.
    if let Some((meta, payload)) = split(text)? {
        return Ok(ServerMessage::Push(meta, payload));
    }
    let TypedMessage { r#type, ignored, code } = serde_json::from_str(text)?;
    let reply = match &*r#type {
        "gap" => return serde_json::from_str(text).map(ServerMessage::Gap),
        "connection_established" => Reply::ConnectionEstablished(serde_json::from_str(text)?),
        "subscribed" => Reply::Subscribed(serde_json::from_str(text)?),
        "unsubscribed" if code.is_some() => Reply::Ended(serde_json::from_str(text)?),
        "unsubscribed" => Reply::Unsubscribed(serde_json::from_str(text)?),
        "caught_up" => Reply::CaughtUp(serde_json::from_str(text)?),
        "pong" => Reply::Pong(serde_json::from_str(text)?),
        "authenticated" => Reply::Authenticated(serde_json::from_str(text)?),
        "history" => Reply::History(serde_json::from_str(text)?),
        "published" => Reply::Published(serde_json::from_str(text)?),
        "command_accepted" => Reply::CommandAccepted(serde_json::from_str(text)?),
        "presence" => Reply::Presence(serde_json::from_str(text)?),
        "configured" => Reply::Configured(serde_json::from_str(text)?),
        "heartbeat" => Reply::Heartbeat(serde_json::from_str(text)?),
        "token_expiring" => Reply::TokenExpiring(serde_json::from_str(text)?),
        "closing" => Reply::Closing(serde_json::from_str(text)?),
        "error" => Reply::Error(serde_json::from_str(text)?),
        _ => return Ok(ServerMessage::Unknown),
    };
    Ok(ServerMessage::Reply(reply, ignored))
}

#[derive(Deserialize)]
struct TypedMessage<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(default)]
    ignored: Vec<String>,
    code: Option<u16>,
}

impl<'de> Deserialize<'de> for Retained {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let (meta, payload) =
            split(text).map_err(D::Error::custom)?.ok_or_else(|| D::Error::missing_field(META_KEY))?;
        Ok(Self { id: meta.id, payload })
    }
}

/// Splits a push into `_meta` and the object that was published. `None` if there is no `_meta`.
fn split(text: &str) -> Result<Option<(PushMeta<'static>, Bytes)>, serde_json::Error> {
    let mut meta = None;
    scan_object(text, DEPTH_MAX, |key, value| meta = Some(value).filter(|_| key == META_KEY)).map_err(Error::custom)?;
    let Some(meta) = meta else { return Ok(None) };
    // The gateway always writes it as the last field.
    let before = text[..meta.as_ptr() as usize - text.as_ptr() as usize].trim_end_matches([' ', ':']);
    let body = before.trim_end_matches(|c| c != ',' && c != '{');
    let body = body.strip_suffix(',').unwrap_or(body);
    Ok(Some((serde_json::from_str(meta)?, [body.as_bytes(), b"}"].concat().into())))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        command::Json,
        model::{Class, StreamId},
        push::push_json,
        reply::Advice,
    };

    fn push(text: &str) -> (PushMeta<'_>, Bytes) {
        match read(text) {
            Ok(ServerMessage::Push(meta, payload)) => (meta, payload),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_publication_cannot_imitate_the_gateway() {
        for posing in [
            r#"{"type":"closing","after_ms":1,"channels":5"#,
            r#"{"type":"gap""#,
            r#"{"type":"published","id":1,"duplicate":false,"of":1"#,
        ] {
            let text = format!(r#"{posing},"_meta":{{"channel":"a","id":"1-2","replayed":true}}}}"#);
            let (meta, payload) = push(&text);
            assert_eq!(meta, PushMeta { replayed: true, ..PushMeta::live("a", Some(StreamId::new(1, 2))) });
            assert_eq!(payload, format!("{posing}}}"));
        }
    }

    #[test]
    fn unknown_types_fields_codes_and_classes_are_not_errors() {
        assert_eq!(read(r#"{"type":"of_next_year"}"#).unwrap(), ServerMessage::Unknown);
        let text = r#"{"type":"closing","code":4999,"error":"new","message":"m","reconnect":"no","new":[]}"#;
        let Ok(ServerMessage::Reply(Reply::Closing(closing), _)) = read(text) else {
            panic!("expected a closing notice")
        };
        assert_eq!((closing.object.code, closing.reconnect, closing.after_ms), (4999, Advice::No, None));
        let failure = r#"{"type":"error","code":4999,"error":"new","message":"m","id":1.50,"timestamp":"2025-11-21T08:00:00.000Z"}"#;
        let Ok(ServerMessage::Reply(Reply::Error(failure), _)) = read(failure) else { panic!("expected an error") };
        assert_eq!((failure.object.code, failure.id.as_ref().map(Json::get)), (4999, Some("1.50")));
        let class = r#"{"type":"subscribed","channels":[{"channel":"a","class":"table","cursor":null,"live":true,"x":1}],"errors":[],"ignored":["where"]}"#;
        let Ok(ServerMessage::Reply(Reply::Subscribed(subscribed), ignored)) = read(class) else { panic!("{class}") };
        assert_eq!((subscribed.channels[0].class, ignored), (Class::Event, vec!["where".to_owned()]));
        assert!(read("[]").is_err() && read(r#"{"type":"pong"}"#).is_err() && read("{}").is_err());
    }

    #[test]
    fn a_frame_holds_one_message_or_several() {
        assert_eq!(frame(r#"{"a":[]}"#).unwrap(), [r#"{"a":[]}"#]);
        assert_eq!(frame(r#"[{"a":1}, {"b":[2]}]"#).unwrap(), [r#"{"a":1}"#, r#"{"b":[2]}"#]);
        assert!(frame("[{").is_err());
    }

    proptest! {
        #[test]
        fn a_push_is_split_into_the_published_object_and_meta(
            fields in prop::collection::btree_map("[a-z\",{:é ]{0,6}", "[\",:{a]{0,4}", 0..4),
            conflated in any::<u64>(),
        ) {
            let payload = serde_json::to_string(&fields).unwrap();
            let meta = PushMeta { conflated, ..PushMeta::live("a:b", Some(StreamId::new(conflated, 3))) };
            let mut text = BytesMut::new();
            push_json(&mut text, &meta, payload.as_bytes());
            let read = push(std::str::from_utf8(&text).unwrap());
            prop_assert_eq!(read, (meta, Bytes::from(payload)));
        }
    }
}
