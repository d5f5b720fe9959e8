//! Plain HTTP: health, probes, status, the operator's view, metrics, and what logs must not contain.

use serde_json::{Value, json};

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{API_KEY, SECRET, TestReplica, TokenBuilder, token},
};

#[tokio::test]
async fn health_reports_the_number_of_connections() {
    let replica = TestReplica::alone().await;
    let _alice = replica.trading("alice").await;
    let _somebody = replica.market().await;
    let answer = replica.get("/health").await;
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!((&health["status"], &health["active_connections"]), (&json!("healthy"), &json!(2)));
    assert!(health["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{health}");
}

#[tokio::test]
async fn accepted_tokens_are_counted_for_every_way_to_authenticate() {
    let replica = TestReplica::alone().await;
    let _by_query = replica.trading("alice").await;
    let mut by_message = replica.connect("/ws/trading").query("auth", "message").open().await;
    by_message.ask(json!({"type": "auth", "token": token("bob")})).await;
    replica.ticket(&token("carol")).await;
    let _without = replica.market().await;
    replica.connect("/ws/trading").token("x.y.z").expect_refused(401).await;
    assert_eq!(replica.metric("tickgate_tokens_accepted_total").await, 3.0);
}

#[tokio::test]
async fn a_replicas_clock_is_compared_with_rediss() {
    let server = RedisServer::start();
    let replica = TestReplica::on(&server).await;
    let skew = eventually("the clocks to be compared", async || {
        Some(replica.metric("tickgate_redis_clock_skew_seconds").await).filter(|skew| *skew != 0.0)
    })
    .await;
    assert!(skew.abs() < 0.06, "{skew} s on one machine");
}

#[tokio::test]
async fn the_root_names_the_service_and_its_endpoints() {
    let replica = TestReplica::alone().await;
    let root = replica.get("/").await.json();
    assert_eq!(root["service"], "tickgate");
    let endpoints = root["endpoints"].as_array().unwrap();
    for path in ["/ws/trading", "/ws/market", "/ws", "/ws/backtest/{run_id}", "/ws/forward/{run_id}", "/ws/ingest"] {
        assert!(endpoints.contains(&Value::from(path)), "{path}");
    }
}

#[tokio::test]
async fn an_endpoint_at_the_root_does_not_change_plain_requests() {
    let replica = TestReplica::alone_with(
        "[[profiles]]\nname = \"root\"\npath = \"/\"\ntoken = \"required\"\nrefusal_code = 1008",
    )
    .await;
    let root = replica.get("/").await;
    assert_eq!((root.status, &root.json()["service"]), (200, &json!("tickgate")));
    assert!(root.json()["endpoints"].as_array().unwrap().contains(&json!("/")));
    assert_eq!(replica.get("/nothing").await.status, 404);
    let mut alice = replica.connect("/").token(&token("alice")).open().await;
    alice.greeted().await;
    replica.connect("/").expect_refused(401).await;
    let reason = replica.connect("/").origin("https://app.example").expect_closed(1008).await;
    assert_eq!(reason, "Authentication required");
    replica.market().await;
}

#[tokio::test]
async fn a_replica_without_redis_is_ready_and_has_no_link_that_could_be_down() {
    let alone = TestReplica::alone().await;
    assert_eq!(alone.metric("tickgate_replicas").await, 1.0);
    let mut server = RedisServer::start();
    let linked = TestReplica::on(&server).await;
    server.kill();
    eventually("both links to be down", async || {
        let up = async |link: &str| linked.metric(&format!("tickgate_redis_up{{link=\"{link}\"}}")).await;
        (up("command").await + up("pubsub").await == 0.0).then_some(())
    })
    .await;
    let exports = async |replica: &TestReplica| replica.api_get("/metrics").await.body.contains("tickgate_redis_up{");
    assert!(exports(&linked).await && !exports(&alone).await, "no link, no figure of it");
}

#[tokio::test]
async fn probes_distinguish_liveness_and_readiness() {
    let mut server = RedisServer::start();
    let settings = "[readiness]\nredis_grace = \"1s\"\n[redis]\ncanary_interval = \"300ms\"\ncanary_timeout = \"1s\"";
    let replica = TestReplica::on_with(&server, settings).await;
    assert_eq!(replica.get("/readyz").await.status, 200);
    server.kill();
    eventually("not ready without redis", async || (replica.get("/readyz").await.status == 503).then_some(())).await;
    assert_eq!(replica.get("/livez").await.status, 200, "an outage of redis restarts nobody");
    assert_eq!(replica.get("/health").await.status, 503);
    server.restart();
    eventually("ready again", async || (replica.get("/readyz").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn status_counts_over_the_cluster_and_shows_users_only_with_a_key() {
    let server = RedisServer::start();
    let settings = "[server]\nmode = \"production\"\n[session]\nreplica_ttl = \"2s\"";
    let (one, other) = (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    let mut alice = one.trading("alice").await;
    alice.subscribe(&["orders", "portfolio"]).await;
    let _tab = other.trading("alice").await;
    let _bob = other.trading("bob").await;
    eventually("three connections of two replicas", async || {
        let status = one.get("/ws/status").await.json();
        (status["active_connections"] == 3 && status["replicas"] == 2).then_some(())
    })
    .await;
    let status = one.get("/ws/status").await.json();
    assert_eq!((&status["status"], &status["total_subscriptions"]), (&json!("active"), &json!(2)));
    assert_eq!(status["user_connections"], json!({}), "not to the public");
    let answer = crate::support::http::send(one.address(), "GET", "/ws/status", &[("x-api-key", API_KEY)], None).await;
    assert_eq!(answer.json()["user_connections"], json!({"alice": 2, "bob": 1}));
}

#[tokio::test]
async fn the_operator_sees_connections_and_may_close_them() {
    let replica = TestReplica::alone().await;
    let (mut alice, mut bob) = (replica.trading("alice").await, replica.trading("bob").await);
    let listed = replica.api_get("/api/v1/connections").await.json();
    assert_eq!(listed["connections"].as_array().unwrap().len(), 2, "{listed}");
    let own = replica.api_get("/api/v1/users/alice").await.json();
    assert_eq!(own["connections"].as_array().unwrap().len(), 1, "{own}");
    assert_eq!(own["connections"][0]["endpoint"], "trading");
    let answer = replica.api_post("/api/v1/disconnect", json!({"user": "alice", "reason": "maintenance"})).await;
    assert!(answer.status < 300, "{answer:?}");
    assert_eq!(alice.expect_close(4500).await, "maintenance");
    let session = replica.api_get("/api/v1/users/bob").await.json()["connections"][0]["session"].clone();
    assert_ne!(session, bob.session(), "who may list connections can't take them over");
    let answer = replica.api_post("/api/v1/disconnect", json!({"session": session})).await;
    assert!(answer.status < 300, "{answer:?}");
    bob.expect_close(4500).await;
}

#[tokio::test]
async fn the_api_requires_a_key_a_json_body_and_a_valid_size() {
    let replica = TestReplica::alone().await;
    let publish = |headers: Vec<(&'static str, &'static str)>, body: String| {
        let replica = &replica;
        async move { replica.api("POST", "/api/v1/publish", &headers, Some(body)).await }
    };
    let (key, kind) = (("x-api-key", API_KEY), ("content-type", "application/json"));
    let body = json!({"channel": "ticker:BTCUSDT", "data": {"type": "ticker"}}).to_string();
    assert_eq!(publish(vec![kind], body.clone()).await.status, 401);
    assert_eq!(publish(vec![kind, ("x-api-key", "wrong")], body.clone()).await.status, 401);
    assert_eq!(publish(vec![key, ("content-type", "text/plain")], body.clone()).await.status, 415);
    assert_eq!(publish(vec![key, kind], "x".repeat(1_100_000)).await.status, 413);
    for bad in [
        "{}".to_owned(),
        "[]".to_owned(),
        json!({"channel": "@@alice", "data": {}}).to_string(),
        json!({"channel": "ticker:BTCUSDT", "data": {"_meta": 1}}).to_string(),
        json!({"channel": "ticker:BTCUSDT", "data": [1]}).to_string(),
        json!({"channel": "ticker:BTCUSDT", "data": {}, "msgid": "a"}).to_string(),
        r#"{"channel":"ticker:BTCUSDT","data":{"a":1e400}}"#.to_owned(),
    ] {
        let answer = publish(vec![key, kind], bad.clone()).await;
        let refused = answer.status == 400 || bad.contains("1e400") && answer.status == 200;
        assert!(refused, "{bad}: {answer:?}");
    }
    assert_eq!(
        publish(
            vec![("authorization", concat!("Bearer ", "an-api-key-that-only-the-tests-know-of-123456789")), kind],
            body
        )
        .await
        .status,
        200
    );
}

#[tokio::test]
async fn the_same_msg_id_is_published_once() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    client.subscribe(&["trades:BTCUSDT"]).await;
    let publication = json!({"channel": "trades:BTCUSDT", "data": {"type": "trade"}, "msg_id": "t-1"});
    let first = replica.api_post("/api/v1/publish", publication.clone()).await.json();
    let second = replica.api_post("/api/v1/publish", publication).await.json();
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(first["id"], second["id"]);
    client.expect(json!({"type": "trade"})).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn the_same_msg_id_with_another_payload_is_a_conflict_over_any_transport() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    client.subscribe(&["trades:BTCUSDT"]).await;
    let trade = |n: u8| json!({"channel": "trades:BTCUSDT", "data": {"type": "trade", "n": n}, "msg_id": "t-1"});
    replica.api_post("/api/v1/publish", trade(1)).await.json();
    let problem = replica.api_post("/api/v1/publish", trade(2)).await;
    assert_eq!(problem.status, 409);
    let problem = problem.json();
    assert_eq!((&problem["error"], &problem["code"]), (&json!("msg_id_reused"), &json!(4505)), "{problem}");
    assert_eq!(problem["retry_after_ms"], json!(null), "it will never succeed: {problem}");
    let results = replica.api_post("/api/v1/publish/batch", json!({"publications": [trade(1), trade(2)]})).await.json();
    assert_eq!(results["results"][0]["duplicate"], true, "{results}");
    assert_eq!(
        (&results["results"][1]["status"], &results["results"][1]["error"]),
        (&json!(409), &json!("msg_id_reused"))
    );

    let right = TokenBuilder::of("engine").publish(&["trades:*"]).commands().sign();
    let mut engine = replica.connect("/ws/backtest/r1").token(&right).open().await;
    engine.greeted().await;
    let by_socket = |n| {
        let mut request = trade(n);
        request["type"] = json!("publish");
        request
    };
    assert_eq!(engine.ask(by_socket(3)).await["duplicate"], false);
    let refused = engine.ask(by_socket(4)).await;
    assert_eq!((&refused["code"], &refused["error"]), (&json!(4505), &json!("msg_id_reused")), "{refused}");
    assert_eq!(refused["details"]["outcome"], json!(null), "{refused}");
    let command = |args: u8| json!({"type": "command", "command": "pause", "args": args, "msg_id": "p"});
    let answers = [engine.ask(command(1)).await, engine.ask(command(1)).await, engine.ask(command(2)).await];
    let [first, again, other] = answers.each_ref().map(|answer| (&answer["duplicate"], &answer["code"]));
    assert_eq!([first.0, again.0, other.1], [&json!(false), &json!(true), &json!(4505)], "{answers:?}");

    client.expect(json!({"type": "trade", "n": 1})).await;
    client.expect(json!({"type": "trade", "n": 3})).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn batches_and_lines_are_published_in_order() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    client.subscribe(&["trades:BTCUSDT"]).await;
    let entry = |number: u32| json!({"channel": "trades:BTCUSDT", "data": {"type": "trade", "number": number}});
    let batch = json!({"publications": (1..=3).map(entry).collect::<Vec<_>>()});
    let answer = replica.api_post("/api/v1/publish/batch", batch).await.json();
    assert_eq!(answer["results"].as_array().unwrap().len(), 3);
    let lines: String = (4..=6).map(|number| format!("{}\n", entry(number))).collect();
    let headers = [("x-api-key", API_KEY), ("content-type", "application/x-ndjson")];
    let answer = replica.api("POST", "/api/v1/publish", &headers, Some(lines)).await;
    assert_eq!((answer.status, answer.body.lines().count()), (200, 3), "{answer:?}");
    for number in 1..=6 {
        client.expect(json!({"type": "trade", "number": number})).await;
    }
}

#[tokio::test]
async fn metrics_follow_events() {
    let replica = TestReplica::alone().await;
    let alice = replica.trading("alice").await;
    assert_eq!(replica.metric("tickgate_connections").await, 1.0);
    replica.publish("ticker:BTCUSDT", json!({"type": "ticker"})).await;
    alice.close().await;
    eventually("the gauge back at zero", async || (replica.metric("tickgate_connections").await == 0.0).then_some(()))
        .await;
    let text = replica.api_get("/metrics").await.body;
    assert!(!text.contains("alice") && !text.contains("BTCUSDT"), "no user, no symbol");
}

/// The number of series is fixed by the configuration: strangers and publishers cannot add any.
#[tokio::test]
async fn clients_cannot_add_a_series() {
    let replica = TestReplica::alone().await;
    let series = async || {
        let text = replica.api_get("/metrics").await.body;
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    replica.publish("ticker:BTCUSDT", json!({"type": "ticker"})).await;
    let before = series().await;
    for number in 0..20 {
        let mut client = replica.trading(&format!("user-{number}")).await;
        client.subscribe(&[&format!("ticker:MADEUP{number}")]).await;
        replica.publish(&format!("made-up-{number}:x"), json!({"type": "made up"})).await;
        replica.get(&format!("/made/up/{number}")).await;
        let key = format!("made-up-key-of-32-bytes-or-more-{number}");
        replica.api("GET", "/api/v1/topics", &[("x-api-key", &key)], None).await;
        replica.connect("/ws/trading").token(&format!("made.up.{number}")).expect_refused(401).await;
        client.send(json!({"type": format!("made up {number}")})).await;
        client.expect_type("error").await;
        client.close().await;
    }
    assert_eq!(series().await, before);
}

#[tokio::test]
async fn connections_and_subscriptions_are_counted_by_endpoint_and_by_rule() {
    let replica = TestReplica::alone().await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["ticker:BTCUSDT", "ticker:ETHUSDT", "feed:binance", "orders"]).await;
    let subscriptions =
        async |topics: &str| replica.metric(&format!("tickgate_subscriptions{{topics=\"{topics}\"}}")).await;
    let counts = [subscriptions("ticker:*").await, subscriptions("feed:*").await, subscriptions("user_stream").await];
    assert_eq!(counts, [2.0, 1.0, 1.0]);
    assert_eq!(replica.metric("tickgate_subscriptions").await, 4.0);
    let ended = async |endpoint: &str| {
        replica.metric(&format!("tickgate_connection_duration_seconds_count{{endpoint=\"{endpoint}\"}}")).await
    };
    assert_eq!([ended("trading").await, ended("market").await], [0.0, 0.0]);
    alice.close().await;
    eventually("the end of the connection", async || (ended("trading").await == 1.0).then_some(())).await;
    let seconds = replica.metric("tickgate_connection_duration_seconds_sum{endpoint=\"trading\"}").await;
    assert!(seconds > 0.0 && seconds < 20.0, "it lasted {seconds} s");
    assert_eq!((ended("market").await, replica.metric("tickgate_subscriptions").await), (0.0, 0.0));
}

#[tokio::test]
async fn no_secret_ever_reaches_the_log() {
    let replica = TestReplica::alone().await;
    let good = token("carol");
    let path = "/ws/trading";
    let mut carol = replica.connect(path).token(&good).open().await;
    carol.greeted().await;
    carol.ask(json!({"type": "auth", "token": good})).await;
    carol.send_text(&format!(r#"{{"type":"auth","token":"{good}""#)).await;
    carol.expect_error(4004).await;
    let mut forged = good.clone();
    forged.push('x');
    replica.connect(path).token(&forged).expect_refused(401).await;
    replica.connect(path).header("authorization", &format!("Bearer {forged}")).expect_refused(401).await;
    replica
        .connect(path)
        .header("sec-websocket-protocol", &format!("tickgate.v1, bearer.{forged}"))
        .expect_closed(4001)
        .await;
    let ticket = replica.ticket(&good).await;
    replica.connect(path).query("ticket", &ticket).open().await.close().await;
    carol.close().await;
    let log = crate::support::log::captured();
    assert!(log.contains("serving"), "the log is captured at all");
    assert!(crate::support::log::holds_secret(good.as_bytes()), "a token would be found in it");
    for secret in [good.as_str(), good.rsplit('.').next().unwrap(), &ticket, SECRET, API_KEY] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
