//! S7: keys of another type under names that the gateway uses: a topic's stream, the control messages. Only what needs
//! that key fails.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    attacker::{Attacker, launch},
    cost::Cost,
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
    support::{client::ConnectRequest, eventually, replica::token},
};

/// Topics whose keys have another type.
const BROKEN: u32 = 20;
/// Strangers that repeatedly subscribe to all of them. Each reply takes three seconds.
const STRANGERS: usize = 40;
/// How long the gateway's own activity is observed.
const IDLE: Duration = Duration::from_secs(2);
/// Maximum number of bytes per second to Redis in that time: little more than what keeps the links alive.
const IDLE_BYTES_MAX: u64 = 4_000;

/// Strangers subscribe for this time, again after each refusal.
async fn ask_again(attacker: Arc<Attacker>, channels: Vec<String>, time: Duration) {
    let until = Instant::now() + time;
    let text = json!({"type": "subscribe", "channels": channels}).to_string();
    let ask = |_| {
        let (attacker, text) = (Arc::clone(&attacker), text.clone());
        async move {
            let asking = async {
                let Some(mut socket) = attacker.stay("/ws/market", &text).await else { return };
                while attacker.says(&mut socket, &text).await.is_some() {}
            };
            let _ = timeout_at(until, asking).await;
        }
    };
    (0..STRANGERS).map(ask).collect::<JoinSet<_>>().join_all().await;
}

pub async fn s07_a_key_of_another_type_fails_alone() {
    let time = AttackLength::asked().or(Duration::from_secs(4), Duration::from_secs(30));
    let scene = AttackScene::set("").await;
    let broken: Vec<_> = (0..BROKEN).map(|number| format!("trades:BROKEN{number}")).collect();
    for channel in &broken {
        // Finds the key of any topic with a publication, and replaces it.
        assert_eq!(scene.gateway.publish(channel, &json!({"n": 1})).await, 200);
    }
    let mut keys: Vec<String> = scene.redis.run(&["KEYS", "*BROKEN*"]).await;
    keys.retain(|key| !key.contains("dedupe"));
    assert!(keys.len() >= broken.len(), "{keys:?}");
    keys.push("tg2:controls".into());
    for key in &keys {
        let _: i64 = scene.redis.run(&["DEL", key]).await;
        let _: String = scene.redis.run(&["SET", key, "something else"]).await;
    }
    // The registry reads the control messages after the pub/sub link was lost.
    scene.redis.client_kill("pubsub").await;
    scene.gateway.linked().await;
    let siege = Siege::lay(&scene, "S7  keys of another type", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(ask_again(Arc::clone(&attacker), broken.clone(), time)).await;
    let (_, during) = siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
    // Now there is only one client, which waits.
    let mut stranger = ConnectRequest::new(scene.gateway.public, "/ws/market").name("a stranger").open().await;
    stranger.greeted().await;
    stranger.send(json!({"type": "subscribe", "channels": broken})).await;
    let before = scene.usage().await;
    sleep(IDLE).await;
    let idle = Cost::between(before, scene.usage().await).received_bytes() / IDLE.as_secs();
    println!("  redis      is sent {idle} bytes a second, with {BROKEN} topics that can't be read");
    assert!(idle < IDLE_BYTES_MAX, "{idle} bytes a second for topics that can't be read");
    // The timeout of a subscribe would be three seconds.
    let waited_max = AttackLength::asked().or(Duration::from_millis(2_500), Duration::from_secs(1));
    assert!(during.max() < waited_max, "somebody waited for the broken keys");
    assert!(scene.gateway.metric("tickgate_redis_errors_total").await > 0.0, "it is counted");
    // What the registry writes still arrives: a user who leaves is no longer counted.
    let mut user = ConnectRequest::new(scene.gateway.public, "/ws/trading").token(&token("alice")).open().await;
    user.greeted().await;
    eventually("the user to be counted", async || scene.gateway.counts("alice").await.then_some(())).await;
    user.close().await;
    eventually("the user to be gone", async || (!scene.gateway.counts("alice").await).then_some(())).await;
}
