//! The JSON dialect, client to server.

use crate::{
    command::{Command, HistoryFrom, Invalid, Json, MessageLimits, Request, Token},
    dialect::fields::{ObjectFields, Wrong, not_a_name, wrong_kind},
    json::JsonError,
    model::{MsgId, UserId, check_name},
    payload::check_payload,
};

/// Decodes one message.
pub(crate) fn decode(text: &str, limits: &MessageLimits) -> Result<Request, Invalid> {
    // The message's own object is not counted: the payload in it may be as deep as at any other entry point.
    let (fields, scanned) = ObjectFields::read(text, limits.depth_max + 1);
    let id = fields.scalar("id");
    let echo = id.as_ref().ok().copied().flatten().and_then(Json::keep);
    let scanned = scanned.map_err(|error| match error {
        JsonError::TooDeep { .. } => JsonError::TooDeep { max: limits.depth_max },
        error => error,
    });
    let command = scanned.map_err(Wrong::from).and(id).and_then(|_| decode_command(&fields, limits));
    match command {
        Ok((command, known)) => {
            let known = [&["type", "id"], known].concat();
            Ok(Request { id: echo, command, ignored: fields.unknown(&known) })
        }
        Err(Wrong { code, field, message }) => Err(Invalid { id: echo, code, field, message }),
    }
}

/// The known types, for the reply to an unknown one.
const TYPES: &str = "subscribe, unsubscribe, subscribe_<kind> and unsubscribe_<kind> with symbols (such as \
                     subscribe_symbol), ping, auth, history, publish, command, presence, configure";
/// Maximum length of `command`, in characters.
const COMMAND_CHARS_MAX: usize = 64;

/// A command, and its fields other than `type` and `id`.
type KnownCommand = (Command, &'static [&'static str]);

fn decode_command(fields: &ObjectFields<'_>, limits: &MessageLimits) -> Result<KnownCommand, Wrong> {
    let kind = fields.needed_string("type", "a string, one of subscribe, ping and so on")?;
    Ok(match &*kind {
        "subscribe" => {
            fields.no_options("belongs in an element of `channels`: {\"channel\":…}")?;
            (Command::Subscribe { elements: fields.elements(limits)? }, &["channels"])
        }
        "unsubscribe" => (Command::Unsubscribe { channels: fields.names("channels", limits)? }, &["channels"]),
        "ping" => (Command::Ping { timestamp: fields.scalar("timestamp")?.and_then(Json::keep) }, &["timestamp"]),
        "auth" => (Command::Auth { token: Token(fields.needed_string("token", "a string")?.into_owned()) }, &["token"]),
        "history" => (history(fields)?, &["channel", "since", "last"]),
        "publish" => (publish(fields, limits)?, &["channel", "data", "msg_id", "user", "count"]),
        "command" => (run(fields)?, &["command", "args", "msg_id"]),
        "presence" => (Command::Presence { channel: channel(fields)? }, &["channel"]),
        "configure" => {
            (Command::Configure { heartbeat_interval: fields.whole("heartbeat_interval")? }, &["heartbeat_interval"])
        }
        other => (symbols(other, fields, limits)?, &["symbols"]),
    })
}

fn history(fields: &ObjectFields<'_>) -> Result<Command, Wrong> {
    let channel = channel(fields)?;
    let from = match (fields.since("since")?, fields.counted("last")?) {
        (Some(_), Some(_)) => {
            return Err(Wrong::field("last", "`last` and `since` exclude each other".to_owned()));
        }
        (Some(since), None) => HistoryFrom::Since(since),
        (None, last) => HistoryFrom::Last(last),
    };
    Ok(Command::History { channel, from })
}

fn msg_id(fields: &ObjectFields<'_>) -> Result<Option<String>, Wrong> {
    let msg_id = fields.string("msg_id", "a string")?;
    if let Some(text) = &msg_id {
        MsgId::new(text).map_err(|error| Wrong::field("msg_id", error.to_string()))?;
    }
    Ok(msg_id.map(Into::into))
}

