//! S16: an API key where logs and histories keep it: in the query, or as a sub-protocol.

use crate::{
    attacker::Attacker,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::{client::ConnectRequest, replica::API_KEY, wire::upgrade_request},
};

pub async fn s16_an_api_key_opens_nothing_from_an_address() {
    let scene = AttackScene::set("").await;
    let siege = Siege::lay(&scene, "S16 an API key in an address", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    let ingest = |query: &str, more: &str| upgrade_request(&format!("/ws/ingest{query}"), more);
    assert_eq!(attacker.ask(&ingest("", &format!("X-API-Key: {API_KEY}\r\n"))).await, Some(101));
    assert_eq!(attacker.ask(&ingest("", &format!("Authorization: Bearer {API_KEY}\r\n"))).await, Some(101));
    assert_eq!(attacker.ask(&ingest(&format!("?token={API_KEY}"), "")).await, Some(401));
    assert_eq!(attacker.ask(&ingest(&format!("?ticket={API_KEY}"), "")).await, Some(401));
    let protocol = format!("tickgate.v1, bearer.{API_KEY}");
    ConnectRequest::new(scene.gateway.public, "/ws/ingest")
        .header("sec-websocket-protocol", &protocol)
        .expect_closed(4001)
        .await;
    assert!(!scene.gateway.log().contains(API_KEY), "no log holds the key");
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
