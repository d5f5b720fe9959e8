//! The contract of `tickgate.v1`: the explicit mode, how connections end, and what authors of clients once had to
//! guess.

use serde_json::{Value, json};

use crate::support::{
    client::{ConnectRequest, TestClient},
    eventually,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
    sse::EventStream,
    wire::{RawConnection, TEXT, frame, upgrade_request},
};

const PROTOCOL: &str = "sec-websocket-protocol";

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

/// A client that offers the sub-protocol, with the user's token.
fn native(replica: &TestReplica, path: &str, user: &str) -> ConnectRequest {
    replica.connect(path).header(PROTOCOL, &format!("tickgate.v1, bearer.{}", token(user))).name(user)
}

async fn greeted(request: ConnectRequest) -> TestClient {
    let mut client = request.open().await;
    client.greeted().await;
    client
}

/// The client receives the reason of the refusal, and is closed with the same code.
async fn refused(request: ConnectRequest, code: u16) -> Value {
    let mut client = request.open().await;
    let closing = client.expect_type("closing").await;
    assert_eq!(closing["code"], code, "{closing}");
    client.expect_close(code).await;
    closing
}

#[tokio::test]
async fn a_native_client_receives_only_what_it_subscribes_to() {
    let replica = TestReplica::alone().await;
    let mut client = greeted(native(&replica, "/ws", "alice")).await;
    assert!(client.headers["sec-websocket-protocol"] == "tickgate.v1");
    let welcome = &client.welcome;
    assert!(welcome["server"].as_str().unwrap().starts_with("tickgate/"), "{welcome}");
    assert_eq!((&welcome["features"], welcome["expires_at"].is_string()), (&json!([]), true), "{welcome}");
    assert_eq!((&welcome["limits"]["names_per_second"], &welcome["limits"]["names_burst"]), (&json!(100), &json!(400)));
    assert!(!client.session().contains(welcome["connection_id"].as_str().unwrap()), "the session is a secret");
    replica.publish("system_log", json!({"level": "INFO"})).await;
    client.expect_nothing().await;
    client.subscribe(&["system_log"]).await;
    replica.publish("system_log", json!({"level": "WARN"})).await;
    client.expect(json!({"level": "WARN"})).await;
    // Also not when it returns with its session.
    let mut again = greeted(native(&replica, "/ws", "alice").query("session", &client.session())).await;
    assert_eq!(again.welcome["resumed"], true);
    client.expect_close(4501).await;
    again.expect_nothing().await;
    // Others keep the endpoint's automatic channels.
    let mut page = replica.connect("/ws").token(&token("alice")).open().await;
    page.greeted().await;
    page.expect_type("subscribed").await;
}

#[tokio::test]
async fn a_native_client_receives_every_refusal_after_the_upgrade() {
    let settings = "[limits]\nconnections_per_user_max = 1\n[server]\nallowed_origins = [\"https://app.example\"]";
    let replica = TestReplica::alone_with(settings).await;
    let bare = |path: &str| replica.connect(path).header(PROTOCOL, "tickgate.v1");
    let with = |path: &str| native(&replica, path, "alice");
    let closing = refused(replica.connect("/ws/trading").header(PROTOCOL, "tickgate.v1, bearer.none"), 4001).await;
    assert_eq!(closing["reconnect"], "new_token");
    let closing = refused(with("/ws/trading").origin("https://evil.example"), 1008).await;
    assert_eq!((&closing["message"], &closing["reconnect"]), (&json!("Origin not allowed"), &json!("no")));
    for (path, field) in [
        ("/ws/trading?session=1", "session"),
        ("/ws/trading?since=yesterday", "since"),
        ("/ws/trading?since=7-7", "since"),
        ("/ws/backtest/r?since=7-7", "since"),
        ("/ws/backtest/r?last=5", "last"),
        ("/ws/trading?last=0", "last"),
        ("/ws/trading?token=%00", "token"),
        ("/ws/trading?auth=header", "auth"),
    ] {
        let closing = refused(native(&replica, path, "bob").name(path), 4004).await;
        assert_eq!((&closing["details"]["field"], &closing["reconnect"]), (&json!(field), &json!("no")), "{path}");
    }
    let closing = refused(bare("/ws/backtest/a%2Cb"), 4504).await;
    assert_eq!((&closing["error"], &closing["reconnect"]), (&json!("not_found"), &json!("no")));
    let _first = greeted(with("/ws/trading")).await;
    let closing = refused(with("/ws/trading"), 4003).await;
    assert_eq!(closing["reconnect"], "yes");
    assert!(closing["after_ms"].as_u64().is_some_and(|ms| ms >= 1_000), "{closing}");
    // A list without the supported sub-protocol cannot be answered with one.
    replica.connect("/ws/trading").header(PROTOCOL, "tickgate.v2, mqtt").expect_refused(400).await;
    let two = format!("tickgate.v2, tickgate.v1, mqtt, bearer.{}", token("bob"));
    greeted(replica.connect("/ws/trading").header(PROTOCOL, &two)).await;
}

