//! S10: a user's tokens are revoked while Redis is full, and Redis is emptied afterwards; the user returns with an old
//! token, by a handshake and as a refresh on another connection. All three once admitted the user.

use std::{net::SocketAddr, time::SystemTime};

use serde_json::json;
use tickgate_wire::model::IssuedAt;

use crate::{
    attacker::Attacker,
    gateway::AttackedGateway,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::{
        client::ConnectRequest,
        eventually,
        redis::RedisServer,
        replica::{TokenBuilder, token},
    },
};

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    u64::try_from(now.as_millis()).expect("a small number")
}

async fn limit(scene: &AttackScene, bytes: &str) {
    let _: String = scene.redis.run(&["CONFIG", "SET", "maxmemory", bytes]).await;
}

pub async fn s10_a_revoked_token_opens_nothing_whatever_becomes_of_redis() {
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S10 a revoked token comes back", Question::Ping).await;
    let attacker = Attacker::of(scene.gateway.public);
    let door = attacker.door().await;
    let join = |token: &str| ConnectRequest::new(door, "/ws/trading").token(token);
    let old = token("alice");
    let mut alice = join(&old).open().await;
    alice.greeted().await;
    let revoke = json!({"user": "alice", "revoke_seconds": 600});
    limit(&scene, "1").await;
    let answer = scene.gateway.post("/api/v1/disconnect", &revoke).await;
    println!("  operator   with Redis full: {} {}", answer.status, answer.json()["detail"]);
    assert_eq!(answer.status, 503, "not stored yet");
    assert!(answer.body.contains("done on every connected replica"), "{answer:?}");
    alice.expect_close(4002).await;
    join(&old).expect_refused(403).await;
    limit(&scene, "0").await;
    eventually("the revocation to be stored", async || {
        scene.redis.run::<Option<String>>(&["GET", "tg2:{u:alice}:r"]).await
    })
    .await;
    let _: String = scene.redis.run(&["FLUSHALL"]).await;
    let tries = 20;
    for _ in 0..tries {
        join(&old).expect_refused(403).await;
    }
    // A fraction of a second proves that a token is later.
    let fresh = TokenBuilder::of("alice").issued_at(IssuedAt::at_ms(unix_ms())).sign();
    let mut alice = join(&fresh).open().await;
    alice.greeted().await;
    let refused = alice.ask(json!({"type": "auth", "token": old})).await;
    assert_eq!((&refused["code"], &refused["error"]), (&json!(4002), &json!("user_inactive")), "{refused}");
    alice.ask(json!({"type": "ping"})).await;
    println!("  attacker   {tries} handshakes and a refresh with the revoked token, all refused");
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}

pub async fn s10_a_token_of_the_same_second_is_refused_for_a_moment_only() {
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S10 a token of the same second", Question::Ping).await;
    let attacker = Attacker::of(scene.gateway.public);
    let door = attacker.door().await;
    let revoke = json!({"user": "alice", "revoke_seconds": 600});
    let second = loop {
        let before = unix_ms() / 1_000;
        assert_eq!(scene.gateway.post("/api/v1/disconnect", &revoke).await.status, 202);
        if unix_ms() / 1_000 == before {
            break before;
        }
    };
    let join = |issued_at| {
        let token = TokenBuilder::of("alice").issued_at(issued_at).sign();
        ConnectRequest::new(door, "/ws/trading").token(&token)
    };
    let refusal = join(IssuedAt::in_second(second)).expect_refused(401).await;
    assert!(refusal.retry_after.is_some() && refusal.body.contains("4001"), "{refusal:?}");
    join(IssuedAt::in_second(second - 1)).expect_refused(403).await;
    join(IssuedAt::in_second(second + 1)).open().await.greeted().await;
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}

/// Revokes alice's tokens: her connection closes, and only a token issued afterwards is accepted.
async fn holds(scene: &AttackScene, door: SocketAddr) {
    let join = |token: &str| ConnectRequest::new(door, "/ws/trading").token(token);
    let old = TokenBuilder::of("alice").issued_at(IssuedAt::at_ms(unix_ms())).sign();
    let mut alice = join(&old).open().await;
    alice.greeted().await;
    let revoke = json!({"user": "alice", "revoke_seconds": 600});
    assert_eq!(scene.gateway.post("/api/v1/disconnect", &revoke).await.status, 202);
    alice.expect_close(4002).await;
    for _ in 0..5 {
        join(&old).expect_refused(403).await;
    }
    let fresh = TokenBuilder::of("alice").issued_at(IssuedAt::at_ms(unix_ms())).sign();
    let mut alice = join(&fresh).open().await;
    alice.greeted().await;
    let refused = alice.ask(json!({"type": "auth", "token": old})).await;
    assert_eq!(refused["error"], "user_inactive", "{refused}");
    alice.ask(json!({"type": "ping"})).await;
    alice.close().await;
}

pub async fn s10_redis_clock_decides_nothing() {
    let redis = RedisServer::with_a_clock_of_its_own();
    let gateway = AttackedGateway::start(&redis.url(), "").await;
    let scene = AttackScene { gateway, redis };
    let siege = Siege::lay(&scene, "S10 Redis's clock is wrong", Question::Ping).await;
    let attacker = Attacker::of(scene.gateway.public);
    let door = attacker.door().await;
    for hours in [-1, 1] {
        scene.redis.set_clock(hours * 3_600);
        holds(&scene, door).await;
        println!("  gateway    a revocation holds with Redis's clock {hours} h wrong");
    }
    // An operator's command given while the clock was ahead is over, although Redis keeps it until a time in the
    // future.
    let bob = token("bob");
    let join = || ConnectRequest::new(door, "/ws/trading").token(&bob);
    let mut closed = join().open().await;
    closed.greeted().await;
    assert_eq!(scene.gateway.post("/api/v1/disconnect", &json!({"user": "bob"})).await.status, 202);
    closed.expect_close(4500).await;
    scene.redis.set_clock(0);
    let mut later = join().open().await;
    later.greeted().await;
    // On a new link, the replica reads what was stored for it.
    scene.redis.client_kill("pubsub").await;
    scene.gateway.linked().await;
    later.ask(json!({"type": "ping"})).await;
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
    later.ask(json!({"type": "ping"})).await;
}
