//! S1: strangers that subscribe to as many long names as a connection may, toggle one more channel at the maximum rate.
//! Each toggle once wrote the whole session to Redis: 97 MB/s for 290 KB/s, and handshakes of others took 200 ms.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{task::JoinSet, time::interval};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
};

/// Channels of one connection, one less than `limits.subscriptions_max`.
const CHANNELS: u32 = 199;
/// Within `limits.messages_per_connection` and the names that a connection may ask for.
const TOGGLES_PER_SECOND: u32 = 40;

fn name(stranger: usize, channel: u32) -> String {
    format!("trades:{stranger:04}:{channel:04}:{:-<182}", "")
}

/// Subscribes to all but one, and toggles that one for this time.
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

async fn toggle_all(attacker: Arc<Attacker>, strangers: usize, time: Duration) {
    let toggling = (0..strangers).map(|stranger| toggle(Arc::clone(&attacker), stranger, time));
    toggling.collect::<JoinSet<_>>().join_all().await;
}

pub async fn s01_turning_a_channel_on_and_off_writes_no_session() {
    let (strangers, time) = AttackLength::asked().or((20, Duration::from_secs(3)), (150, Duration::from_secs(20)));
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S1  one more channel on and off", Question::Join).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(toggle_all(Arc::clone(&attacker), strangers, time)).await;
    println!("  attacker   {} connections, {} more failed", attacker.visits(), attacker.failed());
    assert_eq!(attacker.visits(), strangers as u64, "the attack did not take place");
    // Followed topics are in the table of bounds: here, 30,000 names of 199 bytes.
    let bounds = GrowthBounds { gateway: 150_000_000, redis: 40_000_000 };
    siege.lift(&scene, &[attacker], bounds).await;
}
