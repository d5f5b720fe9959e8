//! Messages of producers: events of runs, log records, heartbeats, subscriptions. Strict about required fields, lenient
//! about additional ones.

use bytes::Bytes;

use crate::{
    command::{Command, Ingest, Invalid, Json, MessageLimits, Request, ignored},
    dialect::fields::{ObjectFields, Wrong, missing, not_a_name, wrong_kind},
    model::{LogLevel, MsgId, Topic, check_name},
    payload::META_KEY,
};

const MSG_TYPES: &str = "ingest_event, log_record, heartbeat, subscribe, unsubscribe, error or ack";
const EVENT_TYPES: [&str; 4] = ["order", "execution", "market_data", "strategy"];
const OBJECT: &str = "a JSON object";
/// Every event is published here and to the topic of its run.
const EVENTS_TOPIC: &str = "ingest_events";
const LOGS_TOPIC: &str = "logs";

/// Decodes one message; `None` for an acknowledgement, which requires no answer.
pub(crate) fn decode(text: &str, limits: &MessageLimits) -> Result<Option<Request>, Invalid> {
    let (fields, scanned) = ObjectFields::read(text, limits.depth_max);
    let msg_id = read_msg_id(&fields);
    let id = if msg_id.is_ok() { fields.raw("msg_id").and_then(Json::keep) } else { None };
    match scanned.map_err(Wrong::from).and(msg_id).and_then(|msg_id| read(text, msg_id, &fields, limits)) {
        Ok(command) => Ok(command.map(|command| {
            let ignored = ignored_by(&command, &fields, limits);
            Request { id, command, ignored }
        })),
        Err(Wrong { code, field, message }) => Err(Invalid { id, code, field, message }),
    }
}

/// Fields without a meaning. Those of a message that is published are kept and passed on.
fn ignored_by(command: &Command, fields: &ObjectFields<'_>, limits: &MessageLimits) -> Vec<String> {
    if matches!(command, Command::Ingest(_)) {
        return Vec::new();
    }
    let payload =
        fields.raw("payload").map_or_else(ObjectFields::default, |raw| ObjectFields::read(raw, limits.depth_max).0);
    let outside = fields.unknown(&["msg_id", "msg_type", "source", "timestamp", "payload"]);
    ignored(outside.into_iter().chain(payload.unknown(&["channels"])))
}

fn read_msg_id(fields: &ObjectFields<'_>) -> Result<MsgId, Wrong> {
    let text = fields.needed_string("msg_id", "a string that no other message has, such as a UUID")?;
    MsgId::new(&text).map_err(|error| Wrong::field("msg_id", error.to_string()))
}

fn read(
    text: &str,
    msg_id: MsgId,
    fields: &ObjectFields<'_>,
    limits: &MessageLimits,
) -> Result<Option<Command>, Wrong> {
    if fields.raw(META_KEY).is_some() {
        return Err(Wrong::field(META_KEY, format!("the key `{META_KEY}` is reserved for the gateway")));
    }
    let kind = fields.needed_string("msg_type", MSG_TYPES)?;
    let source = fields.needed_string("source", "a string that names the producer")?;
    if source.is_empty() || source.len() > 128 || source.chars().any(char::is_control) {
        return Err(Wrong::field("source", "`source` must be 1 to 128 bytes without control characters".to_owned()));
    }
    time(fields, "timestamp")?;
    let payload = match fields.raw("payload") {
        Some(raw) if raw.starts_with('{') => Some(ObjectFields::read(raw, limits.depth_max).0),
        Some(raw) => return Err(wrong_kind("payload", OBJECT, raw)),
        None => None,
    };
    let needed = || payload.as_ref().ok_or_else(|| missing("payload", OBJECT));
    let topics = match &*kind {
        "ingest_event" => event(needed()?)?,
        "log_record" => log(needed()?)?,
        "heartbeat" => vec![],
        "error" => failure(payload.as_ref())?,
        "subscribe" => return subscribe(needed()?, limits).map(Some),
        "unsubscribe" => return Ok(Some(Command::Unsubscribe { channels: needed()?.names("channels", limits)? })),
        "ack" => return Ok(None),
        _ => return Err(Wrong::field("msg_type", format!("unknown `msg_type`; known are {MSG_TYPES}"))),
    };
    let message = if topics.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(text.as_bytes()) };
    Ok(Some(Command::Ingest(Ingest { topics, msg_id, source: source.into(), message })))
}

fn subscribe(payload: &ObjectFields<'_>, limits: &MessageLimits) -> Result<Command, Wrong> {
    payload.no_options("belongs in an element of `channels`: {\"channel\":…}")?;
    Ok(Command::Subscribe { elements: payload.elements(limits)? })
}

/// Topics of an event in a run: all events, and the run.
fn event(payload: &ObjectFields<'_>) -> Result<Vec<String>, Wrong> {
    let run_id = payload.needed_string("run_id", "the name of the run")?;
    check_name(&run_id).map_err(|error| not_a_name("run_id", error))?;
    word(payload, "event_type", &EVENT_TYPES)?;
    time(payload, "event_utc")?;
    object(payload, "payload_json")?.ok_or_else(|| missing("payload_json", OBJECT))?;
    let run = format!("run:{run_id}");
    if check_name(&run).is_err() {
        let max = Topic::LEN_MAX - (run.len() - run_id.len());
        return Err(Wrong::field("run_id", format!("`run_id` must not exceed {max} bytes")));
    }
    Ok(vec![EVENTS_TOPIC.to_owned(), run])
}

