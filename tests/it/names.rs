//! Names: valid ones pass through every place that uses names, and invalid ones are refused separately.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::{
    client::TestClient,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
    sse::EventStream,
};

/// Names of real venues, of other scripts, and with every ASCII character that names may contain.
const NAMES: [&str; 9] = [
    "ES=F",
    "^GSPC",
    "BRK B",
    "M&M.NS",
    "EUR/USD",
    "비트코인-원",
    "हिन्दी",
    "a  b+c?d#e;f",
    "!$&'()+-./09:;<=>?AZ[]^_`az|~",
];

/// Invalid names, with the reason of the refusal.
const OTHERS: [(&str, &str); 12] = [
    ("a,b", "contains `,`"),
    ("ticker:*", "contains `*`"),
    ("@@bob", "contains `@`"),
    ("a{b}", "contains `{`"),
    ("100%", "contains `%`"),
    ("say \"x\"", "contains `\"`"),
    ("a\\b", "contains `\\`"),
    ("ord\r\ners", "contains U+000D"),
    ("a\u{200b}b", "contains U+200B"),
    ("a\u{a0}b", "contains U+00A0"),
    (" orders", "begins or ends with a space"),
    ("", "is empty"),
];

fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        let _ = if byte.is_ascii_alphanumeric() {
            write!(text, "{}", char::from(byte))
        } else {
            write!(text, "%{byte:02X}")
        };
        text
    })
}

fn channels(answer: &Value) -> Vec<&str> {
    let name = |channel: &'_ Value| channel["channel"].as_str().is_some();
    assert!(answer["channels"].as_array().unwrap().iter().all(name), "{answer}");
    answer["channels"].as_array().unwrap().iter().map(|channel| channel["channel"].as_str().unwrap()).collect()
}

/// The one element that was refused, and the reason.
fn refused(answer: &Value, channel: &str, says: &str) {
    let errors = answer["errors"].as_array().unwrap_or_else(|| panic!("{channel:?}: {answer}"));
    assert_eq!(errors.len(), 1, "{channel:?}: {answer}");
    assert_eq!((&errors[0]["channel"], &errors[0]["code"]), (&json!(channel), &json!(4004)), "{answer}");
    assert!(errors[0]["message"].as_str().unwrap().contains(says), "{channel:?}: {answer}");
}

#[tokio::test]
async fn an_invalid_name_is_refused_separately_in_every_list() {
    let replica = TestReplica::alone_with("[limits]\ninvalid_messages_max = 2").await;
    let mut alice = replica.trading("alice").await;
    for (bad, says) in OTHERS {
        let answer =
            alice.ask(json!({"type": "subscribe", "channels": ["orders", bad, {"channel": "portfolio"}]})).await;
        assert_eq!(channels(&answer).len(), 2, "{answer}");
        refused(&answer, bad, says);
        assert_eq!(answer["errors"][0]["details"]["field"], "channels[1]");
        let answer =
            alice.ask(json!({"type": "subscribe", "channels": ["orders", {"channel": bad, "since": "1-1"}]})).await;
        refused(&answer, bad, says);
        assert_eq!(answer["errors"][0]["details"]["field"], "channels[1].channel");
        let answer = alice.ask(json!({"type": "unsubscribe", "channels": [bad, "portfolio"]})).await;
        assert_eq!((&answer["type"], &answer["channels"]), (&json!("unsubscribed"), &json!(["portfolio"])), "{answer}");
        refused(&answer, bad, says);
        assert_eq!(answer["errors"][0]["details"]["field"], "channels[0]");
        if bad.is_empty() {
            continue;
        }
        let answer = alice.ask(json!({"type": "subscribe_symbol", "symbols": ["BTCUSDT", bad]})).await;
        assert_eq!(channels(&answer), ["ticker:BTCUSDT"]);
        refused(&answer, &format!("ticker:{bad}"), says);
        assert_eq!(answer["errors"][0]["details"]["field"], "symbols[1]");
        let answer = alice.ask(json!({"type": "unsubscribe_symbol", "symbols": ["BTCUSDT", bad]})).await;
        assert_eq!(answer["channels"], json!(["ticker:BTCUSDT"]));
        refused(&answer, &format!("ticker:{bad}"), says);
    }
    // An element that is not text has no name, so its index identifies it.
    let answer =
        alice.ask(json!({"type": "subscribe", "channels": [7, null, ["orders"], {"since": "1-1"}, "orders"]})).await;
    let fields: Vec<_> =
        answer["errors"].as_array().unwrap().iter().map(|e| (&e["channel"], &e["details"]["field"])).collect();
    let empty = json!("");
    let places = ["channels[0]", "channels[1]", "channels[2]", "channels[3].channel"].map(|field| json!(field));
    assert_eq!(fields, places.iter().map(|field| (&empty, field)).collect::<Vec<_>>(), "{answer}");
    assert_eq!(channels(&answer), ["orders"]);
    // A prefix can make a name too long.
    let long = "x".repeat(200);
    let answer = alice.ask(json!({"type": "subscribe_symbol", "symbols": [long, "BTCUSDT"]})).await;
    refused(&answer, &format!("ticker:{long}"), "207 bytes");
    assert_eq!(answer["errors"][0]["details"]["field"], "symbols[0]");
    assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong", "none of this is an offence");
}

