//! Parses the messages of a gateway, as far as a client acts on them. Pure.
//!
//! It is more tolerant than the gateway's own types, because classes, reasons and codes may be newer than this client.
//! A missing required field is an error, so that nothing is skipped silently.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tickgate_wire::time::Timestamp;

use crate::{
    defect::{OmittedRule, is},
    event::{Gap, MessageMeta},
    server_error::ServerError,
};

/// Why a message cannot be read.
pub(crate) type Unreadable = String;

/// One message.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Push(MessageMeta),
    /// The reply to a request, and whether it is an error.
    Reply {
        id: &'a str,
        is_error: bool,
    },
    Notice(ServerNotice),
    /// A notice that this client does not know.
    Unknown(Cow<'a, str>),
}

/// A notice.
#[derive(Debug)]
pub(crate) enum ServerNotice {
    Welcome(Box<WelcomeMessage>),
    CaughtUp(CaughtUpMessage),
    Gap(Gap),
    Heartbeat(HeartbeatMessage),
    TokenExpiring,
    Unsubscribed(UnsubscribedMessage),
    Closing(ClosingMessage),
    Error(ServerError),
}

#[derive(Debug, Deserialize)]
pub(crate) struct WelcomeMessage {
    pub session: Option<String>,
    pub user: Option<String>,
    pub expires_at: Option<Timestamp>,
    pub server_time: Timestamp,
    /// In seconds.
    pub heartbeat_interval: u64,
    pub limits: WelcomeMessageLimits,
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct WelcomeMessageLimits {
    pub message_bytes: usize,
    pub subscriptions: usize,
    pub names_per_second: u32,
    pub names_burst: u32,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CaughtUpMessage {
    pub channels: Vec<CaughtUpMessageChannel>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CaughtUpMessageChannel {
    pub channel: String,
    pub cursor: Option<String>,
    pub replayed: u64,
    pub complete: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HeartbeatMessage {
    #[serde(default)]
    pub cursors: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct UnsubscribedMessage {
    pub channels: Vec<String>,
    #[serde(flatten)]
    pub error: ServerError,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ClosingMessage {
    pub code: u16,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reconnect: String,
    pub after_ms: Option<u64>,
}

impl ClosingMessage {
    /// The meaning of an `error` before the welcome: it can only be about the token.
    pub(crate) fn of(error: &ServerError) -> Self {
        let after_ms = error.details.retry_after_ms;
        let again = after_ms.is_some() || is(OmittedRule::RefusedTokenAgain);
        let reconnect = if again { "yes" } else { "new_token" };
        Self { code: error.code, message: error.to_string(), reconnect: reconnect.into(), after_ms }
    }

    pub(crate) fn after(&self) -> Option<Duration> {
        self.after_ms.map(Duration::from_millis)
    }
}

/// The reply to a `subscribe`.
#[derive(Debug, Deserialize)]
pub(crate) struct SubscribedMessage {
    pub channels: Vec<Granted>,
    pub errors: Vec<RefusedMessageChannel>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Granted {
    pub channel: String,
    pub class: String,
    pub stream: Option<String>,
    pub cursor: Option<String>,
    pub live: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RefusedMessageChannel {
    pub channel: String,
    #[serde(flatten)]
    pub error: ServerError,
}

/// The reply to a `publish` or a `command`.
#[derive(Debug, Deserialize)]
pub(crate) struct AcceptedMessage {
    pub publication_id: Option<String>,
    pub duplicate: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AuthenticatedMessage {
    pub expires_at: Option<Timestamp>,
}

/// The messages of a frame, each as its text.
pub(crate) fn messages(frame: &str) -> Result<Vec<&str>, Unreadable> {
    match frame.trim_start().starts_with('[') && !is(OmittedRule::NoArrays) {
        true => {
            let elements: Vec<&RawValue> = parse(frame)?;
            Ok(elements.into_iter().map(RawValue::get).collect())
        }
        false => Ok(vec![frame]),
    }
}

/// Reads one message.
pub(crate) fn message(text: &str) -> Result<Incoming<'_>, Unreadable> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        r#type: Option<Cow<'a, str>>,
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(rename = "_meta", borrow)]
        meta: Option<&'a RawValue>,
    }
    // A publication may have any `type` and `id`: `_meta` is checked before both.
    #[derive(Deserialize)]
    struct Pushed {
        #[serde(rename = "_meta")]
        meta: Option<MessageMeta>,
    }
    if !text.trim_start().starts_with('{') {
        return Err("not an object".into());
    }
    let by_structure = !is(OmittedRule::TypeFirst);
    if by_structure && let Some(meta) = parse::<Pushed>(text)?.meta {
        return Ok(Incoming::Push(meta));
    }
    let Head { r#type, id, meta } = parse(text)?;
    let kind = r#type.ok_or("a message without `type`")?;
    if let Some(id) = id {
        return Ok(Incoming::Reply { id: id.get(), is_error: kind == "error" });
    }
    let notice = match &*kind {
        "connection_established" => ServerNotice::Welcome(parse(text)?),
        "caught_up" => ServerNotice::CaughtUp(parse(text)?),
        "gap" => ServerNotice::Gap(parse(text)?),
        "heartbeat" => ServerNotice::Heartbeat(parse(text)?),
        "token_expiring" => ServerNotice::TokenExpiring,
        "unsubscribed" => ServerNotice::Unsubscribed(parse(text)?),
        "closing" => ServerNotice::Closing(parse(text)?),
        "error" => ServerNotice::Error(parse(text)?),
        _ if meta.is_some() => return parse(meta.map_or("", RawValue::get)).map(Incoming::Push),
        _ if is(OmittedRule::NothingNew) => return Err(format!("an unknown message {kind:?}")),
        _ => return Ok(Incoming::Unknown(kind)),
    };
    Ok(Incoming::Notice(notice))
}

/// Reads a message of a known type.
pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unreadable> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_distinguishes_push_reply_and_notice() {
        let push = r#"{"type":{"a":1},"id":[1],"_meta":{"channel":"a","id":"7-1","new":0}}"#;
        assert!(matches!(message(push), Ok(Incoming::Push(meta)) if meta.channel == "a" && !meta.replayed));
        let reply = r#"{"type":"error","id":"x","code":1}"#;
        assert!(matches!(message(reply), Ok(Incoming::Reply { id: "\"x\"", is_error: true })));
        let gap =
            r#"{"type":"gap","channels":["a"],"after":null,"before":null,"count":null,"reason":"new","cursor":"7-1"}"#;
        assert!(matches!(message(gap), Ok(Incoming::Notice(ServerNotice::Gap(gap))) if gap.reason == "new"));
        assert!(matches!(message(r#"{"type":"news"}"#), Ok(Incoming::Unknown(kind)) if kind == "news"));
    }

    #[test]
    fn a_message_without_a_required_field_is_an_error() {
        for text in [
            "",
            "7",
            "[]",
            r#"{"a":1"#,
            r#"{"a":1}"#,
            r#"{"_meta":{"id":"7-1"}}"#,
            r#"{"_meta":7}"#,
            r#"{"type":"gap"}"#,
            r#"{"type":"closing"}"#,
            r#"{"type":"connection_established"}"#,
        ] {
            assert!(message(text).is_err(), "{text}");
        }
        assert!(messages("[1,").is_err());
    }

    #[test]
    fn a_frame_holds_one_message_or_an_array() {
        assert_eq!(messages(r#"{"a":"[]"}"#).unwrap(), [r#"{"a":"[]"}"#]);
        assert_eq!(messages("\n[{\"a\": 1}, {}\n]").unwrap(), ["{\"a\": 1}", "{}"]);
        assert!(messages("[]").unwrap().is_empty());
    }
}
