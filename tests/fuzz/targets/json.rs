//! JSON from clients, publishers and producers: every other parser decodes an accepted text to the same values.

use bytes::BytesMut;
use serde_json::Value;
use tickgate_wire::{
    command::{ChannelRequest, Command, HistoryFrom, Invalid, ListedName, MessageLimits, Since},
    dialect::{Dialect, MessageStamp, json},
    json::JsonError,
    model::{StreamId, check_name},
    payload::{META_KEY, PayloadError, check_payload},
    push::{PushMeta, push_json},
    reply::{FailureReply, Ingested, Reply, UnsubscribedReply},
};

use super::object;

const DEPTH_MAX: usize = 32;
const CHANNELS_MAX: usize = 200;
const LIMITS: MessageLimits = MessageLimits { depth_max: DEPTH_MAX, channels_max: CHANNELS_MAX };
/// Messages for people are valid text, whatever the input is.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// JSON from clients and publishers: other parsers decode an accepted text to the same values, and the reply is valid JSON.
pub(super) fn commands(data: &[u8]) {
    let passed = check_payload(data, DEPTH_MAX);
    let Ok(text) = str::from_utf8(data) else {
        return assert!(matches!(passed, Err(PayloadError::Utf8 { .. })), "{passed:?}");
    };
    let tree = serde_json::from_str::<Value>(text);
    match passed {
        Ok(()) => pushed_unchanged(data, tree.as_ref().expect("every reader takes it")),
        Err(PayloadError::Json(
            JsonError::Syntax { .. }
            | JsonError::Trailing { .. }
            | JsonError::NumberRange { .. }
            | JsonError::LoneSurrogate { .. },
        )) => assert!(tree.is_err(), "{passed:?}"),
        Err(error) => assert!(!matches!(error, PayloadError::Utf8 { .. }), "{error}"),
    }
    // The decoder of the clients must not panic either.
    let _ = json::read(text);
    match Dialect::Json.decode(text, &LIMITS) {
        Ok(request) => {
            let request = request.expect("every JSON message asks something");
            let tree = tree.expect("every reader takes it");
            let reply = Reply::Unsubscribed(UnsubscribedReply { id: request.id, channels: vec![], errors: vec![] });
            assert_eq!(encoded(Dialect::Json, &reply).get("id"), tree.get("id").filter(|id| !id.is_null()));
            means_what_it_says(&request.command, &tree);
            request.ignored.iter().for_each(|name| assert!(name.chars().count() <= 64, "{name}"));
        }
        Err(invalid) => {
            let code = invalid.code.number();
            assert!([4004, 4503].contains(&code), "{invalid:?}");
            assert_eq!(encoded(Dialect::Json, &refusal(invalid))["code"], code);
        }
    }
}

/// The reply to an invalid message.
fn refusal(invalid: Invalid) -> Reply {
    assert!((1..MESSAGE_BYTES_MAX).contains(&invalid.message.len()), "{}", invalid.message);
    Reply::Error(FailureReply::new(invalid.code, invalid.message, invalid.id, 0))
}

fn encoded(dialect: Dialect, reply: &Reply) -> serde_json::Map<String, Value> {
    let mut out = BytesMut::new();
    dialect.encode(&mut out, reply, &[], || MessageStamp { now_ms: 0, msg_id: uuid::Uuid::nil() });
    object(&out)
}

/// The decoded values equal those that another parser finds in the same places, and are within the limits.
fn means_what_it_says(command: &Command, tree: &Value) {
    let kind = tree["type"].as_str().expect("a type");
    match command {
        Command::Subscribe { elements } => elements_are(elements, &tree["channels"]),
        Command::Unsubscribe { channels } => names_are(channels, &tree["channels"]),
        Command::SubscribeSymbols { verb, symbols } => {
            assert_eq!(kind, format!("subscribe_{verb}"));
            names_are(symbols, &tree["symbols"]);
        }
        Command::UnsubscribeSymbols { verb, symbols } => {
            assert_eq!(kind, format!("unsubscribe_{verb}"));
            names_are(symbols, &tree["symbols"]);
        }
        Command::Ping { .. } => assert_eq!(kind, "ping"),
        Command::Auth { token } => assert_eq!(tree["token"], **token),
        Command::History { channel, from } => {
            assert_eq!(tree["channel"], **channel);
            let (found, last) = match from {
                HistoryFrom::Since(found) => (Some(*found), None),
                HistoryFrom::Last(last) => (None, *last),
            };
            assert_eq!(since(&tree["since"]), found);
            assert_eq!(tree["last"].as_u64(), last.map(u64::from));
        }
        Command::Publish { channel, data, msg_id, user, count } => {
            assert_eq!(tree["count"].as_bool().unwrap_or_default(), *count);
            assert_eq!(tree["channel"], **channel);
            assert_eq!(check_payload(data.get().as_bytes(), DEPTH_MAX), Ok(()));
            assert_eq!(serde_json::from_str::<Value>(data.get()).expect("JSON"), tree["data"]);
            assert_eq!(tree["msg_id"].as_str(), msg_id.as_deref());
            assert_eq!(tree["user"].as_str(), user.as_deref());
        }
        Command::Run { command, args, msg_id } => {
            assert_eq!(tree["msg_id"].as_str(), msg_id.as_deref());
            assert_eq!(tree["command"], **command);
            let args = args.as_ref().map(|args| serde_json::from_str::<Value>(args.get()).expect("JSON"));
            assert_eq!(args.unwrap_or_default(), tree["args"]);
        }
        Command::Presence { channel } => assert_eq!(tree["channel"], **channel),
        Command::Configure { heartbeat_interval } => {
            assert_eq!(tree["heartbeat_interval"].as_u64(), heartbeat_interval.map(u64::from));
        }
        Command::Ingest(_) => panic!("not in the JSON dialect"),
    }
}

