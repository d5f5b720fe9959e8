//! Replies as JSON. Each uses its serde form, except history, which contains pushes.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::{
    json::{Object, push_value},
    push::{Gap, Meta, push_json},
    reply::{History, Reply},
};

pub(crate) fn encode(out: &mut BytesMut, reply: &Reply) {
    match reply {
        Reply::History(reply) => history(out, reply),
        reply => push_value(out, reply),
    }
}

/// Messages about a channel that are not pushes.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Notice<'a> {
    Gap(&'a Gap<'a>),
}

pub(crate) fn gap(out: &mut BytesMut, gap: &Gap<'_>) {
    push_value(out, &Notice::Gap(gap));
}

/// Written by hand, so that payloads are copied only once and never parsed.
fn history(out: &mut BytesMut, history: &History) {
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
        let meta = Meta { replayed: true, ..Meta::live(&*history.channel, message.id) };
        push_json(list, &meta, &message.payload);
    }
    list.put_u8(b']');
    object.boolean("complete", history.complete);
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        code::ErrorCode,
        command::{Json, Limits},
        dialect::json::decode,
        model::{Class, SessionId, StreamId, UserId},
        push::GapReason,
        reply::{
            Acknowledged, Authenticated, Configured, Details, Failure, Heartbeat, Ingested, Pong, Presence, Reconnect,
            RefusedChannel, Retained, Subscribed, SubscribedChannel, TokenExpiring, Unsubscribed, Welcome,
            WelcomeLimits,
        },
        time::Timestamp,
    };

    const NOW_MS: u64 = 1_701_432_000_000;
    const NOW: Timestamp = Timestamp::from_ms(NOW_MS);
    const ID: StreamId = StreamId::new(1_763_700_000_000, 42);

    fn text(reply: &Reply) -> String {
        let mut out = BytesMut::new();
        encode(&mut out, reply);
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
            subscriptions: 200,
            queued_messages: 100,
        };
        let welcome = Welcome {
            timestamp: NOW,
            message: "Connected to \"T\"".into(),
            connection_id: "c1".into(),
            session: SessionId::parse("0f0c5c5e-0000-4000-8000-000000000001"),
            user: Some(user("alice")),
            server_time: NOW,
            heartbeat_interval: 30,
            limits,
            resumed: false,
        };
        let limits = r#""limits":{"message_bytes":65536,"messages_per_second":100,"messages_burst":200,"subscriptions":200,"queued_messages":100}"#;
        let expected = format!(
            r#"{{"type":"connection_established","timestamp":"2023-12-01T12:00:00.000Z","message":"Connected to \"T\"","connection_id":"c1","session":"0f0c5c5e-0000-4000-8000-000000000001","user":"alice","server_time":"2023-12-01T12:00:00.000Z","heartbeat_interval":30,{limits},"resumed":false}}"#
        );
        assert_eq!(text(&Reply::ConnectionEstablished(welcome.clone())), expected);
        let nobody = Welcome { session: None, user: None, ..welcome };
        assert!(text(&Reply::ConnectionEstablished(nobody)).contains(r#""session":null,"user":null"#));
    }

    #[test]
    fn answers_to_subscriptions() {
        let channel = SubscribedChannel {
            channel: "orders".into(),
            class: Class::Reliable,
            cursor: Some(ID),
            replayed: 2,
            complete: true,
            snapshot: false,
        };
        let refused = RefusedChannel::new("x".into(), ErrorCode::Forbidden, "not yours".into());
        let channels = vec![channel.clone(), SubscribedChannel { cursor: None, ..channel }];
        assert_eq!(
            text(&Reply::Subscribed(Subscribed { id: id("7"), channels, errors: vec![refused] })),
            r#"{"type":"subscribed","id":7,"channels":[{"channel":"orders","class":"reliable","cursor":"1763700000000-42","replayed":2,"complete":true,"snapshot":false},{"channel":"orders","class":"reliable","cursor":null,"replayed":2,"complete":true,"snapshot":false}],"errors":[{"channel":"x","code":4502,"error":"forbidden","message":"not yours"}]}"#
        );
        assert_eq!(
            text(&Reply::Subscribed(Subscribed::default())),
            r#"{"type":"subscribed","channels":[],"errors":[]}"#
        );
        assert_eq!(
            text(&Reply::Unsubscribed(Unsubscribed { id: id(r#""a""#), channels: vec!["x".into(), "y".into()] })),
            r#"{"type":"unsubscribed","id":"a","channels":["x","y"]}"#
        );
    }

    #[test]
    fn an_acknowledged_publication_is_named_with_and_without_a_request_id() {
        let stored = |id, stored| Acknowledged::new(id, "orders".into(), stored, false);
        assert_eq!(
            text(&Reply::Published(stored(None, Some(ID)))),
            r#"{"type":"published","id":"1763700000000-42","duplicate":false,"_meta":{"channel":"orders","id":"1763700000000-42"}}"#
        );
        assert_eq!(
            text(&Reply::CommandAccepted(stored(id("3"), Some(ID)))),
            r#"{"type":"command_accepted","id":3,"duplicate":false,"_meta":{"channel":"orders","id":"1763700000000-42"}}"#
        );
        assert_eq!(
            text(&Reply::Published(stored(None, None))),
            r#"{"type":"published","id":null,"duplicate":false,"_meta":{"channel":"orders"}}"#
        );
    }

    #[test]
    fn history_holds_pushes() {
        let of = |payload: &'static str| Retained { id: Some(ID), payload: payload.into() };
        let messages = vec![of("{\"a\":1}"), of("{}")];
        assert_eq!(
            text(&Reply::History(History { id: id("1"), channel: "logs".into(), messages, complete: true })),
            r#"{"type":"history","id":1,"channel":"logs","messages":[{"a":1,"_meta":{"channel":"logs","id":"1763700000000-42","replayed":true}},{"_meta":{"channel":"logs","id":"1763700000000-42","replayed":true}}],"complete":true}"#
        );
    }

    #[test]
    fn short_replies() {
        let pong = Pong { id: id("1"), timestamp: Json::keep("17.5").unwrap(), server_time: NOW };
        let authenticated = Authenticated { id: id("1"), user: user("al\"ice"), expires_at: NOW };
        let presence = Presence { id: None, channel: "logs".into(), connections: 3, users: 2, more: false };
        let many = Presence { connections: 1_500, users: 1_024, more: true, ..presence.clone() };
        let configured = Configured { id: None, max_rate: None, heartbeat_interval: 30 };
        let heartbeat = Heartbeat { timestamp: NOW, server_time: NOW, cursor: Some(ID) };
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
            (Reply::Configured(configured), r#"{"type":"configured","max_rate":null,"heartbeat_interval":30}"#),
            (
                Reply::Heartbeat(heartbeat.clone()),
                r#"{"type":"heartbeat","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z","cursor":"1763700000000-42"}"#,
            ),
            (
                Reply::Heartbeat(Heartbeat { cursor: None, ..heartbeat }),
                r#"{"type":"heartbeat","timestamp":"2023-12-01T12:00:00.000Z","server_time":"2023-12-01T12:00:00.000Z"}"#,
            ),
            (
                Reply::Reconnect(Reconnect { after_ms: 1_500, reason: "draining".into() }),
                r#"{"type":"reconnect","after_ms":1500,"reason":"draining"}"#,
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
        let slower = Failure::new(ErrorCode::RateLimited, "slower", id(r#""q""#), NOW_MS);
        let details = Details { retry_after_ms: Some(250), ..Details::default() };
        assert_eq!(
            text(&Reply::Error(Failure { details: details.clone(), ..slower })),
            r#"{"type":"error","code":4100,"error":"rate_limited","message":"slower","details":{"retry_after_ms":250},"id":"q","timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
        let unknown = Failure::new(ErrorCode::TryAgainLater, "m", None, NOW_MS);
        let details = Details { outcome: Some("unknown".into()), ..details };
        assert_eq!(
            text(&Reply::Error(Failure { details, ..unknown.clone() })),
            r#"{"type":"error","code":1013,"error":"try_again_later","message":"m","details":{"retry_after_ms":250,"outcome":"unknown"},"timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
        assert!(!text(&Reply::Error(unknown)).contains("details"));
        let limits = Limits { depth_max: 32, channels_max: 10 };
        let invalid = decode(r#"{"type":"subscribe","id":9}"#, &limits).unwrap_err();
        let details = Details { field: invalid.field, ..Details::default() };
        let failure = Failure::new(invalid.code, invalid.message, invalid.id, NOW_MS);
        assert_eq!(
            text(&Reply::Error(Failure { details, ..failure })),
            r#"{"type":"error","code":4004,"error":"invalid_message","message":"`channels` is missing: an array of names","details":{"field":"channels"},"id":9,"timestamp":"2023-12-01T12:00:00.000Z"}"#
        );
    }

    #[test]
    fn a_gap_says_what_is_missing() {
        let reason = GapReason::Failover.as_str().into();
        let lost = Gap { channel: "orders".into(), after: Some(ID), before: None, count: None, reason };
        let mut out = BytesMut::new();
        gap(&mut out, &lost);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"type":"gap","channel":"orders","after":"1763700000000-42","before":null,"count":null,"reason":"failover"}"#
        );
    }
}
