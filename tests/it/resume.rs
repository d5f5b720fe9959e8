//! Resuming: data by cursors, the place among the user's connections by the session; on the same replica or another
//! one.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    client::TestClient,
    eventually,
    redis::RedisServer,
    replica::{TestReplica, token},
};

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

/// The session's client reconnects to the replica.
async fn taken_over(replica: &TestReplica, user: &str, session: &str) -> TestClient {
    let request = replica.connect("/ws/trading").token(&token(user)).query("session", session);
    let mut client = request.name(user).open().await;
    client.greeted().await;
    client
}

#[tokio::test]
async fn a_session_moves_to_another_replica_and_the_old_connection_is_closed() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let mut old = one.trading("alice").await;
    old.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    old.expect(order(1)).await;
    let session = old.session();
    let mut new = eventually("the session's record", async || {
        let client = taken_over(&other, "alice", &session).await;
        (client.welcome["resumed"] == true).then_some(client)
    })
    .await;
    old.expect_close(4501).await;
    one.publish_to("alice", "orders", order(2)).await;
    new.expect_nothing().await;
    assert_eq!(new.subscribe(&["orders"]).await["channels"][0]["live"], true, "nothing is subscribed again by itself");
}

#[tokio::test]
async fn a_session_that_returns_to_the_same_replica_supersedes_its_old_connection() {
    let replica = TestReplica::alone_with("[limits]\nconnections_per_user_max = 1").await;
    let mut old = replica.trading("alice").await;
    old.subscribe(&["orders"]).await;
    let session = old.session();
    let mut new = taken_over(&replica, "alice", &session).await;
    old.expect_close(4501).await;
    new.expect_nothing().await;
    new.close().await;
    eventually("the one slot to be free", async || {
        replica.connect("/ws/trading").token(&token("alice")).try_open().await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_returns_repeatedly_is_never_closed_by_its_own_past() {
    let server = RedisServer::start();
    let replicas = [TestReplica::on(&server).await, TestReplica::on(&server).await];
    let mut alice = replicas[0].trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    for turn in 0..12 {
        let (replica, number) = (&replicas[(turn / 2) % 2], turn.to_string());
        alice.vanish();
        alice = eventually("the session", async || {
            let client = taken_over(replica, "alice", &session).await;
            (client.welcome["resumed"] == true).then_some(client)
        })
        .await;
        alice.subscribe(&["orders"]).await;
        replica.publish_to("alice", "orders", json!({"type": "order_update", "order_id": number})).await;
        alice.expect(json!({"type": "order_update", "order_id": number})).await;
    }
    alice.expect_nothing().await;
}

/// A client whose connection breaks at once returns before Redis has the session's record.
#[tokio::test]
async fn a_session_is_known_to_its_replica_from_the_welcome_on() {
    let server = RedisServer::start();
    let replica = TestReplica::on(&server).await;
    for turn in 0..20 {
        let user = format!("user-{turn}");
        let mut ghost = replica.trading(&user).await;
        let back = taken_over(&replica, &user, &ghost.session()).await;
        assert_eq!(back.welcome["resumed"], true, "{user}");
        ghost.expect_close(4501).await;
    }
}

#[tokio::test]
async fn an_anonymous_session_is_taken_over_as_well() {
    let replica = TestReplica::alone().await;
    let mut tab = replica.run("/ws/backtest/run-1").await;
    let session = tab.session();
    let mut again = replica.connect("/ws/backtest/run-1").query("session", &session).open().await;
    again.greeted().await;
    assert_eq!(again.welcome["resumed"], true);
    tab.expect_close(4501).await;
    again.expect_type("subscribed").await;
    // It has no place that could be lost, so nothing is left.
    again.close().await;
    eventually("the connection to end", async || (replica.metric("tickgate_connections").await < 1.0).then_some(()))
        .await;
    let mut later = replica.connect("/ws/backtest/run-1").query("session", &session).open().await;
    later.greeted().await;
    assert_eq!(later.welcome["resumed"], false);
}

#[tokio::test]
async fn a_session_is_taken_over_with_a_token_in_a_message_too() {
    let replica = TestReplica::alone_with("[limits]\nconnections_per_user_max = 1").await;
    let mut old = replica.trading("alice").await;
    let session = old.session();
    let request = replica.connect("/ws/trading").query("auth", "message").query("session", &session);
    let mut new = request.open().await;
    old.expect_nothing().await;
    new.send(json!({"type": "auth", "id": 1, "token": token("alice")})).await;
    new.greeted().await;
    assert_eq!((&new.welcome["resumed"], &new.welcome["session"]), (&json!(true), &json!(session)));
    assert_eq!(new.welcome["user"], "alice");
    assert_eq!(new.expect_type("authenticated").await["id"], 1);
    old.expect_close(4501).await;
    new.subscribe(&["orders"]).await;
    replica.publish_to("alice", "orders", order(1)).await;
    new.expect(order(1)).await;
    // Another user gets a new session.
    let mut mallory = replica.connect("/ws/trading").query("auth", "message").query("session", &session).open().await;
    mallory.send(json!({"type": "auth", "token": token("mallory")})).await;
    mallory.greeted().await;
    assert_eq!(mallory.welcome["resumed"], false);
    new.expect_nothing().await;
}

#[tokio::test]
async fn a_session_belongs_to_its_user() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    let mallory = taken_over(&replica, "mallory", &session).await;
    assert_eq!(mallory.welcome["resumed"], false);
    assert_ne!(mallory.welcome["session"], json!(session));
    let mut elsewhere = replica.connect("/ws/market").query("session", &session).open().await;
    elsewhere.greeted().await;
    assert_eq!(elsewhere.welcome["resumed"], false);
    replica.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
}

#[tokio::test]
async fn a_session_ends_with_the_resume_window() {
    let settings = "[session]\nresume_ttl = \"1s\"";
    let replica = TestReplica::alone_with(settings).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    alice.close().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let alice = taken_over(&replica, "alice", &session).await;
    assert_eq!(alice.welcome["resumed"], false);
}

#[tokio::test]
async fn a_session_that_cannot_be_looked_up_is_replaced_by_a_new_one() {
    let mut server = RedisServer::durable();
    let replica = TestReplica::on(&server).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    alice.vanish();
    // Until then the replica knows the session itself.
    eventually("she is gone", async || (replica.metric("tickgate_connections").await == 0.0).then_some(())).await;
    server.kill();
    let alice = taken_over(&replica, "alice", &session).await;
    assert_eq!(alice.welcome["resumed"], false, "no data depends on it");
}

#[tokio::test]
async fn each_channel_is_replayed_after_its_own_cursor() {
    let replica = TestReplica::alone().await;
    let alert = |number: u32| json!({"type": "risk_alert", "number": number});
    let mut ids = Vec::new();
    for number in 1..=3 {
        ids.push(replica.publish_to("alice", "orders", order(number)).await);
        ids.push(replica.publish_to("alice", "risk_alerts", alert(number)).await);
    }
    let mut alice = replica.trading("alice").await;
    let elements =
        json!([{"channel": "orders", "since": ids[0]}, {"channel": "risk_alerts", "since": ids[3]}, "bot_status"]);
    let answer = alice.subscribe_with(json!({"type": "subscribe", "channels": elements})).await;
    let of = |field: &str| answer["channels"].as_array().unwrap().iter().map(|c| c[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("stream"), ["@", "@", "@"]);
    assert_eq!(of("live"), [false, false, true]);
    assert_eq!(of("cursor"), [ids[0].clone(), ids[3].clone(), ids[5].clone()]);
    for message in [order(2), order(3), alert(3)] {
        assert_eq!(alice.expect(message).await["replayed"], true);
    }
    alice.expect_nothing().await;
    // Further channels of the same stream, beside what is already live.
    let elements = json!([{"channel": "bot_status", "since": ids[0]}, {"channel": "risk_alerts", "since": ids[1]}]);
    alice.subscribe_with(json!({"type": "subscribe", "channels": elements})).await;
    for number in 2..=3 {
        assert_eq!(alice.expect(alert(number)).await["replayed"], true);
    }
    replica.publish_to("alice", "orders", order(4)).await;
    alice.expect(order(4)).await;
    alice.expect_nothing().await;
}

#[tokio::test]
async fn a_value_does_not_go_back_in_time_on_a_replica_that_lags() {
    let server = RedisServer::start();
    let replica = TestReplica::on(&server).await;
    let (mut before, mut tab) = (replica.market().await, replica.market().await);
    let ticker = |price: &str| json!({"type": "ticker", "price": price});
    before.subscribe(&["ticker:BTCUSDT"]).await;
    tab.subscribe(&["ticker:BTCUSDT"]).await;
    replica.publish("ticker:BTCUSDT", ticker("1")).await;
    let id = tab.expect(ticker("1")).await["id"].as_str().unwrap().to_owned();
    // Stored, but not delivered yet; a client that comes from another replica has seen it.
    let (epoch, stream) = (id.split('-').next().unwrap(), "tg2:{t:ticker:BTCUSDT}:s");
    let next: String = server.run(&["XADD", stream, &format!("{epoch}-*"), "d", &ticker("2").to_string()]).await;
    before.vanish();
    let mut client = replica.market().await;
    client.subscribe_since(&["ticker:BTCUSDT"], &json!(next)).await;
    let snapshot = client.expect_type("ticker").await;
    assert_eq!((&snapshot["price"], &snapshot["_meta"]["snapshot"]), (&json!("2"), &json!(true)), "{snapshot}");
    replica.publish("ticker:BTCUSDT", ticker("3")).await;
    assert_eq!(client.expect_type("ticker").await["price"], "3", "what it has does not come again");
}

/// This many clients of the replica resume at once with a cursor, each to the end of what it missed. Returns the
/// maximum number of Redis connections meanwhile.
async fn stampede(server: &RedisServer, replica: &TestReplica, cursor: &Value, missed: u64) -> usize {
    const ROUNDS: usize = 10;
    const CLIENTS: usize = 25;
    // Handshakes are not measured, and each of them has a separate timeout.
    let mut clients = Vec::new();
    for _ in 0..ROUNDS {
        clients.extend(futures_util::future::join_all((0..CLIENTS).map(|_| replica.market())).await);
    }
    let one = async |mut client: TestClient| {
        let request = json!({"type": "subscribe", "channels": [{"channel": "trades:RUN", "since": cursor}]});
        // On a machine that is too busy, a client receives a retry delay.
        while let Some(ms) = client.ask(request.clone()).await["errors"][0]["details"]["retry_after_ms"].as_u64() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        for number in 1..=missed {
            assert_eq!(client.next().await["number"], number);
        }
        let end = client.caught_up().await;
        assert_eq!((&end["replayed"], &end["complete"]), (&json!(missed), &json!(true)), "{end}");
    };
    let connections = async || server.run::<String>(&["CLIENT", "LIST"]).await.lines().count();
    let all = futures_util::future::join_all(clients.into_iter().map(one));
    tokio::pin!(all);
    let mut most = 0;
    loop {
        tokio::select! {
            _ = &mut all => return most,
            now = connections() => most = most.max(now),
        }
    }
}

#[tokio::test]
async fn a_mass_reconnect_is_served_from_memory_with_few_reads_of_redis() {
    let server = RedisServer::start();
    let settings = "[redis]\npool_size = 4";
    let (warm, cold) = (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    let mut follower = warm.market().await;
    follower.subscribe(&["trades:RUN"]).await;
    let trade = |number: u64| json!({"type": "trade", "number": number, "note": "x".repeat(150)});
    let cursor = warm.publish("trades:RUN", trade(0)).await;
    for number in 1..=100 {
        warm.publish("trades:RUN", trade(number)).await;
    }
    follower.vanish();
    let before = server.run::<String>(&["CLIENT", "LIST"]).await.lines().count();
    for replica in [&warm, &cold] {
        // A connection of this test, and those of two pools.
        let most = stampede(&server, replica, &cursor, 100).await;
        assert!(most <= before + 1 + 2 * 4, "{most} connections to Redis, {before} before");
    }
    let share = async |replica: &TestReplica, result| {
        replica.metric(&format!("tickgate_replay_requests_total{{result=\"{result}\"}}")).await
    };
    assert_eq!((share(&warm, "ring").await, share(&warm, "stream").await), (250.0, 0.0));
    assert_eq!(share(&cold, "gap").await, 0.0, "a replica that never had the topic reads it");
}

#[tokio::test]
async fn the_source_of_a_resume_is_counted() {
    let server = RedisServer::start();
    let (warm, cold) =
        (TestReplica::on(&server).await, TestReplica::on_with(&server, "[limits]\nreplay_entries_max = 5").await);
    let trade = |number: u64| json!({"type": "trade", "number": number});
    let first = warm.publish("trades:RUN", trade(0)).await;
    let mut last = first.clone();
    // More than one page of the stream, and more than a replica holds in memory.
    for number in 1..=800 {
        last = warm.publish("trades:RUN", trade(number)).await;
    }
    let resumed = async |replica: &TestReplica, cursor, result| {
        let name = format!("tickgate_replay_requests_total{{result=\"{result}\"}}");
        let before = replica.metric(&name).await;
        let mut client = replica.market().await;
        client.subscribe_since(&["trades:RUN"], cursor).await;
        assert_eq!(replica.metric(&name).await, before + 1.0, "{result}");
    };
    resumed(&cold, &first, "too_long").await;
    resumed(&warm, &first, "stream").await;
    let mut follower = warm.market().await;
    follower.subscribe(&["trades:RUN"]).await;
    resumed(&warm, &last, "live").await;
}
