//! The `SocketMessage` dialect of producers: events of runs, log records, heartbeats, each answered in the same form.
//! Strict in what is needed, lenient with extra keys. Never publishes: it says what was sent.

use bytes::BytesMut;
use uuid::Uuid;

use super::{
    code::ErrorCode,
    command::Json,
    fields::{Fields, Wrong, missing, unquote, wrong_kind},
    json::Object,
    payload::META_KEY,
};
use crate::model::{MsgId, check_name};

/// One message of a producer.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// By which a repeated message is recognised and acknowledged.
    pub msg_id: MsgId,
    /// Who sends. 1 to 128 bytes, no control characters.
    pub source: String,
    /// When, as the producer wrote it.
    pub timestamp: Option<String>,
    pub body: Body,
}

/// What a message says, by its `msg_type`.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// `ingest_event`.
    Event(IngestEvent),
    /// `log_record`.
    Log(LogRecord),
    /// `heartbeat`: the producer is alive.
    Heartbeat,
    /// `error`: the producer tells of a failure of its own.
    Error { code: Option<String>, message: Option<String> },
    /// `ack`: taken and, lest two sides acknowledge acknowledgements forever, not answered.
    Ack,
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestEvent {
    /// Follows the grammar of names, since it becomes part of a topic.
    pub run_id: String,
    pub event_type: EventType,
    /// When it happened, as the producer wrote it.
    pub event_utc: Option<String>,
    /// The event itself, a JSON object.
    pub payload_json: Json,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Order,
    Execution,
    MarketData,
    Strategy,
}

/// One line of a structured log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    pub level: Level,
    pub logger_name: Option<String>,
    pub message: String,
    /// More about it, a JSON object.
    pub meta: Option<Json>,
}

/// Levels of log records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

impl EventType {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Execution => "execution",
            Self::MarketData => "market_data",
            Self::Strategy => "strategy",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Order, Self::Execution, Self::MarketData, Self::Strategy]
            .into_iter()
            .find(|kind| text.eq_ignore_ascii_case(kind.as_str()))
    }
}

impl Level {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// `DEBUG` records are acknowledged but neither stored nor published.
    #[must_use]
    pub fn is_published(self) -> bool {
        self > Self::Debug
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical]
            .into_iter()
            .find(|level| text.eq_ignore_ascii_case(level.as_str()))
    }
}

impl Envelope {
    /// Whether an `ack` is owed once the message is taken.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.body != Body::Ack
    }
}

/// A message that is no envelope. Answered by [`error`]; the connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEnvelope {
    /// The message's own id, where it could be read.
    pub msg_id: Option<MsgId>,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Reads one text frame.
///
/// # Errors
/// [`InvalidEnvelope`], to be answered with an error message.
pub fn decode(text: &str, depth_max: usize) -> Result<Envelope, InvalidEnvelope> {
    let (fields, scanned) = Fields::read(text, depth_max);
    let msg_id = read_msg_id(&fields);
    let known_id = msg_id.as_ref().ok().cloned();
    let envelope = scanned.map_err(Wrong::from).and(msg_id).and_then(|msg_id| read(msg_id, &fields, depth_max));
    envelope.map_err(|wrong| InvalidEnvelope { msg_id: known_id, message: wrong.message })
}

fn read_msg_id(fields: &Fields<'_>) -> Result<MsgId, Wrong> {
    let text = fields.needed_string("msg_id", "a string that no other message has, such as a UUID")?;
    MsgId::new(&text).map_err(|error| Wrong::field("msg_id", error.to_string()))
}

const MSG_TYPES: &str = "ingest_event, log_record, heartbeat, error or ack";
const OBJECT: &str = "a JSON object";

