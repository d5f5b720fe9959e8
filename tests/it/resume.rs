//! Coming back: by cursor, by session, on the same replica or another one.

use serde_json::{Value, json};

use crate::support::{
    client::Client,
    redis::RedisServer,
    replica::{Replica, token},
    wire::{Heard, PING, PONG, TEXT, Wire, frame},
};

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

/// The session's client comes back to the replica.
async fn resumed(replica: &Replica, user: &str, session: &str) -> Client {
    let request = replica.connect("/ws/trading").token(&token(user)).query("session", session);
    let mut client = request.name(user).open().await;
    client.greeted().await;
    client
}

#[tokio::test]
async fn a_cursor_in_the_url_brings_exactly_what_was_missed_from_another_replica() {
    let server = RedisServer::start();
    let (one, other) = (Replica::on(&server).await, Replica::on(&server).await);
    let mut alice = one.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    let cursor = alice.expect(order(1)).await["id"].as_str().unwrap().to_owned();
    one.kill();
    for number in 2..=50 {
        other.publish_to("alice", "orders", order(number)).await;
    }
    let request = other.connect("/ws/trading").token(&token("alice")).query("since", &cursor);
    let mut alice = request.open().await;
    alice.greeted().await;
    let answer = alice.subscribe(&["orders"]).await;
    assert_eq!((&answer["channels"][0]["replayed"], &answer["channels"][0]["complete"]), (&json!(49), &json!(true)));
    for number in 2..=50 {
        alice.expect(order(number)).await;
    }
    other.publish_to("alice", "orders", order(51)).await;
    alice.expect(order(51)).await;
}

#[tokio::test]
async fn a_session_takes_up_its_subscriptions_where_its_client_was() {
    let replica = Replica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders", "ticker:BTCUSDT"]).await;
    replica.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
    // Whatever the client says later confirms that it has what came before.
    alice.ask(json!({"type": "ping"})).await;
    let session = alice.session();
    alice.vanish();
    replica.publish_to("alice", "orders", order(2)).await;
    replica.publish("ticker:BTCUSDT", json!({"type": "ticker"})).await;
    let mut alice = resumed(&replica, "alice", &session).await;
    assert_eq!((&alice.welcome["resumed"], &alice.welcome["session"]), (&json!(true), &json!(session)));
    alice.expect_type("subscribed").await;
    let (mut orders, mut prices) = (Vec::new(), 0);
    while orders.last() != Some(&json!("2")) || prices == 0 {
        let message = alice.next().await;
        match message["type"].as_str().unwrap() {
            "order_update" => {
                assert_eq!(message["_meta"]["replayed"], true);
                orders.push(message["order_id"].clone());
            }
            "ticker" => prices += 1,
            other => panic!("{other}"),
        }
    }
    assert!(orders == ["2"] || orders == ["1", "2"], "nothing missed; what comes twice is marked: {orders:?}");
    replica.publish_to("alice", "orders", order(3)).await;
    assert_eq!(alice.expect(order(3)).await["replayed"], Value::Null);
}

#[tokio::test]
async fn a_session_moves_to_another_replica_and_the_old_connection_is_closed() {
    let server = RedisServer::start();
    let (one, other) = (Replica::on(&server).await, Replica::on(&server).await);
    let mut old = one.trading("alice").await;
    old.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    old.expect(order(1)).await;
    let session = old.session();
    let mut new = crate::support::eventually("the session's record", async || {
        let client = resumed(&other, "alice", &session).await;
        (client.welcome["resumed"] == true).then_some(client)
    })
    .await;
    old.expect_close(4501).await;
    new.expect_type("subscribed").await;
    one.publish_to("alice", "orders", order(2)).await;
    while new.next().await["order_id"] != "2" {}
    new.expect_nothing().await;
}

#[tokio::test]
async fn a_session_outlives_its_replica() {
    let server = RedisServer::start();
    let (one, other) = (Replica::on(&server).await, Replica::on(&server).await);
    let mut alice = one.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
    alice.ask(json!({"type": "ping"})).await;
    let session = alice.session();
    recorded(&server, &session, "orders").await;
    one.kill();
    for number in 2..=10 {
        other.publish_to("alice", "orders", order(number)).await;
    }
    let mut alice = resumed(&other, "alice", &session).await;
    assert_eq!(alice.welcome["resumed"], true);
    alice.expect_type("subscribed").await;
    let mut expected = 2;
    while expected <= 10 {
        let number = alice.expect_type("order_update").await["order_id"].as_str().unwrap().parse::<u32>().unwrap();
        assert!(number <= expected, "{number} came before {expected}");
        expected = expected.max(number + 1);
    }
}

