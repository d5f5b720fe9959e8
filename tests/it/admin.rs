//! Operator actions on a running replica over the API, with clients connected.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{API_KEY, TestReplica},
};

const SETTINGS: &str = "[server]\nname = \"gateway-0\"\n[drain]\ndelay = \"50ms\"\nspread = \"200ms\"\n";

async fn act(replica: &TestReplica, call: &str, body: Value) -> Value {
    let answer = replica.api_post(&format!("/api/v1/admin/{call}"), body).await;
    assert_eq!(answer.status, 202, "{call}: {answer:?}");
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

#[tokio::test]
async fn a_running_replica_is_drained_and_undrained() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, SETTINGS).await;
    let mut alice = replica.trading("alice").await;
    act(&replica, "drain", json!({})).await;
    let ready = replica.get("/readyz").await;
    assert!(ready.status == 503 && ready.body.contains("an operator drained the replica"), "{ready:?}");
    alice.expect_type("closing").await;
    alice.expect_close(1012).await;
    eventually("new clients to be refused", async || {
        (replica.connect("/ws/market").try_open().await.is_err_and(|refusal| refusal.status == 503)).then_some(())
    })
    .await;
    // Publishers get responses throughout.
    replica.publish_to("alice", "orders", json!({"type": "order_update"})).await;

    act(&replica, "undrain", json!({})).await;
    assert_eq!(replica.get("/readyz").await.status, 200);
    replica.trading("alice").await;
    let log = replica.log();
    assert!(
        log.contains("action=\"drained this replica\"") && log.contains("action=\"undrained this replica\""),
        "{log}"
    );
}

#[tokio::test]
async fn a_shutdown_cannot_be_undone() {
    let server = RedisServer::start();
    let mut replica = TestReplica::process(&server, "[drain]\ndelay = \"2s\"\nspread = \"200ms\"\n").await;
    let _alice = replica.trading("alice").await;
    replica.drain();
    eventually("the drain", async || (replica.metric("tickgate_draining").await > 0.0).then_some(())).await;
    let answer = replica.api_post("/api/v1/admin/undrain", json!({})).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    replica.ended().await;
}

#[tokio::test]
async fn a_share_of_the_clients_is_asked_to_move() {
    let replica = TestReplica::alone_with(SETTINGS).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(replica.trading(&format!("user-{number}")).await);
    }
    let asked = act(&replica, "rebalance", json!({"share": 0.5, "seconds": 1})).await;
    assert_eq!(asked["connections"], 4);
    eventually("half of them to be gone", async || {
        (replica.metric("tickgate_disconnects_total{reason=\"drain\"}").await == 4.0).then_some(())
    })
    .await;
    assert_eq!(replica.metric("tickgate_connections").await, 4.0);
    for wrong in
        [json!({"share": 0, "seconds": 1}), json!({"share": 1.1, "seconds": 1}), json!({"share": 1, "seconds": 0})]
    {
        assert_eq!(replica.api_post("/api/v1/admin/rebalance", wrong).await.status, 400);
    }
}

#[tokio::test]
async fn the_log_filter_is_changed_for_a_limited_time() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    act(&replica, "log", json!({"filter": "info,tickgate::connection=debug", "seconds": 3})).await;
    replica.trading("alice").await;
    eventually("a line for debugging", async || replica.log().contains("connection opened").then_some(())).await;
    eventually("quiet", async || {
        let before = replica.log().matches("connection opened").count();
        replica.trading("bob").await;
        (replica.log().matches("connection opened").count() == before).then_some(())
    })
    .await;
    let answer = replica.api_post("/api/v1/admin/log", json!({"filter": "loud", "seconds": 3})).await;
    assert_eq!(answer.status, 400, "{answer:?}");
}

