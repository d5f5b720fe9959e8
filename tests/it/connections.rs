//! The operator's view of single connections on all replicas: listing them, sending to one, and closing those that are
//! named or idle.

use std::{collections::BTreeSet, io::Write, net::TcpStream};

use serde_json::{Value, json};

use crate::support::{
    client::TestClient,
    eventually,
    http::TestResponse,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
    sse::EventStream,
    wire::upgrade_request,
};

fn id_of(client: &TestClient) -> String {
    client.welcome["connection_id"].as_str().expect("an id").to_owned()
}

fn ids(listed: &Value) -> BTreeSet<String> {
    let connections = listed["connections"].as_array().unwrap_or_else(|| panic!("no list: {listed}"));
    connections.iter().map(|one| one["connection_id"].as_str().unwrap().to_owned()).collect()
}

async fn list(replica: &TestReplica, query: &str) -> Value {
    let answer = replica.api_get(&format!("/api/v1/connections{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

async fn send(replica: &TestReplica, id: &str, data: Value) -> TestResponse {
    replica.api_post("/api/v1/send", json!({"connection_id": id, "data": data})).await
}

/// Over memory, and over Redis with the clients on one replica and the operator on the other.
async fn worlds(server: &RedisServer) -> Vec<Vec<TestReplica>> {
    vec![vec![TestReplica::alone().await], vec![TestReplica::on(server).await, TestReplica::on(server).await]]
}

#[tokio::test]
async fn connections_are_listed_with_their_details_and_channels() {
    let server = RedisServer::start();
    for replicas in worlds(&server).await {
        let (home, operator) = (&replicas[0], replicas.last().unwrap());
        let mut alice = home.trading("alice").await;
        alice.subscribe(&["orders", "ticker:BTCUSDT"]).await;
        let mut tab = home.connect("/ws/backtest/bt-1").token(&token("bob")).open().await;
        tab.greeted().await;
        tab.expect_type("subscribed").await;
        let mut market = operator.market().await;
        market.subscribe(&["ticker:BTCUSDT"]).await;

        let all = list(operator, "").await;
        assert_eq!(ids(&all), BTreeSet::from([id_of(&alice), id_of(&tab), id_of(&market)]));
        assert_eq!((&all["cursor"], &all["complete"]), (&Value::Null, &json!(true)));
        let one =
            |id: &str| all["connections"].as_array().unwrap().iter().find(|one| one["connection_id"] == id).unwrap();
        let hers = one(&id_of(&alice));
        assert_eq!(
            (&hers["user"], &hers["endpoint"], &hers["param"]),
            (&json!("alice"), &json!("trading"), &Value::Null)
        );
        assert_eq!(hers["channels"], json!(["orders", "ticker:BTCUSDT"]));
        assert!(hers["connected_at"].as_str() <= hers["last_seen"].as_str(), "{hers}");
        assert_ne!(hers["session"].as_str().unwrap(), alice.session(), "the secret is not told");
        let run = one(&id_of(&tab));
        assert_eq!((&run["param"], &run["channels"]), (&json!("bt-1"), &json!(["events"])));

        for (query, expected) in [
            ("?user=alice", vec![&alice]),
            ("?endpoint=market", vec![&market]),
            ("?endpoint=backtest&param=bt-1", vec![&tab]),
            ("?param=bt-2", vec![]),
            ("?topic=ticker:BTCUSDT", vec![&alice, &market]),
            ("?topic=run:bt-1", vec![&tab]),
            ("?topic=orders&user=alice", vec![&alice]),
            ("?topic=orders", vec![]),
            ("?topic=orders&user=bob", vec![]),
            ("?idle_seconds=3600", vec![]),
        ] {
            let expected: BTreeSet<_> = expected.into_iter().map(id_of).collect();
            assert_eq!(ids(&list(operator, query).await), expected, "{query}");
        }
        let named = format!("?connection_id={}", id_of(&tab));
        assert_eq!(ids(&list(operator, &named).await), BTreeSet::from([id_of(&tab)]));
        let hers = operator.api_get("/api/v1/users/alice").await.json();
        assert_eq!((&hers["user"], ids(&hers)), (&json!("alice"), BTreeSet::from([id_of(&alice)])));
        assert_eq!(operator.api_get("/api/v1/users/nobody").await.json()["connections"], json!([]));
        alice.ask(json!({"type": "unsubscribe", "channels": ["ticker:BTCUSDT"]})).await;
        assert_eq!(ids(&list(operator, "?topic=ticker:BTCUSDT").await), BTreeSet::from([id_of(&market)]));
    }
}

#[tokio::test]
async fn pages_list_all_connections_once() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::on(&server).await];
    let mut clients = Vec::new();
    for number in 0..11 {
        clients.push(replicas[number % 2].market().await);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&replicas[0], &format!("?limit=3{cursor}")).await;
        seen.extend(ids(&page));
        let Some(next) = page["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 11, "each once");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), clients.iter().map(id_of).collect());
}

#[tokio::test]
async fn a_replica_that_hangs_is_missing_from_the_list_which_is_incomplete() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::process(&server, "").await];
    let (here, there) = (replicas[0].market().await, replicas[1].market().await);
    replicas[1].freeze();
    let listed = list(&replicas[0], "").await;
    assert_eq!((ids(&listed), &listed["complete"]), (BTreeSet::from([id_of(&here)]), &json!(false)));
    let unknown = send(&replicas[0], &id_of(&there), json!({})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]), (504, &json!("outcome_unknown")), "{unknown:?}");
    let body = json!({"connection_id": id_of(&there)});
    assert_eq!(replicas[0].api_post("/api/v1/disconnect", body).await.status, 503);
    assert_eq!(send(&replicas[0], &id_of(&here), json!({})).await.status, 200, "whoever is here is reached");
    replicas[1].thaw();
    eventually("all of them", async || (list(&replicas[0], "").await["complete"] == true).then_some(())).await;
}