#[tokio::test]
async fn a_session_coming_back_to_the_same_replica_supersedes_itself() {
    let replica = Replica::alone_with("[limits]\nconnections_per_user_max = 1").await;
    let mut old = replica.trading("alice").await;
    old.subscribe(&["orders"]).await;
    let session = old.session();
    let mut new = resumed(&replica, "alice", &session).await;
    old.expect_close(4501).await;
    new.expect_type("subscribed").await;
    replica.publish_to("alice", "orders", order(1)).await;
    new.expect(order(1)).await;
    new.close().await;
    crate::support::eventually("the one slot to be free", async || {
        replica.connect("/ws/trading").token(&token("alice")).try_open().await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_comes_back_again_and_again_is_never_closed_by_its_own_past() {
    let server = RedisServer::start();
    let replicas = [Replica::on(&server).await, Replica::on(&server).await];
    let mut alice = replicas[0].trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    for turn in 0..12 {
        let (replica, number) = (&replicas[(turn / 2) % 2], turn.to_string());
        alice.vanish();
        alice = crate::support::eventually("the session", async || {
            let client = resumed(replica, "alice", &session).await;
            (client.welcome["resumed"] == true).then_some(client)
        })
        .await;
        alice.expect_type("subscribed").await;
        replica.publish_to("alice", "orders", json!({"type": "order_update", "order_id": number})).await;
        while alice.next().await["order_id"] != json!(number) {}
    }
    alice.expect_nothing().await;
}

#[tokio::test]
async fn an_anonymous_session_resumes_as_well() {
    let replica = Replica::alone().await;
    let mut tab = replica.run("/ws/backtest/run-1").await;
    replica.publish("run:run-1", json!({"type": "candle", "number": 1})).await;
    tab.expect_type("candle").await;
    tab.ask(json!({"type": "ping"})).await;
    let session = tab.session();
    tab.vanish();
    replica.publish("run:run-1", json!({"type": "candle", "number": 2})).await;
    let mut tab = replica.connect("/ws/backtest/run-1").query("session", &session).open().await;
    tab.greeted().await;
    assert_eq!(tab.welcome["resumed"], true);
    tab.expect_type("subscribed").await;
    while tab.next().await["number"] != 2 {}
    tab.expect_nothing().await;
}

#[tokio::test]
async fn a_session_is_its_users_own() {
    let replica = Replica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    let mallory = resumed(&replica, "mallory", &session).await;
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
    let replica = Replica::alone_with(settings).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    alice.close().await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let alice = resumed(&replica, "alice", &session).await;
    assert_eq!(alice.welcome["resumed"], false);
}

#[tokio::test]
async fn a_session_that_cannot_be_looked_up_now_is_told_to_come_again() {
    let mut server = RedisServer::durable();
    let replica = Replica::on(&server).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    recorded(&server, &session, "orders").await;
    alice.vanish();
    server.kill();
    let request = || replica.connect("/ws/trading").token(&token("alice")).query("session", &session);
    let refusal = request().expect_refused(503).await;
    assert!(refusal.retry_after.is_some(), "{refusal:?}");
    request().origin("https://app.example").expect_closed(1013).await;
    server.restart();
    let mut alice = crate::support::eventually("the session", async || request().try_open().await.ok()).await;
    alice.greeted().await;
    assert_eq!(alice.welcome["resumed"], true);
    alice.expect_type("subscribed").await;
}

#[tokio::test]
async fn a_resume_that_fails_half_way_loses_nothing_of_the_session() {
    let server = RedisServer::start();
    let (one, other) = (Replica::on(&server).await, Replica::on(&server).await);
    let mut alice = one.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
    let session = alice.session();
    recorded(&server, &session, "orders").await;
    alice.vanish();
    one.publish_to("alice", "orders", order(2)).await;
    // The record can be read, and the stream can't.
    let stream = stream_of_alice(&server).await;
    server.run::<()>(&["RENAME", &stream, "aside"]).await;
    server.run::<()>(&["SET", &stream, "no stream"]).await;
    let request = other.connect("/ws/trading").token(&token("alice")).query("session", &session);
    request.open().await.expect_close(1013).await;
    // What the failed one had to write is written before its place is given back.
    crate::support::eventually("the place of the failed one", async || {
        let places: Vec<String> = server.run(&["ZRANGE", "tg1:{u:alice}:l", "0", "-1"]).await;
        places.is_empty().then_some(())
    })
    .await;
    server.run::<()>(&["RENAME", "aside", &stream]).await;
    let mut alice = resumed(&other, "alice", &session).await;
    assert_eq!(alice.welcome["resumed"], true);
    let answer = alice.expect_type("subscribed").await;
    assert_eq!(answer["channels"][0]["channel"], "orders", "{answer}");
    while alice.next().await["order_id"] != "2" {}
}

#[tokio::test]
async fn what_a_stream_had_at_the_resume_is_marked_though_the_replica_has_not_heard_of_it() {
    let server = RedisServer::start();
    let (one, other) = (Replica::on(&server).await, Replica::on(&server).await);
    let (mut alice, mut tab) = (one.trading("alice").await, other.trading("alice").await);
    alice.subscribe(&["orders"]).await;
    tab.subscribe(&["orders"]).await;
    one.publish_to("alice", "orders", order(1)).await;
    let id = alice.expect(order(1)).await["id"].as_str().unwrap().to_owned();
    tab.expect(order(1)).await;
    // Confirms what came before.
    alice.ask(json!({"type": "ping"})).await;
    let session = alice.session();
    recorded(&server, &session, &id).await;
    alice.vanish();
    // Stored, and told to nobody: the replica that follows the stream already stays behind.
    let next = format!("{}-*", id.split('-').next().unwrap());
    let stream = stream_of_alice(&server).await;
    server.run::<String>(&["XADD", &stream, &next, "d", &order(2).to_string(), "c", "orders"]).await;
    let mut alice = resumed(&other, "alice", &session).await;
    assert_eq!(alice.welcome["resumed"], true);
    alice.expect_type("subscribed").await;
    loop {
        let push = alice.expect_type("order_update").await;
        assert_eq!(push["_meta"]["replayed"], true, "{push}");
        if push["order_id"] == "2" {
            break;
        }
    }
}

#[tokio::test]
async fn a_value_does_not_go_back_in_time_on_a_replica_that_lags() {
    let server = RedisServer::start();
    let replica = Replica::on(&server).await;
    let (mut before, mut tab) = (replica.market().await, replica.market().await);
    let ticker = |price: &str| json!({"type": "ticker", "price": price});
    before.subscribe(&["ticker:BTCUSDT"]).await;
    tab.subscribe(&["ticker:BTCUSDT"]).await;
    replica.publish("ticker:BTCUSDT", ticker("1")).await;
    let id = tab.expect(ticker("1")).await["id"].as_str().unwrap().to_owned();
    // Stored, and told to nobody yet; a client that comes from another replica has seen it.
    let (epoch, stream) = (id.split('-').next().unwrap(), "tg1:{t:ticker:BTCUSDT}:s");
    let next: String = server.run(&["XADD", stream, &format!("{epoch}-*"), "d", &ticker("2").to_string()]).await;
    before.vanish();
    let mut client = replica.market().await;
    let since = json!({ "ticker:BTCUSDT": next });
    client.subscribe_with(json!({"type": "subscribe", "channels": ["ticker:BTCUSDT"], "since": since})).await;
    let snapshot = client.expect_type("ticker").await;
    assert_eq!((&snapshot["price"], &snapshot["_meta"]["snapshot"]), (&json!("2"), &json!(true)), "{snapshot}");
    replica.publish("ticker:BTCUSDT", ticker("3")).await;
    assert_eq!(client.expect_type("ticker").await["price"], "3", "what it has does not come again");
}

/// So many clients of the replica come back at once with a cursor, each to the end of what it missed. The most connections
/// that Redis had meanwhile.
async fn stampede(server: &RedisServer, replica: &Replica, cursor: &Value, missed: u64) -> usize {
    const CLIENTS: usize = 250;
    let one = async || {
        let mut client = replica.market().await;
        let request = json!({"type": "subscribe", "channels": ["trades:RUN"], "since": {"trades:RUN": cursor}});
        let answer = client.subscribe_with(request).await;
        let told = (&answer["channels"][0]["replayed"], &answer["channels"][0]["complete"]);
        assert_eq!(told, (&json!(missed), &json!(true)), "{answer}");
        for number in 1..=missed {
            assert_eq!(client.next().await["number"], number);
        }
    };
    let connections = async || server.run::<String>(&["CLIENT", "LIST"]).await.lines().count();
    let all = futures_util::future::join_all((0..CLIENTS).map(|_| one()));
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
async fn a_mass_reconnect_is_served_from_what_replicas_remember_and_redis_sees_few_of_it() {
    let server = RedisServer::start();
    let settings = "[redis]\npool_size = 4";
    let (warm, cold) = (Replica::on_with(&server, settings).await, Replica::on_with(&server, settings).await);
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
    let share = async |replica: &Replica, result| {
        replica.metric(&format!("tickgate_replay_requests_total{{result=\"{result}\"}}")).await
    };
    assert_eq!((share(&warm, "ring").await, share(&warm, "stream").await), (250.0, 0.0));
    assert_eq!(share(&cold, "gap").await, 0.0, "a replica that never had the topic reads it");
}

/// Waits until the session's record in Redis contains the text.
async fn recorded(server: &RedisServer, session: &str, text: &str) {
    let key = format!("tg1:{{s:{session}}}:r");
    crate::support::eventually("the session's record", async || {
        let record: Option<String> = server.run(&["GET", &key]).await;
        record.is_some_and(|record| record.contains(text)).then_some(())
    })
    .await;
}

/// The key of alice's private stream.
async fn stream_of_alice(server: &RedisServer) -> String {
    let keys: Vec<String> = server.run(&["KEYS", "tg1:*alice*:s"]).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].clone()
}

#[tokio::test]
async fn what_an_added_channel_missed_is_not_lost_with_the_connection_it_was_on_its_way_to() {
    let replica = Replica::alone().await;
    let alert = |number: u32| json!({"type": "risk_alert", "number": number});
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["risk_alerts"]).await;
    replica.publish_to("alice", "risk_alerts", alert(1)).await;
    let cursor = alice.expect(alert(1)).await["id"].clone();
    alice.close().await;
    for number in 2..=4 {
        replica.publish_to("alice", "risk_alerts", alert(number)).await;
    }
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let answer = alice.subscribe_since(&["risk_alerts"], &cursor).await;
    assert_eq!(answer["channels"][0]["replayed"], 3, "{answer}");
    // They are on their way; nothing tells that they arrived.
    let session = alice.session();
    alice.vanish();
    let mut alice = resumed(&replica, "alice", &session).await;
    alice.expect_type("subscribed").await;
    for number in 2..=4 {
        alice.expect(alert(number)).await;
    }
}

#[tokio::test]
async fn a_late_answer_to_a_ping_confirms_nothing_that_came_after_the_ping() {
    let replica = Replica::alone().await;
    let alert = |number: u32| json!({"type": "risk_alert", "number": number});
    let cursor = replica.publish_to("alice", "risk_alerts", alert(1)).await;
    replica.publish_to("alice", "risk_alerts", alert(2)).await;
    let mut wire = Wire::upgraded(replica.address(), &format!("/ws/trading?token={}", token("alice"))).await;
    let welcome = wire.hear_json().await;
    wire.send(&frame(TEXT, br#"{"type":"subscribe","channels":["orders"]}"#)).await;
    replica.publish_to("alice", "orders", order(1)).await;
    // The ping that asks whether the order arrived stays without its answer for now.
    let ping = loop {
        if let Heard::Frame(PING, payload) = wire.hear().await {
            break payload;
        }
    };
    let since = json!({"type": "subscribe", "channels": ["risk_alerts"], "since": {"risk_alerts": cursor}});
    wire.send(&frame(TEXT, since.to_string().as_bytes())).await;
    while wire.hear_json().await["type"] != "subscribed" {}
    wire.send(&frame(PONG, &ping)).await;
    wire.send(&frame(TEXT, br#"{"type":"ping"}"#)).await;
    while wire.hear_json().await["type"] != "pong" {}
    wire.reset();
    let mut alice = resumed(&replica, "alice", welcome["session"].as_str().unwrap()).await;
    alice.expect_type("subscribed").await;
    alice.expect(alert(2)).await;
}
