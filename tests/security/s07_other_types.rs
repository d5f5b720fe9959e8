//! S7. Somebody else's key of another type under a name of Tickgate's: a topic's stream, the control messages. What needs
//! that key fails, and nothing else.

use std::time::Duration;

use serde_json::json;

use crate::{
    neighbour::Neighbour,
    scene::{Form, Scene},
    support::{client::Request, eventually, replica::token},
};

/// Topics whose keys are of another type, each with a subscriber that asks again and again.
const BROKEN: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s07_a_key_of_another_type_fails_alone() {
    let time = match Form::asked() {
        Form::Short => Duration::from_secs(4),
        Form::Long => Duration::from_secs(30),
    };
    let title = "S7: keys of another type, as topics that strangers subscribe to and as the control messages";
    let scene = Scene::set(title, "", Duration::ZERO).await;
    let (neighbour, rest) = Neighbour::at(scene.gateway.public).await.subscribes_for(Duration::from_secs(1)).await;
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
    let mut stranger = Request::new(scene.gateway.public, "/ws/market").name("a stranger").open().await;
    stranger.greeted().await;
    stranger.send(json!({"type": "subscribe", "channels": broken})).await;
    // The registry reads the control messages when the pub/sub link was lost.
    scene.redis.client_kill("pubsub").await;
    scene.gateway.linked().await;
    let (_, during) = neighbour.subscribes_for(time).await;
    println!("  neighbour  at rest: {rest}\n             during:  {during}");
    assert_eq!(during.refused, 0, "the neighbour was refused new channels");
    // As long as a subscribe waits before it is refused would be three seconds.
    assert!(during.max() < Duration::from_secs(1), "the neighbour waited for the broken keys");
    assert!(scene.gateway.is_ready().await, "the gateway is not ready");
    assert!(scene.gateway.metric("tickgate_redis_errors_total").await > 0.0, "it is counted");
    // What the registry writes still arrives: a user who leaves is counted no more.
    let mut user = Request::new(scene.gateway.public, "/ws/trading").token(&token("alice")).open().await;
    user.greeted().await;
    eventually("the user to be counted", async || scene.gateway.counts("alice").await.then_some(())).await;
    user.close().await;
    eventually("the user to be gone", async || (!scene.gateway.counts("alice").await).then_some(())).await;
}
