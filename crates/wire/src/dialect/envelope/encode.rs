//! Replies to producers. A reply to a command that producers cannot send, or to no command at all, has no envelope.

use bytes::BytesMut;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    command::Json,
    dialect::MessageStamp,
    json::push_value,
    push::GapPush,
    reply::{
        CaughtUpNotice, ChannelEnd, Ingested, RefusedChannel, Reply, SubscribedChannel, SubscribedReply,
        UnsubscribedReply,
    },
    time::Timestamp,
};

/// The `source` of every message from the gateway.
const SOURCE: &str = "server";

/// A `SocketMessage` from the gateway.
#[derive(Serialize)]
struct EnvelopeMessage<'a, P> {
    msg_id: &'a str,
    msg_type: &'a str,
    source: &'a str,
    timestamp: Timestamp,
    payload: P,
}

#[derive(Serialize)]
struct Ack<'a> {
    acknowledged_msg_id: &'a Json,
}

/// Payload of the reply to a `subscribe`.
#[derive(Serialize)]
struct SubscribedAck<'a> {
    acknowledged_msg_id: &'a Json,
    channels: &'a [SubscribedChannel],
    errors: &'a [RefusedChannel],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ignored: &'a [String],
}

/// Payload of the reply to an `unsubscribe`, with the requested names.
#[derive(Serialize)]
struct UnsubscribedAck<'a> {
    acknowledged_msg_id: &'a Json,
    channels: &'a [String],
    #[serde(skip_serializing_if = "<[RefusedChannel]>::is_empty")]
    errors: &'a [RefusedChannel],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ignored: &'a [String],
}

#[derive(Serialize)]
struct CaughtUpPayload<'a> {
    channels: &'a [ChannelEnd],
}

/// `code` is the name of the error code in capitals; `msg_id` is the id of the failed message, if it could be read.
#[derive(Serialize)]
struct EnvelopeError<'a> {
    code: String,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_id: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct EnvelopeHeartbeat {
    status: &'static str,
}

/// Appends the envelope of a reply, if there is one.
pub(crate) fn encode(out: &mut BytesMut, reply: &Reply, ignored: &[String], stamp: impl FnOnce() -> MessageStamp) {
    match reply {
        Reply::Ingested(Ingested { id: Some(acknowledged_msg_id) }) => {
            message(out, "ack", Ack { acknowledged_msg_id }, stamp);
        }
        Reply::Subscribed(SubscribedReply { id: Some(acknowledged_msg_id), channels, errors }) => {
            message(out, "ack", SubscribedAck { acknowledged_msg_id, channels, errors, ignored }, stamp);
        }
        Reply::Unsubscribed(UnsubscribedReply { id: Some(acknowledged_msg_id), channels, errors }) => {
            message(out, "ack", UnsubscribedAck { acknowledged_msg_id, channels, errors, ignored }, stamp);
        }
        Reply::CaughtUp(CaughtUpNotice { channels }) => message(out, "caught_up", CaughtUpPayload { channels }, stamp),
        Reply::Error(failure) => {
            let error = EnvelopeError {
                code: failure.object.error.to_ascii_uppercase(),
                message: &failure.object.message,
                msg_id: failure.id.as_ref(),
                retry_after_ms: failure.object.details.retry_after_ms,
            };
            message(out, "error", error, stamp);
        }
        Reply::Heartbeat(_) => message(out, "heartbeat", EnvelopeHeartbeat { status: "alive" }, stamp),
        _ => {}
    }
}

/// Appends the envelope of a gap.
pub(crate) fn gap(out: &mut BytesMut, gap: &GapPush<'_>, stamp: impl FnOnce() -> MessageStamp) {
    message(out, "gap", gap, stamp);
}