fn publish(fields: &ObjectFields<'_>, limits: &MessageLimits) -> Result<Command, Wrong> {
    let channel = channel(fields)?;
    let raw = fields.needed("data", "the JSON object to publish")?;
    if !raw.starts_with('{') {
        return Err(wrong_kind("data", "a JSON object", raw));
    }
    check_payload(raw.as_bytes(), limits.depth_max).map_err(|error| Wrong::field("data", error.to_string()))?;
    let msg_id = msg_id(fields)?;
    let user = fields.string("user", "a string")?;
    if let Some(text) = &user {
        UserId::new(text).map_err(|error| Wrong::field("user", error.to_string()))?;
    }
    let data = Json::keep(raw).ok_or_else(|| wrong_kind("data", "a JSON object", raw))?;
    let count = fields.boolean("count")?.unwrap_or_default();
    Ok(Command::Publish { channel, data, msg_id, user: user.map(Into::into), count })
}

fn run(fields: &ObjectFields<'_>) -> Result<Command, Wrong> {
    let command = fields.needed_string("command", "a string, such as pause, resume or stop")?;
    if command.is_empty() || command.chars().count() > COMMAND_CHARS_MAX || command.chars().any(char::is_control) {
        let message = format!("`command` must be 1 to {COMMAND_CHARS_MAX} characters, without control characters");
        return Err(Wrong::field("command", message));
    }
    let args = fields.raw("args").and_then(Json::keep);
    Ok(Command::Run { command: command.into_owned(), args, msg_id: msg_id(fields)? })
}

/// `subscribe_<verb>` and `unsubscribe_<verb>`; the endpoint determines which verbs exist.
fn symbols(kind: &str, fields: &ObjectFields<'_>, limits: &MessageLimits) -> Result<Command, Wrong> {
    let verb_of = |prefix| kind.strip_prefix(prefix).filter(|verb| is_verb(verb)).map(str::to_owned);
    if let Some(verb) = verb_of("subscribe_") {
        fields.no_options("requires `subscribe`, with {\"channel\":…} as an element of `channels`")?;
        return Ok(Command::SubscribeSymbols { verb, symbols: fields.names("symbols", limits)? });
    }
    if let Some(verb) = verb_of("unsubscribe_") {
        return Ok(Command::UnsubscribeSymbols { verb, symbols: fields.names("symbols", limits)? });
    }
    let shown = if is_verb(kind) { format!(" `{kind}`") } else { String::new() };
    Err(Wrong::field("type", format!("unknown type{shown}; known are {TYPES}")))
}

