//! `/ws/ingest`: envelopes of producers, acknowledged once they are stored.

use serde_json::{Value, json};

use crate::support::{
    client::TestClient,
    redis::RedisServer,
    replica::{API_KEY, TestReplica, TokenBuilder, token},
};

fn event(msg_id: &str, run_id: &str) -> Value {
    json!({
        "msg_id": msg_id,
        "msg_type": "ingest_event",
        "source": "quantower-connector",
        "timestamp": "2024-01-15T10:30:00Z",
        "payload": {
            "run_id": run_id,
            "event_type": "order",
            "event_utc": "2024-01-15T10:30:00Z",
            "payload_json": {"order_id": "ord-1", "symbol": "BTCUSDT", "quantity": 0.1},
        },
    })
}

fn log(msg_id: &str, level: &str) -> Value {
    json!({
        "msg_id": msg_id,
        "msg_type": "log_record",
        "source": "api-gateway",
        "timestamp": "2024-01-15T10:30:00Z",
        "payload": {"level": level, "logger_name": "trade_service", "message": "Trade reconstructed", "meta": null},
    })
}

async fn connector(replica: &TestReplica) -> TestClient {
    replica.connect("/ws/ingest").open().await
}

async fn acknowledged(connector: &mut TestClient, message: Value) {
    let msg_id = message["msg_id"].clone();
    connector.send(message).await;
    let ack = connector.next().await;
    assert_eq!((&ack["msg_type"], &ack["payload"]["acknowledged_msg_id"]), (&json!("ack"), &msg_id), "{ack}");
    assert!(ack["msg_id"].is_string() && ack["timestamp"].is_string() && ack["source"] == "server", "{ack}");
}

/// A client that receives what producers send.
async fn listener(replica: &TestReplica) -> TestClient {
    let named = TokenBuilder::of("ops").channels(&["*"]).sign();
    let mut listener = replica.connect("/ws").token(&named).open().await;
    listener.greeted().await;
    listener.expect_type("subscribed").await;
    listener.subscribe(&["ingest_events", "logs"]).await;
    listener
}

#[tokio::test]
async fn an_event_is_sent_to_all_events_and_to_its_run() {
    let replica = TestReplica::alone().await;
    let (mut listener, mut run) = (listener(&replica).await, replica.run("/ws/backtest/run-123").await);
    let mut connector = connector(&replica).await;
    acknowledged(&mut connector, event("m-1", "run-123")).await;
    assert_eq!(listener.expect(event("m-1", "run-123")).await["channel"], "ingest_events");
    run.expect(event("m-1", "run-123")).await;
}

#[tokio::test]
async fn a_repeated_message_is_acknowledged_again_and_published_once() {
    let replica = TestReplica::alone().await;
    let mut listener = listener(&replica).await;
    let mut connector = connector(&replica).await;
    for _ in 0..3 {
        acknowledged(&mut connector, event("m-1", "run-1")).await;
    }
    acknowledged(&mut connector, event("m-2", "run-1")).await;
    listener.expect(event("m-1", "run-1")).await;
    listener.expect(event("m-2", "run-1")).await;
}

