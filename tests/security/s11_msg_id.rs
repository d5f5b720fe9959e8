//! S11: a token that may publish to a user's `bot_status` uses the `msg_id` of an order that the backend is about to
//! publish. The order was once acknowledged as a duplicate, but never stored.

use serde_json::{Value, json};

use crate::{
    attacker::Attacker,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::{
        client::ConnectRequest,
        replica::{TokenBuilder, token},
    },
};

fn fill(status: &str) -> Value {
    json!({"channel": "orders", "user": "alice", "msg_id": "fill-981", "data": {"type": "order", "status": status}})
}

pub async fn s11_nobody_uses_up_the_msg_id_of_another_publisher() {
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S11 the msg_id of somebody's order", Question::Ping).await;
    let attacker = Attacker::of(scene.gateway.public);
    let door = attacker.door().await;
    let mut alice = ConnectRequest::new(scene.gateway.public, "/ws/trading").token(&token("alice")).open().await;
    alice.greeted().await;
    alice.subscribe(&["orders"]).await;
    let right = TokenBuilder::of("mallory").publish(&["bot_status", "orders", "logs"]).sign();
    let mut mallory = ConnectRequest::new(door, "/ws/trading").token(&right).open().await;
    mallory.greeted().await;
    let taken = json!({"type": "publish", "channel": "bot_status", "user": "alice", "msg_id": "fill-981", "data": {}});
    assert_eq!(mallory.ask(taken).await["duplicate"], false);
    // Even with the right to publish to the channel itself.
    let mut taken = fill("cancelled");
    taken["type"] = json!("publish");
    assert_eq!(mallory.ask(taken).await["duplicate"], false);
    alice.expect(json!({"type": "order", "status": "cancelled"})).await;
    let mut connector = ConnectRequest::new(door, "/ws/ingest").token(&right).open().await;
    let payload = json!({"level": "INFO", "message": "x"});
    connector
        .send(json!({"msg_id": "fill-981", "msg_type": "log_record", "source": "backend", "timestamp": 1, "payload": payload}))
        .await;
    assert_eq!(connector.next().await["msg_type"], "ack");
    println!("  attacker   3 publications with the msg_id of the order");

    let answer = scene.gateway.post("/api/v1/publish", &fill("filled")).await;
    assert_eq!((answer.status, &answer.json()["duplicate"]), (200, &json!(false)), "the order was suppressed");
    alice.expect(json!({"type": "order", "status": "filled"})).await;
    let again = scene.gateway.post("/api/v1/publish", &fill("filled")).await;
    assert_eq!((again.status, &again.json()["duplicate"]), (200, &json!(true)));
    let other = scene.gateway.post("/api/v1/publish", &fill("cancelled")).await;
    assert_eq!(
        (other.status, &other.json()["error"]),
        (409, &json!("msg_id_reused")),
        "a success for what is not stored"
    );
    alice.expect_nothing().await;
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