fn read(msg_id: MsgId, fields: &Fields<'_>, depth_max: usize) -> Result<Envelope, Wrong> {
    if fields.raw(META_KEY).is_some() {
        return Err(Wrong::field(META_KEY, format!("the key `{META_KEY}` is reserved for the gateway")));
    }
    let kind = fields.needed_string("msg_type", MSG_TYPES)?;
    let source = fields.needed_string("source", "a string that names the producer")?;
    if source.is_empty() || source.len() > 128 || source.chars().any(char::is_control) {
        return Err(Wrong::field("source", "`source` must be 1 to 128 bytes without control characters".to_owned()));
    }
    let timestamp = time(fields, "timestamp")?;
    let payload = match fields.raw("payload") {
        Some(raw) if raw.starts_with('{') => Some(Fields::read(raw, depth_max).0),
        Some(raw) => return Err(wrong_kind("payload", OBJECT, raw)),
        None => None,
    };
    let needed = || payload.as_ref().ok_or_else(|| missing("payload", OBJECT));
    let body = match &*kind {
        "ingest_event" => Body::Event(event(needed()?)?),
        "log_record" => Body::Log(log(needed()?)?),
        "heartbeat" => Body::Heartbeat,
        "error" => told_error(payload.as_ref())?,
        "ack" => Body::Ack,
        _ => return Err(Wrong::field("msg_type", format!("unknown `msg_type`; known are {MSG_TYPES}"))),
    };
    Ok(Envelope { msg_id, source: source.into_owned(), timestamp, body })
}

fn event(payload: &Fields<'_>) -> Result<IngestEvent, Wrong> {
    let run_id = payload.needed_string("run_id", "the name of the run")?;
    check_name(&run_id).map_err(|error| Wrong::field("run_id", format!("`run_id` is not a name: {error}")))?;
    let what = "order, execution, market_data or strategy";
    let kind = payload.needed_string("event_type", what)?;
    let event_type = EventType::parse(&kind)
        .ok_or_else(|| Wrong::field("event_type", format!("unknown `event_type`; known are {what}")))?;
    let event_utc = time(payload, "event_utc")?;
    let payload_json = object(payload, "payload_json")?.ok_or_else(|| missing("payload_json", OBJECT))?;
    Ok(IngestEvent { run_id: run_id.into_owned(), event_type, event_utc, payload_json })
}

fn log(payload: &Fields<'_>) -> Result<LogRecord, Wrong> {
    let what = "DEBUG, INFO, WARNING, ERROR or CRITICAL";
    let level = payload.needed_string("level", what)?;
    let level =
        Level::parse(&level).ok_or_else(|| Wrong::field("level", format!("unknown `level`; known are {what}")))?;
    Ok(LogRecord {
        level,
        logger_name: payload.string("logger_name", "a string")?.map(Into::into),
        message: payload.needed_string("message", "a string")?.into_owned(),
        meta: object(payload, "meta")?,
    })
}

fn told_error(payload: Option<&Fields<'_>>) -> Result<Body, Wrong> {
    let text = |name| match payload {
        Some(payload) => payload.string(name, "a string").map(|text| text.map(Into::into)),
        None => Ok(None),
    };
    Ok(Body::Error { code: text("code")?, message: text("message")? })
}

/// A time is kept as it was written: producers write it with and without zone, in strings and in numbers.
fn time(fields: &Fields<'_>, name: &str) -> Result<Option<String>, Wrong> {
    Ok(fields.scalar(name)?.map(|raw| unquote(raw).map_or_else(|| raw.to_owned(), Into::into)))
}

fn object(fields: &Fields<'_>, name: &str) -> Result<Option<Json>, Wrong> {
    match fields.raw(name) {
        None => Ok(None),
        Some(raw) if raw.starts_with('{') => Ok(Json::keep(raw)),
        Some(raw) => Err(wrong_kind(name, OBJECT, raw)),
    }
}

/// Who answers: the `source` of the gateway's own messages, and the new message's id.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub source: &'a str,
    pub msg_id: Uuid,
}

/// Appends the acknowledgement of a message.
pub fn ack(out: &mut BytesMut, sender: Sender<'_>, acknowledged: &MsgId, now_ms: u64) {
    message(out, sender, "ack", now_ms, |payload| payload.string("acknowledged_msg_id", acknowledged.as_str()));
}

/// Appends an error. Its code is the name of ours in capitals (`INVALID_MESSAGE`); `msg_id` names the message it
/// answers, where that could be read.
pub fn error(out: &mut BytesMut, sender: Sender<'_>, failure: &EnvelopeFailure<'_>, now_ms: u64) {
    message(out, sender, "error", now_ms, |payload| {
        payload.string("code", &failure.code.name().to_ascii_uppercase());
        payload.string("message", failure.message);
        if let Some(msg_id) = failure.msg_id {
            payload.string("msg_id", msg_id.as_str());
        }
        if let Some(ms) = failure.retry_after_ms {
            payload.number("retry_after_ms", ms);
        }
    });
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeFailure<'a> {
    pub code: ErrorCode,
    pub message: &'a str,
    pub msg_id: Option<&'a MsgId>,
    pub retry_after_ms: Option<u64>,
}

