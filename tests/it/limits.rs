//! Limits: a client over a limit receives the reason, and others are not affected.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    bystander::Bystander,
    eventually,
    http::send,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
    sse::EventStream,
    wire::{RawConnection, TEXT, frame},
};

#[tokio::test]
async fn an_error_names_the_request_and_the_field() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    client.send(json!({"type": "subscribe", "channels": "x", "id": 7})).await;
    let error = client.expect_error(4004).await;
    assert_eq!((&error["id"], &error["details"]["field"]), (&json!(7), &json!("channels")), "{error}");
    assert!(error["timestamp"].is_string());
}

#[tokio::test]
async fn subscriptions_are_limited() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
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
    // Larger than the maximum message size: 1009 before anything is counted.
    let mut greedy = replica.market().await;
    greedy.send(json!({"type": "subscribe", "channels": names(0..10_000)})).await;
    greedy.expect_close(1009).await;
    let mut greedy = replica.market().await;
    greedy.send(json!({"type": "subscribe", "channels": names(0..3_000)})).await;
    assert!(matches!(greedy.expect_type("error").await["code"].as_u64(), Some(4503 | 4004)));
    bystander.is_unharmed_by("too many subscriptions").await;
}

#[tokio::test]
async fn too_many_messages_are_refused_with_the_time_to_wait() {
    let settings = "[limits]\nmessages_per_connection = { per_second = 1, burst = 3 }\nrate_offences_max = 5";
    let replica = TestReplica::alone_with(settings).await;
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
    let replica = TestReplica::alone_with(settings).await;
    let (mut one, mut other) = (replica.trading("alice").await, replica.trading("alice").await);
    for client in [&mut one, &mut other] {
        for _ in 0..2 {
            assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
        }
    }
    other.send(json!({"type": "ping"})).await;
    other.expect_error(4100).await;
    let limited =
        async |scope: &str| replica.metric(&format!("tickgate_rate_limited_total{{scope=\"{scope}\"}}")).await;
    assert_eq!((limited("user").await, limited("connection").await), (1.0, 0.0));
    let mut bob = replica.trading("bob").await;
    assert_eq!(bob.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn a_message_over_the_connections_limit_is_not_counted_against_its_user() {
    let settings = "[limits]\nmessages_per_connection = { per_second = 1, burst = 2 }\nmessages_per_user = { per_second = 1, burst = 4 }";
    let replica = TestReplica::alone_with(settings).await;
    let (mut one, mut other) = (replica.trading("alice").await, replica.trading("alice").await);
    for _ in 0..20 {
        one.send(json!({"type": "ping"})).await;
    }
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(one.next().await["code"] == 4100);
    }
    assert!(refused >= 17, "{refused} were refused");
    assert_eq!(other.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn channels_are_counted_however_many_one_message_names() {
    let settings = "[limits]\nmessages_per_connection = { per_second = 1, burst = 30 }\nsubscriptions_max = 20";
    let replica = TestReplica::alone_with(settings).await;
    let mut client = replica.market().await;
    let names = |round: u32| (0..20).map(|n| format!("ticker:R{round}N{n}")).collect::<Vec<_>>();
    for round in 0..2 {
        let answer = client.ask(json!({"type": "subscribe", "channels": names(round)})).await;
        assert_eq!(answer["channels"].as_array().unwrap().len(), 20, "all may change at once: {answer}");
        client.ask(json!({"type": "unsubscribe", "channels": names(round)})).await;
    }
    for verb in
        [json!({"type": "subscribe", "channels": names(2)}), json!({"type": "subscribe_ticker", "symbols": names(3)})]
    {
        client.send(verb).await;
        let error = client.expect_error(4100).await;
        assert!(error["details"]["retry_after_ms"].as_u64() > Some(10_000), "{error}");
    }
    // Other messages are still accepted.
    assert_eq!(client.ask(json!({"type": "ping"})).await["type"], "pong");
    assert_eq!(replica.metric("tickgate_topics").await, 40.0);
}

#[tokio::test]
async fn a_user_has_five_connections() {
    let replica = TestReplica::alone().await;
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
    eventually("the slot", async || request().try_open().await.ok().map(|_| ())).await;
}

#[tokio::test]
async fn or_the_oldest_connection_is_evicted() {
    let settings = "[limits]\nconnections_per_user_max = 2\nover_limit = \"evict-oldest\"";
    let replica = TestReplica::alone_with(settings).await;
    let mut first = replica.trading("alice").await;
    let _second = replica.trading("alice").await;
    let mut third = replica.trading("alice").await;
    first.expect_close(4501).await;
    third.expect_nothing().await;
}

#[tokio::test]
async fn an_endpoint_may_have_a_limit_of_its_own() {
    let settings = "[limits]\nconnections_per_user_max = 1\n[[profiles]]\nname = \"tabs\"\npath = \"/tabs\"\n\
                    token = \"required\"\nconnections_per_user_max = 2";
    let replica = TestReplica::alone_with(settings).await;
    let at = |path| replica.connect(path).token(&token("alice"));
    let _open = [at("/tabs").open().await, at("/ws/trading").open().await, at("/tabs").open().await];
    for path in ["/tabs", "/ws/trading"] {
        at(path).expect_refused(429).await;
    }
}

#[tokio::test]
async fn the_limit_applies_over_all_replicas() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::on(&server).await, TestReplica::on(&server).await];
    let mut open = Vec::new();
    for index in 0..5 {
        open.push(replicas[index % 3].trading("alice").await);
    }
    for replica in &replicas {
        replica.connect("/ws/trading").token(&token("alice")).expect_refused(429).await;
    }
}

#[tokio::test]
async fn a_full_replica_refuses_with_a_reason() {
    let replica = TestReplica::alone_with("[limits]\nconnections_max = 2").await;
    let _open = [replica.market().await, replica.market().await];
    let refusal = replica.connect("/ws/market").expect_refused(503).await;
    assert!(refusal.retry_after.is_some());
    replica.connect("/ws/market").origin("https://app.example").expect_closed(1013).await;
    assert_eq!(replica.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_full_endpoint_refuses_and_others_do_not() {
    let profile = "[[profiles]]\nname = \"tabs\"\npath = \"/tabs\"\ntoken = \"ignored\"\nconnections_max = 2";
    let replica = TestReplica::alone_with(profile).await;
    let tab = || replica.connect("/tabs");
    let (first, _second) = (tab().open().await, tab().open().await);
    let refusal = tab().expect_refused(503).await;
    assert!(refusal.retry_after.is_some() && refusal.body.contains("Endpoint is full"), "{refusal:?}");
    tab().origin("https://app.example").expect_closed(1013).await;
    replica.market().await;
    first.close().await;
    eventually("the place of the one that left", async || tab().try_open().await.ok()).await;
}

#[tokio::test]
async fn a_client_that_never_answers_a_ping_is_closed() {
    let settings = "[session]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"1s\"";
    let replica = TestReplica::alone_with(settings).await;
    let mut dead = RawConnection::upgraded(replica.address(), "/ws/market").await;
    dead.expect_close(4101, "silence").await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_and_does_not_affect_others() {
    let replica = TestReplica::alone_with("[session]\nwrite_timeout = \"1s\"").await;
    let mut reader = replica.market().await;
    reader.subscribe(&["trades:BTCUSDT"]).await;
    let mut stuck = RawConnection::upgraded(replica.address(), "/ws/market").await;
    // Otherwise megabytes are buffered in between, which take time on a busy machine.
    stuck.set_receive_buffer(4_096);
    stuck.send(&frame(TEXT, br#"{"type":"subscribe","channels":["trades:BTCUSDT"]}"#)).await;
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

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected_soon_after_the_close() {
    let replica = TestReplica::alone_with("[session]\nwrite_timeout = \"1s\"").await;
    let mut stuck = RawConnection::upgraded(replica.address(), "/ws/market").await;
    // Otherwise megabytes are buffered in between, which take time on a busy machine.
    stuck.set_receive_buffer(4_096);
    stuck.send(&frame(TEXT, br#"{"type":"subscribe","channels":["trades:BTCUSDT"]}"#)).await;
    let padding = "x".repeat(50_000);
    eventually("the close", async || {
        replica.publish("trades:BTCUSDT", json!({"type": "trade", "padding": padding})).await;
        (replica.metric("tickgate_close_frames_total{code=\"4102\"}").await > 0.0).then_some(())
    })
    .await;
    let closed = Instant::now();
    let ended = async || replica.metric("tickgate_disconnects_total{reason=\"slow_consumer\"}").await > 0.0;
    eventually("the end", async || ended().await.then_some(())).await;
    assert!(closed.elapsed() < Duration::from_secs(4), "held for {:?}", closed.elapsed());
}

#[tokio::test]
async fn a_refused_event_stream_takes_no_place_of_its_user() {
    let replica = TestReplica::alone_with("[limits]\nconnections_per_user_max = 1").await;
    let bearer = format!("Bearer {}", token("alice"));
    let foreign = [("authorization", bearer.as_str()), ("last-event-id", "1-1,1-2")];
    let answer = send(replica.address(), "GET", "/sse?channels=orders", &foreign, None).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    replica.trading("alice").await;
}

#[tokio::test]
async fn any_heartbeat_interval_may_be_requested_where_heartbeats_are_frequent() {
    let replica = TestReplica::alone_with("[session]\nheartbeat_interval = \"2s\"\nheartbeat_timeout = \"1s\"").await;
    let mut client = replica.market().await;
    let granted = client.ask(json!({"type": "configure", "heartbeat_interval": 1})).await;
    assert_eq!((&granted["type"], &granted["heartbeat_interval"]), (&json!("configured"), &json!(2)), "{granted}");
}

#[tokio::test]
async fn commands_of_a_client_refused_by_message_are_ignored() {
    let replica = TestReplica::alone_with("[limits]\nconnections_per_user_max = 1").await;
    let _first = replica.trading("alice").await;
    let auth = json!({"type": "auth", "token": TokenBuilder::of("alice").publish(&["*"]).sign()});
    let publish = json!({"type": "publish", "channel": "ticker:X", "data": {"price": "1"}});
    let both: Vec<u8> = [auth, publish].iter().flat_map(|m| frame(TEXT, m.to_string().as_bytes())).collect();
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/trading?auth=message").await;
    wire.send(&both).await;
    let said = wire.expect_close(4003, "one connection too many").await;
    assert!(!said.iter().any(|text| text.contains("published")), "{said:?}");
}

#[tokio::test]
async fn a_response_with_history_is_limited_in_bytes() {
    let replica = TestReplica::alone_with("[limits]\nreplay_bytes_max = 65536").await;
    let mut ids = Vec::new();
    for number in 0..10 {
        let data = json!({"number": number, "padding": "x".repeat(20_000)});
        ids.push(replica.publish("trades:BIG", data).await);
    }
    let mut client = replica.market().await;
    let newest = client.ask(json!({"type": "history", "channel": "trades:BIG", "last": 10})).await;
    let numbers = |answer: &Value| {
        answer["messages"].as_array().unwrap().iter().map(|m| m["number"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((numbers(&newest), &newest["more"]), (vec![7, 8, 9], &json!(false)));
    let mut pages = Vec::new();
    let mut cursor = ids[0].clone();
    loop {
        let page = client.ask(json!({"type": "history", "channel": "trades:BIG", "since": cursor})).await;
        pages.push(numbers(&page));
        cursor = page["cursor"].clone();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(pages, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]]);
}

#[tokio::test]
async fn no_response_with_history_exceeds_a_mebibyte() {
    let replica = TestReplica::alone().await;
    for number in 0..40 {
        let data = json!({"number": number, "padding": "x".repeat(60_000)});
        replica.publish("trades:BIG", data).await;
    }
    let mut client = replica.market().await;
    let (mut seen, mut since) = (Vec::new(), json!("earliest"));
    loop {
        client.send(json!({"type": "history", "id": 1, "channel": "trades:BIG", "since": since})).await;
        let text = client.next_text().await.expect("a page");
        assert!(text.len() <= 1 << 20, "{} bytes", text.len());
        let page: Value = serde_json::from_str(&text).expect("JSON");
        seen.extend(page["messages"].as_array().unwrap().iter().map(|m| m["number"].as_u64().unwrap()));
        since = page["cursor"].clone();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn public_topics_are_limited_but_users_receive_their_own_channels() {
    let replica = TestReplica::alone_with("[hub]\ntopics_max = 3").await;
    let mut client = replica.market().await;
    let names: Vec<_> = (0..5).map(|n| format!("ticker:S{n}")).collect();
    let answer = client.ask(json!({"type": "subscribe", "channels": names})).await;
    assert_eq!(answer["channels"].as_array().unwrap().len(), 3, "{answer}");
    let refused = answer["errors"].as_array().unwrap();
    assert!(refused.len() == 2 && refused.iter().all(|error| error["code"] == 1013), "{answer}");
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    replica.publish_to("alice", "orders", json!({"type": "order_update"})).await;
    alice.expect(json!({"type": "order_update"})).await;
}

#[tokio::test]
async fn the_address_with_most_unpublished_topics_loses_one_and_is_notified() {
    let settings =
        "[hub]\nunpublished_topics_max = 3\n[server]\nmode = \"production\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let replica = TestReplica::alone_with(settings).await;
    let from = |address| replica.connect("/ws/market").header("x-forwarded-for", address);
    let mut greedy = from("198.51.100.1").open().await;
    greedy.greeted().await;
    greedy.subscribe(&["trades:A", "trades:B", "trades:C"]).await;
    let mut other = from("198.51.100.2").open().await;
    other.greeted().await;
    other.subscribe(&["trades:D"]).await;
    let ended = greedy.expect_type("unsubscribed").await;
    assert_eq!((&ended["channels"], &ended["code"]), (&json!(["trades:C"]), &json!(1013)), "{ended}");
    assert_eq!(ended["details"]["retry_after_ms"], 1_000, "{ended}");
    let again = greedy.ask(json!({"type": "subscribe", "channels": ["trades:C"]})).await;
    assert_eq!((&again["channels"], &again["errors"][0]["code"]), (&json!([]), &json!(1013)), "{again}");
    // A published topic has room, and is no longer counted.
    replica.publish("trades:A", json!({"n": 1})).await;
    greedy.expect(json!({"n": 1})).await;
    greedy.subscribe(&["trades:C"]).await;
    other.expect_nothing().await;
}

#[tokio::test]
async fn a_reader_of_events_reconnects_when_a_topic_is_withdrawn() {
    let settings =
        "[hub]\nunpublished_topics_max = 2\n[server]\nmode = \"production\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let replica = TestReplica::alone_with(settings).await;
    let headers = [("x-forwarded-for", "198.51.100.1")];
    let path = "/sse?channels=trades:A,trades:B";
    let reader = EventStream::open(replica.address(), path, &headers).await.unwrap();
    let mut other = replica.connect("/ws/market").header("x-forwarded-for", "198.51.100.2").open().await;
    other.greeted().await;
    other.subscribe(&["trades:D"]).await;
    let events = reader.rest().await;
    let closing = events.last().expect("an event");
    assert_eq!((&closing["type"], &closing["code"]), (&json!("closing"), &json!(1013)), "{closing}");
}
