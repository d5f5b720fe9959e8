//! Reads the server's messages, for clients. Unknown types and fields are not errors: new ones may be added.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

use crate::{
    command::Json,
    json::scan_object,
    payload::META_KEY,
    push::{Gap, Meta},
    reply::{Acknowledged, Reply, Retained},
};

/// Maximum nesting depth.
const DEPTH_MAX: usize = 128;

/// One message from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage<'a> {
    /// A publication: the gateway's `_meta`, and the publisher's object without it.
    Push(Meta<'a>, Bytes),
    Gap(Gap<'a>),
    Reply(Reply),
    /// A message of an unknown type.
    Unknown,
}

/// Reads one message from the server.
///
/// # Errors
/// If the text is not a JSON object, or a known message lacks a required field.
pub fn read(text: &str) -> Result<ServerMessage<'_>, serde_json::Error> {
    if let Ok(Acknowledgement { r#type, id, duplicate, meta }) = serde_json::from_str(text) {
        let acknowledged = Acknowledged { id, duplicate, meta };
        return Ok(ServerMessage::Reply(match r#type {
            Stored::Published => Reply::Published(acknowledged),
            Stored::CommandAccepted => Reply::CommandAccepted(acknowledged),
        }));
    }
    // A publication can have any fields, even `type`. A message with `_meta` is therefore never read as a reply.
    if let Some((meta, payload)) = split(text)? {
        return Ok(ServerMessage::Push(meta, payload));
    }
    let Typed { r#type } = serde_json::from_str(text)?;
    let reply = match &*r#type {
        "gap" => return serde_json::from_str(text).map(ServerMessage::Gap),
        "connection_established" => Reply::ConnectionEstablished(serde_json::from_str(text)?),
        "subscribed" => Reply::Subscribed(serde_json::from_str(text)?),
        "unsubscribed" => Reply::Unsubscribed(serde_json::from_str(text)?),
        "pong" => Reply::Pong(serde_json::from_str(text)?),
        "authenticated" => Reply::Authenticated(serde_json::from_str(text)?),
        "history" => Reply::History(serde_json::from_str(text)?),
        "presence" => Reply::Presence(serde_json::from_str(text)?),
        "configured" => Reply::Configured(serde_json::from_str(text)?),
        "heartbeat" => Reply::Heartbeat(serde_json::from_str(text)?),
        "reconnect" => Reply::Reconnect(serde_json::from_str(text)?),
        "token_expiring" => Reply::TokenExpiring(serde_json::from_str(text)?),
        "error" => Reply::Error(serde_json::from_str(text)?),
        _ => return Ok(ServerMessage::Unknown),
    };
    Ok(ServerMessage::Reply(reply))
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

/// The replies that contain `_meta`. They are distinguished from pushes by having no other fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledgement {
    r#type: Stored,
    id: Option<Json>,
    duplicate: bool,
    #[serde(rename = "_meta")]
    meta: Meta<'static>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Published,
    CommandAccepted,
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
fn split(text: &str) -> Result<Option<(Meta<'static>, Bytes)>, serde_json::Error> {
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
    use crate::{model::StreamId, push::push_json};

    fn push(text: &str) -> (Meta<'_>, Bytes) {
        match read(text) {
            Ok(ServerMessage::Push(meta, payload)) => (meta, payload),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_publication_cannot_imitate_the_gateway() {
        for posing in [
            r#"{"type":"reconnect","after_ms":1,"channels":5"#,
            r#"{"type":"gap""#,
            r#"{"type":"published","duplicate":false,"of":1"#,
        ] {
            let text = format!(r#"{posing},"_meta":{{"channel":"a","id":"1-2","replayed":true}}}}"#);
            let (meta, payload) = push(&text);
            assert_eq!(meta, Meta { replayed: true, ..Meta::live("a", Some(StreamId::new(1, 2))) });
            assert_eq!(payload, format!("{posing}}}"));
        }
    }

    #[test]
    fn acknowledgements_are_replies() {
        let text = r#"{"type":"published","id":"7-1","duplicate":true,"_meta":{"channel":"a","id":"7-1"}}"#;
        let acknowledged = Acknowledged::new(None, "a".into(), Some(StreamId::new(7, 1)), true);
        assert_eq!(read(text).unwrap(), ServerMessage::Reply(Reply::Published(acknowledged)));
    }

    #[test]
    fn unknown_types_and_fields_are_not_errors() {
        assert_eq!(read(r#"{"type":"of_next_year"}"#).unwrap(), ServerMessage::Unknown);
        let text = r#"{"type":"reconnect","after_ms":5,"reason":"because","new":[]}"#;
        let Ok(ServerMessage::Reply(Reply::Reconnect(reconnect))) = read(text) else { panic!("no reconnect") };
        assert_eq!((reconnect.after_ms, &*reconnect.reason), (5, "because"));
        let failure =
            r#"{"type":"error","code":4999,"error":"new","message":"m","timestamp":"2025-11-21T08:00:00.000Z"}"#;
        assert!(matches!(read(failure), Ok(ServerMessage::Reply(Reply::Error(failure))) if failure.code == 4999));
        assert!(read("[]").is_err() && read(r#"{"type":"pong"}"#).is_err() && read("{}").is_err());
    }

    proptest! {
        #[test]
        fn a_push_is_split_into_what_was_published_and_meta(
            fields in prop::collection::btree_map("[a-z\",{:é ]{0,6}", "[\",:{a]{0,4}", 0..4),
            conflated in any::<u64>(),
        ) {
            let payload = serde_json::to_string(&fields).unwrap();
            let meta = Meta { conflated, ..Meta::live("a:b", Some(StreamId::new(conflated, 3))) };
            let mut text = BytesMut::new();
            push_json(&mut text, &meta, payload.as_bytes());
            let read = push(std::str::from_utf8(&text).unwrap());
            prop_assert_eq!(read, (meta, Bytes::from(payload)));
        }
    }
}
