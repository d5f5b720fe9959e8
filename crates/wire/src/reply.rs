//! What one client is told: answers to its commands, errors, and what concerns its connection (the wire contract,
//! sections 3 and 4). Each function appends one JSON object; `frame` wraps it. Never decides what to say.

use bytes::{BufMut, BytesMut};

use super::{
    code::ErrorCode,
    command::Invalid,
    json::Object,
    push::{Meta, push_json},
};
use crate::model::{Class, StreamId};

/// The first message on every endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    pub message: &'a str,
    pub connection_id: &'a str,
    /// By which the session can be resumed; `None` where it cannot.
    pub session: Option<&'a str>,
    pub user: Option<&'a str>,
    /// Seconds.
    pub heartbeat_interval: u64,
    pub limits: WelcomeLimits,
    /// Whether the subscriptions of an earlier connection were restored.
    pub resumed: bool,
}

/// The bounds a client has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WelcomeLimits {
    /// Largest message, in bytes.
    pub message_bytes: u64,
    pub messages_per_second: u64,
    pub messages_burst: u64,
    pub subscriptions: u64,
    /// Messages that may wait for a slow client before the delivery class acts.
    pub queued_messages: u64,
}

/// Appends `connection_established`.
pub fn connection_established(out: &mut BytesMut, welcome: &Welcome<'_>, now_ms: u64) {
    let mut object = begin(out, "connection_established", None);
    object.time("timestamp", now_ms);
    object.string("message", welcome.message);
    object.string("connection_id", welcome.connection_id);
    object.string_or_null("session", welcome.session);
    object.string_or_null("user", welcome.user);
    object.time("server_time", now_ms);
    object.number("heartbeat_interval", welcome.heartbeat_interval);
    let limits = &welcome.limits;
    object.object("limits", |object| {
        object.number("message_bytes", limits.message_bytes);
        object.number("messages_per_second", limits.messages_per_second);
        object.number("messages_burst", limits.messages_burst);
        object.number("subscriptions", limits.subscriptions);
        object.number("queued_messages", limits.queued_messages);
    });
    object.boolean("resumed", welcome.resumed);
    object.end();
}

/// One channel that was subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed<'a> {
    pub channel: &'a str,
    pub class: Class,
    /// Where the subscription stands once the replayed and snapshot pushes are read; `None` without retention.
    pub cursor: Option<StreamId>,
    /// How many pushes of the past follow.
    pub replayed: u64,
    /// Whether nothing is missing between the client's cursor and the first live push.
    pub complete: bool,
    /// Whether the current value follows.
    pub snapshot: bool,
}

/// One channel that was not subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    pub channel: &'a str,
    pub code: ErrorCode,
    pub message: &'a str,
}

/// Appends `subscribed`: what was, and what was not. The pushes of the past come after it.
pub fn subscribed(out: &mut BytesMut, id: Option<&str>, channels: &[Subscribed<'_>], errors: &[Refused<'_>]) {
    let mut object = begin(out, "subscribed", id);
    object.objects("channels", channels, |object, channel| {
        object.string("channel", channel.channel);
        object.string("class", channel.class.as_str());
        object.id_or_null("cursor", channel.cursor);
        object.number("replayed", channel.replayed);
        object.boolean("complete", channel.complete);
        object.boolean("snapshot", channel.snapshot);
    });
    object.objects("errors", errors, refused);
    object.end();
}

fn refused(object: &mut Object<'_>, refused: &Refused<'_>) {
    object.string("channel", refused.channel);
    object.number("code", refused.code.number().into());
    object.string("error", refused.code.name());
    object.string("message", refused.message);
}

/// Appends `unsubscribed` with the names that were asked, also those that were not subscribed.
pub fn unsubscribed<S: AsRef<str>>(out: &mut BytesMut, id: Option<&str>, channels: &[S]) {
    let mut object = begin(out, "unsubscribed", id);
    object.strings("channels", channels);
    object.end();
}

/// Appends `pong`. `timestamp` is the JSON text that the ping carried; without one it is the server's time.
pub fn pong(out: &mut BytesMut, id: Option<&str>, timestamp: Option<&str>, now_ms: u64) {
    let mut object = begin(out, "pong", id);
    match timestamp {
        Some(json) => object.raw("timestamp", json),
        None => object.time("timestamp", now_ms),
    }
    object.time("server_time", now_ms);
    object.end();
}

