//! S14: a gateway in development mode is exposed by a proxy, or reached by a page from elsewhere.

use crate::{
    attacker::Attacker,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::wire::upgrade_request,
};

pub async fn s14_development_mode_serves_this_machine_alone() {
    let scene = AttackScene::set("[server]\nmode = \"development\"\n").await;
    let siege = Siege::lay(&scene, "S14 development mode in public", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    let own = |more: &str| upgrade_request("/ws/ingest", more);
    assert_eq!(attacker.ask(&own("")).await, Some(101));
    for (what, request) in [
        ("forwarded by a proxy", own("X-Forwarded-For: 203.0.113.7\r\n")),
        ("forwarded as RFC 7239 has it", own("Forwarded: for=203.0.113.7\r\n")),
        ("by a public name", upgrade_request("/ws/ingest", "").replace("Host: localhost", "Host: gateway.example")),
        ("a status by a rebound name", "GET /ws/status HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned()),
    ] {
        assert_eq!(attacker.ask(&request).await, Some(403), "{what}");
        println!("  refused    {what}");
    }
    let page = own("Origin: https://evil.example\r\n");
    // A page sees the refusal as a Close frame.
    assert_eq!(attacker.ask(&page).await, Some(101));
    assert!(
        scene.gateway.log().contains("development mode accepts requests from this machine only"),
        "the refusal is logged"
    );
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
