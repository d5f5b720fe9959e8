//! A Redis that refuses: results for publishers, metrics and logs by the name of the refusal. And links that cannot
//! connect: the log contains address and cause.

use std::fs;

use serde_json::{Value, json};

use crate::{
    redis_tls,
    support::{
        eventually,
        redis::{RedisServer, free_port},
        replica::TestReplica,
    },
};

const SETTINGS: &str = "[log]\nformat = \"json\"\n";

fn lines(replica: &TestReplica, message: &str) -> Vec<Value> {
    let all = replica.log();
    let parsed = all.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"] == message).collect()
}

async fn publish(replica: &TestReplica) -> (u16, Value) {
    let answer = replica.api_post("/api/v1/publish", json!({"channel": "logs", "data": {"n": 1}})).await;
    (answer.status, answer.json())
}

/// Publishes until Redis has refused three times with this kind, for any reason, and publishers receive the text.
async fn refused(replica: &TestReplica, kind: &str, told: &str) {
    let counter = format!("tickgate_redis_errors_total{{kind=\"{kind}\"}}");
    eventually(&format!("three refusals by {kind}"), async || {
        let (status, problem) = publish(replica).await;
        let counted = replica.metric(&counter).await;
        let is_told = problem["detail"].as_str().is_some_and(|detail| detail.contains(told));
        (status == 503 && counted >= 3.0 && is_told).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_refusal_is_reported_counted_and_logged_once_with_rediss_text() {
    let server = RedisServer::start_with(&["--dbfilename", "blocked"]);
    let replica = TestReplica::process(&server, SETTINGS).await;
    assert_eq!(publish(&replica).await.0, 200);
    // A dump that cannot be put in its place is a disk that cannot be written to, for root as well.
    let directory: Vec<String> = server.run(&["CONFIG", "GET", "dir"]).await;
    fs::create_dir_all(format!("{}/blocked/full", directory[1])).unwrap();
    let set = async |words: &[&str]| server.run::<()>(words).await;
    for (kind, text, told) in [
        ("oom", "OOM command not allowed", "out of memory"),
        ("noreplicas", "NOREPLICAS Not enough good replicas", "too few replicas"),
        ("misconf", "MISCONF ", "cannot write to its disk"),
        ("noperm", "NOPERM ", "rejected"),
    ] {
        match kind {
            "oom" => set(&["CONFIG", "SET", "maxmemory", "1"]).await,
            "noreplicas" => set(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await,
            "misconf" => {
                set(&["CONFIG", "SET", "save", "3600 1000"]).await;
                set(&["BGSAVE"]).await;
            }
            _ => set(&["ACL", "SETUSER", "default", "-evalsha", "-eval"]).await,
        }
        refused(&replica, kind, told).await;
        let mut lines = lines(&replica, "redis did not carry out a command");
        lines.retain(|line| line["kind"] == kind);
        assert_eq!(lines.len(), 1, "once a minute: {lines:?}");
        let failure = lines[0]["failure"].as_str().unwrap();
        assert!(failure.contains(text), "{kind}: {failure}");
        match kind {
            "oom" => set(&["CONFIG", "SET", "maxmemory", "0"]).await,
            "noreplicas" => set(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await,
            "misconf" => set(&["CONFIG", "SET", "save", "", "stop-writes-on-bgsave-error", "no"]).await,
            _ => set(&["ACL", "SETUSER", "default", "+@all"]).await,
        }
        eventually("a publication", async || (publish(&replica).await.0 == 200).then_some(())).await;
    }
    assert_eq!(replica.metric("tickgate_redis_reconnects_total{link=\"command\"}").await, 1.0, "the link stands");
}

#[tokio::test]
async fn a_status_without_leases_is_degraded_and_replicas_stay_ready() {
    let server = RedisServer::start();
    let settings = "[session]\nreplica_ttl = \"2s\"\n";
    let (one, other) = (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    let _somebody = other.market().await;
    let status = async |wanted: &str, replicas: u32| {
        let status = one.get("/ws/status").await.json();
        (status["status"] == wanted && status["replicas"] == replicas).then_some(status)
    };
    eventually("both replicas", async || status("active", 2).await).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let alone = eventually("no more than its own figures", async || status("degraded", 1).await).await;
    assert_eq!(alone["active_connections"], 0, "{alone}");
    assert_eq!(one.get("/readyz").await.status, 200, "connected clients are served, and others would find no better");
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let both = eventually("both replicas again", async || status("active", 2).await).await;
    assert_eq!(both["active_connections"], 1, "{both}");
}

#[tokio::test]
async fn the_link_to_a_redis_that_accepts_no_writes_stays_up() {
    let server = RedisServer::start_with(&["--min-replicas-to-write", "1"]);
    let replica = TestReplica::unready_process(&server.url(), SETTINGS).await;
    refused(&replica, "noreplicas", "too few replicas").await;
    let canaries = async || replica.metric("tickgate_redis_canary_seconds_count").await;
    eventually("several probes of the link", async || (canaries().await >= 4.0).then_some(())).await;
    let links = replica.metric("tickgate_redis_reconnects_total").await;
    assert_eq!(links, 2.0, "one command link, one pub/sub link");
    server.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    eventually("a publication", async || (publish(&replica).await.0 == 200).then_some(())).await;
}

#[tokio::test]
async fn a_session_change_that_a_redis_without_replicas_refuses_is_written_later() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, SETTINGS).await;
    let _alice = replica.trading("alice").await;
    let keys = async |pattern: &str| server.run::<Vec<String>>(&["KEYS", pattern]).await;
    let index = eventually("the index", async || keys("tg2:{r:*}:x").await.pop()).await;
    let known = async || (server.run::<u64>(&["HLEN", &index]).await, keys("tg2:{s:*}*").await.len());
    eventually("alice", async || (known().await == (1, 1)).then_some(())).await;
    server.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    refused(&replica, "noreplicas", "too few replicas").await;
    let before = replica.metric("tickgate_redis_errors_total{kind=\"noreplicas\"}").await;
    let _bob = replica.trading("bob").await;
    let refusals = async || replica.metric("tickgate_redis_errors_total{kind=\"noreplicas\"}").await;
    eventually("refused changes", async || (refusals().await >= before + 5.0).then_some(())).await;
    assert_eq!(known().await, (1, 1));
    server.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    eventually("bob", async || (known().await == (2, 2)).then_some(())).await;
}

#[tokio::test]
async fn a_server_of_another_kind_keeps_the_replica_unready_and_the_reason_is_told() {
    // It owns every slot, so that each single command would work.
    let node = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    node.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let replica = TestReplica::unready_process(&node.url(), SETTINGS).await;
    eventually("the reason", async || {
        let probe = replica.get("/readyz").await;
        assert_eq!(probe.status, 503, "{}", probe.body);
        probe.body.contains("the server is a node of a Redis Cluster").then_some(())
    })
    .await;
    assert_eq!(publish(&replica).await.0, 503);
    assert!(!lines(&replica, "the link to redis is down").is_empty(), "{}", replica.log());
    assert_eq!(node.run::<u64>(&["DBSIZE"]).await, 0, "nothing was written");
}

#[tokio::test]
async fn every_start_warns_about_settings_that_lose_data() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    for start in 1..=6 {
        let replica = TestReplica::process(&server, SETTINGS).await;
        let reached = lines(&replica, "connected to redis");
        assert_eq!(reached.len(), 1, "start {start}: {reached:?}");
        assert_eq!(reached[0]["address"], format!("127.0.0.1:{}", server.port()));
        let warning = "redis may evict streams and leases: set maxmemory-policy noeviction";
        eventually(&format!("the warning of start {start}"), async || lines(&replica, warning).pop()).await;
    }
}

#[tokio::test]
async fn a_failed_connection_is_logged_with_address_and_cause() {
    let (certificates, tls, closed) = (redis_tls::certificates(), free_port(), free_port());
    let server = redis_tls::server(certificates.path(), tls);
    let other = certificates.path().join("other.pem");
    let other = format!("ca_file = \"{}\"\n", other.display());
    for (url, ca_file, cause) in [
        (format!("redis://127.0.0.1:{closed}/"), "", "refused"),
        ("redis://:hidden@redis.invalid:6379/".to_owned(), "", "lookup"),
        (format!("rediss://:hidden@127.0.0.1:{tls}/"), other.as_str(), "certificate"),
        (format!("redis://:hidden@127.0.0.1:{tls}/"), "", "rediss://"),
        (format!("rediss://:hidden@127.0.0.1:{}/", server.port()), "", "TLS"),
        (format!("redis://nobody:hidden@127.0.0.1:{}/", server.port()), "", "WRONGPASS"),
    ] {
        let settings = format!("{SETTINGS}[redis]\nconnect_timeout = \"200ms\"\nresponse_timeout = \"1s\"\n{ca_file}");
        let replica = TestReplica::unready_process(&url, &settings).await;
        let line = eventually("a line about the link", async || {
            let lines = lines(&replica, "the link to redis is down");
            lines.into_iter().find(|line| line["failure"].as_str().is_some_and(|text| text.contains(cause)))
        })
        .await;
        let address = url.rsplit(['@', '/']).find(|part| part.contains(':')).unwrap();
        assert_eq!(line["address"], address, "{line}");
        assert!(!replica.log().contains("hidden"), "{}", replica.log());
    }
}