#[tokio::test]
async fn a_page_receives_an_invalid_parameter_as_a_code_that_ends_its_retries() {
    let replica = TestReplica::alone().await;
    let page = |path: &str| replica.connect(path).origin("https://app.example");
    for path in ["/ws/trading?session=1", "/ws?since=yesterday", "/ws/market?since=7-7"] {
        let reason = page(path).expect_closed(4004).await;
        assert!(!reason.is_empty(), "{path}");
    }
    page("/ws/backtest/a%2Cb").expect_closed(4504).await;
}

#[tokio::test]
async fn a_path_without_an_endpoint_is_reported_by_a_code_that_ends_retries() {
    let replica = TestReplica::alone().await;
    for path in ["/ws/nope", "/ws/backtest/", "/ws/trading/", "/WS/trading", "/", "/health", "/sse?channels=ticker:X"] {
        let reason = replica.connect(path).origin("https://app.example").expect_closed(4504).await;
        assert_eq!(reason, "this path has no WebSocket endpoint", "{path}");
        let closing = refused(replica.connect(path).header(PROTOCOL, "tickgate.v1"), 4504).await;
        assert_eq!(closing["reconnect"], "no", "{path}: {closing}");
    }
    // A foreign page learns nothing about the paths.
    let strict = TestReplica::alone_with("[server]\nallowed_origins = [\"https://app.example\"]").await;
    strict.connect("/ws/nope").origin("https://evil.example").expect_closed(1008).await;
    // Others see the status.
    replica.connect("/ws/nope").expect_refused(404).await;
}

#[tokio::test]
async fn every_deliberate_close_is_announced() {
    let settings = "[auth]\nleeway = \"0s\"\n[limits]\ninvalid_messages_max = 3";
    let mut replica = TestReplica::alone_with(settings).await;
    let announced = async |client: &mut TestClient, code: u16, reconnect: &str| {
        let closing = loop {
            let message = client.next().await;
            if message["type"] == "closing" {
                break message;
            }
        };
        assert_eq!((&closing["code"], &closing["reconnect"]), (&json!(code), &json!(reconnect)), "{closing}");
        client.expect_close(code).await;
        closing
    };
    let brief = TokenBuilder::of("carol").expires_in(2).sign();
    let mut expiring = greeted(replica.connect("/ws/trading").token(&brief)).await;
    let mut clumsy = greeted(replica.connect("/ws/trading").token(&token("dave"))).await;
    for _ in 0..3 {
        clumsy.send_text("{}").await;
    }
    announced(&mut clumsy, 4004, "no").await;
    let mut large = greeted(replica.connect("/ws/trading").token(&token("erin"))).await;
    large.send_text(&"x".repeat(70_000)).await;
    announced(&mut large, 1009, "no").await;
    let mut revoked = greeted(replica.connect("/ws/trading").token(&token("frank"))).await;
    let request = json!({"user": "frank", "revoke_seconds": 60});
    replica.api_post("/api/v1/disconnect", request).await;
    announced(&mut revoked, 4002, "no").await;
    announced(&mut expiring, 4001, "new_token").await;
    let mut moved = greeted(replica.connect("/ws/market")).await;
    replica.drain();
    let closing = announced(&mut moved, 1012, "yes").await;
    assert!(closing["after_ms"].is_u64(), "{closing}");
    replica.ended().await;
}