#[tokio::test]
async fn a_message_is_sent_to_one_connection_only() {
    let server = RedisServer::start();
    for replicas in worlds(&server).await {
        let (home, operator) = (&replicas[0], replicas.last().unwrap());
        let (mut one, mut other) = (home.trading("alice").await, home.trading("alice").await);
        let answer = send(operator, &id_of(&one), json!({"type": "hello", "price": "1.50"})).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"sent": true})));
        let meta = one.expect(json!({"type": "hello", "price": "1.50"})).await;
        assert_eq!(meta, json!({"channel": "@connection"}), "of no channel, and with no position");
        other.expect_nothing().await;

        // On every kind of endpoint that can receive.
        let mut reader = EventStream::open(home.address(), "/sse?channels=trades:BTCUSDT", &[]).await.unwrap();
        assert_eq!(reader.next().await["type"], "subscribed");
        let listed = list(operator, "?endpoint=sse").await;
        let id = ids(&listed).pop_first().expect("the reader");
        assert_eq!(send(operator, &id, json!({"n": 1})).await.status, 200);
        assert_eq!(reader.next().await, json!({"n": 1, "_meta": {"channel": "@connection"}}));

        let gone = id_of(&one);
        one.close().await;
        eventually("the connection to be gone", async || {
            (send(operator, &gone, json!({})).await.status == 404).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_refused_completely() {
    let replica = TestReplica::alone_with("[limits]\npayload_bytes_max = 1000").await;
    let mut alice = replica.trading("alice").await;
    let id = id_of(&alice);
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    for (body, status, error) in [
        (json!({"connection_id": id, "data": {"_meta": {}}}), 400, "invalid_message"),
        (json!({"connection_id": id, "data": [1]}), 400, "invalid_message"),
        (json!({"connection_id": id, "data": {"deep": deep}}), 400, "invalid_message"),
        (json!({"connection_id": id}), 400, "invalid_message"),
        (json!({"data": {}}), 400, "invalid_message"),
        (json!({"connection_id": id, "data": {}, "user": "alice"}), 400, "invalid_message"),
        (json!({"connection_id": "00c0ffee", "data": {}}), 400, "invalid_message"),
        (json!({"connection_id": id.to_uppercase() + "x", "data": {}}), 400, "invalid_message"),
        (json!({"connection_id": 7, "data": {}}), 400, "invalid_message"),
        (json!({"connection_id": id, "data": {"text": "x".repeat(1_000)}}), 413, "message_too_big"),
        (json!({"connection_id": "0000000000000000", "data": {}}), 404, "not_found"),
    ] {
        let answer = replica.api_post("/api/v1/send", body.clone()).await;
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(error)), "{body} {answer:?}");
    }
    alice.expect_nothing().await;
}

