//! `/ws`: the broadcast feed, subscribed on connect.

use serde_json::{Value, json};

use crate::support::replica::{TestReplica, TokenBuilder, token};

const UPDATES: [&str; 4] = ["position_update", "equity_update", "risk_status_update", "system_log"];

#[tokio::test]
async fn every_client_receives_all_four_kinds_without_subscribing() {
    let replica = TestReplica::alone().await;
    let (mut one, mut other) = (replica.events().await, replica.events().await);
    for update in UPDATES {
        let data = json!({"type": update, "timestamp": "2024-01-15T10:30:00.000Z", "data": {"level": "INFO"}});
        replica.publish(update, data.clone()).await;
        assert_eq!(one.expect(data.clone()).await["channel"], update);
        other.expect(data).await;
    }
}

#[tokio::test]
async fn the_first_message_is_the_welcome() {
    let replica = TestReplica::alone().await;
    let client = replica.events().await;
    let keys: Vec<_> = client.welcome.as_object().unwrap().keys().take(3).collect();
    assert!(client.welcome["message"].as_str().is_some_and(|text| !text.is_empty()), "{keys:?}");
    assert_eq!(client.welcome["timestamp"], client.welcome["server_time"]);
}

#[tokio::test]
async fn a_token_is_optional_but_must_be_valid() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.connect("/ws").token(&token("alice")).open().await;
    alice.greeted().await;
    assert_eq!(alice.welcome["user"], "alice");
    let bad = replica.connect("/ws").token("bad").origin("https://app.example");
    assert_eq!(bad.expect_closed(1008).await, "Invalid token");
    replica.connect("/ws").token("bad").expect_refused(401).await;
}

#[tokio::test]
async fn a_missing_token_is_refused_with_1008_where_one_is_required() {
    let replica = TestReplica::alone_with("[auth]\nanonymous = \"never\"").await;
    let without = replica.connect("/ws").origin("https://app.example");
    assert_eq!(without.expect_closed(1008).await, "Authentication required");
    let refusal = replica.connect("/ws").expect_refused(401).await;
    assert!(refusal.body.contains("1008"), "{refusal:?}");
    replica.connect("/ws").token(&token("alice")).open().await.greeted().await;
}

#[tokio::test]
async fn a_client_can_leave_and_rejoin_a_feed() {
    let replica = TestReplica::alone().await;
    let mut client = replica.events().await;
    client.ask(json!({"type": "unsubscribe", "channels": ["system_log"]})).await;
    replica.publish("system_log", json!({"type": "system_log", "data": {"number": 1}})).await;
    let answer =
        client.subscribe_with(json!({"type": "subscribe", "channels": [{"channel": "system_log", "last": 1}]})).await;
    assert_eq!(answer["channels"][0]["live"], false);
    let meta = client.expect(json!({"type": "system_log", "data": {"number": 1}})).await;
    assert_eq!(meta["replayed"], true);
}

#[tokio::test]
async fn messages_of_producers_reach_only_their_addressees() {
    let settings = "[server]\nmode = \"production\"\n[auth]\nanonymous = \"always\"";
    let replica = TestReplica::alone_with(settings).await;
    let ask = json!({"type": "subscribe", "channels": ["logs"]});
    let mut anonymous = replica.events().await;
    assert_eq!(anonymous.ask(ask.clone()).await["errors"][0]["code"], 4502);
    let mut named = replica.connect("/ws").token(&TokenBuilder::of("ops").channels(&["logs"]).sign()).open().await;
    named.greeted().await;
    assert_eq!(named.ask(ask).await["errors"], json!([]));
}