#[tokio::test]
async fn no_client_is_locked_out_by_its_own_places_after_a_crash() {
    let server = RedisServer::start();
    let settings = "[limits]\nconnections_per_user_max = 5\n[session]\nreplica_ttl = \"60s\"\nsession_ttl = \"300s\"";
    let (crashed, other) =
        (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    let mut sessions = Vec::new();
    for tab in 0..5 {
        let mut client = greeted(native(&crashed, "/ws/trading", "alice")).await;
        if tab > 0 {
            // One of them never subscribed to anything.
            client.subscribe(&["orders"]).await;
        }
        sessions.push(client.session());
    }
    eventually("the sessions' records", async || {
        let records: Vec<String> = server.run(&["KEYS", "tg2:{s:*"]).await;
        (records.len() == sessions.len()).then_some(())
    })
    .await;
    crashed.kill();
    for session in &sessions {
        let client = greeted(native(&other, "/ws/trading", "alice").query("session", session)).await;
        assert_eq!(client.welcome["resumed"], true, "at once, long before a lease has ended");
        std::mem::forget(client);
    }
}

#[tokio::test]
async fn the_first_order_of_a_new_user_is_not_lost() {
    let replica = TestReplica::alone().await;
    let mut alice = greeted(native(&replica, "/ws/trading", "alice")).await;
    let answer = alice.subscribe(&["orders"]).await;
    let cursor = answer["channels"][0]["cursor"].clone();
    alice.vanish();
    replica.publish_to("alice", "orders", order(1)).await;
    let mut alice = greeted(native(&replica, "/ws/trading", "alice")).await;
    let answer = alice.subscribe_since(&["orders"], &cursor).await;
    assert_eq!((&answer["channels"][0]["cursor"], &answer["channels"][0]["live"]), (&cursor, &json!(false)));
    // The position before the replay: a client that loses the connection now has lost nothing.
    alice.vanish();
    let mut alice = greeted(native(&replica, "/ws/trading", "alice")).await;
    alice.subscribe_since(&["orders"], &answer["channels"][0]["cursor"]).await;
    alice.expect(order(1)).await;
    assert_eq!(alice.caught_up().await["complete"], true);
}

#[tokio::test]
async fn a_cursor_is_never_ignored() {
    let replica = TestReplica::alone().await;
    let mut market = greeted(replica.connect("/ws/market")).await;
    let trade = |number: u32| json!({"type": "trade", "number": number});
    let cursor = replica.publish("trades:X", trade(1)).await;
    replica.publish("trades:X", trade(2)).await;
    let beside = json!({"type": "subscribe", "channels": ["trades:X"], "since": cursor});
    assert_eq!(market.ask(beside).await["details"]["field"], "since");
    let symbols = json!({"type": "subscribe_trades", "symbols": ["X"], "last": 2});
    let answer = market.ask(symbols).await;
    assert_eq!((&answer["code"], &answer["details"]["field"]), (&json!(4004), &json!("last")));
    assert!(answer["message"].as_str().unwrap().contains("subscribe"), "{answer}");
    market.subscribe_since(&["trades:X"], &cursor).await;
    assert_eq!(market.expect(trade(2)).await["replayed"], true);
    let mut alice = replica.trading("alice").await;
    let last = json!({"type": "subscribe", "channels": [{"channel": "orders", "last": 5}]});
    assert_eq!(alice.ask(last).await["errors"][0]["details"]["field"], "channels[0].last");
    alice.subscribe_since(&["orders"], &json!("earliest")).await;
}

#[tokio::test]
async fn a_publication_cannot_pass_for_a_reply_or_a_notice() {
    let replica = TestReplica::alone().await;
    let right = TokenBuilder::of("engine").publish(&["trades:*"]).sign();
    let mut engine = greeted(replica.connect("/ws/trading").token(&right)).await;
    let mut market = greeted(replica.connect("/ws/market")).await;
    market.subscribe(&["trades:X"]).await;
    for posing in [
        json!({"type": "gap", "channels": ["trades:X"], "cursor": "9-9"}),
        json!({"type": "closing", "code": 1012, "after_ms": 1}),
        json!({"type": "published", "id": 1, "publication_id": "1-1", "duplicate": false}),
    ] {
        let answer = engine.ask(json!({"type": "publish", "channel": "trades:X", "data": posing})).await;
        assert_eq!((&answer["_meta"], &answer["channel"]), (&Value::Null, &json!("trades:X")), "{answer}");
        let meta = market.expect(posing).await;
        assert_eq!(meta["id"], answer["publication_id"]);
    }
    engine.send(json!({"type": "publish", "channel": "trades:X", "data": {}})).await;
    let answer = engine.expect_type("published").await;
    assert_eq!(answer["id"], Value::Null, "the id is the request's, and nothing else: {answer}");
}

#[tokio::test]
async fn one_loss_is_reported_once() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let mut alice = one.trading("alice").await;
    let channels = ["orders", "risk_alerts", "bot_status"];
    alice.subscribe(&channels).await;
    one.publish_to("alice", "orders", order(1)).await;
    let cursor = alice.expect(order(1)).await["id"].clone();
    alice.vanish();
    server.run::<()>(&["FLUSHALL"]).await;
    other.publish_to("alice", "orders", order(2)).await;
    let mut alice = other.trading("alice").await;
    alice.subscribe_since(&channels, &cursor).await;
    let gap = alice.expect_type("gap").await;
    assert_eq!(gap["channels"], json!(channels), "{gap}");
    alice.expect(order(2)).await;
    assert_eq!(alice.caught_up().await["complete"], false);
    alice.expect_nothing().await;
    // After the gap, nothing is reported again.
    let mut again = other.trading("alice").await;
    again.subscribe_since(&["orders"], &gap["cursor"]).await;
    while again.next().await["order_id"] != "2" {}
    again.expect_nothing().await;
}