/// Short and plain, so that it can be echoed.
fn is_verb(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn channel(fields: &ObjectFields<'_>) -> Result<String, Wrong> {
    let name = fields.needed_string("channel", "the name of a channel")?;
    check_name(&name).map_err(|error| not_a_name("channel", error))?;
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        code::ErrorCode,
        command::{ChannelRequest, ListedName, Since, SubscribeOptions},
        model::StreamId,
    };

    const LIMITS: MessageLimits = MessageLimits { depth_max: 32, channels_max: 200 };

    fn command(text: &str) -> Command {
        decode(text, &LIMITS).unwrap().command
    }

    fn invalid(text: &str) -> Invalid {
        decode(text, &LIMITS).unwrap_err()
    }

    fn plain(names: &[&str]) -> Vec<ChannelRequest> {
        let of = |(index, name): (usize, &&str)| ChannelRequest {
            channel: (*name).to_owned(),
            list: "channels",
            index,
            options: Ok(SubscribeOptions::default()),
        };
        names.iter().enumerate().map(of).collect()
    }

    fn listed(names: &[&str]) -> Vec<ListedName> {
        let of = |(index, name): (usize, &&str)| ListedName { name: (*name).to_owned(), index, fault: None };
        names.iter().enumerate().map(of).collect()
    }

    #[test]
    fn a_publication_may_be_as_deep_as_at_other_entry_points() {
        let publish = |levels: usize| {
            let data = format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
            assert_eq!(check_payload(data.as_bytes(), LIMITS.depth_max).is_ok(), levels <= 32);
            decode(&format!(r#"{{"type":"publish","channel":"c","data":{data}}}"#), &LIMITS).is_ok()
        };
        assert!(publish(32) && !publish(33));
    }

    #[test]
    fn the_messages_of_the_endpoint_documents() {
        let elements = plain(&["orders", "risk_alerts", "bot_status", "portfolio"]);
        assert_eq!(
            command(r#"{"type": "subscribe", "channels": ["orders", "risk_alerts", "bot_status", "portfolio"]}"#),
            Command::Subscribe { elements }
        );
        assert_eq!(
            command(r#"{"type":"unsubscribe","channels":["orders"]}"#),
            Command::Unsubscribe { channels: listed(&["orders"]) }
        );
        for verb in ["symbol", "ticker", "trades", "orderbook"] {
            let symbols = listed(&["BTCUSDT", "ETHUSDT"]);
            assert_eq!(
                command(&format!(r#"{{"type":"subscribe_{verb}","symbols":["BTCUSDT","ETHUSDT"]}}"#)),
                Command::SubscribeSymbols { verb: verb.to_owned(), symbols: symbols.clone() }
            );
            assert_eq!(
                command(&format!(r#"{{"type":"unsubscribe_{verb}","symbols":["BTCUSDT","ETHUSDT"]}}"#)),
                Command::UnsubscribeSymbols { verb: verb.to_owned(), symbols }
            );
        }
        assert_eq!(
            decode(r#"{"type":"ping"}"#, &LIMITS).unwrap(),
            Request { id: None, command: Command::Ping { timestamp: None }, ignored: vec![] }
        );
    }

    #[test]
    fn every_other_command_with_all_its_fields() {
        let text = r#"{"type":"subscribe","id":"s-1","channels":["logs",{"channel":"orders","since":"7-41"},
            {"channel":"trades:X","last":10},{"channel":"ticker:X","max_rate":2,"snapshot":false,"since":"earliest"}],
            "unknown":[1],"nothing":null}"#;
        let request = decode(text, &LIMITS).unwrap();
        assert_eq!(request.id.as_ref().map(Json::get), Some(r#""s-1""#));
        assert_eq!(request.ignored, ["unknown"]);
        let with = |channel: &str, index, options| ChannelRequest {
            channel: channel.to_owned(),
            list: "channels",
            index,
            options: Ok(options),
        };
        let since = Some(Since::After(StreamId::new(7, 41)));
        let none = SubscribeOptions::default();
        let last = SubscribeOptions { since: Some(Since::Earliest), max_rate: Some(2), snapshot: Some(false), ..none };
        let elements = vec![
            with("logs", 0, none),
            with("orders", 1, SubscribeOptions { since, ..none }),
            with("trades:X", 2, SubscribeOptions { last: Some(10), ..none }),
            with("ticker:X", 3, last),
        ];
        assert_eq!(request.command, Command::Subscribe { elements });
        assert_eq!(command(r#"{"type":"ping","timestamp":17.5}"#), Command::Ping { timestamp: Json::keep("17.5") });
        assert_eq!(command(r#"{"type":"auth","token":"a.b.c"}"#), Command::Auth { token: Token("a.b.c".to_owned()) });
        assert_eq!(
            command(r#"{"type":"history","channel":"logs","since":"7-1","last":null}"#),
            Command::History {
                channel: "logs".to_owned(),
                from: HistoryFrom::Since(Since::After(StreamId::new(7, 1)))
            }
        );
        assert_eq!(
            command(r#"{"type":"history","channel":"logs","last":5}"#),
            Command::History { channel: "logs".to_owned(), from: HistoryFrom::Last(Some(5)) }
        );
        let text =
            r#"{"type":"publish","channel":"orders","user":"alice","msg_id":"m1","data":{"price": 1.50},"count":true}"#;
        let Command::Publish { channel, data, msg_id, user, count: true } = command(text) else { panic!() };
        assert_eq!((&*channel, data.get()), ("orders", r#"{"price": 1.50}"#));
        assert_eq!((msg_id.as_deref(), user.as_deref()), (Some("m1"), Some("alice")));
        let text = r#"{"type":"command","command":"pause","args":[1],"msg_id":"m2"}"#;
        let Command::Run { command: name, args, msg_id } = command(text) else { panic!() };
        assert_eq!((&*name, args.unwrap().get(), msg_id.as_deref()), ("pause", "[1]", Some("m2")));
        assert_eq!(
            command(r#"{"type":"presence","channel":"logs"}"#),
            Command::Presence { channel: "logs".to_owned() }
        );
        assert_eq!(
            command(r#"{"type":"configure","heartbeat_interval":10}"#),
            Command::Configure { heartbeat_interval: Some(10) }
        );
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_is_expected() {
        let nested = format!(r#"{{"type":"ping","x":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let long_id = format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(65));
        let cases = [
            ("hello", "not JSON: a value expected at byte 0"),
            ("", "not JSON: a value expected at byte 0"),
            ("42", "a JSON object is expected, not a number"),
            ("[]", "a JSON object is expected, not an array"),
            (r#"{"type":"ping"} {}"#, "one JSON object is expected, but more follows at byte 16"),
            (&nested, "JSON is nested deeper than 32 levels"),
            (r#"{"type":"ping","type":"auth"}"#, "a key appears twice in one object, the second time at byte 15"),
            (r#"{"type":"ping","n":1e400}"#, "the number at byte 19 is out of range"),
            ("{}", "`type` is missing: a string, one of subscribe, ping and so on"),
            (r#"{"type":7}"#, "`type` must be a string, one of subscribe, ping and so on, not a number"),
            (r#"{"type":"auth","token":["x"]}"#, "`token` must be a string, not an array"),
            (r#"{"type":"publish","channel":"x"}"#, "`data` is missing: the JSON object to publish"),
            (r#"{"type":"publish","channel":"x","data":[]}"#, "`data` must be a JSON object, not an array"),
            (
                r#"{"type":"publish","channel":"x","data":{"_meta":1}}"#,
                "the payload is refused: the key `_meta` is reserved for the gateway",
            ),
            (
                r#"{"type":"publish","channel":"x","data":{},"msg_id":""}"#,
                "a msg_id must be 1 to 128 bytes without control characters",
            ),
            (r#"{"type":"command","command":""}"#, "`command` must be 1 to 64 characters, without control characters"),
            (r#"{"type":"history","channel":"a,b"}"#, "`channel` is not a name: it contains `,`"),
            (&long_id, "`id` has more than 64 characters"),
            (r#"{"type":"ping","id":{}}"#, "`id` must be a string or a number, not an object"),
        ];
        for (text, message) in cases {
            let invalid = invalid(text);
            assert_eq!((invalid.code, &*invalid.message), (ErrorCode::InvalidMessage, message), "{text:.80}");
        }
    }

    #[test]
    fn a_field_that_is_not_a_list_is_refused_as_a_whole() {
        let cases = [
            (r#"{"type":"subscribe"}"#, "`channels` is missing: an array of names"),
            (
                r#"{"type":"subscribe","channels":"orders"}"#,
                "`channels` must be an array of names, or of objects with `channel` and options, not a string",
            ),
            (r#"{"type":"subscribe_ticker","channels":["a"]}"#, "`symbols` is missing: an array of names"),
            (
                r#"{"type":"subscribe","channels":[],"last":1}"#,
                "`last` belongs in an element of `channels`: {\"channel\":…}",
            ),
            (
                r#"{"type":"subscribe_ticker","symbols":["X"],"since":"1-1"}"#,
                "`since` requires `subscribe`, with {\"channel\":…} as an element of `channels`",
            ),
            (
                r#"{"type":"subscribe","channels":{"channel":"a"}}"#,
                "`channels` must be an array of names, or of objects with `channel` and options, not an object",
            ),
            (r#"{"type":"history","channel":"a","since":"1-1","last":5}"#, "`last` and `since` exclude each other"),
            (r#"{"type":"history","channel":"a","last":0}"#, "`last` must be at least 1"),
            (r#"{"type":"history","channel":"a","since":"1"}"#, "`since` is not a cursor of this server"),
            (r#"{"type":"command","command":"stop","msg_id":7}"#, "`msg_id` must be a string, not a number"),
        ];
        for (text, message) in cases {
            let invalid = invalid(text);
            assert_eq!((invalid.code, &*invalid.message), (ErrorCode::InvalidMessage, message), "{text}");
        }
    }

    #[test]
    fn an_invalid_name_refuses_only_its_element() {
        let cases = [
            (r#""a,b""#, "a,b", "channels[1]", "is not a name: it contains `,`"),
            (r#""a\u0000b""#, "a\0b", "channels[1]", "is not a name: it contains U+0000"),
            (r#""""#, "", "channels[1]", "is not a name: it is empty"),
            ("7", "", "channels[1]", "must be a name, or an object with `channel`, not a number"),
            ("null", "", "channels[1]", "must be a name, or an object with `channel`, not null"),
            ("[{}]", "", "channels[1]", "must be a name, or an object with `channel`, not an array"),
            (r#"{"last":1}"#, "", "channels[1].channel", "is missing: the name of a channel"),
            (r#"{"channel":["a"]}"#, "", "channels[1].channel", "must be the name of a channel, not an array"),
            (r#"{"channel":"a*","last":0}"#, "a*", "channels[1].channel", "is not a name: it contains `*`"),
        ];
        for (element, name, field, says) in cases {
            let text =
                format!(r#"{{"type":"subscribe","channels":["ES=F",{element},{{"channel":"BRK B","last":1}}]}}"#);
            let Command::Subscribe { elements } = command(&text) else { panic!("{text}") };
            assert!(elements[0].options.is_ok() && elements[2].options.is_ok(), "{text}");
            let invalid = elements[1].options.clone().unwrap_err();
            assert_eq!((&*elements[1].channel, &*invalid.field), (name, field), "{text}");
            assert_eq!(invalid.message, format!("`{field}` {says}"), "{text}");
        }
        for (kind, list) in
            [("unsubscribe", "channels"), ("subscribe_ticker", "symbols"), ("unsubscribe_ticker", "symbols")]
        {
            let text = format!(r#"{{"type":"{kind}","{list}":["^GSPC","a@b",7,"M&M.NS"]}}"#);
            let names = match command(&text) {
                Command::Unsubscribe { channels } => channels,
                Command::SubscribeSymbols { symbols, .. } | Command::UnsubscribeSymbols { symbols, .. } => symbols,
                other => panic!("{other:?}"),
            };
            let faults = names.iter().map(|name| (&*name.name, name.fault.clone())).collect::<Vec<_>>();
            let fault = |index: usize, says: &str| Some(format!("`{list}[{index}]` {says}"));
            let expected = [
                ("^GSPC", None),
                ("a@b", fault(1, "is not a name: it contains `@`")),
                ("", fault(2, "must be a string, not a number")),
                ("M&M.NS", None),
            ];
            assert_eq!(faults, expected, "{text}");
        }
    }

    #[test]
    fn an_invalid_option_refuses_only_its_element() {
        let cases = [
            (r#""since":"yesterday""#, "since", "`since` is not a cursor of this server"),
            (r#""since":7"#, "since", "`since` must be a cursor in quotes, or \"earliest\", not a number"),
            (r#""last":-1"#, "last", "`last` must be a whole number from 0 to 4294967295, not another number"),
            (r#""last":0"#, "last", "`last` must be at least 1"),
            (r#""max_rate":"2""#, "max_rate", "`max_rate` must be a whole number from 0 to 4294967295, not a string"),
            (r#""max_rate":0"#, "max_rate", "`max_rate` must be at least 1"),
            (r#""snapshot":"no""#, "snapshot", "`snapshot` must be true or false, not a string"),
            (r#""since":"1-1","last":5"#, "last", "`last` and `since` exclude each other"),
            (r#""where":{}"#, "where", "`where` is not an option here; options are since, last, max_rate, snapshot"),
        ];
        for (option, field, message) in cases {
            let text = format!(r#"{{"type":"subscribe","channels":["a",{{"channel":"b",{option}}}]}}"#);
            let Command::Subscribe { elements } = command(&text) else { panic!("{text}") };
            assert!(elements[0].options.is_ok(), "{text}");
            let invalid = elements[1].options.clone().unwrap_err();
            assert_eq!((invalid.field, &*invalid.message), (format!("channels[1].{field}"), message), "{text}");
        }
    }

    #[test]
    fn ignored_fields_are_named_within_bounds() {
        let many: String = (0..100).map(|n| format!(r#","{n}{}":1"#, "x".repeat(100))).collect();
        let request = decode(&format!(r#"{{"type":"ping"{many}}}"#), &LIMITS).unwrap();
        assert_eq!((request.ignored.len(), request.ignored[0].len()), (16, 64));
    }

    #[test]
    fn an_unknown_type_gets_the_known_ones_and_is_echoed_only_if_plain() {
        let unknown = invalid(r#"{"type":"subscribe_all_of_it!","id":3}"#);
        assert!(unknown.message.starts_with("unknown type; known are subscribe, unsubscribe,"), "{}", unknown.message);
        assert_eq!((unknown.id.as_ref().map(Json::get), unknown.field.as_deref()), (Some("3"), Some("type")));
        assert!(invalid(r#"{"type":"order"}"#).message.starts_with("unknown type `order`; known are "));
        let token = invalid(r#"{"type":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"}"#);
        assert!(!token.message.contains("eyJ"));
    }

    #[test]
    fn too_many_names_have_their_own_code() {
        let text = format!(r#"{{"type":"subscribe","id":1,"channels":["x"{}]}}"#, r#","x""#.repeat(9_999));
        let invalid = invalid(&text);
        assert_eq!(invalid.code, ErrorCode::TooManySubscriptions);
        assert_eq!(invalid.message, "`channels` has 10000 names; a message can have at most 200");
    }

    #[test]
    fn the_id_is_echoed_as_written_even_with_an_error() {
        assert_eq!(invalid(r#"{"id":1.50,"type":"x"}"#).id.as_ref().map(Json::get), Some("1.50"));
        assert_eq!(invalid(r#"{"id":"é\n","type":"ping","x":"#).id.as_ref().map(Json::get), Some(r#""é\n""#));
        assert_eq!(invalid(r#"{"type":"x","id":null}"#).id, None);
        assert_eq!(invalid(r#"{"type":"ping","id":[]}"#).id, None);
    }

    #[test]
    fn a_token_is_never_shown() {
        let request = decode(r#"{"type":"auth","token":"very-secret"}"#, &LIMITS).unwrap();
        assert!(!format!("{request:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_text_gets_a_reply(text in ".*") {
            let _ = decode(&text, &LIMITS);
        }

        #[test]
        fn any_value_in_any_field_gets_a_reply(
            kind in prop::sample::select(vec!["subscribe", "unsubscribe_x", "ping", "auth", "history", "publish", "command", "configure"]),
            fields in prop::collection::btree_map(
                prop::sample::select(vec!["id", "channels", "channel", "since", "last", "symbols", "data", "token", "command", "args"]),
                prop::sample::select(vec!["1", "-1", "null", r#""x""#, r#""7-1""#, "[]", r#"["a"]"#, "{}", r#"{"a":"1-1"}"#, "[1]", r#""\n""#, "true"]),
                0..6,
            ),
        ) {
            let fields: String = fields.iter().map(|(key, value)| format!(r#","{key}":{value}"#)).collect();
            match decode(&format!(r#"{{"type":"{kind}"{fields}}}"#), &LIMITS) {
                Ok(request) => prop_assert!(request.id.is_none_or(|id| serde_json::from_str::<serde_json::Value>(id.get()).is_ok())),
                Err(invalid) => prop_assert!(!invalid.message.is_empty()),
            }
        }
    }
}