#[tokio::test]
async fn the_queue_of_one_connection_is_limited() {
    let replica = TestReplica::alone_with("[limits]\noutbox_bytes_max = 200000").await;
    let mut slow = TcpStream::connect(replica.address()).unwrap();
    slow.write_all(upgrade_request("/ws/market", "").as_bytes()).unwrap();
    let found = async || ids(&list(&replica, "").await).pop_first();
    let id = eventually("the connection that reads nothing", found).await;
    let big = json!({"text": "x".repeat(60_000)});
    let full = eventually("too much to wait", async || {
        let answer = send(&replica, &id, big.clone()).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((full.status, &full.json()["error"]), (503, &json!("try_again_later")), "{full:?}");
}

#[tokio::test]
async fn a_connection_is_closed_by_its_id_and_idle_ones_by_their_time() {
    let server = RedisServer::start();
    for replicas in worlds(&server).await {
        let (home, operator) = (&replicas[0], replicas.last().unwrap());
        let (mut one, mut other) = (home.trading("alice").await, home.trading("alice").await);
        let asked = json!({"connection_id": id_of(&one), "reason": "maintenance"});
        let answer = operator.api_post("/api/v1/disconnect", asked.clone()).await;
        assert_eq!((answer.status, answer.json()), (202, json!({"connections": 1})));
        one.expect_type("closing").await;
        assert_eq!(one.expect_close(4500).await, "maintenance");
        eventually("nothing left to close", async || {
            let answer = operator.api_post("/api/v1/disconnect", asked.clone()).await;
            (answer.status == 202 && answer.json() == json!({"connections": 0})).then_some(())
        })
        .await;

        let mut market = home.market().await;
        eventually("both to be idle for a second", async || {
            (ids(&list(operator, "?idle_seconds=1").await).len() == 2).then_some(())
        })
        .await;
        let idle = json!({"idle_seconds": 1, "endpoint": "market"});
        let answer = operator.api_post("/api/v1/disconnect", idle).await;
        assert_eq!((answer.status, answer.json()), (202, json!({"connections": 1})));
        market.expect_type("closing").await;
        market.expect_close(4500).await;
        other.send(json!({"type": "ping", "id": "there"})).await;
        other.expect_type("pong").await;
        let answer = operator.api_post("/api/v1/disconnect", json!({"idle_seconds": 600})).await;
        assert_eq!(answer.json(), json!({"connections": 0}));
        other.expect_nothing().await;
    }
}

#[tokio::test]
async fn local_connections_are_reached_while_redis_is_unreachable() {
    let mut server = RedisServer::durable();
    let replica = TestReplica::on(&server).await;
    let (mut one, mut other) = (replica.market().await, replica.market().await);
    server.kill();
    assert_eq!(send(&replica, &id_of(&one), json!({"n": 1})).await.status, 200);
    one.expect(json!({"n": 1})).await;
    let asked = json!({"connection_id": id_of(&one)});
    assert_eq!(replica.api_post("/api/v1/disconnect", asked).await.json(), json!({"connections": 1}));
    one.expect_type("closing").await;
    one.expect_close(4500).await;
    eventually("the other to be closed, though the call says it is not done everywhere", async || {
        let answer = replica.api_post("/api/v1/disconnect", json!({"idle_seconds": 1})).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        (replica.get("/ws/status").await.json()["replica"]["active_connections"] == 0).then_some(())
    })
    .await;
    other.expect_type("closing").await;
    assert_eq!(replica.api_get("/api/v1/connections").await.status, 503);
}

#[tokio::test]
async fn subscribers_are_counted_over_all_replicas() {
    let server = RedisServer::start();
    for replicas in worlds(&server).await {
        let (home, operator) = (&replicas[0], replicas.last().unwrap());
        let mut alice = home.trading("alice").await;
        alice.subscribe(&["orders", "ticker:BTCUSDT"]).await;
        let mut market = operator.market().await;
        market.subscribe(&["ticker:BTCUSDT"]).await;
        for (query, connections, users) in [
            ("topic=ticker:BTCUSDT", 2, 1),
            ("topic=orders&user=alice", 1, 1),
            ("topic=orders&user=bob", 0, 0),
            ("topic=run:bt-1", 0, 0),
        ] {
            let answer = operator.api_get(&format!("/api/v1/presence?{query}")).await;
            let shown = answer.json();
            assert_eq!(
                (&shown["connections"], &shown["users"]),
                (&json!(connections), &json!(users)),
                "{query} {shown}"
            );
        }
        for wrong in ["", "?topic=a,b", "?topic=x&user=", "?topic=x&users=alice", "?topic="] {
            assert_eq!(operator.api_get(&format!("/api/v1/presence{wrong}")).await.status, 400, "{wrong}");
        }
    }
}

#[tokio::test]
async fn the_user_is_not_shown_before_a_connection_has_authenticated() {
    let replica = TestReplica::alone().await;
    let mut late = replica.connect("/ws/trading").header("sec-websocket-protocol", "tickgate.v1").open().await;
    let listed = list(&replica, "").await;
    assert_eq!((&listed["connections"][0]["user"], &listed["connections"][0]["channels"]), (&Value::Null, &json!([])));
    late.send(json!({"type": "auth", "token": TokenBuilder::of("alice").sign()})).await;
    late.greeted().await;
    assert_eq!(list(&replica, "").await["connections"][0]["user"], "alice");
}
