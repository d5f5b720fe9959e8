//! S1: strangers with as many long names as a connection may have turn one more on and off, as often as they may. Each time
//! the whole session was once written to Redis: 97 MB/s for 290 KB/s, and others' handshakes took 200 ms.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{task::JoinSet, time::interval};

use crate::{
    attacker::Attacker,
    cost::{Cost, megabytes},
    neighbour::{Latencies, joins_for},
    scene::{Form, Scene},
};

/// Channels of one connection, one less than `limits.subscriptions_max`.
const CHANNELS: u32 = 199;
/// Within `limits.messages_per_connection` and the names that a connection may ask for.
const TOGGLES_PER_SECOND: u32 = 40;

fn name(stranger: usize, channel: u32) -> String {
    format!("trades:{stranger:04}:{channel:04}:{:-<182}", "")
}

/// Subscribes to all but one, and turns that on and off for so long.
async fn toggle(attacker: Arc<Attacker>, stranger: usize, time: Duration) {
    let channels: Vec<_> = (0..CHANNELS).map(|channel| name(stranger, channel)).collect();
    let all = json!({"type": "subscribe", "channels": channels}).to_string();
    let Some(mut socket) = attacker.stay("/ws/market", &all).await else { return };
    let turn = |kind| json!({"type": kind, "channels": [name(stranger, CHANNELS)]}).to_string();
    let turns = [turn("subscribe"), turn("unsubscribe")];
    let mut pace = interval(Duration::from_secs(1) / TOGGLES_PER_SECOND);
    for number in 0..time.as_secs() as usize * TOGGLES_PER_SECOND as usize {
        pace.tick().await;
        if attacker.says(&mut socket, &turns[number % 2]).await.is_none() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s01_turning_a_channel_on_and_off_writes_no_session() {
    let (strangers, time) = match Form::asked() {
        Form::Short => (20, Duration::from_secs(3)),
        Form::Long => (150, Duration::from_secs(20)),
    };
    let scene = Scene::set("S1: strangers with 199 names turn one more on and off", "", Duration::ZERO).await;
    let attacker = Arc::new(Attacker::of(scene.gateway.public));
    let rest: Latencies = joins_for(scene.gateway.public, Duration::from_secs(1)).await;
    let before = scene.usage().await;
    let mut toggling = JoinSet::new();
    for stranger in 0..strangers {
        toggling.spawn(toggle(Arc::clone(&attacker), stranger, time));
    }
    let during = joins_for(scene.gateway.public, time).await;
    toggling.join_all().await;
    let cost = Cost::between(before, scene.usage().await);
    let (visits, sent) = (attacker.visits(), attacker.sent_bytes());
    println!("  attacker   {visits} connections, {} more failed; {} sent", attacker.failed(), megabytes(sent));
    println!("{}", cost.beside(sent));
    println!("  neighbour  joins at rest: {rest}\n             during:        {during}");
    assert!(visits == strangers as u64, "the attack did not take place");
    assert_eq!(during.refused, 0, "the neighbour was refused");
    cost.check_amplification(sent);
}
