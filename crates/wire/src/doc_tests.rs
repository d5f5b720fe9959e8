//! Holds `docs/wire.md` and `docs/asyncapi.yaml` equal to the code: the tables, and every example in them.

use serde_json::Value;

use super::{
    code::{CODES, Code, ErrorCode, lookup, may_reconnect},
    command, envelope,
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

#[test]
fn what_clients_send_is_understood() {
    let limits = command::Limits { depth_max: 32, channels_max: 200 };
    for line in examples("client") {
        assert!(command::decode(line, &limits).is_ok(), "{line}: {:?}", command::decode(line, &limits));
    }
}

#[test]
fn envelopes_are_understood() {
    for line in examples("envelope") {
        assert!(envelope::decode(line, 32).is_ok(), "{line}: {:?}", envelope::decode(line, 32));
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