#[tokio::test]
async fn producers_and_event_streams_get_the_refused_name_too() {
    let settings = "[[profiles]]\nname = \"ingest\"\npath = \"/ws/ingest\"\ndialect = \"envelope\"\ntoken = \"publisher\"\n\
                    channels = [{ name = \"logs\" }, { name = \"ingest_events\" }]";
    let replica = TestReplica::alone_with(settings).await;
    let mut producer = replica.connect("/ws/ingest").open().await;
    let mut ask = async |kind: &str, names: Value| {
        let payload = json!({"channels": names});
        producer.send(json!({"msg_id": "m", "msg_type": kind, "source": "s", "payload": payload})).await;
        producer.next().await["payload"].clone()
    };
    for (bad, says) in OTHERS {
        let answer = ask("subscribe", json!(["logs", bad])).await;
        assert_eq!(channels(&answer), ["logs"]);
        refused(&answer, bad, says);
        let answer = ask("unsubscribe", json!([bad, "logs"])).await;
        assert_eq!(answer["channels"], json!(["logs"]));
        refused(&answer, bad, says);
    }
    for (bad, says) in OTHERS.into_iter().filter(|(bad, _)| !bad.is_empty() && !bad.contains(',')) {
        let path = format!("/sse?channels=trades:BTCUSDT,{},ticker:ES%3DF", encoded(bad));
        let mut reader = EventStream::open(replica.address(), &path, &[]).await.unwrap();
        let answer = reader.next().await;
        assert_eq!(channels(&answer), ["trades:BTCUSDT", "ticker:ES=F"]);
        refused(&answer, bad, says);
    }
    for (raw, says) in [("%FF", "UTF-8"), ("a%", "contains `%`"), ("%zz", "contains `%`"), ("%2541", "contains `%`")] {
        let path = format!("/sse?channels={raw},trades:BTCUSDT");
        let answer = EventStream::open(replica.address(), &path, &[]).await.unwrap().next().await;
        assert_eq!(channels(&answer), ["trades:BTCUSDT"], "{raw}");
        refused(&answer, if raw == "%2541" { "%41" } else { raw }, says);
    }
}

