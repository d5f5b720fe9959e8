//! What the log answers: why a client was refused, who was connected, and what an operator did. Never contains a
//! secret.

use std::time::Instant;

use serde_json::{Value, json};
use tickgate_kit::log::holds_secret;

use crate::{
    redis_tls,
    support::{
        eventually,
        redis::{RedisServer, free_port},
        replica::{API_KEY, TestReplica, TokenBuilder, token},
    },
};

const SETTINGS: &str = "[log]\nfilter = \"debug\"\nformat = \"json\"\n[limits]\nconnections_per_user_max = 1\n";

/// Lines with this message, in order.
fn lines(replica: &TestReplica, message: &str) -> Vec<Value> {
    let all = replica.log();
    let parsed = all.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"] == message).collect()
}

async fn line_where(replica: &TestReplica, message: &str, has: impl Fn(&Value) -> bool) -> Value {
    let found = || lines(replica, message).into_iter().find(&has);
    eventually(&format!("a line {message:?}"), async || found()).await
}

#[tokio::test]
async fn a_connection_can_be_traced_by_its_id_and_no_secret_is_logged() {
    let (server, mut ids) = (RedisServer::start(), Vec::new());
    let replica = TestReplica::process(&server, SETTINGS).await;
    let serving = line_where(&replica, "serving", |_| true).await;
    let addresses = [replica.address(), replica.operations_address()].map(|address| json!(address.to_string()));
    assert_eq!([&serving["listen"], &serving["ops_listen"]], addresses.each_ref(), "the ports in use");
    let mut alice = replica.trading("alice").await;
    ids.push(alice.welcome["connection_id"].clone());
    let opened = line_where(&replica, "connection opened", |line| line["connection_id"] == ids[0]).await;
    assert_eq!((&opened["user"], &opened["address"]), (&json!("alice"), &json!("127.0.0.1")));
    assert_eq!((&opened["endpoint"], &opened["level"]), (&json!("trading"), &json!("DEBUG")));

    let mut bob = replica.connect("/ws/trading").query("auth", "message").open().await;
    bob.send(json!({"type": "auth", "token": token("bob")})).await;
    bob.greeted().await;
    ids.push(bob.welcome["connection_id"].clone());
    line_where(&replica, "connection authenticated", |line| line["connection_id"] == ids[1] && line["user"] == "bob")
        .await;

    let mut late = replica.connect("/ws/trading").query("auth", "message").open().await;
    late.send(json!({"type": "auth", "token": TokenBuilder::of("eve").expires_in(-60).sign()})).await;
    let refused = line_where(&replica, "client refused", |line| line["reason"] == "expired").await;
    ids.push(refused["connection_id"].clone());

    alice.subscribe(&["orders"]).await;
    replica.publish_to("alice", "orders", json!({"secret_payload": 1})).await;
    alice.next().await;
    drop((alice, bob, late));
    for id in &ids {
        line_where(&replica, "connection closed", |line| line["connection_id"] == *id).await;
    }
    let log = replica.log();
    assert!(!holds_secret(after_greeting(&log).as_bytes()), "a token or key is in the log:\n{log}");
    assert!(!log.contains("secret_payload"), "a payload is in the log");
}

#[tokio::test]
async fn in_development_a_publication_that_looks_like_the_gateways_own_is_logged() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, SETTINGS).await;
    replica.publish("trades:X", json!({"type": "trade"})).await;
    replica.publish("trades:X", json!({"type": "gap"})).await;
    let said = "a publication has the type of a message of the gateway";
    let line = line_where(&replica, said, |_| true).await;
    assert_eq!((&line["channel"], &line["kind"], &line["level"]), (&json!("trades:X"), &json!("gap"), &json!("WARN")));
    assert_eq!(lines(&replica, said).len(), 1);
}

/// The greeting shows the token and the key of development mode on purpose.
fn after_greeting(log: &str) -> &str {
    &log[log.find("\"serving\"").expect("a line that it serves")..]
}

