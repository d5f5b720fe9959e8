//! What bad input gets: each kind its stated answer, and nobody else is harmed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    raw::{BINARY, PING, Raw, TEXT, frame, upgrade_head},
    redis::RedisServer,
    replica::{Replica, token},
};

/// A replica, and somebody whose service must not suffer.
async fn served() -> (Replica, crate::support::client::Client) {
    let replica = Replica::alone().await;
    let mut bystander = replica.market().await;
    bystander.subscribe(&["trades:BTCUSDT"]).await;
    (replica, bystander)
}

async fn still_served(replica: &Replica, bystander: &mut crate::support::client::Client) {
    let trade = json!({"type": "trade", "price": "50000.00"});
    replica.publish("trades:BTCUSDT", trade.clone()).await;
    bystander.expect(trade).await;
}

#[tokio::test]
async fn an_invalid_message_is_answered_and_the_connection_stays() {
    let replica = Replica::alone_with("[limits]\ninvalid_messages_max = 1000").await;
    let mut client = replica.trading("alice").await;
    let deep = format!(r#"{{"type":"ping","timestamp":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for bad in [
        "",
        "not json",
        "42",
        "null",
        r#""subscribe""#,
        "[]",
        "{}",
        r#"{"type":"nonsense"}"#,
        r#"{"type":5}"#,
        r#"{"type":"subscribe"}"#,
        r#"{"type":"subscribe","channels":"orders"}"#,
        r#"{"type":"subscribe","channels":[1]}"#,
        r#"{"type":"subscribe","channels":["orders"],"since":"yesterday"}"#,
        r#"{"type":"subscribe","channels":["orders"],"max_rate":-1}"#,
        r#"{"type":"ping","type":"ping"}"#,
        r#"{"type":"ping"} {"type":"ping"}"#,
        r#"{"type":"history"}"#,
        r#"{"type":"auth"}"#,
        r#"{"type":"publish","channel":"orders"}"#,
        r#"{"type":"configure","max_rate":1e400}"#,
        r#"{"type":"presence","channel":"or\u0000ders"}"#,
        &deep,
    ] {
        client.send_text(bad).await;
        let error = client.expect_error(4004).await;
        assert_eq!(error["error"], "invalid_message", "{bad}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{bad}: {error}");
    }
    client.subscribe(&["orders"]).await;
}

#[tokio::test]
async fn who_keeps_sending_nonsense_is_closed() {
    let (replica, mut bystander) = served().await;
    let mut client = replica.market().await;
    for _ in 0..20 {
        client.send_text("nonsense").await;
    }
    client.expect_close(4004).await;
    still_served(&replica, &mut bystander).await;
}

#[tokio::test]
async fn an_error_names_the_request_and_the_field() {
    let replica = Replica::alone().await;
    let mut client = replica.market().await;
    client.send(json!({"type": "subscribe", "channels": "x", "id": 7})).await;
    let error = client.expect_error(4004).await;
    assert_eq!((&error["id"], &error["details"]["field"]), (&json!(7), &json!("channels")), "{error}");
    assert!(error["timestamp"].is_string());
}

#[tokio::test]
async fn broken_frames_are_closed_with_their_code() {
    let (replica, mut bystander) = served().await;
    let text = br#"{"type":"ping"}"#;
    let cases: [(&str, Vec<u8>, u16); 11] = [
        ("binary", frame(0x80 | BINARY, true, b"x"), 1003),
        ("invalid utf-8", frame(0x80 | TEXT, true, b"{\"type\":\"\xff\"}"), 1007),
        ("over the size", frame(0x80 | TEXT, true, &vec![b' '; 70_000]), 1009),
        ("a size nobody has", vec![0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4], 1009),
        ("unmasked", frame(0x80 | TEXT, false, text), 1002),
        ("a reserved bit", frame(0x80 | 0x40 | TEXT, true, text), 1002),
        ("a reserved opcode", frame(0x80 | 3, true, text), 1002),
        ("a continuation of nothing", frame(0x80, true, text), 1002),
        ("a text within a text", [frame(TEXT, true, b"{"), frame(0x80 | TEXT, true, b"}")].concat(), 1002),
        ("a large control frame", frame(0x80 | PING, true, &[0; 126]), 1002),
        ("a control frame in parts", frame(PING, true, b"x"), 1002),
    ];
    for (what, bytes, code) in cases {
        let mut raw = Raw::upgraded(replica.address(), "/ws/market").await;
        raw.send(&bytes).await;
        println!("{what}");
        raw.expect_close(code).await;
    }
    still_served(&replica, &mut bystander).await;
}