/// Topics of one structured log record. The level is passed on as written; the topic's rule determines which levels are
/// published.
fn log(payload: &ObjectFields<'_>) -> Result<Vec<String>, Wrong> {
    word(payload, "level", &LogLevel::NAMES)?;
    payload.string("logger_name", "a string")?;
    payload.needed_string("message", "a string")?;
    object(payload, "meta")?;
    Ok(vec![LOGS_TOPIC.to_owned()])
}

/// Topics of an error in the producer itself: none.
fn failure(payload: Option<&ObjectFields<'_>>) -> Result<Vec<String>, Wrong> {
    for (payload, name) in payload.into_iter().flat_map(|payload| [(payload, "code"), (payload, "message")]) {
        payload.string(name, "a string")?;
    }
    Ok(vec![])
}

/// One of the `known` words, in upper or lower case.
fn word(fields: &ObjectFields<'_>, name: &str, known: &[&'static str]) -> Result<&'static str, Wrong> {
    let (last, others) = known.split_last().unwrap_or((&"", &[]));
    let list = format!("{} or {last}", others.join(", "));
    let text = fields.needed_string(name, &list)?;
    let found = known.iter().find(|word| text.eq_ignore_ascii_case(word));
    found.copied().ok_or_else(|| Wrong::field(name, format!("unknown `{name}`; known are {list}")))
}

/// Any string or number is accepted: producers write times with and without a zone, and as numbers.
fn time(fields: &ObjectFields<'_>, name: &str) -> Result<(), Wrong> {
    fields.scalar(name).map(|_| ())
}

