//! `/ws/trading`: a user's private channels and symbol prices, for clients with a token.

use serde_json::{Value, json};

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{IMPATIENT, TestReplica, TokenBuilder, token},
};

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string(), "status": "filled", "average_price": "50000.00"})
}

#[tokio::test]
async fn a_user_receives_their_own_publications() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let id = replica.publish_to("alice", "orders", order(42)).await;
    assert_eq!(alice.expect(order(42)).await, json!({"channel": "orders", "id": id}));
}

#[tokio::test]
async fn the_publishers_bytes_are_preserved() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let data = r#"{"zeta":1.50,"price":"0.10000000000000000001","alpha":[1e3,  2],"text":"\u00e9"}"#;
    let body = format!(r#"{{"channel":"orders","user":"alice","data":{data}}}"#);
    let key = ("x-api-key", crate::support::replica::API_KEY);
    let json_type = ("content-type", "application/json");
    assert_eq!(replica.api("POST", "/api/v1/publish", &[key, json_type], Some(body)).await.status, 200);
    let text = alice.next_text().await.unwrap();
    assert!(text.starts_with(data.strip_suffix('}').unwrap()), "{text}");
}

#[tokio::test]
async fn users_never_receive_each_others_messages() {
    let replica = TestReplica::alone().await;
    let (mut alice, mut bob) = (replica.trading("alice").await, replica.trading("bob").await);
    for client in [&mut alice, &mut bob] {
        client.subscribe(&["orders", "risk_alerts", "bot_status", "portfolio"]).await;
    }
    for channel in ["orders", "risk_alerts", "bot_status", "portfolio"] {
        replica.publish_to("alice", channel, order(1)).await;
        replica.publish_to("bob", channel, order(2)).await;
    }
    for (client, number) in [(&mut alice, 1), (&mut bob, 2)] {
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(client.expect(order(number)).await["channel"].clone());
        }
        channels.sort_by_key(ToString::to_string);
        assert_eq!(channels, ["bot_status", "orders", "portfolio", "risk_alerts"]);
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn only_the_subscribed_private_channels_are_sent() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders", "risk_alerts"]).await;
    let answer = alice.ask(json!({"type": "unsubscribe", "channels": ["risk_alerts"]})).await;
    assert_eq!((&answer["type"], &answer["channels"]), (&json!("unsubscribed"), &json!(["risk_alerts"])));
    replica.publish_to("alice", "risk_alerts", order(1)).await;
    replica.publish_to("alice", "bot_status", order(2)).await;
    replica.publish_to("alice", "orders", order(3)).await;
    alice.expect(order(3)).await;
}

#[tokio::test]
async fn symbols_are_public_prices() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    let answer = alice.subscribe_with(json!({"type": "subscribe_symbol", "symbols": ["BTCUSDT", "ETHUSDT"]})).await;
    assert_eq!(answer["channels"][1]["channel"], "ticker:ETHUSDT");
    assert_eq!(answer["channels"][1]["class"], "state");
    let tick = json!({"type": "ticker", "symbol": "BTCUSDT", "price": "50000.00"});
    replica.publish("ticker:ADAUSDT", json!({"type": "ticker", "symbol": "ADAUSDT"})).await;
    replica.publish("ticker:BTCUSDT", tick.clone()).await;
    alice.expect(tick).await;
    alice.ask(json!({"type": "unsubscribe_symbol", "symbols": ["BTCUSDT"]})).await;
    replica.publish("ticker:BTCUSDT", json!({"type": "ticker", "symbol": "BTCUSDT"})).await;
    replica.publish("ticker:ETHUSDT", json!({"type": "ticker", "symbol": "ETHUSDT"})).await;
    alice.expect(json!({"type": "ticker", "symbol": "ETHUSDT"})).await;
}

#[tokio::test]
async fn a_ping_is_answered_with_the_servers_time() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    let pong = alice.ask(json!({"type": "ping", "timestamp": "2023-12-01T12:00:00Z"})).await;
    assert_eq!((&pong["type"], &pong["timestamp"]), (&json!("pong"), &json!("2023-12-01T12:00:00Z")));
    assert!(pong["server_time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{pong}");
}

#[tokio::test]
async fn the_welcome_contains_the_user_and_the_limits() {
    let replica = TestReplica::alone().await;
    let alice = replica.trading("alice").await;
    let welcome = &alice.welcome;
    assert_eq!((&welcome["user"], &welcome["resumed"]), (&json!("alice"), &json!(false)));
    assert_eq!((&welcome["heartbeat_interval"], &welcome["limits"]["subscriptions"]), (&json!(30), &json!(200)));
}

