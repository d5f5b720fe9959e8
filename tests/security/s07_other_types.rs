//! S7: keys of another type under names that the gateway uses: a topic's stream, the control messages. Only what needs
//! that key fails.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::{
    attacker::Attacker,
    cost::Cost,
    neighbour::Question,
    scene::{Form, Scene},
    siege::{Bounds, Siege},
    support::{client::Request, eventually, replica::token},
};

/// Topics whose keys have another type, each with a subscriber that retries.
const BROKEN: u32 = 20;
/// How long the gateway's own activity is observed.
const IDLE: Duration = Duration::from_secs(2);
/// Maximum number of bytes per second to Redis in that time: little more than what keeps the links alive.
const IDLE_BYTES_MAX: u64 = 4_000;

pub async fn s07_a_key_of_another_type_fails_alone() {
    let time = Form::asked().or(Duration::from_secs(4), Duration::from_secs(30));
    let scene = Scene::set("").await;
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
    let mut stranger = Request::new(attacker.door().await, "/ws/market").name("a stranger").open().await;
    stranger.greeted().await;
    stranger.send(json!({"type": "subscribe", "channels": broken})).await;
    sleep(time).await;
    let (_, during) = siege.lift(&scene, &[attacker], Bounds::SMALL).await;
    // Nothing else is requested now.
    let before = scene.usage().await;
    sleep(IDLE).await;
    let idle = Cost::between(before, scene.usage().await).received_bytes() / IDLE.as_secs();
    println!("  redis      is sent {idle} bytes a second, with {BROKEN} topics that can't be read");
    assert!(idle < IDLE_BYTES_MAX, "{idle} bytes a second for topics that can't be read");
    // The timeout of a subscribe would be three seconds.
    assert!(during.max() < Duration::from_secs(1), "somebody waited for the broken keys");
    assert!(scene.gateway.metric("tickgate_redis_errors_total").await > 0.0, "it is counted");
    // What the registry writes still arrives: a user who leaves is no longer counted.
    let mut user = Request::new(scene.gateway.public, "/ws/trading").token(&token("alice")).open().await;
    user.greeted().await;
    eventually("the user to be counted", async || scene.gateway.counts("alice").await.then_some(())).await;
    user.close().await;
    eventually("the user to be gone", async || (!scene.gateway.counts("alice").await).then_some(())).await;
}