/// The lines of a requested trace, once it has ended; `meanwhile` runs during the trace.
async fn traced(replica: &TestReplica, body: Value, meanwhile: impl AsyncFnOnce()) -> Vec<Value> {
    let before = replica.log().matches("\"traced\"").count();
    let trace = replica.api_post("/api/v1/admin/trace", body);
    let act = async {
        eventually("the trace", async || (replica.log().matches("\"traced\"").count() > before).then_some(())).await;
        meanwhile().await;
    };
    let (answer, ()) = tokio::join!(trace, act);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")), "{answer:?}");
    answer.body.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

fn told(lines: &[Value], fields: &Value) -> bool {
    let has = |line: &Value| fields.as_object().unwrap().iter().all(|(name, value)| line[name] == *value);
    lines.iter().any(has)
}

#[tokio::test]
async fn a_user_and_a_topic_are_traced() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, SETTINGS).await;
    let mut early = replica.trading("alice").await;
    let bob = replica.trading("bob").await;
    let id = |client: &crate::support::client::TestClient| client.welcome["connection_id"].clone();
    let ids = [id(&early), id(&bob)];
    let lines = traced(&replica, json!({"user": "alice", "seconds": 3}), async || {
        early.subscribe(&["orders", "ticker:BTCUSDT"]).await;
        replica.publish_to("alice", "orders", json!({"type": "order_update", "secret": "4711"})).await;
        early.expect_type("order_update").await;
        replica.publish("ticker:BTCUSDT", json!({"type": "ticker"})).await;
        early.expect_type("ticker").await;
        early.send(json!({"type": "dance"})).await;
        early.expect_type("error").await;
        replica.trading("alice").await.close().await;
    })
    .await;
    let (id, topic) = (&ids[0], "ticker:BTCUSDT");
    for fields in [
        json!({"event": "connected", "connection_id": id, "endpoint": "trading", "address": "127.0.0.1"}),
        json!({"event": "command", "connection_id": id, "command": "subscribe"}),
        json!({"event": "subscribed", "connection_id": id, "topic": topic}),
        json!({"event": "arrived", "topic": "@@alice"}),
        json!({"event": "delivered", "connection_id": id, "topic": topic, "messages": 1, "behind": false}),
        json!({"event": "error", "connection_id": id, "code": 4004}),
        json!({"event": "disconnected", "cause": "client"}),
        json!({"event": "ended", "lines_lost": 0}),
    ] {
        assert!(told(&lines, &fields), "{fields} in {lines:#?}");
    }
    let text = format!("{lines:?}");
    assert!(!text.contains("4711") && !text.contains(ids[1].as_str().unwrap()), "no payload, and nobody else");

    let lines = traced(&replica, json!({"topic": topic, "seconds": 2}), async || {
        replica.publish(topic, json!({"type": "ticker"})).await;
        early.expect_type("ticker").await;
    })
    .await;
    for fields in [
        json!({"event": "arrived", "topic": topic}),
        json!({"event": "delivered", "topic": topic, "messages": 1, "subscribers": 1}),
    ] {
        assert!(told(&lines, &fields), "{fields} in {lines:#?}");
    }
    for wrong in [
        json!({"seconds": 1}),
        json!({"user": "alice", "topic": "logs", "seconds": 1}),
        json!({"topic": "", "seconds": 1}),
        json!({"user": "alice", "seconds": 0}),
    ] {
        assert_eq!(replica.api_post("/api/v1/admin/trace", wrong.clone()).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn every_call_that_acts_on_a_replica_requires_the_right_admin() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("watcher"), "watcher-key-of-32-bytes-or-more-0");
    fs::write(&file, key).unwrap();
    let named = format!("[[auth.keys]]\nname = \"watcher\"\nrights = [\"read\"]\nkey_file = \"{}\"\n", file.display());
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, &format!("[log]\nformat = \"json\"\n{named}")).await;
    let alice = replica.trading("alice").await;
    let id = alice.welcome["connection_id"].as_str().unwrap();
    let calls = [
        ("POST", "drain", "{}"),
        ("POST", "undrain", "{}"),
        ("POST", "rebalance", r#"{"share":1,"seconds":1}"#),
        ("POST", "log", r#"{"filter":"trace","seconds":9}"#),
        ("POST", "trace", r#"{"user":"alice","seconds":9}"#),
        ("GET", "config", ""),
        ("GET", &format!("connections/{id}"), ""),
    ];
    for (method, call, body) in calls {
        let (path, body) = (format!("/api/v1/admin/{call}"), (!body.is_empty()).then(|| body.to_owned()));
        let headers = [("x-api-key", key), ("content-type", "application/json")];
        let answer = replica.api(method, &path, &headers, body.clone()).await;
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 403 && detail.ends_with("lacks the right admin"), "{call}: {answer:?}");
        assert_eq!(replica.api(method, &path, &headers[1..], body).await.status, 401, "{call}");
    }
    let audited = || replica.log().lines().filter(|line| line.contains("\"right\":\"admin\"")).count();
    eventually("a line for each refusal", async || (audited() == calls.len()).then_some(())).await;
    assert_eq!(replica.get("/readyz").await.status, 200, "nothing was done");
    alice.close().await;
}

#[tokio::test]
async fn an_operator_sees_settings_connections_and_names() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, API_KEY).unwrap();
    let log = "[log]\nformat = \"json\"\n";
    let settings = format!("{SETTINGS}{log}[auth]\napi_keys = []\napi_keys_file = \"{}\"\n", keys.display());
    let replica = TestReplica::process(&server, &settings).await;
    let shown = replica.api_get("/api/v1/admin/config").await;
    assert!(!shown.body.contains(API_KEY));
    let shown = shown.json();
    assert_eq!(shown["config"]["server"]["name"], "gateway-0");
    assert!(shown["origins"]["server.name"].as_str().unwrap().contains(".toml:2"), "{}", shown["origins"]);
    assert_eq!(shown["origins"]["hub.linger"], Value::Null, "its default");

    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    let id = alice.welcome["connection_id"].as_str().unwrap().to_owned();
    let found = replica.api_get(&format!("/api/v1/admin/connections/{id}")).await.json();
    assert_eq!((&found["user"], &found["endpoint"]), (&json!("alice"), &json!("trading")));
    assert_eq!((&found["address"], &found["waiting_bytes"]), (&json!("127.0.0.1"), &json!(0)));
    assert!(found["written_bytes"].as_u64() > Some(0) && found["subscriptions"] == 1, "{found}");
    assert!(!found.to_string().contains(&alice.session()));
    assert_eq!(replica.api_get("/api/v1/admin/connections/00000000").await.status, 404);

    assert_eq!(replica.get("/ws/status").await.json()["replica"]["name"], "gateway-0");
    let listed = replica.api_get("/api/v1/replicas").await.json();
    assert_eq!(
        (&listed["replicas"][0]["name"], listed["replicas"].as_array().unwrap().len()),
        (&json!("gateway-0"), 1)
    );
    assert_eq!(replica.metric("tickgate_replica_info{name=\"gateway-0\"}").await, 1.0);
    let log = replica.log();
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert!(lines.len() > 2, "{log}");
    for line in lines {
        let line: Value = serde_json::from_str(line).expect("an object a line");
        assert_eq!(line["server_name"], "gateway-0", "{line}");
    }
}