#[tokio::test]
async fn another_users_channel_is_refused_and_the_others_are_granted() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    for foreign in ["orders:bob", "user/bob/orders", "ingest_events", "trades:BTCUSDT"] {
        let answer = alice.ask(json!({"type": "subscribe", "channels": [foreign, "orders"]})).await;
        assert_eq!(answer["channels"][0]["channel"], "orders", "{answer}");
        assert_eq!((&answer["errors"][0]["channel"], &answer["errors"][0]["code"]), (&json!(foreign), &json!(4502)));
    }
    for unspeakable in ["@@bob", "@portfolio@bob", "orders\u{0}", ""] {
        let answer = alice.ask(json!({"type": "subscribe", "channels": [unspeakable]})).await;
        let code = if answer["type"] == "error" { &answer["code"] } else { &answer["errors"][0]["code"] };
        assert_eq!(code, 4004, "{unspeakable:?}: {answer}");
    }
}

#[tokio::test]
async fn a_token_can_restrict_channels() {
    let replica = TestReplica::alone().await;
    let narrow = TokenBuilder::of("alice").channels(&["orders", "ticker:BTC*"]).sign();
    let mut alice = replica.connect("/ws/trading").token(&narrow).open().await;
    alice.greeted().await;
    let wanted = ["orders", "portfolio", "ticker:BTCUSDT", "ticker:ETHUSDT"];
    let answer = alice.ask(json!({"type": "subscribe", "channels": wanted})).await;
    let names = |list: &Value| list.as_array().unwrap().iter().map(|c| c["channel"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&answer["channels"]), ["orders", "ticker:BTCUSDT"]);
    assert_eq!(names(&answer["errors"]), ["portfolio", "ticker:ETHUSDT"]);
}

#[tokio::test]
async fn missed_messages_are_replayed_in_order_across_all_private_channels() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders", "risk_alerts"]).await;
    replica.publish_to("alice", "orders", order(0)).await;
    let cursor = alice.expect(order(0)).await["id"].clone();
    alice.close().await;
    for number in 1..=20 {
        replica.publish_to("alice", if number % 3 == 0 { "risk_alerts" } else { "orders" }, order(number)).await;
    }
    let mut alice = replica.trading("alice").await;
    let answer = alice.subscribe_since(&["orders", "risk_alerts"], &cursor).await;
    for channel in answer["channels"].as_array().unwrap() {
        let told = (&channel["cursor"], &channel["live"], &channel["stream"]);
        assert_eq!(told, (&cursor, &json!(false), &json!("@")), "{answer}");
    }
    for number in 1..=20 {
        let meta = alice.expect(order(number)).await;
        assert_eq!(meta["replayed"], true);
    }
    let end = alice.caught_up().await;
    let told = (&end["channel"], &end["replayed"], &end["complete"]);
    assert_eq!(told, (&json!("orders"), &json!(14), &json!(true)), "{end}");
    replica.publish_to("alice", "orders", order(21)).await;
    assert_eq!(alice.expect(order(21)).await["replayed"], Value::Null);
}

#[tokio::test]
async fn a_cursor_that_never_existed_gets_a_gap() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    replica.publish_to("alice", "orders", order(1)).await;
    alice.subscribe_since(&["orders"], &json!("1000000000000-7")).await;
    let gap = alice.expect_type("gap").await;
    assert_eq!((&gap["channels"], &gap["after"]), (&json!(["orders"]), &json!("1000000000000-7")));
    assert_eq!(gap["reason"], "retention", "nobody made that up but the client: {gap}");
    assert_eq!(alice.caught_up().await["complete"], false);
}

#[tokio::test]
async fn history_is_read_without_subscribing() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    for number in 1..=5 {
        replica.publish_to("alice", "orders", order(number)).await;
    }
    let answer = alice.ask(json!({"type": "history", "channel": "orders", "last": 2})).await;
    let messages = answer["messages"].as_array().unwrap();
    assert_eq!(messages.iter().map(|m| &m["order_id"]).collect::<Vec<_>>(), ["4", "5"]);
    let since = &messages[0]["_meta"]["id"];
    let answer = alice.ask(json!({"type": "history", "channel": "orders", "since": since})).await;
    assert_eq!((&answer["messages"][0]["order_id"], &answer["more"]), (&json!("5"), &json!(false)));
    assert_eq!(answer["cursor"], answer["messages"][0]["_meta"]["id"], "where the next page starts");
    alice.expect_nothing().await;
}

