//! S9: strangers request presence. A replica once asked the others about 20 topics per second, so that a hundred
//! clients delayed everyone else's request until it was refused.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
    support::client::ConnectRequest,
};

/// Number of concurrent clients.
const ASKERS: usize = 100;

/// Subscribes to some channels, and requests presence of each at the maximum rate of a connection.
fn questions(asker: usize) -> Vec<String> {
    let names: Vec<_> = (0..20).map(|n| format!("trades:A{asker}X{n}")).collect();
    let subscribe = format!(r#"{{"type":"subscribe","channels":["{}"]}}"#, names.join("\",\""));
    let presence = names.iter().map(|name| format!(r#"{{"type":"presence","channel":"{name}"}}"#));
    [subscribe].into_iter().chain(presence).collect()
}

/// Connects, sends all requests, and disconnects when all are answered or refused; repeatedly, for this time.
async fn ask_again(attacker: Arc<Attacker>, asker: usize, until: Instant) {
    let texts = questions(asker);
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    while Instant::now() < until {
        let Some(mut stream) = attacker.pester("/ws/market", &texts).await else { continue };
        let (mut heard, mut answers) = (vec![0; 1 << 16], 0);
        while answers < texts.len() {
            let Ok(Ok(len @ 1..)) = timeout_at(until, stream.read(&mut heard)).await else { break };
            answers += heard[..len].windows(9).filter(|bytes| bytes == b"{\"type\":\"").count();
        }
    }
}

async fn ask_all(attacker: Arc<Attacker>, time: Duration) {
    let until = Instant::now() + time;
    let asking = (0..ASKERS).map(|asker| ask_again(Arc::clone(&attacker), asker, until));
    asking.collect::<JoinSet<_>>().join_all().await;
}

pub async fn s09_a_question_for_presence_waits_for_no_other() {
    let time = AttackLength::asked().or(Duration::from_secs(3), Duration::from_secs(30));
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S9  a hundred ask for presence", Question::Presence).await;
    let attacker = Attacker::of(scene.gateway.public);
    let mut stranger = ConnectRequest::new(attacker.door().await, "/ws/market").open().await;
    stranger.greeted().await;
    let refused = stranger.ask(json!({"type": "presence", "channel": "trades:NOT-FOLLOWED"})).await;
    assert_eq!(refused["error"], "forbidden", "of what it does not follow a stranger learns nothing: {refused}");
    launch(ask_all(Arc::clone(&attacker), time)).await;
    siege.lift(&scene, &[attacker], GrowthBounds { gateway: 100_000_000, redis: 20_000_000 }).await;
}