#[tokio::test]
async fn a_second_subscribe_replaces_the_options_in_place() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    let tick = |number: u32| json!({"type": "ticker", "number": number});
    let paced = json!({"type": "subscribe", "channels": [{"channel": "ticker:X", "max_rate": 1}]});
    client.subscribe_with(paced).await;
    replica.publish("ticker:X", tick(1)).await;
    client.expect(tick(1)).await;
    let known = client.subscribe(&["ticker:X"]).await;
    assert_eq!(known["channels"][0]["live"], true, "it goes on where it was: {known}");
    for number in 2..=5 {
        replica.publish("ticker:X", tick(number)).await;
        assert_eq!(client.expect(tick(number)).await["conflated"], Value::Null);
    }
    // With a position the channel starts again from there.
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    for number in 1..=2 {
        replica.publish_to("alice", "orders", order(number)).await;
        alice.expect(order(number)).await;
    }
    alice.subscribe_since(&["orders"], &json!("earliest")).await;
    for number in 1..=2 {
        assert_eq!(alice.expect(order(number)).await["replayed"], true);
    }
}

#[tokio::test]
async fn a_refreshed_token_with_fewer_rights_ends_subscriptions_with_a_notice() {
    let replica = TestReplica::alone().await;
    let mut alice = greeted(native(&replica, "/ws/trading", "alice")).await;
    alice.subscribe(&["orders", "portfolio"]).await;
    let narrow = TokenBuilder::of("alice").channels(&["orders"]).sign();
    let answer = alice.ask(json!({"type": "auth", "token": narrow})).await;
    assert_eq!(answer["type"], "authenticated");
    let notice = alice.expect_type("unsubscribed").await;
    assert_eq!((&notice["id"], &notice["channels"]), (&Value::Null, &json!(["portfolio"])), "{notice}");
    assert_eq!((&notice["code"], &notice["error"]), (&json!(4502), &json!("forbidden")), "{notice}");
    assert_eq!(notice["details"], Value::Null, "not to be asked for again");
}