#[tokio::test]
async fn a_platform_adds_a_custom_endpoint() {
    let settings = r#"
        [[topics]]
        pattern = "desk:*"
        class = "reliable"

        [[profiles]]
        name = "desk"
        path = "/ws/desk/{desk}"
        token = "required"
        refusal_code = 1008
        welcome = "The desk"
        channels = [{ name = "blotter", topic = "desk:{desk}", on_connect = true }]
    "#;
    let replica = TestReplica::alone_with(settings).await;
    let mut trader = replica.connect("/ws/desk/rates").token(&token("alice")).open().await;
    trader.greeted().await;
    assert_eq!(trader.welcome["message"], "The desk");
    assert_eq!(trader.expect_type("subscribed").await["channels"][0]["class"], "reliable");
    replica.publish("desk:fx", json!({"type": "fill"})).await;
    replica.publish("desk:rates", json!({"type": "fill", "quantity": "3"})).await;
    let meta = trader.expect(json!({"type": "fill", "quantity": "3"})).await;
    assert_eq!(meta["channel"], "blotter");
    let reason = replica.connect("/ws/desk/rates").origin("https://app.example").expect_closed(1008).await;
    assert_eq!(reason, "Authentication required");
    let root = replica.get("/").await.json();
    assert!(root["endpoints"].as_array().unwrap().contains(&Value::from("/ws/desk/{desk}")), "{root}");
}

/// Over HTTP and over a WebSocket; the shipped configuration has a minimum level for `system_log`.
#[tokio::test]
async fn log_messages_below_the_minimum_level_are_dropped_and_the_publisher_is_notified() {
    let replica = TestReplica::alone().await;
    let mut page = replica.events().await;
    let record = |level: &str| json!({"type": "system_log", "data": {"level": level, "message": level}});
    let mut service =
        replica.connect("/ws").token(&TokenBuilder::of("service").publish(&["system_log"]).sign()).open().await;
    service.greeted().await;
    service.expect_type("subscribed").await;
    for level in ["DEBUG", "trace", "Debug"] {
        let body = json!({"channel": "system_log", "data": record(level), "count": true});
        let answer = replica.api_post("/api/v1/publish", body).await;
        assert_eq!(answer.json(), json!({"id": null, "duplicate": false, "left_out": true}), "{level}");
        let answer = service.ask(json!({"type": "publish", "channel": "system_log", "data": record(level)})).await;
        assert_eq!((&answer["type"], &answer["left_out"]), (&json!("published"), &json!(true)), "{answer}");
    }
    for level in ["INFO", "warn", "ERROR", "loud"] {
        assert!(replica.publish("system_log", record(level)).await.is_string(), "{level}");
        page.expect(record(level)).await;
    }
    let untyped = json!({"type": "system_log", "text": "without a level"});
    replica.publish("system_log", untyped.clone()).await;
    page.expect(untyped).await;
    let source = "tickgate_publications_total{source=\"http\",class=\"event\",result=\"left_out\"}";
    assert_eq!(replica.metric(source).await, 3.0);
}

#[tokio::test]
async fn services_exchange_orders_and_trades_that_no_user_receives() {
    let replica = TestReplica::alone_with("[server]\nmode = \"production\"").await;
    let channels = ["order_events", "trade_events"];
    let mut service =
        replica.connect("/ws").token(&TokenBuilder::of("service").channels(&channels).sign()).open().await;
    service.greeted().await;
    service.expect_type("subscribed").await;
    service.subscribe(&channels).await;
    let mut user =
        replica.connect("/ws").token(&TokenBuilder::of("alice").channels(&["orders", "*"]).sign()).open().await;
    user.greeted().await;
    user.expect_type("subscribed").await;
    for channel in channels {
        let answer = user.ask(json!({"type": "subscribe", "channels": [channel]})).await;
        assert_eq!(answer["errors"][0]["code"], 4502, "{answer}");
        replica.publish(channel, json!({"type": channel})).await;
        assert_eq!(service.expect(json!({"type": channel})).await["channel"], channel);
    }
    let forgotten = replica.api_post("/api/v1/publish", json!({"channel": "orders", "data": {}})).await;
    assert_eq!(forgotten.status, 400, "the user was forgotten: {forgotten:?}");
}