#[tokio::test]
async fn one_publication_with_an_invalid_name_does_not_affect_the_others() {
    let replica = TestReplica::alone().await;
    for (bad, says) in OTHERS {
        let of = |channel: &str| json!({"channel": channel, "data": {"n": 1}});
        let publications = [of("ticker:A"), of(bad), of("ticker:BRK B")];
        let answer = replica.api_post("/api/v1/publish/batch", json!({"publications": publications})).await.json();
        let results = answer["results"].as_array().unwrap();
        assert!(results[0]["id"].is_string() && results[2]["id"].is_string(), "{answer}");
        assert_eq!(results[1]["status"], 400, "{answer}");
        assert!(results[1]["detail"].as_str().unwrap().contains(says), "{answer}");
        let answer = replica.api_post("/api/v1/publish", of(bad)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{answer:?}");
    }
}

#[tokio::test]
async fn a_command_about_one_channel_names_the_character() {
    let replica = TestReplica::alone_with("[limits]\ninvalid_messages_max = 100").await;
    let mut alice = replica.trading("alice").await;
    for (bad, says) in OTHERS {
        for command in [json!({"type": "history"}), json!({"type": "presence"}), json!({"type": "publish", "data": {}})]
        {
            let mut command = command;
            command["channel"] = json!(bad);
            let answer = alice.ask(command).await;
            assert_eq!((&answer["code"], &answer["details"]["field"]), (&json!(4004), &json!("channel")), "{answer}");
            assert!(answer["message"].as_str().unwrap().contains(says), "{answer}");
        }
    }
}

/// Publishes under a name on one replica, and receives and reads it on another in every possible way.
async fn goes_everywhere(name: &str, [one, other]: [&TestReplica; 2], alice: &mut TestClient) {
    let channel = format!("trades:{name}");
    let subscribed = alice.subscribe(&[&channel]).await;
    assert_eq!(channels(&subscribed), [&channel]);
    let path = format!("/sse?channels={}", encoded(&channel));
    let mut reader = EventStream::open(other.address(), &path, &[]).await.unwrap();
    assert_eq!(channels(&reader.next().await), [&channel]);
    let id = one.publish(&channel, json!({"n": 1})).await;
    let meta = json!({"channel": channel, "id": id});
    assert_eq!(alice.expect(json!({"n": 1})).await, meta);
    assert_eq!(reader.expect(json!({"n": 1})).await, meta);
    let page = other.api_get(&format!("/api/v1/topics/{}/history", encoded(&channel))).await.json();
    assert_eq!((&page["topic"], &page["messages"][0]["id"]), (&json!(channel), &id), "{page}");
    let page = alice.ask(json!({"type": "history", "channel": channel, "last": 1})).await;
    assert_eq!(page["messages"][0]["_meta"]["channel"], json!(channel), "{page}");
    let presence = alice.ask(json!({"type": "presence", "channel": channel})).await;
    assert_eq!(presence["channel"], json!(channel), "{presence}");
    let last = one.publish(&channel, json!({"n": 2})).await;
    alice.expect(json!({"n": 2})).await;
    assert_eq!(alice.ask(json!({"type": "unsubscribe", "channels": [channel]})).await["channels"], json!([channel]));
    alice.subscribe_since(&[&channel], &id).await;
    assert_eq!(alice.expect(json!({"n": 2})).await, json!({"channel": channel, "id": last, "replayed": true}));
    assert_eq!(alice.caught_up().await["channel"], json!(channel));
}

#[tokio::test]
async fn a_name_passes_through_every_place_unchanged() {
    let settings = "[[profiles]]\nname = \"desk\"\npath = \"/ws/desk\"\ntoken = \"required\"\nsymbol_verbs = { trades = \"trades:\" }\n\
                    channels = [{ name = \"trades:*\" }]";
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    // A token's patterns are names as well.
    let patterns: Vec<_> = NAMES.iter().map(|name| format!("*:{name}")).collect();
    let patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
    let alice = TokenBuilder::of("alice").channels(&patterns).sign();
    let mut alice = other.connect("/ws/desk").token(&alice).open().await;
    alice.greeted().await;
    for name in NAMES {
        goes_everywhere(name, [&one, &other], &mut alice).await;
        let key = format!("tg2:{{t:trades:{name}}}:s");
        assert_eq!(server.run::<u64>(&["XLEN", &key]).await, 2, "{name}: a key needs no escape");
    }
    let symbols = json!({"type": "subscribe_trades", "symbols": NAMES});
    let answer = alice.ask(symbols).await;
    assert_eq!(channels(&answer).len(), NAMES.len(), "{answer}");
}

#[tokio::test]
async fn private_channels_and_runs_may_have_any_name_too() {
    // The last three have a special meaning in a message of Redis.
    let names = ["BRK B", "ES=F", "비트코인", "-", "!lost", "! -"];
    let listed: Vec<_> = names.iter().map(|name| format!("{{ name = \"{name}\", scope = \"private\" }}")).collect();
    let rules: String =
        names.iter().map(|name| format!("[[topics]]\npattern = \"{name}\"\nclass = \"reliable\"\n")).collect();
    let settings = format!(
        "{rules}[[profiles]]\nname = \"desk\"\npath = \"/ws/desk\"\ntoken = \"required\"\nchannels = [{}]",
        listed.join(", ")
    );
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on_with(&server, &settings).await, TestReplica::on_with(&server, &settings).await);
    let desk = async || {
        let mut desk = other.connect("/ws/desk").token(&token("alice")).open().await;
        desk.greeted().await;
        desk
    };
    let mut live = desk().await;
    live.subscribe(&names).await;
    let mut ids = Vec::new();
    for name in names {
        let id = one.publish_to("alice", name, json!({"of": name})).await;
        assert_eq!(live.expect(json!({"of": name})).await, json!({"channel": name, "id": id}));
        ids.push(id);
    }
    let mut back = desk().await;
    back.subscribe_since(&names, &json!("earliest")).await;
    for (name, id) in names.iter().zip(&ids) {
        assert_eq!(back.expect(json!({"of": name})).await, json!({"channel": name, "id": id, "replayed": true}));
    }
    for name in ["BRK B", "ES=F", "비트코인", &"é".repeat(98)] {
        for path in ["/ws/backtest/", "/ws/forward/"] {
            let mut tab = other.connect(&format!("{path}{}", encoded(name))).open().await;
            tab.greeted().await;
            tab.expect_type("subscribed").await;
            one.publish(&format!("run:{name}"), json!({"of": name})).await;
            tab.expect(json!({"of": name})).await;
        }
    }
}

