//! S7. Somebody else's key of another type under a name of Tickgate's: a topic's stream, the control messages. What needs
//! that key fails, and nothing else.

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

/// Topics whose keys are of another type, each with a subscriber that asks again and again.
const BROKEN: u32 = 20;
/// How long it is looked at what the gateway does of its own accord.
const IDLE: Duration = Duration::from_secs(2);
/// What Redis may be sent a second then: what keeps the links alive, and little more.
const IDLE_BYTES_MAX: u64 = 4_000;

pub async fn s07_a_key_of_another_type_fails_alone() {
    let time = Form::asked().or(Duration::from_secs(4), Duration::from_secs(30));
    let scene = Scene::set("").await;
    let broken: Vec<_> = (0..BROKEN).map(|number| format!("trades:BROKEN{number}")).collect();
    for channel in &broken {
        // Whatever its key is called: found by a publication, and then replaced.
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
    // The registry reads the control messages when the pub/sub link was lost.
    scene.redis.client_kill("pubsub").await;
    scene.gateway.linked().await;
    let siege = Siege::lay(&scene, "S7  keys of another type", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    let mut stranger = Request::new(attacker.door().await, "/ws/market").name("a stranger").open().await;
    stranger.greeted().await;
    stranger.send(json!({"type": "subscribe", "channels": broken})).await;
    sleep(time).await;
    let (_, during) = siege.lift(&scene, &[attacker], Bounds::SMALL).await;
    // Nobody else asks for anything now.
    let before = scene.usage().await;
    sleep(IDLE).await;
    let idle = Cost::between(before, scene.usage().await).received_bytes() / IDLE.as_secs();
    println!("  redis      is sent {idle} bytes a second, with {BROKEN} topics that can't be read");
    assert!(idle < IDLE_BYTES_MAX, "{idle} bytes a second for topics that can't be read");
    // As long as a subscribe waits before it is refused would be three seconds.
    assert!(during.max() < Duration::from_secs(1), "somebody waited for the broken keys");
    assert!(scene.gateway.metric("tickgate_redis_errors_total").await > 0.0, "it is counted");
    // What the registry writes still arrives: a user who leaves is counted no more.
    let mut user = Request::new(scene.gateway.public, "/ws/trading").token(&token("alice")).open().await;
    user.greeted().await;
    eventually("the user to be counted", async || scene.gateway.counts("alice").await.then_some(())).await;
    user.close().await;
    eventually("the user to be gone", async || (!scene.gateway.counts("alice").await).then_some(())).await;
}
