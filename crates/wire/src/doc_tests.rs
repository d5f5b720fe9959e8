//! Compares `docs/wire.md` and `docs/asyncapi.yaml` with the code: the tables, and every example.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    code::{CODES, Code, ErrorCode, lookup, may_reconnect},
    command::{Json, MessageLimits},
    dialect::{
        Dialect, MessageStamp,
        json::{ServerMessage, read},
    },
    model::RESERVED,
    push::push_json,
    reply::{FailureReply, Ingested, Reply, SubscribedReply, TYPES},
    time::Timestamp,
};

const WIRE: &str = include_str!("../../../docs/wire.md");
const ASYNCAPI: &str = include_str!("../../../docs/asyncapi.yaml");
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// The lines of all code blocks marked `json <who>`.
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
fn the_documented_table_of_codes_matches_the_code() {
    let of_table = |line: &&str| line.split(" | ").nth(1).is_some_and(|name| name.starts_with('`')) && numbered(line);
    let written: Vec<_> = WIRE.lines().filter(of_table).collect();
    let row =
        |code: &Code| format!("| {} | `{}` | {} | {} |", code.number, code.name, code.meaning, code.reconnect.as_str());
    assert_eq!(written, CODES.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_documented_lists_of_codes_match_the_code() {
    let errors = joined(ErrorCode::ALL.iter().map(|code| code.number().to_string()));
    assert!(WIRE.contains(&format!("Errors that leave the connection open: {errors}.")), "{errors}");
    assert!(ASYNCAPI.contains(&format!("examples: [{errors}]")), "{errors}");
    let names = joined(ErrorCode::ALL.iter().map(|code| code.name().to_owned()));
    assert!(ASYNCAPI.contains(&format!("examples: [{names}]")), "{names}");
    let exceptions = joined((0..4500).filter(|number| !may_reconnect(*number)).map(|number| number.to_string()));
    assert!(WIRE.contains(&format!("![{exceptions}].includes(code)")), "{exceptions}");
}

/// ECMA-262 with the flag `u`.
const NAME: &str = r#"^(?! )(?!\.{1,2}$)(?:[^\p{Cc}\p{Cf}\p{Z}\u{E0100}-\u{E01EF}"%*,@\\{}]| )+(?<! )$"#;

#[test]
fn both_documents_have_the_grammar_of_names() {
    let class = NAME.split_once("E01EF}").unwrap().1.split_once("]|").unwrap().0;
    let reserved: String = RESERVED.iter().flat_map(|c| if *c == '\\' { vec![*c, *c] } else { vec![*c] }).collect();
    assert_eq!(class, reserved);
    assert!(ASYNCAPI.contains(&format!("pattern: '{NAME}'")));
    assert!(OPENAPI.contains(&format!("\"pattern\": {}", Value::from(NAME))));
    let listed: Vec<_> = RESERVED.iter().map(|c| format!("`{c}`")).collect();
    assert!(WIRE.contains(&format!("the printable characters of ASCII except {}.", listed.join(" "))), "{listed:?}");
}

const LIMITS: MessageLimits = MessageLimits { depth_max: 32, channels_max: 200 };

#[test]
fn client_examples_are_decoded() {
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
        let payload = &message["payload"];
        let reply = match message["msg_type"].as_str() {
            Some("ack") if payload["errors"].is_array() => {
                let (channels, errors) = (payload["channels"].clone(), payload["errors"].clone());
                Reply::Subscribed(SubscribedReply {
                    id: Some(Json::of(&payload["acknowledged_msg_id"])),
                    channels: serde_json::from_value(channels).expect(line),
                    errors: serde_json::from_value(errors).expect(line),
                })
            }
            Some("ack") => Reply::Ingested(Ingested { id: Some(Json::of(&payload["acknowledged_msg_id"])) }),
            Some("error") => {
                let named = |code: &&ErrorCode| payload["code"] == code.name().to_ascii_uppercase();
                let code = ErrorCode::ALL.iter().find(named).expect(line);
                let id = payload.get("msg_id").map(Json::of);
                let mut failure = FailureReply::new(*code, payload["message"].as_str().unwrap().to_owned(), id, 0);
                failure.object.details.retry_after_ms = payload["retry_after_ms"].as_u64();
                Reply::Error(failure)
            }
            _ => {
                assert!(matches!(request, Ok(Some(_))), "{line}: {request:?}");
                continue;
            }
        };
        let timestamp: Timestamp = serde_json::from_value(message["timestamp"].clone()).unwrap();
        let msg_id: Uuid = message["msg_id"].as_str().unwrap().parse().unwrap();
        let mut out = BytesMut::new();
        Dialect::Envelope.encode(&mut out, &reply, &[], || MessageStamp { now_ms: timestamp.ms(), msg_id });
        assert_eq!(std::str::from_utf8(&out).unwrap(), line);
        answers += 1;
    }
    assert!(answers > 1, "{answers}");
}

#[test]
fn server_examples_equal_the_encoder_output() {
    for line in examples("server").into_iter().filter(|line| !line.contains('…')) {
        let mut out = BytesMut::new();
        match read(line).unwrap_or_else(|error| panic!("{line}: {error}")) {
            ServerMessage::Push(meta, payload) => push_json(&mut out, &meta, &payload),
            ServerMessage::Gap(gap) => Dialect::Json.gap(&mut out, &gap, || unreachable!("JSON has no stamp")),
            ServerMessage::Reply(reply, ignored) => {
                Dialect::Json.encode(&mut out, &reply, &ignored, || unreachable!("JSON has no stamp"));
            }
            ServerMessage::Unknown => panic!("unknown: {line}"),
        }
        assert_eq!(std::str::from_utf8(&out).unwrap(), line);
    }
}

#[test]
fn server_examples_are_one_typed_object_per_line_with_known_codes() {
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

/// The tables of `docs/wire.md` about messages of one side: the message's type, and its fields in order.
fn tables(side: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let begin = format!("| {side}: `");
    let mut tables = Vec::new();
    let mut lines = WIRE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix(&begin).and_then(|rest| rest.split('`').next()) else { continue };
        let rows = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.trim_start_matches("| ").split(" | ").next());
        tables.push((name, cells.flat_map(|cell| cell.split(", ").map(|field| field.trim_matches('`'))).collect()));
    }
    tables
}

