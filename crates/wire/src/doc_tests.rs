//! Holds `docs/wire.md` and `docs/asyncapi.yaml` equal to the code: the tables, and every example in them.

use bytes::BytesMut;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    code::{CODES, Code, ErrorCode, lookup, may_reconnect},
    command::{Json, Limits},
    dialect::{
        Dialect, Stamp,
        json::{ServerMessage, read},
    },
    push::push_json,
    reply::{Details, Failure, Ingested, Reply, Subscribed},
    time::Timestamp,
};

const WIRE: &str = include_str!("../../../docs/wire.md");
const ASYNCAPI: &str = include_str!("../../../docs/asyncapi.yaml");

/// The lines of all code blocks that are marked `json <who>`.
fn examples(who: &str) -> Vec<&'static str> {
    let fence = format!("```json {who}\n");
    let blocks = WIRE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines: Vec<_> = blocks.flat_map(str::lines).collect();
    assert!(!lines.is_empty(), "no examples of {who}");
    lines
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Whether the first cell of a table's row is one number.
fn numbered(row: &str) -> bool {
    row.trim_start_matches("| ").split(' ').next().is_some_and(|cell| cell.parse::<u16>().is_ok())
}

#[test]
fn the_table_of_codes_is_the_codes() {
    let of_table = |line: &&str| line.split(" | ").nth(1).is_some_and(|name| name.starts_with('`')) && numbered(line);
    let written: Vec<_> = WIRE.lines().filter(of_table).collect();
    let row =
        |code: &Code| format!("| {} | `{}` | {} | {} |", code.number, code.name, code.meaning, code.reconnect.as_str());
    assert_eq!(written, CODES.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_lists_of_codes_are_the_codes() {
    let errors = joined(ErrorCode::ALL.iter().map(|code| code.number().to_string()));
    assert!(WIRE.contains(&format!("Errors that leave the connection open: {errors}.")), "{errors}");
    assert!(ASYNCAPI.contains(&format!("enum: [{errors}]")), "{errors}");
    let names = joined(ErrorCode::ALL.iter().map(|code| code.name().to_owned()));
    assert!(ASYNCAPI.contains(&format!("enum: [{names}]")), "{names}");
    let exceptions = joined((0..4500).filter(|number| !may_reconnect(*number)).map(|number| number.to_string()));
    assert!(WIRE.contains(&format!("![{exceptions}].includes(code)")), "{exceptions}");
}

const LIMITS: Limits = Limits { depth_max: 32, channels_max: 200 };

#[test]
fn what_clients_send_is_understood() {
    for line in examples("client") {
        let request = Dialect::Json.decode(line, &LIMITS);
        assert!(matches!(request, Ok(Some(_))), "{line}: {request:?}");
    }
}

#[test]
fn envelopes_are_decoded_and_encoded_as_documented() {
    let mut answers = 0;
    for line in examples("envelope") {
        let request = Dialect::Envelope.decode(line, &LIMITS);
        let message: Value = serde_json::from_str(line).unwrap();
        let told = &message["payload"];
        let reply = match message["msg_type"].as_str() {
            Some("ack") if told["errors"].is_array() => {
                let (channels, errors) = (told["channels"].clone(), told["errors"].clone());
                Reply::Subscribed(Subscribed {
                    id: Some(Json::of(&told["acknowledged_msg_id"])),
                    channels: serde_json::from_value(channels).expect(line),
                    errors: serde_json::from_value(errors).expect(line),
                })
            }
            Some("ack") => Reply::Ingested(Ingested { id: Some(Json::of(&told["acknowledged_msg_id"])) }),
            Some("error") => {
                let named = |code: &&ErrorCode| told["code"] == code.name().to_ascii_uppercase();
                let code = ErrorCode::ALL.iter().find(named).expect(line);
                let details = Details { retry_after_ms: told["retry_after_ms"].as_u64(), ..Details::default() };
                let id = told.get("msg_id").map(Json::of);
                Reply::Error(Failure {
                    details,
                    ..Failure::new(*code, told["message"].as_str().unwrap().to_owned(), id, 0)
                })
            }
            _ => {
                assert!(matches!(request, Ok(Some(_))), "{line}: {request:?}");
                continue;
            }
        };
        let timestamp: Timestamp = serde_json::from_value(message["timestamp"].clone()).unwrap();
        let msg_id: Uuid = message["msg_id"].as_str().unwrap().parse().unwrap();
        let mut out = BytesMut::new();
        Dialect::Envelope.encode(&mut out, &reply, || Stamp { now_ms: timestamp.ms(), msg_id });
        assert_eq!(std::str::from_utf8(&out).unwrap(), line);
        answers += 1;
    }
    assert!(answers > 1, "{answers}");
}

#[test]
fn server_examples_equal_what_the_encoder_writes() {
    for line in examples("server").into_iter().filter(|line| !line.contains('…')) {
        let mut out = BytesMut::new();
        match read(line).unwrap_or_else(|error| panic!("{line}: {error}")) {
            ServerMessage::Push(meta, payload) => push_json(&mut out, &meta, &payload),
            ServerMessage::Gap(gap) => Dialect::Json.gap(&mut out, &gap, || unreachable!("JSON has no stamp")),
            ServerMessage::Reply(reply) => Dialect::Json.encode(&mut out, &reply, || unreachable!("JSON has no stamp")),
            ServerMessage::Unknown => panic!("unknown: {line}"),
        }
        assert_eq!(std::str::from_utf8(&out).unwrap(), line);
    }
}

#[test]
fn what_the_server_sends_is_one_typed_object_a_line_with_codes_of_the_table() {
    for line in examples("server") {
        let message: Value = serde_json::from_str(line).expect(line);
        assert!(message["type"].is_string(), "{line}");
        let refused = message["errors"].as_array().cloned().unwrap_or_default();
        for error in refused.iter().chain((message["type"] == "error").then_some(&message)) {
            let code = lookup(error["code"].as_u64().unwrap() as u16).expect(line);
            assert_eq!(error["error"], code.name, "{line}");
        }
        let described = format!("const: {}", message["type"].as_str().unwrap());
        let pushed = message["_meta"].is_object();
        assert!(pushed || ASYNCAPI.contains(&described), "{described} is not in asyncapi.yaml");
    }
}