#[tokio::test]
async fn with_a_token_in_a_message_the_welcome_follows_authentication() {
    let replica = TestReplica::alone().await;
    let mut client = replica.connect("/ws/trading").header(PROTOCOL, "tickgate.v1").open().await;
    client.send(json!({"type": "ping", "id": "early"})).await;
    assert_eq!(client.next().await["id"], "early", "no welcome before");
    client.send(json!({"type": "auth", "id": 1, "token": token("alice")})).await;
    client.greeted().await;
    assert_eq!((&client.welcome["user"], client.welcome["expires_at"].is_string()), (&json!("alice"), true));
    let answer = client.expect_type("authenticated").await;
    assert_eq!((&answer["id"], &answer["expires_at"]), (&json!(1), &client.welcome["expires_at"]));
    client.subscribe(&["orders"]).await;
    replica.publish_to("alice", "orders", order(1)).await;
    client.expect(order(1)).await;
}

#[tokio::test]
async fn a_stop_is_stored_once_however_often_it_is_sent() {
    let replica = TestReplica::alone().await;
    let right = TokenBuilder::of("alice").commands().sign();
    let mut tab = greeted(replica.connect("/ws/backtest/run-1").token(&right)).await;
    tab.expect_type("subscribed").await;
    let stop = json!({"type": "command", "command": "stop", "msg_id": "stop-1"});
    let first = tab.ask(stop.clone()).await;
    let again = tab.ask(stop).await;
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(first["publication_id"], again["publication_id"]);
}

#[tokio::test]
async fn only_temporary_failures_have_a_retry_delay() {
    let mut server = RedisServer::durable();
    let replica = TestReplica::on(&server).await;
    let mut alice = replica.trading("alice").await;
    let answer = alice.ask(json!({"type": "subscribe", "channels": ["payroll"]})).await;
    assert_eq!(answer["errors"][0]["details"], Value::Null, "{answer}");
    server.kill();
    let refused = eventually("the loss of redis is noticed", async || {
        let answer = alice.ask(json!({"type": "history", "channel": "orders"})).await;
        (answer["code"] == 1013).then_some(answer)
    });
    assert!(refused.await["details"]["retry_after_ms"].is_u64());
    let answer = alice.ask(json!({"type": "subscribe", "channels": ["ticker:NEW"]})).await;
    let error = &answer["errors"][0];
    assert_eq!((&error["code"], error["details"]["retry_after_ms"].is_u64()), (&json!(1013), true), "{answer}");
}