#[tokio::test]
async fn clients_publish_only_with_the_right() {
    let replica = TestReplica::alone().await;
    let mut market = replica.market().await;
    market.subscribe(&["trades:BTCUSDT"]).await;
    let right = TokenBuilder::of("engine").publish(&["trades:*"]).sign();
    let mut engine = replica.connect("/ws/trading").token(&right).open().await;
    engine.greeted().await;
    let trade = json!({"type": "trade", "price": "50000.00"});
    let publish = json!({"type": "publish", "channel": "trades:BTCUSDT", "data": trade});
    assert_eq!(engine.ask(publish.clone()).await["type"], "published");
    market.expect(trade).await;
    let elsewhere = json!({"type": "publish", "channel": "ticker:BTCUSDT", "data": {"type": "ticker"}});
    assert_eq!(engine.ask(elsewhere).await["code"], 4502);
    let reserved = json!({"type": "publish", "channel": "trades:BTCUSDT", "data": {"_meta": {}}});
    assert_eq!(engine.ask(reserved).await["code"], 4004);
    let mut alice = replica.trading("alice").await;
    assert_eq!(alice.ask(publish).await["code"], 4502);
    market.expect_nothing().await;
}

#[tokio::test]
async fn a_client_chooses_its_heartbeat_interval() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    let answer = alice.ask(json!({"type": "configure", "max_rate": 5, "heartbeat_interval": 10})).await;
    assert_eq!((&answer["type"], &answer["heartbeat_interval"]), (&json!("configured"), &json!(10)));
    assert_eq!(answer["ignored"], json!(["max_rate"]), "nothing is ignored in silence");
    let answer = alice.ask(json!({"type": "configure"})).await;
    assert_eq!(answer["heartbeat_interval"], 10, "what is in force");
}

#[tokio::test]
async fn a_token_is_required() {
    let replica = TestReplica::alone().await;
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
    let good = token("alice");
    let forged = format!("{}x", &good[..good.len() - 1]);
    let expired = TokenBuilder::of("alice").expires_in(-60).sign();
    for bad in [unsigned, &forged, &expired, "garbage", &"x".repeat(9_000)] {
        replica.connect("/ws/trading").token(bad).expect_refused(401).await;
        replica.connect("/ws/trading").header("authorization", &format!("Bearer {bad}")).expect_refused(401).await;
        // A browser sees only how its socket closes.
        let reason = replica.connect("/ws/trading").token(bad).origin("https://app.example").expect_closed(4001).await;
        assert_eq!(reason, "Invalid token");
    }
    let refusal = replica.connect("/ws/trading").expect_refused(401).await;
    assert!(refusal.body.contains("4001") && refusal.body.contains("auth_required"), "{refusal:?}");
    let reason = replica.connect("/ws/trading").origin("https://app.example").expect_closed(4001).await;
    assert_eq!(reason, "Authentication required");
}

#[tokio::test]
async fn a_token_is_accepted_in_every_documented_place() {
    let replica = TestReplica::alone().await;
    let token = token("alice");
    let path = "/ws/trading";
    let ticket = replica.ticket(&token).await;
    let ways = [
        replica.connect(path).token(&token),
        replica.connect(path).header("authorization", &format!("Bearer {token}")),
        replica.connect(path).header("sec-websocket-protocol", &format!("tickgate.v1, bearer.{token}")),
        replica.connect(path).query("ticket", &ticket),
    ];
    for way in ways {
        let mut alice = way.open().await;
        alice.greeted().await;
        assert_eq!(alice.welcome["user"], "alice");
        alice.close().await;
    }
}

#[tokio::test]
async fn a_ticket_is_accepted_once() {
    let replica = TestReplica::alone().await;
    let ticket = replica.ticket(&token("alice")).await;
    replica.connect("/ws/trading").query("ticket", &ticket).open().await.greeted().await;
    replica.connect("/ws/trading").query("ticket", &ticket).expect_refused(401).await;
}