/// The properties of the schema in `docs/asyncapi.yaml` whose `type` is this constant; among the server's schemas if
/// that message is a reply with the same name.
fn properties(kind: &str, required: &str) -> Vec<&'static str> {
    let constant = format!("\n        type: {{ const: {kind} }}\n");
    let found = ASYNCAPI.match_indices(&constant).find(|(at, _)| {
        let before = &ASYNCAPI[..*at];
        before.rfind("required: [type").is_some_and(|at| before[at..].lines().next().unwrap().contains(required))
    });
    let (at, _) = found.unwrap_or_else(|| panic!("no schema of {kind} with {required} in asyncapi.yaml"));
    let rows = ASYNCAPI[at + constant.len()..].lines().take_while(|line| line.starts_with("        "));
    rows.filter(|line| !line.starts_with("         ")).filter_map(|line| line.trim().split(':').next()).collect()
}

#[test]
fn the_tables_of_fields_match_asyncapi() {
    assert!(tables("client").len() > 8 && tables("server").len() > 8);
    for (side, kind, fields) in [tables("client"), tables("server")]
        .into_iter()
        .zip(["client", "server"])
        .flat_map(|(tables, side)| tables.into_iter().map(move |(kind, fields)| (side, kind, fields)))
    {
        // Two commands share their type with the reply.
        let required = match (side, kind) {
            ("server", "history") => "more",
            ("server", "presence") => "users",
            _ => "type",
        };
        let mut described = properties(kind, required);
        // Every command has one, as the section states.
        described.retain(|field| side == "server" || *field != "id");
        let (mut written, mut described) = (fields, described);
        written.sort_unstable();
        described.sort_unstable();
        assert_eq!(written, described, "{kind} of the {side}: wire.md and asyncapi.yaml");
    }
}

