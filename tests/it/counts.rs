//! Presence counts every subscriber, on any transport and replica.

use serde_json::{Value, json};

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
    sse::EventStream,
};

const PRODUCERS: &str = "[[profiles]]\nname = \"ingest\"\npath = \"/ws/ingest\"\ndialect = \"envelope\"\ntoken = \"publisher\"\n\
                         channels = [{ name = \"logs\" }]";

async fn reader(replica: &TestReplica, channels: &str, user: &str) -> EventStream {
    let bearer = format!("Bearer {}", token(user));
    let path = format!("/sse?channels={channels}");
    let mut reader = EventStream::open(replica.address(), &path, &[("authorization", &bearer)]).await.unwrap();
    assert_eq!(reader.next().await["errors"], json!([]));
    reader
}

/// Publishes and requests the number of subscribers until it is as expected.
async fn subscribers(replica: &TestReplica, publication: &Value, expected: u64) {
    eventually(&format!("{expected} subscribers of {publication}"), async || {
        let mut publication = publication.clone();
        publication["count"] = json!(true);
        publication["data"] = json!({});
        let answer = replica.api_post("/api/v1/publish", publication).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.json()["subscribers"] == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn readers_of_event_streams_are_counted_on_all_replicas() {
    let server = RedisServer::start();
    for (one, other) in [
        (TestReplica::alone_with(PRODUCERS).await, None),
        (TestReplica::on_with(&server, PRODUCERS).await, Some(TestReplica::on_with(&server, PRODUCERS).await)),
    ] {
        let other = other.as_ref().unwrap_or(&one);
        let trades = json!({"channel": "trades:BTCUSDT"});
        subscribers(&one, &trades, 0).await;
        let mut market = other.market().await;
        market.subscribe(&["trades:BTCUSDT"]).await;
        let first = reader(other, "trades:BTCUSDT,ticker:BTCUSDT", "alice").await;
        let _second = reader(&one, "trades:BTCUSDT", "bob").await;
        subscribers(&one, &trades, 3).await;
        subscribers(other, &json!({"channel": "ticker:BTCUSDT"}), 1).await;
        let presence = market.ask(json!({"type": "presence", "channel": "trades:BTCUSDT"})).await;
        assert_eq!((&presence["connections"], &presence["users"]), (&json!(3), &json!(2)), "{presence}");
        let listed = other.api_get("/api/v1/topics").await.json();
        let listed = listed["topics"].as_array().unwrap().iter().find(|topic| topic["topic"] == "trades:BTCUSDT");
        let here = if std::ptr::eq(other, &one) { 3 } else { 2 };
        assert_eq!(listed.unwrap()["subscribers"], here);
        eventually("alice's stream among her connections", async || {
            let alice = other.api_get("/api/v1/users/alice").await.json();
            (alice["connections"].as_array()?.len() == 1).then_some(())
        })
        .await;
        let status = async || {
            let status = one.get("/ws/status").await.json();
            (status["active_connections"] == 3 && status["total_subscriptions"] == 4).then_some(())
        };
        eventually("all in the status", status).await;
        // A client that left is not counted.
        drop(first);
        subscribers(&one, &trades, 2).await;
        subscribers(&one, &json!({"channel": "ticker:BTCUSDT"}), 0).await;
        assert_eq!(
            market.ask(json!({"type": "unsubscribe", "channels": ["trades:BTCUSDT"]})).await["type"],
            "unsubscribed"
        );
        subscribers(&one, &trades, 1).await;
        // Producers that subscribe are counted too.
        let mut producer = other.connect("/ws/ingest").open().await;
        let payload = json!({"channels": ["logs"]});
        producer.send(json!({"msg_id": "s", "msg_type": "subscribe", "source": "s", "payload": payload})).await;
        assert_eq!(producer.next().await["msg_type"], "ack");
        subscribers(&one, &json!({"channel": "logs"}), 1).await;
    }
}

/// The reliable private channels of a user share a stream, but not their subscribers.
#[tokio::test]
async fn each_private_channel_has_separate_subscribers() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let mut orders = one.trading("alice").await;
    orders.subscribe(&["orders", "portfolio"]).await;
    let _alerts = reader(&other, "risk_alerts,orders", "alice").await;
    for (channel, expected) in [("orders", 2), ("risk_alerts", 1), ("portfolio", 1), ("bot_status", 0)] {
        subscribers(&other, &json!({"channel": channel, "user": "alice"}), expected).await;
    }
    subscribers(&other, &json!({"channel": "orders", "user": "bob"}), 0).await;
    let presence = orders.ask(json!({"type": "presence", "channel": "risk_alerts"})).await;
    assert_eq!(presence["connections"], 1, "{presence}");
}

#[tokio::test]
async fn every_way_to_publish_counts_only_on_request() {
    let replica = TestReplica::alone().await;
    let _reader = reader(&replica, "trades:BTCUSDT", "alice").await;
    subscribers(&replica, &json!({"channel": "trades:BTCUSDT"}), 1).await;
    let of = |channel: &str, count: Value| json!({"channel": channel, "data": {}, "count": count});
    let plain = replica.api_post("/api/v1/publish", of("trades:BTCUSDT", json!(false))).await.json();
    assert!(plain.get("subscribers").is_none(), "{plain}");
    assert_eq!(replica.api_post("/api/v1/publish", of("trades:BTCUSDT", json!(1))).await.status, 400);
    let publications = [of("trades:BTCUSDT", json!(true)), of("trades:ETHUSDT", json!(true)), of("logs", json!(false))];
    let answer = replica.api_post("/api/v1/publish/batch", json!({"publications": publications})).await.json();
    let counted = |result: &Value| result.get("subscribers").and_then(Value::as_u64);
    let results: Vec<_> = answer["results"].as_array().unwrap().iter().map(counted).collect();
    assert_eq!(results, [Some(1), Some(0), None], "{answer}");
    let mut desk = replica.connect("/ws/market").token(&token("x")).open().await;
    desk.greeted().await;
    let publisher = TokenBuilder::of("desk").publish(&["trades:*"]).sign();
    let mut publisher = replica.connect("/ws/trading").token(&publisher).open().await;
    publisher.greeted().await;
    let publish = |count: Value| json!({"type": "publish", "channel": "trades:BTCUSDT", "data": {}, "count": count});
    assert_eq!(publisher.ask(publish(json!(true))).await["subscribers"], 1);
    assert!(publisher.ask(publish(json!(false))).await.get("subscribers").is_none());
    let wrong = publisher.ask(publish(json!("yes"))).await;
    assert_eq!((&wrong["code"], &wrong["details"]["field"]), (&json!(4004), &json!("count")), "{wrong}");
}

/// Mistakes of publishers, and the response to each.
const MISTAKES: [(&str, Option<&str>, &str); 5] = [
    ("order", Some("alice"), "did you mean `orders`?"),
    ("orders", None, "`orders` is a private channel: specify its `user`"),
    ("tickr:BTC", None, "did you mean `ticker:BTC`?"),
    ("ticker:BTC", Some("alice"), "`ticker:BTC` is not a private channel: omit `user`"),
    ("weather", None, "no endpoint offers a topic `weather`"),
];

#[tokio::test]
async fn a_publication_that_no_client_can_receive_is_refused_in_production_with_a_suggestion() {
    let strict = TestReplica::alone_with("[server]\nmode = \"production\"").await;
    let publisher = TokenBuilder::of("desk").publish(&["*"]).sign();
    let mut client = strict.connect("/ws/trading").token(&publisher).open().await;
    client.greeted().await;
    for (channel, user, says) in MISTAKES {
        let mut publication = json!({"channel": channel, "data": {}});
        if let Some(user) = user {
            publication["user"] = json!(user);
        }
        let answer = strict.api_post("/api/v1/publish", publication.clone()).await;
        assert_eq!(answer.status, 400, "{channel}: {answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{channel}: {answer:?}");
        let batch = json!({"publications": [publication, {"channel": "logs", "data": {}}]});
        let answer = strict.api_post("/api/v1/publish/batch", batch).await.json();
        assert_eq!((&answer["results"][0]["status"], answer["results"][1]["id"].is_string()), (&json!(400), true));
        publication["type"] = json!("publish");
        let answer = client.ask(publication).await;
        assert_eq!(answer["code"], 4004, "{channel}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(says), "{channel}: {answer}");
    }
    // What an endpoint offers, and what a rule names for engines.
    for channel in ["ticker:BTC", "run:r-1", "commands", "ingest_events", "system_log"] {
        strict.publish(channel, json!({})).await;
    }
    strict.publish_to("alice", "orders", json!({})).await;
    for settings in ["", "[server]\nmode = \"production\"\n[limits]\nunknown_channels = \"accept\""] {
        let lenient = TestReplica::alone_with(settings).await;
        for (channel, user, _) in MISTAKES {
            let publication = json!({"channel": channel, "user": user, "data": {}});
            assert_eq!(lenient.api_post("/api/v1/publish", publication).await.status, 200, "{channel}");
        }
    }
}
