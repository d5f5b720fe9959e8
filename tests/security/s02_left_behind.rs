//! S2: strangers connect for a moment, name as many channels as they may, and leave. Each once left 40 KB in Redis for a
//! minute; a Redis with a limit was full of it, and refused every backend's publications.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::{
    attacker::Attacker,
    cost::{Cost, megabytes},
    scene::{Form, Scene},
    support::{client::Request, eventually, redis::RedisServer, replica::token},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: u32 = 200;
/// What all strangers of an address may have left in Redis: 2,048 positions with long names, and what Redis keeps of its own.
const LEFT_BYTES_MAX: u64 = 4_000_000;
/// What is followed for a moment takes more: 20,000 topics with long names.
const ROOM_BYTES: u64 = 32_000_000;
/// Users that come and go.
const USERS: usize = 40;

async fn keys(redis: &RedisServer, pattern: &str) -> usize {
    let keys: Vec<String> = redis.run(&["KEYS", pattern]).await;
    keys.len()
}

async fn used_bytes(redis: &RedisServer) -> u64 {
    let info: String = redis.run(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("a figure");
    used.trim().parse().expect("a number")
}

async fn limit(redis: &RedisServer, bytes: u64) {
    let _: String = redis.run(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s02_strangers_who_leave_leave_little_and_no_publication_is_refused() {
    let (settings, strangers, at_once) = match Form::asked() {
        Form::Short => ("[hub]\nlinger = \"1s\"\n", 150, 16),
        Form::Long => ("", 1_600, 50),
    };
    let scene = Scene::set("S2: strangers connect, name what they may, and leave", settings, Duration::ZERO).await;
    let attacker = Arc::new(Attacker::of(scene.gateway.public));
    limit(&scene.redis, used_bytes(&scene.redis).await + ROOM_BYTES).await;
    let before = scene.usage().await;
    let visit = |stranger| {
        let name = |channel| format!("trades:{stranger:04}:{channel:04}:{:-<182}", "");
        let channels: Vec<_> = (0..CHANNELS).map(name).collect();
        let text = json!({"type": "subscribe", "channels": channels}).to_string();
        let attacker = Arc::clone(&attacker);
        async move { attacker.visit("/ws/market", &text).await }
    };
    let mut visits = stream::iter(0..strangers).map(visit).buffer_unordered(at_once);
    let mut refused = 0;
    while visits.next().await.is_some() {
        let status = scene.gateway.publish("trades:KNOWN", &json!({"type": "trade"})).await;
        refused += usize::from(status != 200);
    }
    drop(visits);
    eventually("the strangers' connections to end", async || {
        (scene.gateway.metric("tickgate_connections").await < 1.0).then_some(())
    })
    .await;
    eventually("their topics to be let go", async || {
        (scene.gateway.metric("tickgate_unpublished_topics").await < 1.0).then_some(())
    })
    .await;
    let cost = eventually("what is too much to be forgotten", async || {
        let cost = Cost::between(before, scene.usage().await);
        (cost.redis_grown_bytes() < LEFT_BYTES_MAX).then_some(cost)
    })
    .await;
    let sent = attacker.sent_bytes();
    println!(
        "  attacker   {} connections, {} more failed; {} sent",
        attacker.visits(),
        attacker.failed(),
        megabytes(sent)
    );
    println!("{}", cost.beside(sent));
    println!("  neighbour  {refused} of {strangers} publications refused");
    let left = [keys(&scene.redis, "tg2:{s:*").await, keys(&scene.redis, "tg2:{t:*").await];
    println!("  left       {} sessions, {} topics, {}", left[0], left[1], megabytes(cost.redis_grown_bytes()));
    assert_eq!(refused, 0, "publications were refused");
    assert_eq!(left[0], 0, "sessions of strangers who are gone");
    cost.check_amplification(sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s02_a_redis_that_is_nearly_full_drops_sessions_before_it_refuses_publications() {
    let scene = Scene::set("S2: users come and go while Redis is nearly full", "", Duration::ZERO).await;
    for user in 0..USERS {
        let request = Request::new(scene.gateway.public, "/ws/trading").token(&token(&format!("user-{user}")));
        let mut client = request.open().await;
        client.greeted().await;
        client.close().await;
    }
    eventually("their sessions to be kept", async || (keys(&scene.redis, "tg2:{s:*").await == USERS).then_some(()))
        .await;
    // So much that little more or less means nothing; nine tenths of it, and some room.
    let _: i64 = scene.redis.run(&["SETRANGE", "filler", "20000000", "x"]).await;
    limit(&scene.redis, used_bytes(&scene.redis).await / 96 * 100).await;
    eventually("their sessions to go", async || (keys(&scene.redis, "tg2:{s:*").await == 0).then_some(())).await;
    assert_eq!(scene.gateway.publish("trades:KNOWN", &json!({"type": "trade"})).await, 200);
    println!("  left       no session of {USERS}, and a publication is taken");
}
