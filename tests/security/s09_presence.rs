//! S9: strangers ask who follows what. A replica once asked the others about 20 topics a second, so that a hundred askers
//! kept everybody else's question waiting until it was refused.

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
    scene::{Form, Scene},
    siege::{Bounds, Siege},
    support::client::Request,
};

/// Askers at once.
const ASKERS: usize = 100;

/// Follows some channels, and asks about each of them: as often as one connection may ask.
fn questions(asker: usize) -> Vec<String> {
    let names: Vec<_> = (0..20).map(|n| format!("trades:A{asker}X{n}")).collect();
    let subscribe = format!(r#"{{"type":"subscribe","channels":["{}"]}}"#, names.join("\",\""));
    let presence = names.iter().map(|name| format!(r#"{{"type":"presence","channel":"{name}"}}"#));
    [subscribe].into_iter().chain(presence).collect()
}

/// Comes, asks all its questions, and leaves when all is answered or refused; again and again, for so long.
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
    let time = Form::asked().or(Duration::from_secs(3), Duration::from_secs(30));
    let scene = Scene::set("").await;
    let siege = Siege::lay(&scene, "S9  a hundred ask for presence", Question::Presence).await;
    let attacker = Attacker::of(scene.gateway.public);
    let mut stranger = Request::new(attacker.door().await, "/ws/market").open().await;
    stranger.greeted().await;
    let refused = stranger.ask(json!({"type": "presence", "channel": "trades:NOT-FOLLOWED"})).await;
    assert_eq!(refused["error"], "forbidden", "of what it does not follow a stranger learns nothing: {refused}");
    launch(ask_all(Arc::clone(&attacker), time)).await;
    siege.lift(&scene, &[attacker], Bounds { gateway: 100_000_000, redis: 20_000_000 }).await;
}