#[tokio::test]
async fn a_refused_client_is_logged_with_reason_and_address() {
    let server = RedisServer::start();
    let settings = format!("[server]\nallowed_origins = [\"https://desk.example\"]\n{SETTINGS}");
    let replica = TestReplica::process(&server, &settings).await;
    let of = |result: &'static str| line_where(&replica, "client refused", move |line| line["result"] == result);

    let expired = TokenBuilder::of("alice").expires_in(-60).sign();
    replica.connect("/ws/trading").token(&expired).expect_refused(401).await;
    let line = of("unauthorized").await;
    assert_eq!((&line["reason"], &line["address"]), (&json!("Invalid token (expired)"), &json!("127.0.0.1")));
    assert_eq!((&line["endpoint"], &line["level"]), (&json!("trading"), &json!("INFO")));
    assert_eq!(line["connection_id"].as_str().map(str::len), Some(16), "{line}");

    replica.connect("/ws/trading").token(&token("alice")).origin("https://evil.example\"x").expect_closed(1008).await;
    assert_eq!(of("origin").await["reason"], r#"Origin not allowed: "https://evil.example\"x""#);

    let _first = replica.trading("carol").await;
    replica.connect("/ws/trading").token(&token("carol")).expect_refused(429).await;
    assert_eq!(of("user_limit").await["reason"], "Maximum connections exceeded");

    let answer = replica.get("/ws/trading").await;
    assert_eq!(answer.status, 400);
    assert!(of("bad_request").await["reason"].as_str().unwrap().contains("WebSocket endpoint"));
}

#[tokio::test]
async fn a_flood_of_refused_clients_is_sampled() {
    let (server, began) = (RedisServer::start(), Instant::now());
    let replica = TestReplica::process(&server, SETTINGS).await;
    for _ in 0..40 {
        replica.connect("/ws/trading").token("x.y.z").expect_refused(401).await;
    }
    // Each contains the number of omitted lines before it; on a slow machine one is written during the flood.
    eventually("lines that account for all", async || {
        replica.connect("/ws/trading").token("x.y.z").expect_refused(401).await;
        let lines = lines(&replica, "client refused");
        assert!(lines.len() as u64 <= began.elapsed().as_secs() + 1, "{} lines in {:?}", lines.len(), began.elapsed());
        let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
        (left_out > 0 && lines.len() as u64 + left_out >= 40).then_some(())
    })
    .await;
}

#[tokio::test]
async fn operator_actions_are_logged_with_caller_and_address() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, SETTINGS).await;
    let mut alice = replica.trading("alice").await;
    let session = eventually("the connection to be listed", async || {
        let own = replica.api_get("/api/v1/users/alice").await.json();
        own["connections"][0]["session"].as_str().map(str::to_owned)
    })
    .await;
    let answer = replica.api_post("/api/v1/disconnect", json!({"session": session})).await;
    assert_eq!(answer.status, 202);
    let line = line_where(&replica, "operator action", |line| line["action"] == "disconnected a session").await;
    assert_eq!((&line["session"], &line["address"]), (&json!(format!("{}…", &session[..8])), &json!("127.0.0.1")));
    assert_eq!(line["request_id"].as_str(), answer.header("x-request-id"));
    assert!(!replica.log().contains(&alice.session()), "the secret resumes the session");
    alice.expect_close(4500).await;

    replica.api_post("/api/v1/disconnect", json!({"user": "bob"})).await;
    line_where(&replica, "operator action", |line| line["action"] == "disconnected a user" && line["user"] == "bob")
        .await;
    replica.api_post("/api/v1/disconnect", json!({"user": "carol", "revoke_seconds": 60})).await;
    let line = line_where(&replica, "operator action", |line| line["user"] == "carol").await;
    assert_eq!((&line["action"], &line["seconds"]), (&json!("revoked a user's tokens"), &json!(60)));

    let headers = [("x-api-key", API_KEY), ("content-type", "application/json")];
    let left = json!({"active": false, "seconds": 60}).to_string();
    assert_eq!(replica.api("PUT", "/api/v1/users/dave", &headers, Some(left)).await.status, 202);
    let line = line_where(&replica, "operator action", |line| line["user"] == "dave").await;
    assert_eq!((&line["action"], &line["seconds"]), (&json!("reported a user as inactive"), &json!(60)));

    let headers = [("x-api-key", "guessed-key")];
    assert_eq!(replica.api("GET", "/api/v1/topics", &headers, None).await.status, 401);
    let line = line_where(&replica, "api request refused", |line| line["reason"] == "api_key").await;
    assert_eq!(line["address"], "127.0.0.1");
    assert!(!replica.log().contains("guessed-key"));
}

#[tokio::test]
async fn the_audit_log_has_a_separate_file_that_may_be_renamed() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let (file, renamed) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
    let settings = format!("[log]\nfilter = \"error\"\naudit_file = \"{}\"\n", file.display());
    let replica = TestReplica::process(&server, &settings).await;
    let written = |path: &std::path::Path, user: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["user"] == user && line["key"] == "api_keys" && line["target"] == "audit")
    };
    replica.api_post("/api/v1/disconnect", json!({"user": "alice"})).await;
    eventually("the line", async || written(&file, "alice")).await;
    std::fs::rename(&file, &renamed).unwrap();
    replica.api_post("/api/v1/disconnect", json!({"user": "bob"})).await;
    eventually("a line in a new file", async || written(&file, "bob")).await;
    assert!(written(&renamed, "alice").is_some() && written(&renamed, "bob").is_none());
    assert!(!replica.log().contains("operator action"), "the filter counts for the log");
}

#[tokio::test]
async fn a_key_set_that_cannot_be_fetched_is_logged_with_its_address_and_the_cause() {
    let (server, certificates, port) = (RedisServer::start(), redis_tls::certificates(), free_port());
    let _untrusted = redis_tls::server(certificates.path(), port);
    let closed = free_port();
    for (url, cause) in [
        (format!("http://127.0.0.1:{closed}/keys"), "refused"),
        (format!("https://127.0.0.1:{port}/keys"), "certificate"),
        ("https://keys.invalid/keys".to_owned(), "lookup"),
    ] {
        let settings = format!("{SETTINGS}[auth]\njwks_url = \"{url}?api_key=hidden\"\n");
        let replica = TestReplica::process(&server, &settings).await;
        let line = line_where(&replica, "key set can't be loaded", |_| true).await;
        assert_eq!(line["url"], url.as_str(), "{line}");
        assert!(line["error"].as_str().is_some_and(|error| error.contains(cause)), "{cause} in {line}");
        assert!(!replica.log().contains("hidden"));
    }
}