#[tokio::test]
async fn the_token_may_be_sent_in_the_first_message() {
    let replica = TestReplica::alone_with("[limits]\nconnections_per_user_max = 1").await;
    let mut alice = replica.connect("/ws/trading").query("auth", "message").open().await;
    assert_eq!(alice.ask(json!({"type": "subscribe", "channels": ["orders"]})).await["code"], 4001);
    let answer = alice.ask(json!({"type": "auth", "token": token("alice")})).await;
    assert_eq!((&answer["type"], &answer["user"]), (&json!("authenticated"), &json!("alice")));
    alice.greeted().await;
    alice.subscribe(&["orders"]).await;
    replica.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
    // It is counted from then on, and no longer after it is closed.
    replica.connect("/ws/trading").token(&token("alice")).expect_refused(429).await;
    alice.close().await;
    eventually("the slot", async || {
        replica.connect("/ws/trading").token(&token("alice")).try_open().await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_authenticates_is_closed() {
    let replica = TestReplica::alone_with("[auth]\nauth_timeout = \"300ms\"").await;
    replica.connect("/ws/trading").query("auth", "message").expect_closed(4103).await;
}

#[tokio::test]
async fn a_publisher_receives_accepted_refused_or_unknown_and_a_retry_is_safe() {
    let mut server = RedisServer::durable();
    let replica = TestReplica::on_with(&server, IMPATIENT).await;
    let signed = TokenBuilder::of("engine").publish(&["logs"]).sign();
    let mut engine = replica.connect("/ws/trading").token(&signed).open().await;
    engine.greeted().await;
    let log = json!({"type": "publish", "channel": "logs", "data": {"level": "INFO"}, "msg_id": "once"});
    server.freeze();
    let unknown = engine.ask(log.clone()).await;
    assert_eq!((&unknown["code"], &unknown["details"]["outcome"]), (&json!(1013), &json!("unknown")), "{unknown}");
    server.thaw();
    let accepted = eventually("it is accepted", async || {
        let answer = engine.ask(log.clone()).await;
        (answer["type"] == "published").then_some(answer)
    })
    .await;
    server.kill();
    let again = json!({"type": "publish", "channel": "logs", "data": {"level": "INFO"}, "msg_id": "twice"});
    let refused = eventually("the loss of redis is noticed", async || {
        let answer = engine.ask(again.clone()).await;
        (answer["details"]["outcome"] == "refused").then_some(answer)
    })
    .await;
    assert_eq!(refused["details"]["retry_after_ms"], 1_000, "{refused}");
    server.restart();
    let answer = eventually("redis is back", async || {
        let answer = engine.ask(log.clone()).await;
        (answer["type"] == "published" && answer["duplicate"] == true).then_some(answer)
    })
    .await;
    assert_eq!(answer["publication_id"], accepted["publication_id"], "published once, under one id");
}

#[tokio::test]
async fn an_expired_token_closes_an_open_connection_unless_it_is_refreshed() {
    let replica = TestReplica::alone_with("[auth]\nleeway = \"0s\"\nexpiry_warning = \"2s\"").await;
    let brief = || TokenBuilder::of("alice").expires_in(8).sign();
    let mut ends = replica.connect("/ws/trading").token(&brief()).open().await;
    let mut stays = replica.connect("/ws/trading").token(&brief()).open().await;
    ends.greeted().await;
    stays.greeted().await;
    stays.expect_type("token_expiring").await;
    let answer = stays.ask(json!({"type": "auth", "token": token("bob")})).await;
    assert_eq!(answer["code"], 4502, "a session keeps its user: {answer}");
    let answer = stays.ask(json!({"type": "auth", "token": token("alice")})).await;
    assert_eq!(answer["type"], "authenticated");
    ends.expect_type("token_expiring").await;
    ends.expect_close(4001).await;
    stays.expect_nothing().await;
}

#[tokio::test]
async fn heartbeats_during_silence_contain_the_position_of_the_private_stream() {
    let replica = TestReplica::alone_with("[session]\nheartbeat_interval = \"1s\"\nheartbeat_timeout = \"1s\"").await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    replica.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
    let heartbeat = alice.next_heartbeat().await;
    assert_eq!(heartbeat["cursors"], Value::Null, "the push told it: {heartbeat}");
    assert!(heartbeat["server_time"].is_string());
    let id = replica.publish_to("alice", "risk_alerts", order(2)).await;
    let moved = eventually("the position of what is not subscribed", async || {
        let heartbeat = alice.next_heartbeat().await;
        heartbeat["cursors"].is_object().then_some(heartbeat)
    });
    assert_eq!(moved.await["cursors"], json!({"@": id}));
    alice.next_heartbeat().await;
}
