//! S2: strangers connect briefly, subscribe to as many channels as allowed, and leave. Each once left 40 KB in Redis
//! for a minute, which filled a Redis with a memory limit, so that it refused all publications.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
    support::{client::ConnectRequest, eventually, redis::RedisServer, replica::token},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: u32 = 200;
/// Maximum size of what all strangers of an address may leave in Redis: 2,048 positions with long names, and Redis's
/// overhead.
const LEFT_BYTES_MAX: u64 = 4_000_000;
/// Topics that are followed briefly take more: 20,000 topics with long names.
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

/// One after another, while the backends publish.
async fn come_and_go(attacker: Arc<Attacker>, strangers: usize, at_once: usize) {
    let visit = |stranger| {
        let name = |channel| format!("trades:{stranger:04}:{channel:04}:{:-<182}", "");
        let channels: Vec<_> = (0..CHANNELS).map(name).collect();
        let text = json!({"type": "subscribe", "channels": channels}).to_string();
        let attacker = &attacker;
        async move { attacker.visit("/ws/market", &text).await }
    };
    stream::iter(0..strangers).map(visit).buffer_unordered(at_once).count().await;
}

pub async fn s02_strangers_who_leave_leave_little_and_no_publication_is_refused() {
    let (settings, strangers, at_once) =
        AttackLength::asked().or(("[hub]\nlinger = \"1s\"\n", 150, 16), ("", 1_600, 50));
    let scene = AttackScene::set(settings).await;
    let siege = Siege::lay(&scene, "S2  what short connections leave", Question::Ping).await;
    // Sessions of the neighbours, which stay.
    let own = keys(&scene.redis, "tg2:{s:*").await;
    let at_rest = used_bytes(&scene.redis).await;
    limit(&scene.redis, at_rest + ROOM_BYTES).await;
    let attacker = Attacker::of(scene.gateway.public);
    let mut coming = std::pin::pin!(launch(come_and_go(Arc::clone(&attacker), strangers, at_once)));
    let (mut published, mut refused) = (0, 0);
    while futures_util::poll!(coming.as_mut()).is_pending() {
        let status = scene.gateway.publish("trades:KNOWN", &json!({"type": "trade"})).await;
        (published, refused) = (published + 1, refused + usize::from(status != 200));
    }
    eventually("their topics to be let go", async || {
        (scene.gateway.metric("tickgate_unpublished_topics").await < 1.0).then_some(())
    })
    .await;
    println!("  attacker   {} connections, {} more failed", attacker.visits(), attacker.failed());
    println!("  backends   {refused} of {published} publications refused");
    assert_eq!(refused, 0, "publications were refused");
    assert_eq!(keys(&scene.redis, "tg2:{s:*").await, own, "sessions of strangers who are gone");
    eventually("what is too much to be forgotten", async || {
        (used_bytes(&scene.redis).await < at_rest + LEFT_BYTES_MAX).then_some(())
    })
    .await;
    siege.lift(&scene, &[attacker], GrowthBounds { gateway: 150_000_000, redis: LEFT_BYTES_MAX }).await;
}

pub async fn s02_a_redis_that_is_nearly_full_drops_sessions_before_it_refuses_publications() {
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S2  users come and go, Redis nearly full", Question::Ping).await;
    let own = keys(&scene.redis, "tg2:{s:*").await;
    for user in 0..USERS {
        let request = ConnectRequest::new(scene.gateway.public, "/ws/trading").token(&token(&format!("user-{user}")));
        let mut client = request.open().await;
        client.greeted().await;
        client.close().await;
    }
    eventually("their sessions to be kept", async || {
        (keys(&scene.redis, "tg2:{s:*").await == own + USERS).then_some(())
    })
    .await;
    // Much larger than the remaining data; the limit is set so that nine tenths of it are used.
    let _: i64 = scene.redis.run(&["SETRANGE", "filler", "20000000", "x"]).await;
    limit(&scene.redis, used_bytes(&scene.redis).await / 96 * 100).await;
    eventually("their sessions to go", async || (keys(&scene.redis, "tg2:{s:*").await == own).then_some(())).await;
    assert_eq!(scene.gateway.publish("trades:KNOWN", &json!({"type": "trade"})).await, 200);
    // The filler belongs to the test.
    siege.lift(&scene, &[], GrowthBounds { redis: 25_000_000, ..GrowthBounds::SMALL }).await;
}