/// The schemas of `docs/asyncapi.yaml` by name, each as its lines.
fn schemas() -> Vec<(&'static str, Vec<&'static str>)> {
    let (_, described) = ASYNCAPI.split_once("\n  schemas:\n").unwrap();
    let mut schemas: Vec<(_, Vec<_>)> = Vec::new();
    for line in described.lines() {
        let name =
            line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(':')).filter(|name| !name.starts_with(' '));
        match (name, schemas.last_mut()) {
            (Some(name), _) => schemas.push((name, Vec::new())),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    schemas
}

/// The names of the schemas to which these lines refer.
fn referred(lines: &[&'static str]) -> Vec<&'static str> {
    let named = |line: &&'static str| line.split("#/components/schemas/").nth(1);
    let names = lines.iter().filter_map(named).filter_map(|rest| rest.split(['\'', '/']).next());
    names.collect()
}

/// A client must accept unknown names and codes, and so must validators and types generated from the description.
#[test]
fn server_messages_are_described_as_open() {
    let schemas: BTreeMap<_, _> = schemas().into_iter().collect();
    let mut reached: Vec<&str> = TYPES.iter().map(|kind| schema_of(kind, &schemas)).chain(["Push"]).collect();
    let mut at = 0;
    while let Some(name) = reached.get(at) {
        let lines = &schemas[name];
        for closed in ["enum:", "maximum:", "maxLength:", "additionalProperties: false"] {
            let echoed = *name == "RequestId";
            assert!(echoed || !lines.iter().any(|line| line.contains(closed)), "{name}: {closed}");
        }
        assert!(*name == "Id" || !lines.iter().any(|line| line.contains("pattern:")), "{name}: pattern");
        for name in referred(lines) {
            if !reached.contains(&name) {
                reached.push(name);
            }
        }
        at += 1;
    }
    for name in ["Cursor", "CursorOrNull", "ErrorCode", "ErrorName", "GapReason", "SubscribedChannel"] {
        assert!(reached.contains(&name), "{name}: {reached:?}");
    }
}

/// The schema of a message of the server.
fn schema_of(kind: &str, schemas: &BTreeMap<&'static str, Vec<&'static str>>) -> &'static str {
    let own = |name: &&str| !matches!(*name, "History" | "Presence");
    let constant = format!("        type: {{ const: {kind} }}");
    let found = schemas.iter().find(|(name, lines)| own(name) && lines.contains(&&*constant));
    found.unwrap_or_else(|| panic!("no schema of {kind}")).0
}

#[test]
fn each_channel_of_asyncapi_has_the_messages_of_its_operations() {
    let (channels, operations) = ASYNCAPI.split_once("\noperations:\n").unwrap();
    let (_, channels) = channels.split_once("\nchannels:\n").unwrap();
    let mut described: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut channel = "";
    for line in channels.lines() {
        let name = line.trim().split(':').next().unwrap();
        match line.len() - line.trim_start().len() {
            2 => channel = name,
            6 if line.contains("#/components/messages/") => drop(described.insert((channel, name))),
            _ => {}
        }
    }
    let named = operations.lines().filter_map(|line| line.split("'#/channels/").nth(1)?.split_once("/messages/"));
    let named: BTreeSet<_> = named.map(|(channel, rest)| (channel, rest.split('\'').next().unwrap())).collect();
    assert!(described.len() > 100, "{described:?}");
    assert_eq!(described, named);
    for command in ["auth", "publish", "command"] {
        assert!(!described.contains(&("market", command)), "{command}: there is no token on /ws/market");
    }
}

/// The properties of the payload of an envelope in `docs/asyncapi.yaml`.
fn payload_properties(kind: &str) -> Vec<&'static str> {
    let constant = format!("            msg_type: {{ const: {kind} }}\n            payload:\n");
    let (_, rest) = ASYNCAPI.split_once(&constant).unwrap_or_else(|| panic!("no payload of {kind} in asyncapi.yaml"));
    let (_, rest) = rest.split_once("              properties:\n").expect("its properties");
    let rows = rest.lines().take_while(|line| line.starts_with("                "));
    rows.filter(|line| !line.starts_with("                 "))
        .filter_map(|line| line.trim().split(':').next())
        .collect()
}

#[test]
fn the_tables_of_payloads_match_asyncapi() {
    let tables = tables("payload");
    assert_eq!(
        tables.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        ["ingest_event", "log_record", "ack", "error"]
    );
    for (kind, mut written) in tables {
        let mut described = payload_properties(kind);
        written.sort_unstable();
        described.sort_unstable();
        assert_eq!(written, described, "payload of {kind}: wire.md and asyncapi.yaml");
    }
}

#[test]
fn every_field_of_a_server_example_is_documented_and_every_table_has_a_reader() {
    let tables = tables("server");
    for line in examples("server") {
        let message: Value = serde_json::from_str(line).expect(line);
        if message["_meta"].is_object() {
            continue;
        }
        let kind = message["type"].as_str().expect(line);
        let (_, fields) = tables.iter().find(|(name, _)| *name == kind).unwrap_or_else(|| panic!("no table of {kind}"));
        for field in message.as_object().unwrap().keys().filter(|field| *field != "type") {
            assert!(fields.contains(&&**field), "{field} of {kind} is in no table");
        }
    }
    for kind in TYPES {
        assert!(tables.iter().any(|(name, _)| name == kind), "no table of {kind}");
    }
    for (kind, _) in tables {
        assert!(TYPES.contains(&kind), "{kind} is not among the types");
        let text = format!(r#"{{"type":"{kind}"}}"#);
        assert!(!matches!(read(&text), Ok(ServerMessage::Unknown)), "{kind} is not read");
    }
}
