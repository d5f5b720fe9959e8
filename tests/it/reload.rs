//! Settings and secrets that change while replicas run: by file, by Kubernetes' swapped link, by signal. No connection
//! is closed.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{API_KEY, SECRET, TestReplica, TokenBuilder},
};

const OTHER_SECRET: &str = "another-secret-that-only-the-tests-know-of-0987654321";
const OTHER_KEY: &str = "another-api-key-that-only-the-tests-know-of-987654321";

/// A directory of secrets as Kubernetes mounts it: `keys` → `..data/keys`, `..data` → `..<version>`.
struct Mounted(TempDir);

impl Mounted {
    fn new(secret: &str, key: &str) -> Self {
        let mounted = Self(tempfile::tempdir().unwrap());
        mounted.swap("1", secret, key);
        for name in ["secrets", "keys"] {
            symlink(Path::new("..data").join(name), mounted.0.path().join(name)).unwrap();
        }
        mounted
    }

    /// Both files change at once.
    fn swap(&self, version: &str, secret: &str, key: &str) {
        let folder = self.0.path();
        let target = folder.join(format!("..{version}"));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("secrets"), secret).unwrap();
        fs::write(target.join("keys"), key).unwrap();
        symlink(format!("..{version}"), folder.join("..new")).unwrap();
        fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    }

    fn settings(&self) -> String {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let (secrets, keys) = (path("secrets"), path("keys"));
        format!(
            "[auth]\nhs256_secrets = []\nhs256_secrets_file = \"{secrets}\"\napi_keys = []\napi_keys_file = \"{keys}\"\n"
        )
    }
}

async fn status_with(replica: &TestReplica, key: &str) -> u16 {
    replica.api("GET", "/api/v1/topics", &[("x-api-key", key)], None).await.status
}

async fn failed(replica: &TestReplica) -> bool {
    replica.metric("tickgate_reload_failed").await > 0.0
}

#[tokio::test]
async fn a_swapped_link_brings_other_secrets_and_keys_and_closes_no_connection() {
    let mounted = Mounted::new(SECRET, API_KEY);
    let replica = TestReplica::alone_with(&mounted.settings()).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    assert_eq!(status_with(&replica, OTHER_KEY).await, 401);

    mounted.swap("2", OTHER_SECRET, OTHER_KEY);
    eventually("the other key to count", async || (status_with(&replica, OTHER_KEY).await == 200).then_some(())).await;
    assert_eq!(status_with(&replica, API_KEY).await, 401, "the one before is withdrawn");
    let request = || replica.connect("/ws/trading").token(&TokenBuilder::of("bob").sign_by(OTHER_SECRET));
    let mut bob = eventually("the other secret to count", async || request().try_open().await.ok()).await;
    bob.greeted().await;
    replica.connect("/ws/trading").token(&TokenBuilder::of("bob").sign()).expect_refused(401).await;

    let body = json!({"channel": "orders", "user": "alice", "data": {"type": "order_update", "order_id": "1"}});
    let headers = [("x-api-key", OTHER_KEY), ("content-type", "application/json")];
    assert_eq!(replica.api("POST", "/api/v1/publish", &headers, Some(body.to_string())).await.status, 200);
    alice.expect(json!({"type": "order_update", "order_id": "1"})).await;
    assert!(!failed(&replica).await);
    // What was written while the replica was built is read again, too.
    assert!((1.0..=2.0).contains(&replica.metric("tickgate_reloads_total{result=\"ok\"}").await));
}

#[tokio::test]
async fn an_invalid_file_keeps_the_previous_settings_and_is_reported() {
    let mounted = Mounted::new(SECRET, API_KEY);
    let replica = TestReplica::alone_with(&mounted.settings()).await;
    for (version, secret, key) in [("empty", "", OTHER_KEY), ("not-text", "\u{0}", "")] {
        mounted.swap(version, secret, key);
        eventually("the failure", async || failed(&replica).await.then_some(())).await;
        assert_eq!(status_with(&replica, API_KEY).await, 200);
        assert_eq!(status_with(&replica, OTHER_KEY).await, 401, "all or nothing");
        replica.trading("alice").await.close().await;
    }
    mounted.swap("good", OTHER_SECRET, OTHER_KEY);
    eventually("the reload", async || (!failed(&replica).await).then_some(())).await;
    assert_eq!(status_with(&replica, OTHER_KEY).await, 200);
}

#[tokio::test]
async fn a_signal_reloads_everything_even_while_the_replica_drains() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, API_KEY).unwrap();
    let settings = format!("[auth]\napi_keys = []\napi_keys_file = \"{}\"\n[drain]\ndelay = \"4s\"\n", keys.display());
    let mut replica = TestReplica::process(&server, &settings).await;
    let mut alice = replica.trading("alice").await;
    replica.signal("HUP");
    eventually("the reload", async || replica.log().contains("reloaded cause=\"signal\"").then_some(())).await;

    replica.drain();
    eventually("the drain", async || (replica.metric("tickgate_draining").await > 0.0).then_some(())).await;
    fs::write(&keys, OTHER_KEY).unwrap();
    replica.signal("HUP");
    eventually("the other key to count", async || (status_with(&replica, OTHER_KEY).await == 200).then_some(())).await;
    alice.expect_type("closing").await;
    alice.expect_close(1012).await;
    replica.ended().await;
}

#[tokio::test]
async fn a_changed_file_changes_the_log_and_lists_what_requires_a_restart() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "[log]\nfilter = \"info\"\n").await;
    assert!(!replica.log().contains(" DEBUG "));
    replica.write_settings("[log]\nfilter = \"info,tickgate::connection=debug\"\n[limits]\nsubscriptions_max = 7\n");
    let line = "these settings require a restart cause=\"file\" settings=\"limits.subscriptions_max\"";
    eventually("the line", async || replica.log().contains(line).then_some(())).await;
    replica.trading("alice").await;
    eventually("a line for debugging", async || replica.log().contains("connection opened").then_some(())).await;

    replica.write_settings("[limits]\nsubscription_max = 7\n");
    let line = "did you mean limits.subscriptions_max?";
    eventually("the problem", async || replica.log().contains(line).then_some(())).await;
    replica.signal("HUP");
    eventually("the same again", async || (replica.log().matches(line).count() == 2).then_some(())).await;
    assert_eq!(replica.metric("tickgate_reload_failed").await, 1.0);
}
