//! Replies as JSON. Each uses its serde form, except history, which contains pushes.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::{
    json::{Object, push_value},
    push::{GapPush, PushMeta, push_json},
    reply::{HistoryReply, Reply},
};

pub(crate) fn encode(out: &mut BytesMut, reply: &Reply, ignored: &[String]) {
    match reply {
        Reply::History(reply) => history(out, reply),
        reply => push_value(out, reply),
    }
    if !ignored.is_empty() {
        out.truncate(out.len() - 1);
        out.put_slice(b",\"ignored\":");
        push_value(out, &ignored);
        out.put_u8(b'}');
    }
}

/// Messages about a stream that are not pushes.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StreamNotice<'a> {
    Gap(&'a GapPush<'a>),
}

pub(crate) fn gap(out: &mut BytesMut, gap: &GapPush<'_>) {
    push_value(out, &StreamNotice::Gap(gap));
}

/// Written without serde, so that payloads are copied only once and never parsed.
fn history(out: &mut BytesMut, history: &HistoryReply) {
    let mut object = Object::begin(out);
    object.string("type", "history");
    if let Some(id) = &history.id {
        object.raw("id", id.get());
    }
    object.string("channel", &history.channel);
    let list = object.key("messages");
    list.put_u8(b'[');
    for (index, message) in history.messages.iter().enumerate() {
        if index > 0 {
            list.put_u8(b',');
        }
        let meta = PushMeta { replayed: true, ..PushMeta::live(&*history.channel, message.id) };
        push_json(list, &meta, &message.payload);
    }
    list.put_u8(b']');
    match history.cursor {
        Some(cursor) => object.id("cursor", cursor),
        None => object.raw("cursor", "null"),
    }
    object.boolean("more", history.more);
    if let Some(gap) = &history.gap {
        push_value(object.key("gap"), gap);
    }
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        code::ErrorCode,
        command::{Json, MessageLimits},
        dialect::json::decode,
        model::{Class, SessionSecret, StreamId, UserId},
        push::GapReason,
        reply::{
            AuthenticatedReply, CaughtUpNotice, ChannelEnd, ClosingNotice, CommandAccepted, Configured, Details,
            EndedNotice, ErrorObject, FailureReply, HeartbeatNotice, Ingested, Pong, PresenceReply, PublishedReply,
            RefusedChannel, Retained, SubscribedChannel, SubscribedReply, TokenExpiring, UnsubscribedReply, Welcome,
            WelcomeLimits,
        },
        time::Timestamp,
    };

    const NOW_MS: u64 = 1_701_432_000_000;
    const NOW: Timestamp = Timestamp::from_ms(NOW_MS);
    const ID: StreamId = StreamId::new(1_763_700_000_000, 42);

    fn text(reply: &Reply) -> String {
        let mut out = BytesMut::new();
        encode(&mut out, reply, &[]);
        let text = String::from_utf8(out.to_vec()).unwrap();
        crate::json::scan_object(&text, 32, |_, _| ()).expect(&text);
        text
    }

    fn id(raw: &str) -> Option<Json> {
        Some(Json::keep(raw).unwrap())
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn the_welcome() {
        let limits = WelcomeLimits {
            message_bytes: 65_536,
            messages_per_second: 100,
            messages_burst: 200,
            names_per_second: 100,
            names_burst: 400,
            subscriptions: 200,
            queued_messages: 100,
        };
        let welcome = Welcome {
            timestamp: NOW,
            message: "Connected to \"T\"".into(),
            connection_id: "c1".into(),
            session: SessionSecret::parse("0f0c5c5e-0000-4000-8000-000000000001"),
            user: Some(user("alice")),
            expires_at: Some(NOW),
            server_time: NOW,
            heartbeat_interval: 30,
            limits,
            resumed: false,
            server: "tickgate/0.1.0".into(),
            features: vec![],
        };
        let limits = r#""limits":{"message_bytes":65536,"messages_per_second":100,"messages_burst":200,"names_per_second":100,"names_burst":400,"subscriptions":200,"queued_messages":100}"#;
        let expected = format!(
            r#"{{"type":"connection_established","timestamp":"2023-12-01T12:00:00.000Z","message":"Connected to \"T\"","connection_id":"c1","session":"0f0c5c5e-0000-4000-8000-000000000001","user":"alice","expires_at":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z","heartbeat_interval":30,{limits},"resumed":false,"server":"tickgate/0.1.0","features":[]}}"#
        );
        assert_eq!(text(&Reply::ConnectionEstablished(welcome.clone())), expected);
        let nobody = Welcome { session: None, user: None, expires_at: None, ..welcome };
        assert!(
            text(&Reply::ConnectionEstablished(nobody)).contains(r#""session":null,"user":null,"expires_at":null"#)
        );
    }

    #[test]
    fn replies_to_subscriptions() {
        let channel = SubscribedChannel {
            channel: "orders".into(),
            class: Class::Reliable,
            stream: Some("@".into()),
            cursor: Some(ID),
            live: false,
        };
        let mut object = ErrorObject::new(ErrorCode::Forbidden, "not yours");
        object.details.field = Some("channels[0].since".into());
        let refused = RefusedChannel { channel: "x".into(), object };
        let channels = vec![channel.clone(), SubscribedChannel { stream: None, cursor: None, live: true, ..channel }];
        assert_eq!(
            text(&Reply::Subscribed(SubscribedReply { id: id("7"), channels, errors: vec![refused] })),
            r#"{"type":"subscribed","id":7,"channels":[{"channel":"orders","class":"reliable","stream":"@","cursor":"1763700000000-42","live":false},{"channel":"orders","class":"reliable","cursor":null,"live":true}],"errors":[{"channel":"x","code":4502,"error":"forbidden","message":"not yours","details":{"field":"channels[0].since"}}]}"#
        );
        assert_eq!(
            text(&Reply::Subscribed(SubscribedReply::default())),
            r#"{"type":"subscribed","channels":[],"errors":[]}"#
        );
        assert_eq!(
            text(&Reply::Unsubscribed(UnsubscribedReply {
                id: id(r#""a""#),
                channels: vec!["x".into(), "y".into()],
                errors: vec![]
            })),
            r#"{"type":"unsubscribed","id":"a","channels":["x","y"]}"#
        );
    }

    #[test]
    fn the_reply_to_a_publication_names_its_id_and_the_request() {
        let published = |id, publication_id| PublishedReply {
            id,
            channel: "orders".into(),
            publication_id,
            duplicate: false,
            left_out: false,
            subscribers: None,
        };
        assert_eq!(
            text(&Reply::Published(published(None, Some(ID)))),
            r#"{"type":"published","channel":"orders","publication_id":"1763700000000-42","duplicate":false}"#
        );
        assert_eq!(
            text(&Reply::Published(published(id("3"), None))),
            r#"{"type":"published","id":3,"channel":"orders","publication_id":null,"duplicate":false}"#
        );
        assert_eq!(
            text(&Reply::CommandAccepted(CommandAccepted { id: id("3"), publication_id: Some(ID), duplicate: true })),
            r#"{"type":"command_accepted","id":3,"publication_id":"1763700000000-42","duplicate":true}"#
        );
    }

    #[test]
    fn history_contains_pushes() {
        let of = |payload: &'static str| Retained { id: Some(ID), payload: payload.into() };
        let messages = vec![of("{\"a\":1}"), of("{}")];
        let page =
            HistoryReply { id: id("1"), channel: "logs".into(), messages, cursor: Some(ID), more: true, gap: None };
        assert_eq!(
            text(&Reply::History(page.clone())),
            r#"{"type":"history","id":1,"channel":"logs","messages":[{"a":1,"_meta":{"channel":"logs","id":"1763700000000-42","replayed":true}},{"_meta":{"channel":"logs","id":"1763700000000-42","replayed":true}}],"cursor":"1763700000000-42","more":true}"#
        );
        let page = HistoryReply { messages: vec![], cursor: None, more: false, gap: Some(lost()), ..page };
        assert_eq!(
            text(&Reply::History(page)),
            r#"{"type":"history","id":1,"channel":"logs","messages":[],"cursor":null,"more":false,"gap":{"channels":["orders"],"after":"1763700000000-42","before":null,"count":null,"reason":"failover","cursor":"1763700000000-44"}}"#
        );
    }

    #[test]
    fn ignored_fields_are_named_in_the_reply() {
        let mut out = BytesMut::new();
        encode(&mut out, &Reply::Ingested(Ingested { id: None }), &["where".into(), "x\"".into()]);
        assert_eq!(&out[..], br#"{"type":"ingested","ignored":["where","x\""]}"#);
    }

    #[test]
    fn short_replies() {
        let pong = Pong { id: id("1"), timestamp: Json::keep("17.5").unwrap(), server_time: NOW };
        let authenticated = AuthenticatedReply { id: id("1"), user: user("al\"ice"), expires_at: Some(NOW) };
        let presence = PresenceReply { id: None, channel: "logs".into(), connections: 3, users: 2, more: false };
        let many = PresenceReply { connections: 1_500, users: 1_024, more: true, ..presence.clone() };
        let configured = Configured { id: None, heartbeat_interval: 30 };
        let heartbeat = HeartbeatNotice { timestamp: NOW, server_time: NOW, cursors: [("@".into(), ID)].into() };
        let cases = [
            (
                Reply::Pong(pong.clone()),
                r#"{"type":"pong","id":1,"timestamp":17.5,"server_time":"2023-12-01T12:00:00.000Z"}"#,
            ),
            (
                Reply::Pong(Pong { id: None, timestamp: Json::of(&NOW), ..pong }),
                r#"{"type":"pong","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z"}"#,
            ),
            (
                Reply::Authenticated(authenticated),
                r#"{"type":"authenticated","id":1,"user":"al\"ice","expires_at":"2023-12-01T12:00:00.000Z"}"#,
            ),
            (Reply::Presence(presence), r#"{"type":"presence","channel":"logs","connections":3,"users":2}"#),
            (
                Reply::Presence(many),
                r#"{"type":"presence","channel":"logs","connections":1500,"users":1024,"more":true}"#,
            ),
            (Reply::Configured(configured), r#"{"type":"configured","heartbeat_interval":30}"#),
            (
                Reply::Heartbeat(heartbeat.clone()),
                r#"{"type":"heartbeat","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z","cursors":{"@":"1763700000000-42"}}"#,
            ),
            (
                Reply::Heartbeat(HeartbeatNotice { cursors: [].into(), ..heartbeat }),
                r#"{"type":"heartbeat","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z"}"#,
            ),
            (
                Reply::TokenExpiring(TokenExpiring { expires_at: NOW }),
                r#"{"type":"token_expiring","expires_at":"2023-12-01T12:00:00.000Z"}"#,
            ),
            (Reply::Ingested(Ingested { id: id("\"m\"") }), r#"{"type":"ingested","id":"m"}"#),
        ];
        for (reply, expected) in cases {
            assert_eq!(text(&reply), expected);
        }
    }

    #[test]
    fn errors_have_a_number_a_name_and_details() {
        let mut slower = FailureReply::new(ErrorCode::RateLimited, "slower", id(r#""q""#), NOW_MS);
        slower.object.details.retry_after_ms = Some(250);
        assert_eq!(
            text(&Reply::Error(slower)),
            r#"{"type":"error","code":4100,"error":"rate_limited","message":"slower","details":{"retry_after_ms":250},"id":"q","timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
        let mut unknown = FailureReply::new(ErrorCode::TryAgainLater, "m", None, NOW_MS);
        assert!(!text(&Reply::Error(unknown.clone())).contains("details"));
        unknown.object.details =
            Details { retry_after_ms: Some(250), outcome: Some("unknown".into()), ..Details::default() };
        assert_eq!(
            text(&Reply::Error(unknown)),
            r#"{"type":"error","code":1013,"error":"try_again_later","message":"m","details":{"retry_after_ms":250,"outcome":"unknown"},"timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
        let limits = MessageLimits { depth_max: 32, channels_max: 10 };
        let invalid = decode(r#"{"type":"presence","id":9}"#, &limits).unwrap_err();
        let mut failure = FailureReply::new(invalid.code, invalid.message, invalid.id, NOW_MS);
        failure.object.details.field = invalid.field;
        assert_eq!(
            text(&Reply::Error(failure)),
            r#"{"type":"error","code":4004,"error":"invalid_message","message":"`channel` is missing: the name of a channel","details":{"field":"channel"},"id":9,"timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
    }

    #[test]
    fn notices_about_subscriptions_and_the_end() {
        let channel = ChannelEnd { channel: "orders".into(), cursor: Some(ID), replayed: 2, complete: true };
        assert_eq!(
            text(&Reply::CaughtUp(CaughtUpNotice { channels: vec![channel] })),
            r#"{"type":"caught_up","channels":[{"channel":"orders","cursor":"1763700000000-42","replayed":2,"complete":true}]}"#
        );
        let object = ErrorObject::new(ErrorCode::Forbidden, "no more");
        assert_eq!(
            text(&Reply::Ended(EndedNotice { channels: vec!["x".into()], object })),
            r#"{"type":"unsubscribed","channels":["x"],"code":4502,"error":"forbidden","message":"no more"}"#
        );
        assert_eq!(
            text(&Reply::Closing(ClosingNotice::new(1012, "draining", Some(1_500)))),
            r#"{"type":"closing","code":1012,"error":"restarting","message":"draining","reconnect":"yes","after_ms":1500}"#
        );
        assert_eq!(
            text(&Reply::Closing(ClosingNotice::new(4001, "", None))),
            r#"{"type":"closing","code":4001,"error":"auth_required","message":"The token is missing, invalid or expired.","reconnect":"new_token"}"#
        );
        assert!(text(&Reply::Closing(ClosingNotice::new(4501, "", None))).contains(r#""reconnect":"no"}"#));
    }

    fn lost() -> GapPush<'static> {
        let reason = GapReason::Failover.as_str().into();
        let cursor = Some(StreamId::new(1_763_700_000_000, 44));
        GapPush { channels: vec!["orders".into()].into(), after: Some(ID), before: None, count: None, reason, cursor }
    }

    #[test]
    fn a_gap_says_what_is_missing() {
        let mut out = BytesMut::new();
        gap(&mut out, &lost());
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"type":"gap","channels":["orders"],"after":"1763700000000-42","before":null,"count":null,"reason":"failover","cursor":"1763700000000-44"}"#
        );
    }
}