fn message(out: &mut BytesMut, msg_type: &str, payload: impl Serialize, stamp: impl FnOnce() -> MessageStamp) {
    let MessageStamp { now_ms, msg_id } = stamp();
    let mut buffer = Uuid::encode_buffer();
    let msg_id = &*msg_id.hyphenated().encode_lower(&mut buffer);
    let timestamp = Timestamp::from_ms(now_ms);
    push_value(out, &EnvelopeMessage { msg_id, msg_type, source: SOURCE, timestamp, payload });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        code::ErrorCode,
        command::MessageLimits,
        dialect::envelope::decode,
        model::{Class, StreamId},
        reply::{ClosingNotice, Details, ErrorObject, FailureReply, HeartbeatNotice},
    };

    fn stamp() -> MessageStamp {
        MessageStamp { now_ms: 1_701_432_000_000, msg_id: Uuid::from_u128(1) }
    }

    fn text(reply: &Reply) -> String {
        let mut out = BytesMut::new();
        encode(&mut out, reply, &[], stamp);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn replies_are_socket_messages() {
        const BEGIN: &str = r#"{"msg_id":"00000000-0000-0000-0000-000000000001","#;
        const TIME: &str = r#""source":"server","timestamp":"2023-12-01T12:00:00.000Z","#;
        let m1 = Json::of(&"m1");
        let ack = format!(r#"{BEGIN}"msg_type":"ack",{TIME}"payload":{{"acknowledged_msg_id":"m1"}}}}"#);
        assert_eq!(text(&Reply::Ingested(Ingested { id: Some(m1.clone()) })), ack);
        let mut failure = FailureReply::new(ErrorCode::TryAgainLater, "the outcome is unknown", Some(m1), 0);
        failure.object.details = Details { retry_after_ms: Some(1_000), outcome: Some("unknown".into()), field: None };
        let expected = format!(
            r#"{BEGIN}"msg_type":"error",{TIME}"payload":{{"code":"TRY_AGAIN_LATER","message":"the outcome is unknown","msg_id":"m1","retry_after_ms":1000}}}}"#
        );
        let error = text(&Reply::Error(failure));
        assert_eq!(error, expected);
        let unread = FailureReply::new(ErrorCode::InvalidMessage, "not JSON", None, 0);
        let expected = r#""payload":{"code":"INVALID_MESSAGE","message":"not JSON"}}"#;
        assert!(text(&Reply::Error(unread)).ends_with(expected));
        let now = Timestamp::from_ms(0);
        let heartbeat =
            text(&Reply::Heartbeat(HeartbeatNotice { timestamp: now, server_time: now, cursors: [].into() }));
        assert_eq!(heartbeat, format!(r#"{BEGIN}"msg_type":"heartbeat",{TIME}"payload":{{"status":"alive"}}}}"#));
        let limits = MessageLimits { depth_max: 32, channels_max: 200 };
        for message in [ack, error, heartbeat] {
            assert!(decode(&message, &limits).is_ok(), "a producer may send the same: {message}");
        }
    }

    #[test]
    fn the_ack_of_a_subscribe_lists_channels_and_errors() {
        let channel = SubscribedChannel {
            channel: "logs".into(),
            class: Class::Reliable,
            stream: None,
            cursor: Some(StreamId::new(7, 1)),
            live: true,
        };
        let object = ErrorObject::new(ErrorCode::Forbidden, "not yours");
        let refused = RefusedChannel { channel: "x".into(), object };
        let subscribed = SubscribedReply { id: Some(Json::of(&"s1")), channels: vec![channel], errors: vec![refused] };
        let payload = r#""payload":{"acknowledged_msg_id":"s1","channels":[{"channel":"logs","class":"reliable","cursor":"7-1","live":true}],"errors":[{"channel":"x","code":4502,"error":"forbidden","message":"not yours"}]}}"#;
        let ack = text(&Reply::Subscribed(subscribed.clone()));
        assert!(ack.contains(r#""msg_type":"ack""#) && ack.ends_with(payload), "{ack}");
        let unsubscribed =
            UnsubscribedReply { id: Some(Json::of(&"s2")), channels: vec!["logs".into()], errors: vec![] };
        let payload = r#""payload":{"acknowledged_msg_id":"s2","channels":["logs"]}}"#;
        assert!(text(&Reply::Unsubscribed(unsubscribed.clone())).ends_with(payload));
        let unsubscribed = UnsubscribedReply { errors: subscribed.errors.clone(), ..unsubscribed };
        let payload =
            r#""channels":["logs"],"errors":[{"channel":"x","code":4502,"error":"forbidden","message":"not yours"}]}}"#;
        assert!(text(&Reply::Unsubscribed(unsubscribed)).ends_with(payload));
        let by_itself = text(&Reply::Subscribed(SubscribedReply { id: None, ..subscribed }));
        assert_eq!(by_itself, "", "subscriptions on connect are not acknowledged");
    }

    #[test]
    fn replies_that_producers_cannot_ask_for_have_no_envelope() {
        assert_eq!(text(&Reply::Closing(ClosingNotice::new(1012, "", Some(1)))), "");
    }
}
