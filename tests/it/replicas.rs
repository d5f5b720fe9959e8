//! Several replicas on one Redis: one gateway.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tickgate_wire::model::IssuedAt;
use tokio::net::TcpStream;

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{API_KEY, TestReplica, TokenBuilder, token},
    wire::{RawConnection, upgrade_request},
};

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

#[tokio::test]
async fn a_publication_on_any_replica_arrives_on_all() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::on(&server).await, TestReplica::on(&server).await];
    let mut clients = Vec::new();
    for replica in &replicas {
        let mut client = replica.trading("alice").await;
        client.subscribe(&["orders", "ticker:BTCUSDT"]).await;
        clients.push(client);
    }
    for (number, replica) in (1..).zip(&replicas) {
        let id = replica.publish_to("alice", "orders", order(number)).await;
        for client in &mut clients {
            assert_eq!(client.expect(order(number)).await["id"], id);
        }
    }
    replicas[1].publish("ticker:BTCUSDT", json!({"type": "ticker"})).await;
    for client in &mut clients {
        client.expect(json!({"type": "ticker"})).await;
    }
}

#[tokio::test]
async fn the_first_messages_of_topics_are_delivered_without_reading_their_streams() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::on(&server).await];
    let mut listeners = Vec::new();
    for user in 0..20 {
        let mut listener = replicas[0].trading(&format!("user-{user}")).await;
        listener.subscribe(&["orders"]).await;
        listeners.push(listener);
    }
    for (user, listener) in listeners.iter_mut().enumerate() {
        replicas[user % 2].publish_to(&format!("user-{user}"), "orders", order(1)).await;
        listener.expect(order(1)).await;
    }
    assert_eq!(replicas[0].metric("tickgate_fills_total").await, 0.0);
}

#[tokio::test]
async fn publishers_on_all_replicas_produce_one_order() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::on(&server).await];
    let mut listeners = [replicas[0].market().await, replicas[1].market().await];
    for listener in &mut listeners {
        listener.subscribe(&["trades:BTCUSDT"]).await;
    }
    let publish = |number: usize| {
        let replica = &replicas[number % 2];
        async move { replica.publish("trades:BTCUSDT", json!({"type": "trade", "number": number})).await }
    };
    futures_util::future::join_all((0..60).map(publish)).await;
    let mut heard = Vec::new();
    for listener in &mut listeners {
        let mut numbers = Vec::new();
        let mut last = String::new();
        for _ in 0..60 {
            let trade = listener.expect_type("trade").await;
            let id = trade["_meta"]["id"].as_str().unwrap().to_owned();
            let seq = |id: &str| id.split_once('-').unwrap().1.parse::<u64>().unwrap();
            assert!(last.is_empty() || seq(&id) == seq(&last) + 1, "{id} after {last}");
            last = id;
            numbers.push(trade["number"].clone());
        }
        heard.push(numbers);
    }
    assert_eq!(heard[0], heard[1]);
}