fn since(value: &Value) -> Option<Since> {
    value.as_str().map(|text| text.parse().expect("a cursor"))
}

/// An accepted name is valid; an invalid one leaves the others unchanged.
fn names_are(names: &[ListedName], tree: &Value) {
    let list = tree.as_array().expect("an array");
    assert!(list.len() == names.len() && list.len() <= CHANNELS_MAX);
    for (at, (name, value)) in names.iter().zip(list).enumerate() {
        assert_eq!((&*name.name, name.index), (value.as_str().unwrap_or_default(), at));
        assert_eq!(name.fault.is_none(), value.as_str().is_some_and(|text| check_name(text).is_ok()), "{name:?}");
    }
}

/// Elements are names, or objects; an invalid name or option leaves the others unchanged.
fn elements_are(elements: &[ChannelRequest], tree: &Value) {
    let list = tree.as_array().expect("an array");
    assert!(list.len() == elements.len() && list.len() <= CHANNELS_MAX);
    for (element, value) in elements.iter().zip(list) {
        let name = value.as_object().map_or(Some(value), |object| object.get("channel"));
        let name = name.and_then(Value::as_str).unwrap_or_default();
        assert_eq!(element.channel, name);
        let Ok(options) = &element.options else { continue };
        assert_eq!(check_name(name), Ok(()));
        assert_eq!(since(&value["since"]), options.since);
        assert_eq!(value["last"].as_u64(), options.last.map(u64::from));
        assert_eq!(value["max_rate"].as_u64(), options.max_rate.map(u64::from));
        assert_eq!(value["snapshot"].as_bool(), options.snapshot);
    }
}

/// The gateway adds its key `_meta` to the payload, and changes nothing else.
fn pushed_unchanged(payload: &[u8], tree: &Value) {
    let id = Some(StreamId::new(1_763_700_000_000, 42));
    let meta = PushMeta { channel: "ticker:BTCUSDT".into(), id, replayed: true, conflated: 3, snapshot: false };
    let mut out = BytesMut::new();
    push_json(&mut out, &meta, payload);
    let mut pushed = object(&out);
    assert_eq!(pushed.remove(META_KEY).expect("the gateway's key")["channel"], "ticker:BTCUSDT");
    assert_eq!(Value::Object(pushed), *tree);
}

/// Envelopes from producers: an accepted one can be published unchanged, and the reply to it contains its id.
pub(super) fn envelopes(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Dialect::Envelope.decode(text, &LIMITS) {
        Ok(Some(request)) => {
            assert_eq!(check_payload(data, DEPTH_MAX), Ok(()));
            let sent = object(data);
            let payload = sent.get("payload").unwrap_or(&Value::Null);
            let told = Some(sent["msg_id"].clone());
            assert_eq!(request.id.as_ref().map(|id| serde_json::from_str(id.get()).expect("JSON")), told);
            let taken = match request.command {
                Command::Ingest(taken) => taken,
                Command::Subscribe { elements } => return elements_are(&elements, &payload["channels"]),
                Command::Unsubscribe { channels } => return names_are(&channels, &payload["channels"]),
                other => panic!("{other:?}"),
            };
            assert_eq!(
                (&sent["msg_id"], &sent["source"]),
                (&taken.msg_id.as_str().into(), &taken.source.as_str().into())
            );
            match sent["msg_type"].as_str() {
                Some("ingest_event") => {
                    let run = format!("run:{}", payload["run_id"].as_str().expect("a run"));
                    assert_eq!(taken.topics, ["ingest_events", &*run]);
                }
                Some("log_record") => assert!(taken.topics.is_empty() || taken.topics == ["logs"]),
                _ => assert!(taken.topics.is_empty()),
            }
            assert_eq!(taken.message, if taken.topics.is_empty() { &[] } else { data });
            let ack = encoded(Dialect::Envelope, &Reply::Ingested(Ingested { id: request.id }));
            assert_eq!(ack["payload"]["acknowledged_msg_id"], sent["msg_id"]);
        }
        Ok(None) => assert_eq!(object(data)["msg_type"], "ack"),
        Err(invalid) => {
            assert_eq!(encoded(Dialect::Envelope, &refusal(invalid))["payload"]["code"], "INVALID_MESSAGE");
        }
    }
}
