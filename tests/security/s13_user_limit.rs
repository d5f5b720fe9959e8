//! S13: a user opens connections while Redis is unreachable. Any number was once admitted, and when Redis was back, the
//! oldest connections were closed in favour of newer ones.

use std::{net::SocketAddr, time::Duration};

use crate::{
    attacker::Attacker,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::{
        client::{ConnectRequest, TestClient},
        eventually,
        proxy::Weather,
        replica::token,
    },
};

/// `limits.connections_per_user_max`.
const CONNECTIONS_MAX: usize = 5;
/// Number of attempts.
const TRIES: usize = 150;

async fn join(door: SocketAddr) -> Result<TestClient, u16> {
    let request = ConnectRequest::new(door, "/ws/trading").token(&token("alice"));
    let mut client = request.try_open().await.map_err(|refusal| refusal.status)?;
    client.greeted().await;
    Ok(client)
}

pub async fn s13_a_users_limit_holds_while_redis_is_away_and_the_older_connections_stay() {
    let (scene, network) = AttackScene::apart("", Duration::ZERO).await;
    let siege = Siege::lay(&scene, "S13 one user's connections, Redis away", Question::Ping).await;
    let attacker = Attacker::of(scene.gateway.public);
    let door = attacker.door().await;
    let mut older = Vec::new();
    for _ in 1..CONNECTIONS_MAX {
        older.push(join(door).await.expect("room"));
    }
    network.set(Weather::Refuse);
    eventually("the links to be lost", async || (scene.gateway.metric("tickgate_redis_up").await < 1.0).then_some(()))
        .await;
    let mut let_in = Vec::new();
    for _ in 0..TRIES {
        let_in.extend(join(door).await.ok());
    }
    println!("  attacker   {TRIES} tries beside {} connections, {} let in", older.len(), let_in.len());
    assert_eq!(let_in.len(), 1, "one more makes {CONNECTIONS_MAX}");
    // Redis returns empty, and the user opens more connections before the replica has registered all of them again.
    let _: String = scene.redis.run(&["FLUSHALL"]).await;
    network.set(Weather::CLEAR);
    scene.gateway.linked().await;
    for _ in 0..3 {
        drop(join(door).await);
    }
    eventually("the user's connections to be counted", async || {
        let leases: usize = scene.redis.run(&["ZCARD", "tg2:{u:alice}:l"]).await;
        (leases == CONNECTIONS_MAX).then_some(())
    })
    .await;
    for client in older.iter_mut().chain(&mut let_in) {
        client.ask(serde_json::json!({"type": "ping"})).await;
    }
    assert_eq!(join(door).await.err(), Some(429), "over the limit again");
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