fn object<'a>(fields: &ObjectFields<'a>, name: &str) -> Result<Option<&'a str>, Wrong> {
    match fields.raw(name) {
        Some(raw) if !raw.starts_with('{') => Err(wrong_kind(name, OBJECT, raw)),
        raw => Ok(raw),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        command::{ListedName, Since, SubscribeOptions},
        model::StreamId,
    };

    const LIMITS: MessageLimits = MessageLimits { depth_max: 32, channels_max: 200 };
    /// As `SocketMessage.json()` writes it in Python: spaces after colons and commas, null for absent values.
    const ORDER: &str = r#"{"msg_id": "0b0e2b35-24a5-4d46-9c08-5ccf2d6f2a11", "msg_type": "ingest_event", "source": "quantower-connector", "timestamp": "2024-01-15T10:30:00.123456", "payload": {"run_id": "run-123", "event_type": "order", "event_utc": "2024-01-15T10:30:00", "payload_json": {"order_id": "ord-test-1", "quantity": 0.10, "price": 45000.0}, "seq": null}}"#;

    fn with_payload(kind: &str, payload: &str) -> String {
        format!(r#"{{"msg_id":"m1","msg_type":"{kind}","source":"s","timestamp":null,"payload":{payload}}}"#)
    }

    /// The decoded message.
    fn ingest(text: &str) -> Ingest {
        let request = decode(text, &LIMITS).unwrap().expect("a request");
        let Command::Ingest(ingest) = request.command else { panic!("{text}") };
        assert_eq!(request.id.unwrap().get(), format!("\"{}\"", ingest.msg_id));
        assert_eq!(ingest.message.is_empty(), ingest.topics.is_empty());
        ingest
    }

    #[test]
    fn an_event_of_a_run() {
        let event = ingest(ORDER);
        assert_eq!(event.msg_id.as_str(), "0b0e2b35-24a5-4d46-9c08-5ccf2d6f2a11");
        assert_eq!(
            (event.topics, &event.message[..]),
            (vec!["ingest_events".into(), "run:run-123".into()], ORDER.as_bytes())
        );
        for kind in ["execution", "market_data", "strategy", "ORDER"] {
            let payload = format!(r#"{{"run_id":"r","event_type":"{kind}","payload_json":{{}}}}"#);
            assert_eq!(ingest(&with_payload("ingest_event", &payload)).topics, ["ingest_events", "run:r"]);
        }
    }

    #[test]
    fn records_of_every_level_go_to_their_topic() {
        let record = r#"{"level":"INFO","logger_name":"trade_service","message":"\"x\"","meta":{"trade_id":"t"}}"#;
        assert_eq!(ingest(&with_payload("log_record", record)).topics, ["logs"]);
        for level in ["DEBUG", "debug", "Trace", "warning", "WARN", "fatal", "CRITICAL"] {
            let record = format!(r#"{{"level":"{level}","logger_name":null,"message":"","meta":null}}"#);
            assert_eq!(ingest(&with_payload("log_record", &record)).topics, ["logs"], "{level}");
        }
    }

    #[test]
    fn heartbeats_and_errors_are_only_acknowledged_and_acknowledgements_get_no_reply() {
        assert!(ingest(r#"{"msg_id":"m","msg_type":"heartbeat","source":"s"}"#).topics.is_empty());
        assert!(ingest(&with_payload("error", r#"{"code":"X","message":"y"}"#)).topics.is_empty());
        assert_eq!(decode(&with_payload("ack", r#"{"acknowledged_msg_id":"m"}"#), &LIMITS), Ok(None));
    }

    #[test]
    fn required_fields_are_requested() {
        let cases = [
            ("[]".to_owned(), "a JSON object is expected, not an array"),
            ("{}".to_owned(), "`msg_id` is missing: a string that no other message has, such as a UUID"),
            (
                r#"{"msg_id":7}"#.to_owned(),
                "`msg_id` must be a string that no other message has, such as a UUID, not a number",
            ),
            (
                r#"{"msg_id":"m"}"#.to_owned(),
                "`msg_type` is missing: ingest_event, log_record, heartbeat, subscribe, unsubscribe, error or ack",
            ),
            (
                with_payload("order", "{}"),
                "unknown `msg_type`; known are ingest_event, log_record, heartbeat, subscribe, unsubscribe, error or ack",
            ),
            (
                r#"{"msg_id":"m","msg_type":"heartbeat"}"#.to_owned(),
                "`source` is missing: a string that names the producer",
            ),
            (with_payload("ingest_event", "null"), "`payload` is missing: a JSON object"),
            (with_payload("ingest_event", "[]"), "`payload` must be a JSON object, not an array"),
            (with_payload("ingest_event", "{}"), "`run_id` is missing: the name of the run"),
            (with_payload("ingest_event", r#"{"run_id":"a%b"}"#), "`run_id` is not a name: it contains `%`"),
            (
                with_payload(
                    "ingest_event",
                    &format!(r#"{{"run_id":"{}","event_type":"order","payload_json":{{}}}}"#, "r".repeat(197)),
                ),
                "`run_id` must not exceed 196 bytes",
            ),
            (
                with_payload("ingest_event", r#"{"run_id":"r","event_type":"fill"}"#),
                "unknown `event_type`; known are order, execution, market_data or strategy",
            ),
            (
                with_payload("ingest_event", r#"{"run_id":"r","event_type":"order","payload_json":"{}"}"#),
                "`payload_json` must be a JSON object, not a string",
            ),
            (
                with_payload("log_record", r#"{"level":"LOUD"}"#),
                "unknown `level`; known are DEBUG, INFO, WARNING, ERROR, CRITICAL, TRACE, WARN or FATAL",
            ),
            (with_payload("log_record", r#"{"level":"INFO"}"#), "`message` is missing: a string"),
            (r#"{"msg_id":"m","_meta":{}}"#.to_owned(), "the key `_meta` is reserved for the gateway"),
        ];
        for (text, message) in cases {
            assert_eq!(decode(&text, &LIMITS).unwrap_err().message, message, "{text}");
        }
        let invalid = decode(r#"{"msg_id":"m9","msg_type":"x","#, &LIMITS).unwrap_err();
        assert_eq!(invalid.id, Json::keep("\"m9\""), "the reply contains the id of the sender's message");
    }

    #[test]
    fn a_subscribe_has_the_same_fields_as_in_the_json_dialect() {
        let payload = r#"{"channels":["ingest_events",{"channel":"logs","since":"7-1"}]}"#;
        let request = decode(&with_payload("subscribe", payload), &LIMITS).unwrap().expect("a request");
        assert_eq!(request.id, Json::keep("\"m1\""));
        let Command::Subscribe { elements } = request.command else { panic!("not a subscribe") };
        let since = Some(Since::After(StreamId::new(7, 1)));
        assert_eq!(
            (&*elements[1].channel, elements[1].options.clone()),
            ("logs", Ok(SubscribeOptions { since, ..SubscribeOptions::default() }))
        );
        let misplaced = r#"{"channels":["logs"],"since":{"logs":"7-1"}}"#;
        assert_eq!(decode(&with_payload("subscribe", misplaced), &LIMITS).unwrap_err().field.as_deref(), Some("since"));
        let unsubscribe = decode(&with_payload("unsubscribe", r#"{"channels":["logs"]}"#), &LIMITS).unwrap().unwrap();
        let logs = ListedName { name: "logs".to_owned(), index: 0, fault: None };
        assert_eq!(unsubscribe.command, Command::Unsubscribe { channels: vec![logs] });
        let mixed = decode(&with_payload("subscribe", r#"{"channels":["a,b","logs"]}"#), &LIMITS).unwrap().unwrap();
        let Command::Subscribe { elements } = mixed.command else { panic!("not a subscribe") };
        assert_eq!(elements[0].options.as_ref().unwrap_err().field, "channels[0]");
        assert!(elements[1].options.is_ok());
    }

    proptest! {
        #[test]
        fn any_text_gets_a_reply(text in ".*", cut in 0..ORDER.len(), byte in "[ -~]") {
            let _ = decode(&text, &LIMITS);
            let _ = decode(&format!("{}{byte}{}", &ORDER[..cut], &ORDER[cut + 1..]), &LIMITS);
        }
    }
}