/// Appends `authenticated`. `expires_at` in seconds since 1970, as tokens say it.
pub fn authenticated(out: &mut BytesMut, id: Option<&str>, user: &str, expires_at: u64) {
    let mut object = begin(out, "authenticated", id);
    object.string("user", user);
    object.time("expires_at", expires_at.saturating_mul(1_000));
    object.end();
}

/// Appends `history`. Each message looks as it would as a push; `complete` says whether nothing is missing between the
/// cursor asked for and the last of them, or the limit was reached.
pub fn history<'a>(
    out: &mut BytesMut,
    id: Option<&str>,
    channel: &str,
    messages: impl IntoIterator<Item = (Meta<'a>, &'a [u8])>,
    complete: bool,
) {
    let mut object = begin(out, "history", id);
    object.string("channel", channel);
    let list = object.key("messages");
    list.put_u8(b'[');
    for (index, (meta, payload)) in messages.into_iter().enumerate() {
        if index > 0 {
            list.put_u8(b',');
        }
        push_json(list, &meta, payload);
    }
    list.put_u8(b']');
    object.boolean("complete", complete);
    object.end();
}

/// A publication that a client asked for and that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    pub channel: &'a str,
    /// `None` for topics without retention.
    pub id: Option<StreamId>,
    /// The same `msg_id` was published before; `id` is the one of then.
    pub duplicate: bool,
}

/// Appends `published`.
pub fn published(out: &mut BytesMut, id: Option<&str>, stored: &Stored<'_>) {
    acknowledged(out, "published", id, stored);
}

/// Appends `command_accepted`: the command is stored for the engine of the run.
pub fn command_accepted(out: &mut BytesMut, id: Option<&str>, stored: &Stored<'_>) {
    acknowledged(out, "command_accepted", id, stored);
}

/// `id` is the request's own; a client that sent none finds the publication's there. `_meta` names the publication in
/// any case, in the form of a push.
fn acknowledged(out: &mut BytesMut, kind: &'static str, id: Option<&str>, stored: &Stored<'_>) {
    let mut object = begin(out, kind, id);
    if id.is_none() {
        object.id_or_null("id", stored.id);
    }
    object.boolean("duplicate", stored.duplicate);
    object.object("_meta", |object| {
        object.string("channel", stored.channel);
        if let Some(id) = stored.id {
            object.id("id", id);
        }
    });
    object.end();
}

/// Appends `presence`: figures of all replicas. `more`: there are more users than `users`.
pub fn presence(out: &mut BytesMut, id: Option<&str>, channel: &str, connections: u64, users: u64, more: bool) {
    let mut object = begin(out, "presence", id);
    object.string("channel", channel);
    object.number("connections", connections);
    object.number("users", users);
    if more {
        object.boolean("more", true);
    }
    object.end();
}

/// Appends `configured` with the granted values. No `max_rate`: as published. The interval in seconds.
pub fn configured(out: &mut BytesMut, id: Option<&str>, max_rate: Option<u32>, heartbeat_interval: u64) {
    let mut object = begin(out, "configured", id);
    match max_rate {
        Some(rate) => object.number("max_rate", rate.into()),
        None => object.raw("max_rate", "null"),
    }
    object.number("heartbeat_interval", heartbeat_interval);
    object.end();
}

/// Appends `heartbeat` with the head of the user's private stream, where there is a user.
pub fn heartbeat(out: &mut BytesMut, cursor: Option<StreamId>, now_ms: u64) {
    let mut object = begin(out, "heartbeat", None);
    object.time("timestamp", now_ms);
    object.time("server_time", now_ms);
    if let Some(cursor) = cursor {
        object.id("cursor", cursor);
    }
    object.end();
}

/// Appends `reconnect`: the replica goes away, the client should come back after `after_ms`.
pub fn reconnect(out: &mut BytesMut, after_ms: u64, reason: &str) {
    let mut object = begin(out, "reconnect", None);
    object.number("after_ms", after_ms);
    object.string("reason", reason);
    object.end();
}

/// Appends `token_expiring`. `expires_at` in seconds since 1970.
pub fn token_expiring(out: &mut BytesMut, expires_at: u64) {
    let mut object = begin(out, "token_expiring", None);
    object.time("expires_at", expires_at.saturating_mul(1_000));
    object.end();
}

/// A request that failed, or a warning before a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    pub code: ErrorCode,
    /// What was wrong and what would be right, for people.
    pub message: &'a str,
    pub details: Details<'a>,
    /// JSON text of the request's `id`.
    pub id: Option<&'a str>,
}