impl<'a> From<&'a InvalidEnvelope> for EnvelopeFailure<'a> {
    fn from(invalid: &'a InvalidEnvelope) -> Self {
        Self {
            code: ErrorCode::InvalidMessage,
            message: &invalid.message,
            msg_id: invalid.msg_id.as_ref(),
            retry_after_ms: None,
        }
    }
}

/// Appends a heartbeat of the gateway.
pub fn heartbeat(out: &mut BytesMut, sender: Sender<'_>, now_ms: u64) {
    message(out, sender, "heartbeat", now_ms, |payload| payload.string("status", "alive"));
}

fn message(
    out: &mut BytesMut,
    sender: Sender<'_>,
    kind: &'static str,
    now_ms: u64,
    write_payload: impl FnOnce(&mut Object<'_>),
) {
    let mut uuid = Uuid::encode_buffer();
    let mut object = Object::begin(out);
    object.string("msg_id", sender.msg_id.hyphenated().encode_lower(&mut uuid));
    object.string("msg_type", kind);
    object.string("source", sender.source);
    object.time("timestamp", now_ms);
    object.object("payload", write_payload);
    object.end();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `SocketMessage.json()` writes it in Python: blanks after colons and commas, null for what is left out.
    const ORDER: &str = r#"{"msg_id": "0b0e2b35-24a5-4d46-9c08-5ccf2d6f2a11", "msg_type": "ingest_event", "source": "quantower-connector", "timestamp": "2024-01-15T10:30:00.123456", "payload": {"run_id": "run-123", "event_type": "order", "event_utc": "2024-01-15T10:30:00", "payload_json": {"order_id": "ord-test-1", "quantity": 0.10, "price": 45000.0}, "seq": null}}"#;

    fn with_payload(kind: &str, payload: &str) -> String {
        format!(r#"{{"msg_id":"m1","msg_type":"{kind}","source":"s","timestamp":null,"payload":{payload}}}"#)
    }

    fn message_of(text: &str) -> String {
        decode(text, 32).unwrap_err().message
    }

    #[test]
    fn an_event_of_a_run() {
        let envelope = decode(ORDER, 32).unwrap();
        assert_eq!(
            (envelope.msg_id.as_str(), &*envelope.source),
            ("0b0e2b35-24a5-4d46-9c08-5ccf2d6f2a11", "quantower-connector")
        );
        assert_eq!(envelope.timestamp.as_deref(), Some("2024-01-15T10:30:00.123456"));
        assert!(envelope.wants_ack());
        let Body::Event(event) = envelope.body else { panic!() };
        assert_eq!((&*event.run_id, event.event_type), ("run-123", EventType::Order));
        assert_eq!(event.payload_json.get(), r#"{"order_id": "ord-test-1", "quantity": 0.10, "price": 45000.0}"#);
        for kind in ["execution", "market_data", "strategy", "ORDER"] {
            let text =
                with_payload("ingest_event", &format!(r#"{{"run_id":"r","event_type":"{kind}","payload_json":{{}}}}"#));
            let Body::Event(event) = decode(&text, 32).unwrap().body else { panic!() };
            assert_eq!(event.event_type.as_str(), kind.to_ascii_lowercase());
        }
    }

    #[test]
    fn a_log_record_and_what_is_kept_out() {
        let record =
            r#"{"level":"INFO","logger_name":"trade_service","message":"Trade \"x\"","meta":{"trade_id":"t"}}"#;
        let Body::Log(log) = decode(&with_payload("log_record", record), 32).unwrap().body else { panic!() };
        assert_eq!(
            (log.level, log.logger_name.as_deref(), &*log.message),
            (Level::Info, Some("trade_service"), "Trade \"x\"")
        );
        assert_eq!(log.meta.unwrap().get(), r#"{"trade_id":"t"}"#);
        for (level, published) in [("DEBUG", false), ("debug", false), ("warning", true), ("CRITICAL", true)] {
            let record = format!(r#"{{"level":"{level}","logger_name":null,"message":"","meta":null}}"#);
            let Body::Log(log) = decode(&with_payload("log_record", &record), 32).unwrap().body else { panic!() };
            assert_eq!((log.level.is_published(), log.meta), (published, None), "{level}");
        }
    }

    #[test]
    fn heartbeats_errors_and_acknowledgements() {
        assert_eq!(decode(r#"{"msg_id":"m","msg_type":"heartbeat","source":"s"}"#, 32).unwrap().body, Body::Heartbeat);
        let told = decode(&with_payload("error", r#"{"code":"X","message":"y"}"#), 32).unwrap();
        assert_eq!(told.body, Body::Error { code: Some("X".to_owned()), message: Some("y".to_owned()) });
        let acknowledged = decode(&with_payload("ack", r#"{"acknowledged_msg_id":"m"}"#), 32).unwrap();
        assert!(!acknowledged.wants_ack());
    }

    #[test]
    fn what_is_needed_is_asked_for() {
        let cases = [
            ("[]".to_owned(), "a JSON object is expected, not an array"),
            ("{}".to_owned(), "`msg_id` is missing: a string that no other message has, such as a UUID"),
            (
                r#"{"msg_id":7}"#.to_owned(),
                "`msg_id` must be a string that no other message has, such as a UUID, not a number",
            ),
            (
                r#"{"msg_id":"m"}"#.to_owned(),
                "`msg_type` is missing: ingest_event, log_record, heartbeat, error or ack",
            ),
            (
                with_payload("order", "{}"),
                "unknown `msg_type`; known are ingest_event, log_record, heartbeat, error or ack",
            ),
            (
                r#"{"msg_id":"m","msg_type":"heartbeat"}"#.to_owned(),
                "`source` is missing: a string that names the producer",
            ),
            (with_payload("ingest_event", "null"), "`payload` is missing: a JSON object"),
            (with_payload("ingest_event", "[]"), "`payload` must be a JSON object, not an array"),
            (with_payload("ingest_event", "{}"), "`run_id` is missing: the name of the run"),
            (
                with_payload("ingest_event", r#"{"run_id":"a b"}"#),
                "`run_id` is not a name: a name is 1 to 200 characters of A-Z a-z 0-9 _ . : / -",
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
                "unknown `level`; known are DEBUG, INFO, WARNING, ERROR or CRITICAL",
            ),
            (with_payload("log_record", r#"{"level":"INFO"}"#), "`message` is missing: a string"),
            (r#"{"msg_id":"m","_meta":{}}"#.to_owned(), "the key `_meta` is reserved for the gateway"),
        ];
        for (text, message) in cases {
            assert_eq!(message_of(&text), message, "{text}");
        }
        let invalid = decode(r#"{"msg_id":"m9","msg_type":"x","#, 32).unwrap_err();
        assert_eq!(invalid.msg_id, Some(MsgId::new("m9").unwrap()), "the sender learns which of its messages it was");
    }

    #[test]
    fn answers_are_socket_messages() {
        let sender = Sender { source: "tickgate", msg_id: Uuid::from_u128(1) };
        let mut out = BytesMut::new();
        ack(&mut out, sender, &MsgId::new("m1").unwrap(), 1_701_432_000_000);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"msg_id":"00000000-0000-0000-0000-000000000001","msg_type":"ack","source":"tickgate","timestamp":"2023-12-01T12:00:00.000Z","payload":{"acknowledged_msg_id":"m1"}}"#
        );
        out.clear();
        let invalid = decode(&with_payload("x", "{}"), 32).unwrap_err();
        error(&mut out, sender, &(&invalid).into(), 1_701_432_000_000);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"msg_id":"00000000-0000-0000-0000-000000000001","msg_type":"error","source":"tickgate","timestamp":"2023-12-01T12:00:00.000Z","payload":{"code":"INVALID_MESSAGE","message":"unknown `msg_type`; known are ingest_event, log_record, heartbeat, error or ack","msg_id":"m1"}}"#
        );
        assert!(decode(std::str::from_utf8(&out).unwrap(), 32).is_ok());
        out.clear();
        heartbeat(&mut out, sender, 0);
        assert_eq!(decode(std::str::from_utf8(&out).unwrap(), 32).unwrap().body, Body::Heartbeat);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".*", cut in 0..ORDER.len(), byte in "[ -~]") {
            let _ = decode(&text, 32);
            let _ = decode(&format!("{}{byte}{}", &ORDER[..cut], &ORDER[cut + 1..]), 32);
        }
    }
}