#[tokio::test]
async fn an_engines_payload_with_meta_is_reported_as_missing_for_a_separate_reason() {
    let server = RedisServer::start();
    let replica = TestReplica::on(&server).await;
    let mut market = replica.market().await;
    market.subscribe(&["trades:X"]).await;
    let first = replica.publish("trades:X", json!({"number": 1})).await;
    market.expect(json!({"number": 1})).await;
    let script = redis::Script::new(include_str!("../../src/backplane/redis/scripts/publish.lua"));
    let mut engine = server.connect().await;
    let generation: String = server.run(&["HGET", "tg2:{gen}", "g"]).await;
    let mut call = script.key("tg2:{gen}");
    call.key("tg2:{t:trades:X}:s").arg(generation);
    call.arg(r#"{"number":2,"_meta":{"channel":"orders"}}"#).arg(1000).arg(0).arg(0).arg("-").arg(1);
    let id: String = call.invoke_async(&mut engine).await.expect("an id");
    let gap = market.expect_type("gap").await;
    assert_eq!((&gap["reason"], &gap["after"], &gap["count"]), (&json!("invalid_payload"), &first, &json!(1)));
    assert_eq!(gap["cursor"], id, "{gap}");
    replica.publish("trades:X", json!({"number": 3})).await;
    market.expect(json!({"number": 3})).await;
    assert_eq!(replica.metric("tickgate_gaps_total{reason=\"invalid_payload\"}").await, 1.0);
    let page = market.ask(json!({"type": "history", "channel": "trades:X", "since": first})).await;
    assert_eq!(
        (&page["gap"]["reason"], &page["messages"][0]["number"]),
        (&json!("invalid_payload"), &json!(3)),
        "{page}"
    );
}

#[tokio::test]
async fn on_connect_channels_of_document_clients_start_where_the_url_says() {
    let replica = TestReplica::alone().await;
    for number in 1..=3 {
        replica.publish("run:r-1", json!({"type": "candle", "number": number})).await;
    }
    let numbers = async |query: (&str, &str)| {
        let mut tab = greeted(replica.connect("/ws/backtest/r-1").query(query.0, query.1)).await;
        tab.expect_type("subscribed").await;
        if query == ("since", "0-0") {
            assert_eq!(tab.expect_type("gap").await["reason"], "retention");
        }
        let end = tab.caught_up().await;
        let mut numbers = Vec::new();
        for _ in 0..end["replayed"].as_u64().unwrap() {
            numbers.push(tab.next().await["number"].as_u64().unwrap());
        }
        numbers
    };
    assert_eq!(numbers(("since", "0-0")).await, [1, 2, 3]);
    assert_eq!(numbers(("since", "earliest")).await, [1, 2, 3]);
    assert_eq!(numbers(("last", "2")).await, [2, 3]);
}

#[tokio::test]
async fn an_event_stream_has_the_notices_of_a_websocket() {
    let settings = "[session]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"1s\"";
    let replica = TestReplica::alone_with(settings).await;
    let path = "/sse?channels=trades:X";
    let mut reader = EventStream::open(replica.address(), path, &[]).await.expect("a stream");
    assert_eq!(reader.next().await["type"], "subscribed");
    reader.heartbeat().await;
}

#[tokio::test]
async fn a_subscription_whose_stream_cannot_be_read_ends_with_a_notice_and_a_retry_delay() {
    let server = RedisServer::start();
    let settings = "[limits]\noutbox_messages_max = 10\noutbox_bytes_max = 65536\n[hub]\nring_messages_max = 1";
    let replica = TestReplica::on_with(&server, settings).await;
    let mut wire = RawConnection::connect(replica.address()).await;
    let offer = format!("Sec-WebSocket-Protocol: tickgate.v1, bearer.{}\r\n", token("alice"));
    wire.send(upgrade_request("/ws/trading", &offer).as_bytes()).await;
    assert_eq!(wire.answer_head().await.map(|(status, _)| status), Some(101));
    wire.send(&frame(TEXT, br#"{"type":"subscribe","id":1,"channels":["orders"]}"#)).await;
    while wire.hear_json().await["type"] != "subscribed" {}
    // It reads nothing until it lags by more than any socket's buffers hold, and what it missed cannot be read then.
    let padding = "x".repeat(60_000);
    let mut published = 0;
    while published < 250 || replica.metric("tickgate_lagged_total").await == 0.0 {
        replica.publish_to("alice", "orders", json!({"padding": padding})).await;
        published += 1;
    }
    let streams: Vec<String> = server.run(&["KEYS", "tg2:*alice*:s"]).await;
    server.run::<()>(&["SET", &streams[0], "no stream"]).await;
    let notice = loop {
        let message = wire.hear_json().await;
        if message["type"] == "unsubscribed" {
            break message;
        }
    };
    assert_eq!((&notice["id"], &notice["channels"]), (&Value::Null, &json!(["orders"])), "{notice}");
    assert_eq!((&notice["code"], notice["details"]["retry_after_ms"].is_u64()), (&json!(1013), true), "{notice}");
    wire.send(&frame(TEXT, br#"{"type":"ping","id":2}"#)).await;
    while wire.hear_json().await["type"] != "pong" {}
}