/// What a program can use of a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Details<'a> {
    #[default]
    None,
    /// When the request may be tried again.
    RetryAfterMs(u64),
    /// Of a publication: whether it was `refused`, certainly not stored, or its outcome is `unknown`.
    Outcome { retry_after_ms: u64, outcome: &'static str },
    /// Which field was wrong.
    Field(&'a str),
    /// Which channel it concerns.
    Channel(&'a str),
}

impl<'a> From<&'a Invalid> for Failure<'a> {
    fn from(invalid: &'a Invalid) -> Self {
        Self {
            code: invalid.code,
            message: &invalid.message,
            details: invalid.field.as_deref().map_or(Details::None, Details::Field),
            id: invalid.id.as_deref(),
        }
    }
}

/// Appends `error`.
pub fn error(out: &mut BytesMut, failure: &Failure<'_>, now_ms: u64) {
    let mut object = begin(out, "error", None);
    object.number("code", failure.code.number().into());
    object.string("error", failure.code.name());
    object.string("message", failure.message);
    match failure.details {
        Details::None => {}
        Details::RetryAfterMs(ms) => object.object("details", |object| object.number("retry_after_ms", ms)),
        Details::Outcome { retry_after_ms, outcome } => object.object("details", |object| {
            object.number("retry_after_ms", retry_after_ms);
            object.string("outcome", outcome);
        }),
        Details::Field(field) => object.object("details", |object| object.string("field", field)),
        Details::Channel(channel) => object.object("details", |object| object.string("channel", channel)),
    }
    object.raw_if("id", failure.id);
    object.time("timestamp", now_ms);
    object.end();
}

fn begin<'a>(out: &'a mut BytesMut, kind: &'static str, id: Option<&str>) -> Object<'a> {
    let mut object = Object::begin(out);
    object.string("type", kind);
    object.raw_if("id", id);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_701_432_000_000;
    const ID: StreamId = StreamId::new(1_763_700_000_000, 42);

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        crate::json::scan_object(&text, 32, |_, _| ()).expect(&text);
        text
    }

    #[test]
    fn the_welcome() {
        let limits = WelcomeLimits {
            message_bytes: 65_536,
            messages_per_second: 100,
            messages_burst: 200,
            subscriptions: 200,
            queued_messages: 100,
        };
        let mut welcome = Welcome {
            message: "Connected to \"T\"",
            connection_id: "c1",
            session: Some("s1"),
            user: Some("alice"),
            heartbeat_interval: 30,
            limits,
            resumed: false,
        };
        let limits = r#""limits":{"message_bytes":65536,"messages_per_second":100,"messages_burst":200,"subscriptions":200,"queued_messages":100}"#;
        let expected = format!(
            r#"{{"type":"connection_established","timestamp":"2023-12-01T12:00:00.000Z","message":"Connected to \"T\"","connection_id":"c1","session":"s1","user":"alice","server_time":"2023-12-01T12:00:00.000Z","heartbeat_interval":30,{limits},"resumed":false}}"#
        );
        assert_eq!(text(|out| connection_established(out, &welcome, NOW)), expected);
        (welcome.session, welcome.user) = (None, None);
        assert!(text(|out| connection_established(out, &welcome, NOW)).contains(r#""session":null,"user":null"#));
    }

    #[test]
    fn answers_to_subscriptions() {
        let channel = Subscribed {
            channel: "orders",
            class: Class::Reliable,
            cursor: Some(ID),
            replayed: 2,
            complete: true,
            snapshot: false,
        };
        let refused = Refused { channel: "x", code: ErrorCode::Forbidden, message: "not yours" };
        assert_eq!(
            text(|out| subscribed(out, Some("7"), &[channel, Subscribed { cursor: None, ..channel }], &[refused])),
            r#"{"type":"subscribed","id":7,"channels":[{"channel":"orders","class":"reliable","cursor":"1763700000000-42","replayed":2,"complete":true,"snapshot":false},{"channel":"orders","class":"reliable","cursor":null,"replayed":2,"complete":true,"snapshot":false}],"errors":[{"channel":"x","code":4502,"error":"forbidden","message":"not yours"}]}"#
        );
        assert_eq!(text(|out| subscribed(out, None, &[], &[])), r#"{"type":"subscribed","channels":[],"errors":[]}"#);
        assert_eq!(
            text(|out| unsubscribed(out, Some(r#""a""#), &["x", "y"])),
            r#"{"type":"unsubscribed","id":"a","channels":["x","y"]}"#
        );
    }

    #[test]
    fn a_pong_echoes_the_clients_time_or_tells_the_servers() {
        assert_eq!(
            text(|out| pong(out, None, None, NOW)),
            r#"{"type":"pong","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z"}"#
        );
        assert_eq!(
            text(|out| pong(out, Some("1"), Some("17.5"), NOW)),
            r#"{"type":"pong","id":1,"timestamp":17.5,"server_time":"2023-12-01T12:00:00.000Z"}"#
        );
    }

    #[test]
    fn an_acknowledged_publication_is_named_with_and_without_a_request_id() {
        let stored = Stored { channel: "orders", id: Some(ID), duplicate: false };
        assert_eq!(
            text(|out| published(out, None, &stored)),
            r#"{"type":"published","id":"1763700000000-42","duplicate":false,"_meta":{"channel":"orders","id":"1763700000000-42"}}"#
        );
        assert_eq!(
            text(|out| command_accepted(out, Some("3"), &stored)),
            r#"{"type":"command_accepted","id":3,"duplicate":false,"_meta":{"channel":"orders","id":"1763700000000-42"}}"#
        );
        assert_eq!(
            text(|out| published(out, None, &Stored { id: None, ..stored })),
            r#"{"type":"published","id":null,"duplicate":false,"_meta":{"channel":"orders"}}"#
        );
    }

    #[test]
    fn history_holds_pushes() {
        let meta = Meta { replayed: true, ..Meta::live("logs", Some(ID)) };
        assert_eq!(
            text(|out| history(out, Some("1"), "logs", [(meta, &b"{\"a\":1}"[..]), (meta, b"{}")], true)),
            r#"{"type":"history","id":1,"channel":"logs","messages":[{"a":1,"_meta":{"channel":"logs","id":"1763700000000-42","replayed":true}},{"_meta":{"channel":"logs","id":"1763700000000-42","replayed":true}}],"complete":true}"#
        );
    }

    #[test]
    fn the_short_ones() {
        assert_eq!(
            text(|out| authenticated(out, Some("1"), "al\"ice", NOW / 1_000)),
            r#"{"type":"authenticated","id":1,"user":"al\"ice","expires_at":"2023-12-01T12:00:00.000Z"}"#
        );
        assert_eq!(
            text(|out| presence(out, None, "logs", 3, 2, false)),
            r#"{"type":"presence","channel":"logs","connections":3,"users":2}"#
        );
        assert_eq!(
            text(|out| presence(out, None, "logs", 1_500, 1_024, true)),
            r#"{"type":"presence","channel":"logs","connections":1500,"users":1024,"more":true}"#
        );
        assert_eq!(
            text(|out| configured(out, None, None, 30)),
            r#"{"type":"configured","max_rate":null,"heartbeat_interval":30}"#
        );
        assert_eq!(
            text(|out| heartbeat(out, Some(ID), NOW)),
            r#"{"type":"heartbeat","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z","cursor":"1763700000000-42"}"#
        );
        assert_eq!(
            text(|out| reconnect(out, 1_500, "draining")),
            r#"{"type":"reconnect","after_ms":1500,"reason":"draining"}"#
        );
        assert_eq!(
            text(|out| token_expiring(out, NOW / 1_000)),
            r#"{"type":"token_expiring","expires_at":"2023-12-01T12:00:00.000Z"}"#
        );
    }

    #[test]
    fn errors_have_number_name_and_what_a_program_needs() {
        let failure = Failure {
            code: ErrorCode::RateLimited,
            message: "slower",
            details: Details::RetryAfterMs(250),
            id: Some(r#""q""#),
        };
        assert_eq!(
            text(|out| error(out, &failure, NOW)),
            r#"{"type":"error","code":4100,"error":"rate_limited","message":"slower","details":{"retry_after_ms":250},"id":"q","timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
        let outcome = Details::Outcome { retry_after_ms: 1_000, outcome: "unknown" };
        let unknown = Failure { code: ErrorCode::TryAgainLater, message: "m", details: outcome, id: None };
        assert_eq!(
            text(|out| error(out, &unknown, NOW)),
            r#"{"type":"error","code":1013,"error":"try_again_later","message":"m","details":{"retry_after_ms":1000,"outcome":"unknown"},"timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
        let limits = crate::command::Limits { depth_max: 32, channels_max: 10 };
        let invalid = crate::command::decode(r#"{"type":"subscribe","id":9}"#, &limits).unwrap_err();
        assert_eq!(
            text(|out| error(out, &(&invalid).into(), NOW)),
            r#"{"type":"error","code":4004,"error":"invalid_message","message":"`channels` is missing: an array of names","details":{"field":"channels"},"id":9,"timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
    }
}
