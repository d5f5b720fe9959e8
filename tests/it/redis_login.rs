//! Redis credentials that change while replicas run: new connections use the latest ones.

use std::fs;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::support::{eventually, redis::RedisServer, replica::TestReplica};

async fn set_user(redis: &RedisServer, change: &str) {
    redis.run::<()>(&["ACL", "SETUSER", "gate", "on", change, "~*", "&*", "+@all"]).await;
}

#[tokio::test]
async fn changed_credentials_need_no_restart() {
    let redis = RedisServer::start();
    set_user(&redis, ">old-password").await;
    let file = NamedTempFile::new().unwrap();
    let url = |password: &str| format!("\u{feff}redis://gate:{password}@127.0.0.1:{}/0\r\n", redis.port());
    fs::write(file.path(), url("old-password")).unwrap();
    let replica = TestReplica::alone_with(&format!("[redis]\nurl_file = \"{}\"\n", file.path().display())).await;
    let history = "/api/v1/topics/logs/history?last=1";
    let works = async || {
        let body = json!({"channel": "logs", "data": {"n": 1}});
        let published = replica.api_post("/api/v1/publish", body).await.status;
        let read = replica.api_get(history).await;
        ((published, read.status) == (200, 200)).then_some(())
    };
    eventually("a publication and its history", works).await;

    set_user(&redis, ">new-password").await;
    fs::write(file.path(), url("new-password")).unwrap();
    set_user(&redis, "<old-password").await;
    redis.run::<()>(&["CLIENT", "KILL", "USER", "gate"]).await;
    eventually("the same with the new login", works).await;
    eventually("readiness", async || (replica.get("/readyz").await.status == 200).then_some(())).await;
    let stays = replica.metric("tickgate_redis_errors_total{kind=\"wrongpass\"}").await;

    // An unusable file: the previous content still applies.
    fs::write(file.path(), "").unwrap();
    eventually("the failure", async || (replica.metric("tickgate_reload_failed").await > 0.0).then_some(())).await;
    redis.run::<()>(&["CLIENT", "KILL", "USER", "gate"]).await;
    eventually("the links", works).await;
    assert_eq!(
        replica.metric("tickgate_redis_errors_total{kind=\"wrongpass\"}").await,
        stays,
        "the old one is forgotten"
    );
}