#[tokio::test]
async fn logs_are_published_from_the_topics_minimum_level() {
    let strict = "[[topics]]\npattern = \"logs\"\nclass = \"reliable\"\nlevel_min = \"INFO\"";
    for (settings, first) in [("", "DEBUG"), (strict, "INFO")] {
        let replica = TestReplica::alone_with(settings).await;
        let mut listener = listener(&replica).await;
        let mut connector = connector(&replica).await;
        let levels = ["DEBUG", "INFO", "CRITICAL"];
        for level in levels {
            acknowledged(&mut connector, log(level, level)).await;
        }
        for level in levels.into_iter().skip_while(|level| *level != first) {
            listener.expect(log(level, level)).await;
        }
        listener.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_heartbeat_is_acknowledged() {
    let replica = TestReplica::alone().await;
    let mut connector = connector(&replica).await;
    let heartbeat = json!({"msg_id": "h-1", "msg_type": "heartbeat", "source": "c", "timestamp": "t", "payload": {}});
    acknowledged(&mut connector, heartbeat).await;
}

#[tokio::test]
async fn an_invalid_message_gets_an_error_and_the_connection_stays_open() {
    let replica = TestReplica::alone().await;
    let mut connector = connector(&replica).await;
    let mut unknown_event = event("m-4", "run-1");
    unknown_event["payload"]["event_type"] = json!("weather");
    for bad in [
        "not json".to_owned(),
        "[]".to_owned(),
        json!({"msg_type": "log_record"}).to_string(),
        json!({"msg_id": "m-1", "msg_type": "what", "source": "c", "payload": {}}).to_string(),
        unknown_event.to_string(),
        event("m-5", "run,1").to_string(),
    ] {
        connector.send_text(&bad).await;
        let answer = connector.next().await;
        assert_eq!(answer["msg_type"], "error", "{bad}");
        assert_eq!(answer["payload"]["code"], "INVALID_MESSAGE", "{bad}");
        assert!(answer["payload"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    acknowledged(&mut connector, event("m-6", "run-1")).await;
}

#[tokio::test]
async fn outside_of_development_a_producer_must_have_the_right() {
    let replica = TestReplica::alone_with("[server]\nmode = \"production\"").await;
    let path = "/ws/ingest";
    replica.connect(path).expect_refused(401).await;
    replica.connect(path).token(&token("alice")).expect_refused(403).await;
    let right = TokenBuilder::of("connector").publish(&["ingest_events", "run:*"]).sign();
    let mut connector = replica.connect(path).token(&right).open().await;
    acknowledged(&mut connector, event("m-1", "run-1")).await;
    connector.send(log("m-2", "INFO")).await;
    let refusal = connector.next().await;
    assert_eq!((&refusal["payload"]["code"], &refusal["payload"]["msg_id"]), (&json!("FORBIDDEN"), &json!("m-2")));
    let narrow = TokenBuilder::of("connector").publish(&["ingest_events", "run:run-1"]).sign();
    let mut narrow = replica.connect(path).token(&narrow).open().await;
    acknowledged(&mut narrow, event("m-4", "run-1")).await;
    narrow.send(event("m-5", "run-2")).await;
    assert_eq!(narrow.next().await["payload"]["code"], "FORBIDDEN", "another run needs its own right");
    let mut connector = replica.connect(path).header("x-api-key", API_KEY).open().await;
    acknowledged(&mut connector, log("m-3", "INFO")).await;
}

#[tokio::test]
async fn an_api_key_is_accepted_in_headers_only() {
    let replica = TestReplica::alone_with("[server]\nmode = \"production\"").await;
    let ingest = || replica.connect("/ws/ingest");
    // URLs are logged by intermediaries, and pages use sub-protocols.
    ingest().query("token", API_KEY).expect_refused(401).await;
    ingest().header("sec-websocket-protocol", &format!("tickgate.v1, bearer.{API_KEY}")).expect_closed(4001).await;
    ingest().header("authorization", &format!("Bearer {API_KEY}")).open().await;
    ingest().header("x-api-key", API_KEY).open().await;
}

#[tokio::test]
async fn anonymous_clients_cannot_publish_where_a_token_is_optional() {
    let replica = TestReplica::alone_with(
        "[server]\nmode = \"production\"\n[[profiles]]\nname = \"open\"\npath = \"/ws/open\"\n\
         dialect = \"envelope\"\ntoken = \"optional\"",
    )
    .await;
    let mut anonymous = replica.connect("/ws/open").open().await;
    anonymous.send(event("m-1", "run-1")).await;
    assert_eq!(anonymous.next().await["payload"]["code"], "FORBIDDEN");
    let right = TokenBuilder::of("connector").publish(&["ingest_events", "run:*"]).sign();
    let mut connector = replica.connect("/ws/open").token(&right).open().await;
    acknowledged(&mut connector, event("m-1", "run-1")).await;
}

#[tokio::test]
async fn a_run_id_that_is_too_long_is_refused_before_anything_is_published() {
    let replica = TestReplica::alone().await;
    let mut listener = listener(&replica).await;
    let mut connector = connector(&replica).await;
    connector.send(event("m-1", &"r".repeat(197))).await;
    assert_eq!(connector.next().await["payload"]["code"], "INVALID_MESSAGE");
    acknowledged(&mut connector, event("m-2", &"r".repeat(196))).await;
    listener.expect(event("m-2", &"r".repeat(196))).await;
}

/// A producer that can also subscribe, connected to `/`.
async fn both_ways(replica: &TestReplica, user: &str) -> TestClient {
    let right = TokenBuilder::of(user).publish(&["ingest_events", "logs", "run:*"]).sign();
    replica.connect("/").token(&right).name(user).open().await
}

async fn subscribed(client: &mut TestClient, since: Option<&str>) -> Value {
    let payload = json!({"channels": [{"channel": "ingest_events", "since": since}]});
    client.send(json!({"msg_id": "s", "msg_type": "subscribe", "source": "c", "payload": payload})).await;
    let ack = client.next().await;
    assert_eq!((&ack["payload"]["acknowledged_msg_id"], &ack["payload"]["errors"]), (&json!("s"), &json!([])), "{ack}");
    ack["payload"]["channels"][0].clone()
}

#[tokio::test]
async fn what_a_subscription_of_a_producer_cannot_use_is_named() {
    let settings = "[[profiles]]\nname = \"connector\"\npath = \"/\"\ndialect = \"envelope\"\ntoken = \"publisher\"\n\
                    channels = [{ name = \"ingest_events\" }]";
    let replica = TestReplica::alone_with(settings).await;
    let mut dashboard = both_ways(&replica, "dashboard").await;
    for kind in ["subscribe", "unsubscribe"] {
        let payload = json!({"channels": ["ingest_events"], "filter": "BTC*", "depth": null});
        dashboard.send(json!({"msg_id": "s", "msg_type": kind, "source": "c", "colour": 1, "payload": payload})).await;
        let ack = dashboard.next().await;
        assert_eq!(ack["payload"]["ignored"], json!(["colour", "filter"]), "{ack}");
    }
    subscribed(&mut dashboard, None).await;
    acknowledged(&mut dashboard, event("m-1", "run-1")).await;
}

#[tokio::test]
async fn a_producer_that_subscribes_misses_nothing_when_it_changes_replicas() {
    const SETTINGS: &str = "[server]\nmode = \"production\"\n[[profiles]]\nname = \"connector\"\npath = \"/\"\n\
                            dialect = \"envelope\"\ntoken = \"publisher\"\nchannels = [{ name = \"ingest_events\" }]";
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on_with(&server, SETTINGS).await, TestReplica::on_with(&server, SETTINGS).await);
    let (mut dashboard, mut connector) = (both_ways(&one, "dashboard").await, both_ways(&one, "connector").await);
    assert_eq!(subscribed(&mut dashboard, None).await["live"], true);
    acknowledged(&mut connector, event("m-1", "run-1")).await;
    let last = dashboard.expect(event("m-1", "run-1")).await["id"].as_str().unwrap().to_owned();
    drop(dashboard);
    acknowledged(&mut connector, event("m-2", "run-1")).await;
    let mut dashboard = both_ways(&other, "dashboard").await;
    let channel = subscribed(&mut dashboard, Some(&last)).await;
    assert_eq!((&channel["cursor"], &channel["live"]), (&json!(last), &json!(false)));
    assert_eq!(dashboard.expect(event("m-2", "run-1")).await["replayed"], true);
    let end = dashboard.next().await;
    assert_eq!((&end["msg_type"], &end["payload"]["channels"][0]["replayed"]), (&json!("caught_up"), &json!(1)));
    acknowledged(&mut connector, event("m-3", "run-1")).await;
    dashboard.expect(event("m-3", "run-1")).await;
}
