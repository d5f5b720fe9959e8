//! Named API keys: rights, rate limits, client certificates, and the audit log.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    certificates::Authority,
    eventually, http,
    redis::RedisServer,
    replica::{API_KEY, TestReplica},
};

const ENGINE: &str = "the-key-of-the-engine-that-only-the-tests-know-of";
const WATCHER: &str = "the-key-of-the-watcher-that-only-the-tests-know-of";
const LOG: &str = "[log]\nformat = \"json\"\n";

/// Files with these keys, and the settings that refer to them.
fn keys(entries: &[(&str, &str, &str)]) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = LOG.to_owned();
    for (name, key, rest) in entries {
        let path = folder.path().join(name);
        fs::write(&path, key).unwrap();
        settings += &format!("[[auth.keys]]\nname = \"{name}\"\nkey_file = \"{}\"\n{rest}\n", path.display());
    }
    (folder, settings)
}

fn publication(channel: &str) -> Value {
    json!({"channel": channel, "data": {"n": 1}})
}

async fn post(replica: &TestReplica, key: &str, path: &str, body: Value) -> http::TestResponse {
    let headers = [("x-api-key", key), ("content-type", "application/json")];
    replica.api("POST", path, &headers, Some(body.to_string())).await
}

async fn used(replica: &TestReplica, key: &str, result: &str) -> f64 {
    replica.metric(&format!("tickgate_api_key_requests_total{{key=\"{key}\",result=\"{result}\"}}")).await
}

#[tokio::test]
async fn a_key_is_limited_to_its_rights() {
    let (_folder, settings) = keys(&[
        ("engine", ENGINE, "rights = [\"publish\"]\ntopics = [\"ticker:*\", \"orders\"]"),
        ("watcher", WATCHER, "rights = [\"read\"]\ntopics = [\"ticker:*\"]"),
    ]);
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, &settings).await;

    assert_eq!(post(&replica, ENGINE, "/api/v1/publish", publication("ticker:A")).await.status, 200);
    let batch = json!({"publications": [publication("ticker:A"), publication("trades:A")]});
    let results = post(&replica, ENGINE, "/api/v1/publish/batch", batch).await.json()["results"].clone();
    assert!(results[0]["id"].is_string() && results[1]["error"] == "forbidden", "{results}");
    let refused = post(&replica, ENGINE, "/api/v1/publish", publication("trades:A")).await;
    assert_eq!((refused.status, &refused.json()["error"]), (403, &json!("forbidden")));

    let history = |name: &str| format!("/api/v1/topics/{name}/history?last=1");
    let read = async |key: &str, path: String| replica.api("GET", &path, &[("x-api-key", key)], None).await;
    assert_eq!(read(WATCHER, history("ticker:A")).await.status, 200);
    assert_eq!(read(WATCHER, history("trades:A")).await.status, 403);
    let _somebody = replica.market().await;
    for (key, right, answer) in [
        (ENGINE, "read", read(ENGINE, history("ticker:A")).await),
        (WATCHER, "publish", post(&replica, WATCHER, "/api/v1/publish", publication("ticker:A")).await),
        (WATCHER, "admin", post(&replica, WATCHER, "/api/v1/disconnect", json!({"user": "alice"})).await),
    ] {
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(answer.status == 403 && detail.ends_with(&format!("lacks the right {right}")), "{key}: {detail}");
        let audited = || {
            let log = replica.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["reason"] == "forbidden" && line["right"] == right)
        };
        let line = eventually("the line", async || audited()).await;
        assert!(line["target"] == "audit" && line["address"] == "127.0.0.1" && line["key"].is_string(), "{line}");
    }
    assert!(!replica.log().contains(ENGINE) && !replica.log().contains(WATCHER));
    assert!(used(&replica, "engine", "accepted").await >= 3.0 && used(&replica, "watcher", "forbidden").await >= 2.0);

    // A key from `api_keys` still grants all rights.
    assert_eq!(post(&replica, API_KEY, "/api/v1/disconnect", json!({"user": "alice"})).await.status, 202);
    assert!(used(&replica, "api_keys", "accepted").await >= 1.0);
}

