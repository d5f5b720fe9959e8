//! Texts that are not commands: an error message, and the connection stays open; too many of them close it.

use serde_json::{Value, json};

use crate::support::{
    bystander::Bystander,
    replica::{TestReplica, token},
    sse::EventStream,
    wire::{RawConnection, TEXT, frame},
};

/// A limit that no test reaches.
const PATIENT: &str = "[limits]\ninvalid_messages_max = 10000";

/// Request fields in each invalid form, by name.
fn bad_fields() -> Vec<(&'static str, String)> {
    let text = |text: &str| text.to_owned();
    vec![
        ("a history since nothing", text(r#"{"type":"history","channel":"orders","since":"yesterday"}"#)),
        ("a history since a number", text(r#"{"type":"history","channel":"orders","since":1}"#)),
        ("a history of none", text(r#"{"type":"history","channel":"orders","last":0}"#)),
        ("a history of less than none", text(r#"{"type":"history","channel":"orders","last":-1}"#)),
        ("a history of both ends", text(r#"{"type":"history","channel":"orders","since":"1-1","last":5}"#)),
        ("a command with a msg_id of another kind", text(r#"{"type":"command","command":"stop","msg_id":7}"#)),
        ("a command with an empty msg_id", text(r#"{"type":"command","command":"stop","msg_id":""}"#)),
        (
            "a command with a long msg_id",
            format!(r#"{{"type":"command","command":"stop","msg_id":"{}"}}"#, "m".repeat(129)),
        ),
        ("a command of another kind", text(r#"{"type":"command","command":["stop"]}"#)),
        ("an empty command", text(r#"{"type":"command","command":""}"#)),
        ("a long command", format!(r#"{{"type":"command","command":"{}"}}"#, "c".repeat(65))),
        (
            "a publication with a msg_id of another kind",
            text(r#"{"type":"publish","channel":"orders","data":{},"msg_id":{}}"#),
        ),
        ("a publication with an empty msg_id", text(r#"{"type":"publish","channel":"orders","data":{},"msg_id":""}"#)),
        ("a publication to be counted twice", text(r#"{"type":"publish","channel":"orders","data":{},"count":2}"#)),
        (
            "a publication to be counted, in words",
            text(r#"{"type":"publish","channel":"orders","data":{},"count":"yes"}"#),
        ),
        (
            "a publication for a user of another kind",
            text(r#"{"type":"publish","channel":"orders","data":{},"user":7}"#),
        ),
        ("a publication without data", text(r#"{"type":"publish","channel":"orders"}"#)),
        ("data of another kind", text(r#"{"type":"publish","channel":"orders","data":[]}"#)),
        ("a history of a part", text(r#"{"type":"history","channel":"orders","last":1.5}"#)),
        ("a history in words", text(r#"{"type":"history","channel":"orders","last":"all"}"#)),
        ("a history of several", text(r#"{"type":"history","channel":["orders"]}"#)),
        ("a presence of none", text(r#"{"type":"presence"}"#)),
        ("a heartbeat in parts", text(r#"{"type":"configure","heartbeat_interval":10.5}"#)),
        ("a token of another kind", text(r#"{"type":"auth","token":7}"#)),
        ("a heartbeat of another kind", text(r#"{"type":"configure","heartbeat_interval":"10"}"#)),
        ("a negative heartbeat", text(r#"{"type":"configure","heartbeat_interval":-1}"#)),
    ]
}

/// Other mistakes of a client of the JSON dialect, by name.
fn bad_commands() -> Vec<(&'static str, String)> {
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let text = |text: &str| text.to_owned();
    vec![
        ("nothing", text("")),
        ("blanks", text(" \t\r\n")),
        ("not JSON", text("hello")),
        ("a cut object", text(r#"{"type":"ping""#)),
        ("an unquoted key", text("{type:1}")),
        ("a trailing comma", text(r#"{"type":"ping",}"#)),
        ("two objects", text(r#"{"type":"ping"}{"type":"ping"}"#)),
        ("a byte order mark", text("\u{feff}{\"type\":\"ping\"}")),
        ("a number", text("42")),
        ("a string", text(r#""subscribe""#)),
        ("null", text("null")),
        ("true", text("true")),
        ("an array", text(r#"[{"type":"ping"}]"#)),
        ("no type", text("{}")),
        ("a type of another kind", text(r#"{"type":7}"#)),
        ("an unknown type", text(r#"{"type":"buy_everything"}"#)),
        ("a missing field", text(r#"{"type":"subscribe"}"#)),
        ("a field of another kind", text(r#"{"type":"subscribe","channels":"orders"}"#)),
        ("an object for a list", text(r#"{"type":"subscribe","channels":{"channel":"orders"}}"#)),
        ("a key twice in an element", text(r#"{"type":"subscribe","channels":[{"channel":"a","channel":"b"}]}"#)),
        ("since beside the list", text(r#"{"type":"subscribe","channels":["orders"],"since":"1-1"}"#)),
        ("since by channel", text(r#"{"type":"subscribe","channels":["orders"],"since":{"orders":"1-1"}}"#)),
        ("last beside the list", text(r#"{"type":"subscribe","channels":["orders"],"last":5}"#)),
        ("max_rate beside the list", text(r#"{"type":"subscribe","channels":["orders"],"max_rate":5}"#)),
        ("snapshot beside the list", text(r#"{"type":"subscribe","channels":["orders"],"snapshot":false}"#)),
        ("since with symbols", text(r#"{"type":"subscribe_symbol","symbols":["BTCUSDT"],"since":"1-1"}"#)),
        ("last with symbols", text(r#"{"type":"subscribe_symbol","symbols":["BTCUSDT"],"last":5}"#)),
        ("max_rate with symbols", text(r#"{"type":"subscribe_symbol","symbols":["BTCUSDT"],"max_rate":1}"#)),
        ("snapshot with symbols", text(r#"{"type":"subscribe_symbol","symbols":["BTCUSDT"],"snapshot":true}"#)),
        ("an id that is an object", text(r#"{"type":"ping","id":{}}"#)),
        ("a long id", format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(65))),
        ("arrays in arrays", format!(r#"{{"type":"ping","x":{}}}"#, nested("[", "]"))),
        ("objects in objects", format!(r#"{{"type":"ping","x":{}}}"#, nested(r#"{"a":"#, "}"))),
        ("nothing but brackets", "[".repeat(10_000)),
        ("a key twice", text(r#"{"type":"ping","type":"auth"}"#)),
        ("a key twice, once escaped", text(r#"{"type":"ping","t\u0079pe":"auth"}"#)),
        ("a key twice, deep inside", text(r#"{"type":"ping","x":[{"a":1,"a":2}]}"#)),
        ("1e400", text(r#"{"type":"ping","x":1e400}"#)),
        ("four hundred digits", format!(r#"{{"type":"ping","x":{}}}"#, "9".repeat(400))),
        ("NaN", text(r#"{"type":"ping","x":NaN}"#)),
        ("half of a surrogate pair", text(r#"{"type":"subscribe","channels":["\ud800"]}"#)),
        ("a raw NUL in a name", text("{\"type\":\"subscribe\",\"channels\":[\"orders\0\"]}")),
    ]
}

#[tokio::test]
async fn a_bad_command_is_answered_4004_and_the_connection_stays() {
    let replica = TestReplica::alone_with(PATIENT).await;
    let mut bystander = Bystander::at(&replica).await;
    for mut alice in replica.trading_in_both_modes("alice").await {
        for (what, bad) in bad_commands().into_iter().chain(bad_fields()) {
            alice.send_text(&bad).await;
            let answer = alice.next().await;
            assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(4004)), "{what}: {answer}");
            assert_eq!(answer["error"], "invalid_message", "{what}");
            assert!(answer["message"].as_str().is_some_and(|text| text.len() > 10), "{what}: {answer}");
            assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong", "{what}");
            bystander.is_unharmed_by(what).await;
        }
        alice.subscribe(&["orders"]).await;
        replica.publish_to("alice", "orders", json!({"type": "order_update"})).await;
        alice.expect(json!({"type": "order_update"})).await;
    }
}

/// Invalid options, with the field that the response names.
const BAD_OPTIONS: &[(&str, &str)] = &[
    (r#""since":7"#, "since"),
    (r#""since":"yesterday""#, "since"),
    (r#""since":"""#, "since"),
    (r#""since":"1""#, "since"),
    (r#""since":"-1-2""#, "since"),
    (r#""since":"1-99999999999999999999""#, "since"),
    (r#""since":["1-1"]"#, "since"),
    (r#""since":{"orders":"1-1"}"#, "since"),
    (r#""last":0"#, "last"),
    (r#""last":-1"#, "last"),
    (r#""last":1.5"#, "last"),
    (r#""last":"5""#, "last"),
    (r#""last":4294967296"#, "last"),
    (r#""since":"1-1","last":5"#, "last"),
    (r#""max_rate":0"#, "max_rate"),
    (r#""max_rate":-1"#, "max_rate"),
    (r#""max_rate":1.5"#, "max_rate"),
    (r#""max_rate":4294967296"#, "max_rate"),
    (r#""max_rate":"fast""#, "max_rate"),
    (r#""snapshot":"no""#, "snapshot"),
    (r#""snapshot":0"#, "snapshot"),
    (r#""where":{"price":1}"#, "where"),
    (r#""depth":10"#, "depth"),
    (r#""type":"subscribe""#, "type"),
    // Valid by itself, but not for this channel.
    (r#""last":5"#, "last"),
    (r#""max_rate":5"#, "max_rate"),
    (r#""snapshot":false"#, "snapshot"),
];

#[tokio::test]
async fn an_invalid_option_refuses_only_its_element_by_name() {
    let replica = TestReplica::alone_with(PATIENT).await;
    let mut bystander = Bystander::at(&replica).await;
    let [mut alice, mut native] = replica.trading_in_both_modes("alice").await;
    for client in [&mut alice, &mut native] {
        for (option, field) in BAD_OPTIONS {
            let elements = format!(r#"["portfolio",{{"channel":"orders",{option}}},"risk_alerts"]"#);
            client.send_text(&format!(r#"{{"type":"subscribe","id":"o","channels":{elements}}}"#)).await;
            let answer = client.expect_type("subscribed").await;
            let granted: Vec<_> = answer["channels"].as_array().unwrap().iter().map(|c| &c["channel"]).collect();
            assert_eq!(granted, ["portfolio", "risk_alerts"], "{option}: {answer}");
            let error = &answer["errors"][0];
            assert_eq!((&error["channel"], &error["code"]), (&json!("orders"), &json!(4004)), "{option}");
            assert_eq!(error["details"], json!({"field": format!("channels[1].{field}")}), "{option}");
            bystander.is_unharmed_by(option).await;
        }
    }
    let long = json!({"type": "subscribe", "channels": ["orders", "x".repeat(10_000)]});
    let answer = alice.ask(long).await;
    assert_eq!((&answer["errors"][0]["code"], &answer["channels"][0]["channel"]), (&json!(4004), &json!("orders")));
    let twice = json!({"type": "subscribe", "channels": ["orders", {"channel": "orders", "since": "1-1"}]});
    let answer = alice.ask(twice).await;
    assert_eq!(answer["errors"][0]["details"]["field"], "channels[1]", "{answer}");
    assert_eq!(answer["channels"][0]["channel"], "orders");
}

#[tokio::test]
async fn unknown_fields_are_listed_in_every_response() {
    let replica = TestReplica::alone_with(PATIENT).await;
    let mut alice = replica.trading("alice").await;
    for request in [
        json!({"type": "ping", "where": 1}),
        json!({"type": "subscribe", "channels": ["orders"], "where": 1}),
        json!({"type": "unsubscribe", "channels": ["orders"], "where": 1}),
        json!({"type": "subscribe_symbol", "symbols": ["BTCUSDT"], "where": 1}),
        json!({"type": "history", "channel": "orders", "where": 1}),
        json!({"type": "presence", "channel": "orders", "where": 1}),
        json!({"type": "configure", "where": 1}),
        json!({"type": "auth", "token": token("alice"), "where": 1}),
        json!({"type": "auth", "token": "none", "where": 1}),
        json!({"type": "publish", "channel": "orders", "data": {}, "where": 1}),
        json!({"type": "command", "command": "stop", "where": 1}),
    ] {
        let answer = alice.ask(request.clone()).await;
        assert_eq!(answer["ignored"], json!(["where"]), "{request}: {answer}");
    }
    let answer = alice.ask(json!({"type": "ping", "where": null, "timestamp": 1})).await;
    assert_eq!(answer["ignored"], Value::Null, "null counts as absent: {answer}");
}

#[tokio::test]
async fn unknown_parameters_of_the_url_are_named_once_the_client_is_admitted() {
    let replica = TestReplica::alone_with(PATIENT).await;
    for (path, named) in [
        ("/ws?channels=system_log&fil%74er=a&channels=logs&", json!(["channels", "filter"])),
        ("/ws/backtest/run-1?from=earliest&since=earliest", json!(["from"])),
        ("/ws/market", Value::Null),
    ] {
        let mut page = replica.connect(path).open().await;
        assert_eq!(page.expect_type("connection_established").await["ignored"], named, "{path}");
    }
    let mut late = replica.connect("/ws/trading?auth=message&colour=1").open().await;
    late.send(json!({"type": "auth", "token": token("alice")})).await;
    assert_eq!(late.expect_type("connection_established").await["ignored"], json!(["colour"]));
    assert_eq!(late.expect_type("authenticated").await["ignored"], Value::Null);
    let stream = "/sse?channels=trades:A&auth=message&filter=a";
    let mut reader = EventStream::open(replica.address(), stream, &[]).await.expect("a stream");
    assert_eq!(reader.next().await["ignored"], json!(["auth", "filter"]));
    for name in ["since", "last"] {
        let refused = EventStream::open(replica.address(), &format!("/sse?channels=trades:A&{name}=1"), &[]).await;
        let answer = refused.err().unwrap_or_else(|| panic!("{name} was not refused"));
        assert!(answer.status == 400 && answer.body.contains("resume with Last-Event-ID"), "{name}: {answer:?}");
    }
}

/// Mistakes of a producer beyond those of every client.
fn bad_envelopes() -> Vec<(&'static str, String)> {
    let event = json!({
        "msg_id": "m-1", "msg_type": "ingest_event", "source": "test", "timestamp": "2024-01-15T10:30:00Z",
        "payload": {"run_id": "run-1", "event_type": "order", "event_utc": "t", "payload_json": {"price": "1.50"}},
    });
    let changed = |pointer: &str, value: Value| {
        let mut event = event.clone();
        *event.pointer_mut(pointer).expect("a field of the event") = value;
        event.to_string()
    };
    vec![
        ("no msg_id", changed("/msg_id", Value::Null)),
        ("an empty msg_id", changed("/msg_id", json!(""))),
        ("a msg_id with a NUL", changed("/msg_id", json!("m\0"))),
        ("a long msg_id", changed("/msg_id", json!("m".repeat(129)))),
        ("an unknown msg_type", changed("/msg_type", json!("weather"))),
        ("a payload that is none", changed("/payload", json!("text"))),
        ("a run that is no name", changed("/payload/run_id", json!("run\u{0}1"))),
        ("an unknown event", changed("/payload/event_type", json!("weather"))),
        ("an event that is no object", changed("/payload/payload_json", json!([1]))),
        ("a payload with _meta", event.to_string().replacen(r#"{"msg_id""#, r#"{"_meta":{},"msg_id""#, 1)),
    ]
}

#[tokio::test]
async fn a_bad_envelope_is_answered_invalid_message_and_the_connection_stays() {
    let replica = TestReplica::alone_with(PATIENT).await;
    let mut bystander = Bystander::at(&replica).await;
    let mut producer = replica.connect("/ws/ingest").open().await;
    let heartbeat = json!({"msg_id": "h", "msg_type": "heartbeat", "source": "test", "timestamp": "t", "payload": {}});
    for (what, bad) in bad_commands().into_iter().chain(bad_envelopes()) {
        producer.send_text(&bad).await;
        let answer = producer.next().await;
        assert_eq!(
            (&answer["msg_type"], &answer["payload"]["code"]),
            (&json!("error"), &json!("INVALID_MESSAGE")),
            "{what}"
        );
        producer.send(heartbeat.clone()).await;
        assert_eq!(producer.next().await["msg_type"], "ack", "{what}");
        bystander.is_unharmed_by(what).await;
    }
}

#[tokio::test]
async fn the_tenth_bad_message_within_a_minute_ends_the_connection() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let mut alice = replica.trading("alice").await;
    for _ in 0..9 {
        alice.send_text("hello").await;
        alice.expect_error(4004).await;
    }
    assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong");
    alice.send_text("hello").await;
    alice.expect_error(4004).await;
    alice.expect_close(4004).await;
    bystander.is_alone_after("ten bad commands").await;

    let mut producer = replica.connect("/ws/ingest").open().await;
    for _ in 0..10 {
        producer.send_text("hello").await;
        assert_eq!(producer.next().await["payload"]["code"], "INVALID_MESSAGE");
    }
    producer.expect_close(4004).await;
    bystander.is_alone_after("ten bad envelopes").await;
}

#[tokio::test]
async fn another_users_channel_is_forbidden_under_any_name() {
    let replica = TestReplica::alone_with(PATIENT).await;
    let mut bystander = Bystander::at(&replica).await;
    let (mut alice, mut bob) = (replica.trading("alice").await, replica.trading("bob").await);
    bob.subscribe(&["orders", "portfolio"]).await;
    for foreign in ["orders:bob", "bob/orders", "bob:orders", "user:bob", "orders/../bob", "run:1", "ingest_events"] {
        let answer = alice.ask(json!({"type": "subscribe", "channels": [foreign]})).await;
        assert_eq!((&answer["channels"], &answer["errors"][0]["code"]), (&json!([]), &json!(4502)), "{answer}");
        for kind in ["history", "presence"] {
            let answer = alice.ask(json!({"type": kind, "channel": foreign})).await;
            assert_eq!(answer["code"], 4502, "{kind} of {foreign}: {answer}");
        }
        bystander.is_unharmed_by(foreign).await;
    }
    let publish = json!({"type": "publish", "channel": "orders", "user": "bob", "data": {"type": "order_update"}});
    assert_eq!(alice.ask(publish).await["code"], 4502);
    replica.publish_to("bob", "orders", json!({"type": "order_update", "of": "bob"})).await;
    bob.expect(json!({"type": "order_update", "of": "bob"})).await;
    alice.expect_nothing().await;
}

#[tokio::test]
async fn ten_thousand_subscriptions_are_too_many() {
    let replica = TestReplica::alone_with("[limits]\nmessages_per_connection = { per_second = 0, burst = 1 }").await;
    let mut bystander = Bystander::at(&replica).await;
    let mut greedy = replica.market().await;
    let names = |from: usize, to: usize| (from..to).map(|number| format!("ticker:S{number}")).collect::<Vec<_>>();
    let at_once = greedy.ask(json!({"type": "subscribe", "channels": names(0, 2_000)})).await;
    assert_eq!((&at_once["type"], &at_once["code"]), (&json!("error"), &json!(4503)), "{at_once}");
    let (mut granted, mut refused) = (0, 0);
    for start in (0..10_000).step_by(100) {
        let answer = greedy.ask(json!({"type": "subscribe", "channels": names(start, start + 100)})).await;
        granted += answer["channels"].as_array().map_or(0, Vec::len);
        let errors = answer["errors"].as_array().expect("errors");
        assert!(errors.iter().all(|error| error["code"] == 4503), "{answer}");
        refused += errors.len();
    }
    assert_eq!((granted, refused), (200, 9_800));
    bystander.is_unharmed_by("10,000 subscriptions").await;
    replica.publish("ticker:S199", json!({"type": "ticker"})).await;
    greedy.expect(json!({"type": "ticker"})).await;
    greedy.vanish();
    bystander.is_alone_after("10,000 subscriptions").await;
    assert_eq!(replica.metric("tickgate_subscriptions").await, 1.0);
}

#[tokio::test]
async fn too_many_subscriptions_in_one_segment_are_refused() {
    let replica = TestReplica::alone_with("[limits]\nsubscriptions_max = 10").await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.hear_json().await;
    let subscribe = |n: u32| json!({"type": "subscribe", "channels": [format!("ticker:A{n}"), format!("ticker:B{n}")]});
    let all: Vec<_> = (0..50).flat_map(|number| frame(TEXT, subscribe(number).to_string().as_bytes())).collect();
    wire.send(&all).await;
    let mut granted = 0;
    for _ in 0..50 {
        granted += wire.hear_json().await["channels"].as_array().expect("channels").len();
    }
    assert_eq!(granted, 10);
    assert_eq!(replica.metric("tickgate_subscriptions").await, 10.0);
}

#[tokio::test]
async fn what_follows_the_token_in_one_segment_is_allowed_by_it() {
    let replica = TestReplica::alone().await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/trading?auth=message").await;
    let messages = [
        json!({"type": "auth", "token": token("alice")}),
        json!({"type": "subscribe", "channels": ["orders"]}),
        json!({"type": "presence", "channel": "orders"}),
    ];
    let all: Vec<_> = messages.iter().flat_map(|message| frame(TEXT, message.to_string().as_bytes())).collect();
    wire.send(&all).await;
    for kind in ["connection_established", "authenticated", "subscribed", "presence"] {
        assert_eq!(wire.hear_json().await["type"], kind);
    }
}

#[tokio::test]
async fn the_same_channel_again_is_not_a_second_subscription() {
    let replica = TestReplica::alone_with("[limits]\nsubscriptions_max = 3").await;
    let mut alice = replica.trading("alice").await;
    for _ in 0..5 {
        alice.subscribe(&["orders", "orders", "portfolio"]).await;
    }
    replica.publish_to("alice", "orders", json!({"type": "order_update"})).await;
    alice.expect(json!({"type": "order_update"})).await;
    alice.expect_nothing().await;
    let answer = alice.ask(json!({"type": "unsubscribe", "channels": ["never_heard_of"]})).await;
    assert_eq!(answer["type"], "unsubscribed");
}

#[tokio::test]
async fn reserved_keys_of_a_publication_are_refused() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let right = crate::support::replica::TokenBuilder::of("engine").publish(&["trades:*"]).sign();
    let mut engine = replica.connect("/ws/trading").token(&right).open().await;
    engine.greeted().await;
    for data in [r#"{"_meta":{}}"#, r#"{"type":"trade","_meta":1}"#, r#"{"\u005fmeta":null}"#] {
        engine.send_text(&format!(r#"{{"type":"publish","channel":"trades:CALM","data":{data}}}"#)).await;
        let answer = engine.expect_error(4004).await;
        assert!(answer["message"].as_str().is_some_and(|text| text.contains("_meta")), "{answer}");
        bystander.is_unharmed_by(data).await;
    }
    let inside = json!({"type": "publish", "channel": "trades:OTHER", "data": {"inner": {"_meta": 1}}});
    assert_eq!(engine.ask(inside).await["type"], "published", "only the key of the payload itself is taken");
}

#[tokio::test]
async fn a_token_in_the_wrong_place_is_not_repeated() {
    let replica = TestReplica::alone_with(PATIENT).await;
    let mut alice = replica.trading("alice").await;
    let secret = token("alice");
    for misplaced in [
        json!({"type": secret}),
        json!({"type": "auth", "token": [secret]}),
        json!({"type": "auth", "token": format!("{secret}x")}),
    ] {
        alice.send(misplaced.clone()).await;
        let answer = alice.next().await.to_string();
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!answer.contains(signature), "{answer}");
    }
}
