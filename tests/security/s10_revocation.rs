//! S10: a user's tokens are revoked while Redis is full, and Redis is emptied afterwards; the user comes back with an old
//! token, by a handshake and as a refresh on another connection. All three once let the user in.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tickgate_wire::model::IssuedAt;

use crate::{
    scene::Scene,
    support::{
        client::Request,
        eventually,
        replica::{Token, token},
    },
};

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    u64::try_from(now.as_millis()).expect("a small number")
}

async fn limit(scene: &Scene, bytes: &str) {
    let _: String = scene.redis.run(&["CONFIG", "SET", "maxmemory", bytes]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_a_revoked_token_opens_nothing_whatever_becomes_of_redis() {
    let scene =
        Scene::set("S10: a revoked user comes back while Redis is full and after it was emptied", "", Duration::ZERO)
            .await;
    let join = |token: &str| Request::new(scene.gateway.public, "/ws/trading").token(token);
    let old = token("alice");
    let mut alice = join(&old).open().await;
    alice.greeted().await;
    let revoke = json!({"user": "alice", "revoke_seconds": 600});
    limit(&scene, "1").await;
    let answer = scene.gateway.post("/api/v1/disconnect", &revoke).await;
    println!("  operator   with Redis full: {} {}", answer.status, answer.json()["detail"]);
    assert_eq!(answer.status, 503, "not stored yet");
    assert!(answer.body.contains("done on every replica that is linked"), "{answer:?}");
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
    // A fraction of a second proves a token later.
    let fresh = Token::of("alice").issued_at(IssuedAt::at_ms(unix_ms())).sign();
    let mut alice = join(&fresh).open().await;
    alice.greeted().await;
    let refused = alice.ask(json!({"type": "auth", "token": old})).await;
    assert_eq!((&refused["code"], &refused["error"]), (&json!(4002), &json!("user_inactive")), "{refused}");
    alice.ask(json!({"type": "ping"})).await;
    println!("  attacker   {tries} handshakes and a refresh with the revoked token, all refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_a_token_of_the_same_second_is_refused_for_a_moment_only() {
    let scene = Scene::set("S10: a user logs in again in the second of the revocation", "", Duration::ZERO).await;
    let revoke = json!({"user": "alice", "revoke_seconds": 600});
    let second = loop {
        let before = unix_ms() / 1_000;
        assert_eq!(scene.gateway.post("/api/v1/disconnect", &revoke).await.status, 202);
        if unix_ms() / 1_000 == before {
            break before;
        }
    };
    let join = |issued_at| {
        let token = Token::of("alice").issued_at(issued_at).sign();
        Request::new(scene.gateway.public, "/ws/trading").token(&token)
    };
    let refusal = join(IssuedAt::in_second(second)).expect_refused(401).await;
    assert!(refusal.retry_after.is_some() && refusal.body.contains("4001"), "{refusal:?}");
    join(IssuedAt::in_second(second - 1)).expect_refused(403).await;
    join(IssuedAt::in_second(second + 1)).open().await.greeted().await;
    println!("  neighbour  told to get a new token, and let in with it");
}
