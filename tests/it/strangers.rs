//! An anonymous client within its limits must not prevent others from being served.

use serde_json::json;

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::TestReplica,
    wire::{self, RawConnection},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: usize = 200;

/// A client that has subscribed to this many new channels and does not wait for the reply.
async fn stranger(replica: &TestReplica, number: usize) -> RawConnection {
    let mut stranger = RawConnection::upgraded(replica.address(), "/ws/market").await;
    let welcome = stranger.hear_json().await;
    assert_eq!(welcome["type"], "connection_established", "{welcome}");
    // Maximum length of a name.
    let name = |channel: usize| format!("trades:{number:04}:{channel:04}:{:-<182}", "");
    let channels: Vec<_> = (0..CHANNELS).map(name).collect();
    let subscribe = json!({"type": "subscribe", "channels": channels}).to_string();
    stranger.send(&wire::frame(wire::TEXT, subscribe.as_bytes())).await;
    stranger
}

/// Redis refuses to read streams; everything else works.
async fn set_readable(redis: &RedisServer, readable: bool) {
    let right = if readable { "+xinfo" } else { "-xinfo" };
    redis.run::<String>(&["ACL", "SETUSER", "default", right]).await;
}

#[tokio::test]
async fn unfollowed_topics_do_not_prevent_others_from_subscribing() {
    let redis = RedisServer::start();
    // The periodic comparison would disturb the queue.
    let settings = "[hub]\nlinger = \"100ms\"\n[redis]\ncompare_interval = \"10m\"\n";
    let replica = TestReplica::on_with(&redis, settings).await;
    let mut bob = replica.market().await;

    // While strangers connect, subscribe and leave.
    for number in 0..8 {
        let stranger = stranger(&replica, number).await;
        let channel = format!("trades:BOB{number}");
        bob.subscribe(&[&channel]).await;
        bob.ask(json!({"type": "unsubscribe", "channels": [channel]})).await;
        drop(stranger);
    }

    // A lost link triggers a comparison of every topic, which is impossible now, and then all strangers leave: the
    // queue is many times longer than a batch.
    let mut strangers = Vec::new();
    for number in 100..110 {
        let mut stranger = stranger(&replica, number).await;
        assert_eq!(stranger.hear_json().await["errors"], json!([]));
        strangers.push(stranger);
    }
    set_readable(&redis, false).await;
    redis.client_kill("pubsub").await;
    let depth = "tickgate_work_queue_depth{queue=\"compare\"}";
    let all = (strangers.len() * CHANNELS) as f64;
    eventually("all topics to wait", async || (replica.metric(depth).await >= all).then_some(())).await;
    drop(strangers);
    eventually("the strangers' topics to be let go", async || {
        (replica.metric("tickgate_topics").await == 0.0).then_some(())
    })
    .await;
    set_readable(&redis, true).await;

    bob.subscribe(&["trades:BOB-after"]).await;
    replica.publish("trades:BOB-after", json!({"type": "trade"})).await;
    bob.expect(json!({"type": "trade"})).await;
    eventually("the queue to be empty", async || (replica.metric(depth).await == 0.0).then_some(())).await;
}

#[tokio::test]
async fn a_stalled_queue_shows_in_readiness_metrics_and_log() {
    let redis = RedisServer::start();
    let replica = TestReplica::on_with(&redis, "[readiness]\nqueue_grace = \"300ms\"\n").await;
    set_readable(&redis, false).await;
    let bob = stranger(&replica, 0).await;
    let verdict = eventually("not ready for that reason", async || {
        let verdict = replica.get("/readyz?verbose").await.json();
        (verdict["reason"] == "work_queue_stalled").then_some(verdict)
    })
    .await;
    let failed: Vec<_> = verdict["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false).collect();
    assert_eq!(failed.len(), 1, "{verdict}");
    assert_eq!(failed[0]["name"], "work_queue");
    assert_eq!(replica.get("/livez").await.status, 200);
    let oldest = "tickgate_work_queue_oldest_seconds{queue=\"compare\"}";
    eventually("the metrics", async || (replica.metric(oldest).await > 0.3).then_some(())).await;
    eventually("the log to say so", async || {
        crate::support::log::captured().contains("a work queue is stalled").then_some(())
    })
    .await;

    set_readable(&redis, true).await;
    eventually("ready again", async || (replica.get("/readyz").await.status == 200).then_some(())).await;
    eventually("the log to say so", async || {
        crate::support::log::captured().contains("a work queue is no longer stalled").then_some(())
    })
    .await;
    eventually("nothing to wait", async || (replica.metric(oldest).await == 0.0).then_some(())).await;
    drop(bob);
}
