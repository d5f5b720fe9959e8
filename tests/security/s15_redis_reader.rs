//! S15: an attacker reads everything that is sent to Redis (MONITOR; an append-only file or a backup contains no more).
//! Tickets, their tokens and the secrets of sessions were once readable.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::{client::ConnectRequest, replica::token},
};

/// After this time without output, everything has been sent.
const QUIET: Duration = Duration::from_millis(1_500);

pub async fn s15_who_reads_redis_learns_nothing_to_connect_with() {
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S15 all that Redis is told is read", Question::Ping).await;
    let mut reader = TcpStream::connect(("127.0.0.1", scene.redis.port())).await.expect("redis");
    reader.write_all(b"MONITOR\r\n").await.expect("a command");
    let own = token("alice");
    let ticket = scene.gateway.ticket(&own).await;
    let mut alice = ConnectRequest::new(scene.gateway.public, "/ws/trading").query("ticket", &ticket).open().await;
    alice.greeted().await;
    alice.subscribe(&["orders"]).await;
    let session = alice.session();
    let again = ConnectRequest::new(scene.gateway.public, "/ws/trading").token(&own).query("session", &session);
    let mut again = again.open().await;
    again.greeted().await;
    assert_eq!((&again.welcome["resumed"], &again.welcome["session"]), (&json!(true), &json!(session)));
    alice.expect_close(4501).await;
    again.close().await;
    let (mut heard, until) = (Vec::new(), tokio::time::Instant::now() + QUIET);
    while let Ok(Ok(read)) =
        timeout(until.saturating_duration_since(tokio::time::Instant::now()), reader.read_buf(&mut heard)).await
    {
        assert!(read > 0, "redis ended");
    }
    let heard = String::from_utf8_lossy(&heard).into_owned();
    let compact = session.replace('-', "");
    println!("  attacker   {} bytes read", heard.len());
    assert!(heard.contains("{s:") && heard.contains("ticket:"), "the attack did not take place");
    for (what, secret) in [("ticket", &ticket), ("token", &own), ("session", &session), ("session", &compact)] {
        assert!(!heard.contains(secret.as_str()), "the {what} is in clear");
    }
    siege.lift(&scene, &[], GrowthBounds::SMALL).await;
}