#[tokio::test]
async fn connections_of_a_killed_replica_are_no_longer_counted() {
    let server = RedisServer::start();
    let settings = "[session]\nreplica_ttl = \"2s\"\n[limits]\nconnections_per_user_max = 1";
    let (one, other) = (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    let mut alice = one.trading("alice").await;
    other.connect("/ws/trading").token(&token("alice")).expect_refused(429).await;
    let mut index = server.connect().await;
    eventually("the replica's index", async || {
        let keys: Vec<String> = redis::cmd("KEYS").arg("tg2:{r:*}:x").query_async(&mut index).await.unwrap();
        (!keys.is_empty()).then_some(())
    })
    .await;
    one.kill();
    alice.expect_close(1006).await;
    let killed = tokio::time::Instant::now();
    eventually("the slot", async || {
        other.connect("/ws/trading").token(&token("alice")).try_open().await.ok().map(|_| ())
    })
    .await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    eventually("the dead replica to leave the status", async || {
        (other.get("/ws/status").await.json()["replicas"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_operator_reaches_users_on_any_replica() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let (mut alice, mut tab, mut bob) =
        (one.trading("alice").await, other.trading("alice").await, one.trading("bob").await);
    let answer = other.api_post("/api/v1/disconnect", json!({"user": "alice", "reason": "maintenance"})).await;
    assert!(answer.status < 300, "{answer:?}");
    assert_eq!(alice.expect_close(4500).await, "maintenance");
    tab.expect_close(4500).await;
    bob.expect_nothing().await;
    let session = eventually("bob to be listed", async || {
        let own = other.api_get("/api/v1/users/bob").await.json();
        own["connections"][0]["session"].as_str().map(str::to_owned)
    })
    .await;
    let answer = other.api_post("/api/v1/disconnect", json!({"session": session})).await;
    assert!(answer.status < 300, "{answer:?}");
    bob.expect_close(4500).await;
}

#[tokio::test]
async fn a_revoked_user_is_closed_and_refused_until_there_is_a_new_token() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let old_token = token("alice");
    let mut alice = one.connect("/ws/trading").token(&old_token).open().await;
    alice.greeted().await;
    let answer = other.api_post("/api/v1/disconnect", json!({"user": "alice", "revoke_seconds": 60})).await;
    assert!(answer.status < 300, "{answer:?}");
    alice.expect_close(4002).await;
    for replica in [&one, &other] {
        let refusal = replica.connect("/ws/trading").token(&old_token).expect_refused(403).await;
        assert!(refusal.body.contains("4002"), "{refusal:?}");
    }
    other.trading("bob").await;
    // The tests' tokens are a second old when they are created.
    eventually("a token that is newer than the revocation", async || {
        one.connect("/ws/trading").token(&token("alice")).try_open().await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_user_reported_as_inactive_is_refused_with_any_token() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let mut alice = one.trading("alice").await;
    let report = async |replica: &TestReplica, body: Value| {
        let headers = [("x-api-key", API_KEY), ("content-type", "application/json")];
        replica.api("PUT", "/api/v1/users/alice", &headers, Some(body.to_string())).await.status
    };
    assert_eq!(report(&other, json!({"active": false})).await, 202);
    assert!(alice.expect_close(4002).await.contains("not active"));
    // Later than the report, within the possible difference of the replicas' clocks.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let fresh = TokenBuilder::of("alice").issued_at(IssuedAt::in_second(now + 3)).sign();
    for replica in [&one, &other] {
        let refusal = replica.connect("/ws/trading").token(&fresh).expect_refused(403).await;
        assert!(refusal.body.contains("User not found or inactive"), "{refusal:?}");
        let browser = replica.connect("/ws/trading").token(&fresh).origin("https://app.example");
        browser.expect_closed(4002).await;
        assert_eq!(replica.api_get("/api/v1/users/alice").await.json()["active"], false);
    }
    one.trading("bob").await;
    assert_eq!(report(&one, json!({"active": true})).await, 202);
    eventually("word of it", async || other.connect("/ws/trading").token(&fresh).try_open().await.ok().map(|_| ()))
        .await;
    assert_eq!(one.api_get("/api/v1/users/alice").await.json()["active"], true);
    assert_eq!(report(&one, json!({"active": true, "seconds": 5})).await, 400);
}

#[tokio::test]
async fn a_drained_replica_moves_its_clients_without_a_loss() {
    let server = RedisServer::start();
    let (mut one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let mut alice = one.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    let cursor = alice.expect(order(1)).await["id"].clone();
    one.drain();
    let hint = alice.expect_type("closing").await;
    assert!(hint["after_ms"].is_u64() && hint["error"] == "restarting" && hint["reconnect"] == "yes", "{hint}");
    alice.expect_close(1012).await;
    one.ended().await;
    other.publish_to("alice", "orders", order(2)).await;
    let mut alice = other.trading("alice").await;
    alice.subscribe_since(&["orders"], &cursor).await;
    alice.expect(order(2)).await;
    let status = other.get("/ws/status").await.json();
    assert_eq!((&status["replicas"], &status["active_connections"]), (&json!(1), &json!(1)), "{status}");
}

#[tokio::test]
async fn a_client_being_admitted_when_the_drain_starts_is_moved_too() {
    let server = RedisServer::start();
    let mut replica = TestReplica::on(&server).await;
    // Its user cannot be counted until Redis responds.
    server.freeze();
    let mut late = RawConnection::connect(replica.address()).await;
    late.send(upgrade_request(&format!("/ws/trading?token={}", token("alice")), "").as_bytes()).await;
    for _ in 0..3 {
        assert_eq!(replica.get("/livez").await.status, 200, "what came before is on its way");
    }
    replica.drain();
    eventually("the door to be closed", async || TcpStream::connect(replica.address()).await.err()).await;
    server.thaw();
    assert_eq!(late.answer_head().await.map(|(status, _)| status), Some(101));
    let said = late.expect_close(1012, "the drain").await;
    assert!(said.iter().any(|text| text.contains(r#""type":"closing""#)), "{said:?}");
    replica.ended().await;
}

#[tokio::test]
async fn presence_counts_over_all_replicas() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let (mut alice, mut tab) = (one.trading("alice").await, other.trading("alice").await);
    let (mut bob, mut somebody) = (other.trading("bob").await, one.market().await);
    for client in [&mut alice, &mut tab, &mut bob, &mut somebody] {
        client.subscribe(&["ticker:BTCUSDT"]).await;
    }
    let answer = alice.ask(json!({"type": "presence", "channel": "ticker:BTCUSDT"})).await;
    assert_eq!((&answer["connections"], &answer["users"]), (&json!(4), &json!(2)), "{answer}");
    // Anonymous clients may request the presence of their own channels.
    let answer = somebody.ask(json!({"type": "presence", "channel": "ticker:BTCUSDT"})).await;
    assert_eq!(answer["connections"], 4);
    let answer = somebody.ask(json!({"type": "presence", "channel": "ticker:ETHUSDT"})).await;
    assert_eq!((&answer["type"], &answer["error"]), (&json!("error"), &json!("forbidden")), "{answer}");
}

#[tokio::test]
async fn connected_clients_survive_an_outage_of_redis() {
    let mut server = RedisServer::durable();
    let replica = TestReplica::on(&server).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    server.kill();
    alice.ask(json!({"type": "ping"})).await;
    server.restart();
    eventually("publishing to work again", async || {
        let publication = json!({"channel": "orders", "user": "alice", "data": order(1), "msg_id": "o-1"});
        (replica.api_post("/api/v1/publish", publication).await.status == 200).then_some(())
    })
    .await;
    alice.expect(order(1)).await;
    let listed = || replica.api_get("/api/v1/connections");
    eventually("the connection to be counted again", async || {
        (listed().await.json()["connections"].as_array()?.len() == 1).then_some(())
    })
    .await;
}