#[tokio::test]
async fn a_producer_is_limited_to_the_topics_and_the_rate_of_its_key() {
    let (_folder, settings) = keys(&[
        ("engine", ENGINE, "rights = [\"publish\"]\ntopics = [\"run:*\", \"ingest_events\"]\nper_second = 2"),
        ("watcher", WATCHER, "rights = [\"read\"]"),
    ]);
    let replica = TestReplica::alone_with(&settings).await;
    replica.connect("/ws/ingest").header("x-api-key", WATCHER).expect_refused(403).await;
    let (mut limited, mut accepted) = (0, 0);
    for _ in 0..5 {
        let answer = post(&replica, ENGINE, "/api/v1/publish", publication("run:1")).await;
        match answer.status {
            200 => accepted += 1,
            429 => limited += 1,
            status => panic!("{status}: {answer:?}"),
        }
    }
    assert!(accepted >= 2 && limited >= 1, "{accepted} accepted, {limited} refused");
    assert!(used(&replica, "engine", "rate_limited").await >= 1.0);
    assert!(replica.connect("/ws/ingest").header("x-api-key", ENGINE).try_open().await.is_ok());
}

#[tokio::test]
async fn a_client_certificate_selects_the_key_with_its_name() {
    let (server, authority) = (RedisServer::start(), Authority::new());
    let own = authority.issue("gateway", "DNS:localhost,IP:127.0.0.1", 2);
    let (certificate, key) = (own.certificate_file.display(), own.key_file.display());
    let ca = authority.file().display().to_string();
    let listeners = format!(
        "[server.tls]\ncert_file = \"{certificate}\"\nkey_file = \"{key}\"\n\
         [server.ops_tls]\ncert_file = \"{certificate}\"\nkey_file = \"{key}\"\nclient_ca_file = \"{ca}\"\n"
    );
    let named = "[[auth.keys]]\nname = \"engine\"\nrights = [\"publish\"]\ncertificate = \"engine.svc\"\n";
    let replica = TestReplica::secure_process(&server, &format!("{listeners}{named}"), &authority).await;
    let publish = async |authority: &Authority, file: &str, names: &str| {
        let shown = authority.issue(file, names, 2);
        let headers = [("content-type", "application/json")];
        let request = http::secure_request(replica.operations(), "POST", "/api/v1/publish", &headers);
        let request = request.authorities(fs::read_to_string(&ca).unwrap()).body(publication("ticker:A").to_string());
        request.identity(shown.certificate(), shown.key()).send().await
    };
    assert_eq!(publish(&authority, "engine", "DNS:engine.svc").await.unwrap().status.as_u16(), 200);
    assert_eq!(publish(&authority, "other", "DNS:other.svc").await.unwrap().status.as_u16(), 401);
    assert!(publish(&Authority::new(), "forged", "DNS:engine.svc").await.is_err(), "another authority");
    assert_eq!(used(&replica, "engine", "accepted").await, 1.0);
}

#[tokio::test]
async fn invalid_keys_are_reported_before_a_port_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("a.toml"), folder.path().join("key"));
    fs::write(&key, ENGINE).unwrap();
    let key_file = format!("key_file = \"{}\"", key.display());
    let entry = |name: &str, rest: &str| format!("[[auth.keys]]\nname = \"{name}\"\n{rest}\n");
    for (settings, told) in [
        (entry("a", &format!("rights = [\"publsh\"]\n{key_file}")), "auth.keys.a.rights"),
        (entry("a", &format!("rights = []\n{key_file}")), "requires at least one of publish, read, admin"),
        (entry("a", "rights = [\"read\"]"), "is missing: a key requires a file"),
        (entry("a", "rights = [\"read\"]\ncertificate = \"a\""), "requires server.ops_tls.client_ca_file"),
        (entry("a b", &format!("rights = [\"read\"]\n{key_file}")), "must be 1 to 64 characters"),
        (entry("api_keys", &format!("rights = [\"read\"]\n{key_file}")), "must be 1 to 64 characters"),
        (entry("a", &format!("rights = [\"read\"]\n{key_file}")).repeat(2), "appears twice"),
        (
            entry("a", &format!("rights = [\"read\"]\n{key_file}"))
                + &entry("b", &format!("rights = [\"read\"]\n{key_file}")),
            "a and b have the same key",
        ),
        (entry("a", &format!("right = [\"read\"]\n{key_file}")), "did you mean rights?"),
    ] {
        fs::write(&file, &settings).unwrap();
        let mut command = std::process::Command::new(tickgate_kit::program());
        let output = command.args(["check-config", "--config"]).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(told), "{settings}: {text}");
        assert!(!text.contains(ENGINE));
    }
}