/// A viewer of a run whose topic has no valid name would wait for ever.
#[tokio::test]
async fn the_name_of_a_run_has_one_limit() {
    let replica = TestReplica::alone().await;
    let (longest, longer) = ("r".repeat(196), "r".repeat(197));
    replica.run(&format!("/ws/backtest/{longest}")).await;
    for path in ["/ws/backtest/", "/ws/forward/"] {
        let refusal = replica.connect(&format!("{path}{longer}")).expect_refused(404).await;
        assert!(refusal.body.contains("`run_id` must not exceed 196 bytes"), "{refusal:?}");
        let page = replica.connect(&format!("{path}{longer}")).origin("http://localhost").expect_closed(4504).await;
        assert_eq!(page, "`run_id` must not exceed 196 bytes");
    }
    let mut producer = replica.connect("/ws/ingest").open().await;
    for (run_id, kind) in [(&longest, "ack"), (&longer, "error")] {
        let payload = json!({"run_id": run_id, "event_type": "order", "payload_json": {}});
        producer
            .send(json!({"msg_id": run_id[..100], "msg_type": "ingest_event", "source": "s", "payload": payload}))
            .await;
        let answer = producer.next().await;
        assert_eq!(answer["msg_type"], kind, "{answer}");
    }
    let page = replica.api_get("/api/v1/topics/ingest_events/history").await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1, "what is refused is not stored: {page}");
}