#[tokio::test]
async fn a_message_in_parts_is_one_message() {
    let replica = Replica::alone().await;
    let mut raw = Raw::upgraded(replica.address(), "/ws/market").await;
    assert_eq!(raw.text().await["type"], "connection_established");
    raw.send(&frame(TEXT, true, br#"{"type":"#)).await;
    raw.send(&frame(0x80 | PING, true, b"between")).await;
    raw.send(&frame(0x80, true, br#""ping"}"#)).await;
    assert_eq!(raw.text().await["type"], "pong");
}

#[tokio::test]
async fn whoever_is_slow_to_ask_is_shown_the_door() {
    let replica = Replica::alone_with("[server]\nheader_timeout = \"1s\"").await;
    let mut silent = Raw::connect(replica.address()).await;
    let mut half = Raw::connect(replica.address()).await;
    half.send(b"GET /ws/market HTTP/1.1\r\nHost: local").await;
    let mut trickling = Raw::connect(replica.address()).await;
    let (began, head) = (tokio::time::Instant::now(), upgrade_head("/ws/market"));
    tokio::join!(silent.expect_end(), half.expect_end(), trickling.trickle(&head, Duration::from_millis(100)),);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn malformed_handshakes_are_answered_in_plain_http() {
    let replica = Replica::alone().await;
    let good = upgrade_head("/ws/market");
    let cases = [
        ("a bad key", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        ("no key", good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        ("another version", good.replace("Version: 13", "Version: 8"), 426),
        ("no upgrade", "GET /ws/market HTTP/1.1\r\nHost: localhost\r\n".to_owned(), 400),
        ("another method", good.replace("GET ", "POST "), 405),
        ("unknown sub-protocols", format!("{good}Sec-WebSocket-Protocol: graphql-ws, mqtt\r\n"), 400),
        ("a broken parameter", good.replace("/ws/market", "/ws/market?since=yesterday"), 400),
        ("no such path", good.replace("/ws/market", "/ws/nowhere"), 404),
    ];
    for (what, head, status) in cases {
        let mut raw = Raw::connect(replica.address()).await;
        raw.send(format!("{head}\r\n").as_bytes()).await;
        let answer = raw.head().await;
        let expected = [status, if what == "no upgrade" { 426 } else { status }];
        assert!(
            expected.iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status} "))),
            "{what}: expected {status}, got {answer}"
        );
    }
    let mut large = Raw::connect(replica.address()).await;
    large.send(format!("{good}X-Large: {}\r\n\r\n", "x".repeat(40_000)).as_bytes()).await;
    let answer = large.expect_end().await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_foreign_page_is_closed_with_1008_and_our_own_is_not() {
    let replica = Replica::alone_with("[server]\nallowed_origins = [\"https://app.example\"]").await;
    let foreign = replica.connect("/ws/market").origin("https://evil.example");
    assert_eq!(foreign.expect_closed(1008).await, "Origin not allowed");
    replica.connect("/ws/market").origin("https://app.example").open().await.greeted().await;
    replica.connect("/ws/market").open().await.greeted().await;
}

#[tokio::test]
async fn our_sub_protocol_is_agreed_to() {
    let replica = Replica::alone().await;
    let offered = "sec-websocket-protocol";
    let client = replica.connect("/ws/market").header(offered, "tickgate.v1").open().await;
    assert_eq!(client.headers.get(offered).unwrap(), "tickgate.v1");
}

#[tokio::test]
async fn subscriptions_are_bounded() {
    let (replica, mut bystander) = served().await;
    let mut client = replica.market().await;
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("ticker:S{n}")).collect::<Vec<_>>();
    let answer = client.subscribe_with(json!({"type": "subscribe", "channels": names(0..150)})).await;
    assert_eq!(answer["channels"].as_array().unwrap().len(), 150);
    let answer = client.ask(json!({"type": "subscribe", "channels": names(150..250)})).await;
    assert_eq!(answer["channels"].as_array().unwrap().len(), 50);
    let errors = answer["errors"].as_array().unwrap();
    assert!(errors.len() == 50 && errors.iter().all(|error| error["code"] == 4503), "{errors:?}");
    client.ask(json!({"type": "unsubscribe", "channels": names(0..1)})).await;
    client.subscribe(&["ticker:S999"]).await;
    // Larger than a message may be: 1009 before anything is counted.
    let mut greedy = replica.market().await;
    greedy.send(json!({"type": "subscribe", "channels": names(0..10_000)})).await;
    greedy.expect_close(1009).await;
    let mut greedy = replica.market().await;
    greedy.send(json!({"type": "subscribe", "channels": names(0..3_000)})).await;
    assert!(matches!(greedy.expect_type("error").await["code"].as_u64(), Some(4503 | 4004)));
    still_served(&replica, &mut bystander).await;
}

#[tokio::test]
async fn too_many_messages_are_refused_with_the_time_to_wait() {
    let settings = "[limits]\nmessages_per_connection = { per_second = 1, burst = 3 }\nrate_offences_max = 5";
    let replica = Replica::alone_with(settings).await;
    let mut client = replica.market().await;
    for _ in 0..3 {
        assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
    }
    client.send(json!({"type": "ping"})).await;
    let error = client.expect_error(4100).await;
    let wait = error["details"]["retry_after_ms"].as_u64().expect("a time to wait");
    assert!((1..=1_000).contains(&wait), "{error}");
    for _ in 0..20 {
        client.send(json!({"type": "ping"})).await;
    }
    client.expect_close(4100).await;
}

#[tokio::test]
async fn one_users_messages_are_limited_over_all_connections() {
    let settings = "[limits]\nmessages_per_connection = { per_second = 1, burst = 4 }\nmessages_per_user = { per_second = 1, burst = 4 }";
    let replica = Replica::alone_with(settings).await;
    let (mut one, mut other) = (replica.trading("alice").await, replica.trading("alice").await);
    for client in [&mut one, &mut other] {
        for _ in 0..2 {
            assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
        }
    }
    other.send(json!({"type": "ping"})).await;
    other.expect_error(4100).await;
    let mut bob = replica.trading("bob").await;
    assert_eq!(bob.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn a_user_has_five_connections() {
    let replica = Replica::alone().await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(replica.trading("alice").await);
    }
    let request = || replica.connect("/ws/trading").token(&token("alice"));
    let refusal = request().expect_refused(429).await;
    assert!(refusal.body.contains("4003") && refusal.retry_after.is_some(), "{refusal:?}");
    assert_eq!(request().origin("https://app.example").expect_closed(4003).await, "Maximum connections exceeded");
    replica.trading("bob").await;
    open.pop().unwrap().close().await;
    crate::support::eventually("the slot", async || request().try_open().await.ok().map(|_| ())).await;
}

#[tokio::test]
async fn or_the_oldest_connection_gives_way() {
    let settings = "[limits]\nconnections_per_user_max = 2\nover_limit = \"evict-oldest\"";
    let replica = Replica::alone_with(settings).await;
    let mut first = replica.trading("alice").await;
    let _second = replica.trading("alice").await;
    let mut third = replica.trading("alice").await;
    first.expect_close(4501).await;
    third.expect_nothing().await;
}

#[tokio::test]
async fn the_limit_is_one_over_all_replicas() {
    let server = RedisServer::start();
    let replicas = [Replica::on(&server).await, Replica::on(&server).await, Replica::on(&server).await];
    let mut open = Vec::new();
    for index in 0..5 {
        open.push(replicas[index % 3].trading("alice").await);
    }
    for replica in &replicas {
        replica.connect("/ws/trading").token(&token("alice")).expect_refused(429).await;
    }
}

#[tokio::test]
async fn a_full_replica_says_so() {
    let replica = Replica::alone_with("[limits]\nconnections_max = 2").await;
    let _open = [replica.market().await, replica.market().await];
    let refusal = replica.connect("/ws/market").expect_refused(503).await;
    assert!(refusal.retry_after.is_some());
    replica.connect("/ws/market").origin("https://app.example").expect_closed(1013).await;
    assert_eq!(replica.get("/livez").await.status, 200);
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let replica = Replica::alone_with("[limits]\nconnections_per_address_max = 2").await;
    let _open = [replica.market().await, replica.market().await];
    replica.connect("/ws/market").expect_refused(429).await;
}

#[tokio::test]
async fn who_never_answers_a_ping_is_closed() {
    let settings = "[session]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"1s\"";
    let replica = Replica::alone_with(settings).await;
    let mut dead = Raw::upgraded(replica.address(), "/ws/market").await;
    dead.expect_close(4101).await;
}

#[tokio::test]
async fn who_never_reads_is_closed_and_slows_nobody() {
    let replica = Replica::alone_with("[session]\nwrite_timeout = \"1s\"").await;
    let mut reader = replica.market().await;
    reader.subscribe(&["trades:BTCUSDT"]).await;
    let mut stuck = Raw::upgraded(replica.address(), "/ws/market").await;
    stuck.send_frame(TEXT, br#"{"type":"subscribe","channels":["trades:BTCUSDT"]}"#).await;
    let padding = "x".repeat(50_000);
    let slow = async || replica.metric("tickgate_disconnects_total{reason=\"slow_consumer\"}").await;
    let mut number = 0_u64;
    let closed = async {
        while slow().await == 0.0 {
            let trade = json!({"type": "trade", "number": number, "padding": padding});
            replica.publish("trades:BTCUSDT", trade).await;
            let heard: Value = reader.expect_type("trade").await;
            assert_eq!(heard["number"], number);
            number += 1;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, closed).await.expect("the stuck client to be closed");
}
