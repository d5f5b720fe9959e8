//! S17: a client behind a trusted proxy sends a header that its proxy does not set, to choose its address.

use crate::{
    attacker::Attacker,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::wire::upgrade_request,
};

pub async fn s17_a_client_behind_a_proxy_does_not_choose_its_address() {
    let settings = "[server]\ntrusted_proxies = [\"127.0.0.2\"]\naddress_header = \"forwarded\"\n\
                    [limits]\nhandshakes_per_address = { per_second = 1, burst = 20 }\n";
    let scene = AttackScene::set(settings).await;
    let siege = Siege::lay(&scene, "S17 a header that the proxy does not write", Question::New).await;
    // The attacker plays a proxy that forwards what its client sends.
    let proxy = Attacker::of(scene.gateway.public);
    let mut statuses = Vec::new();
    for number in 1..=25 {
        let own = format!("X-Forwarded-For: 198.51.100.{number}\r\n");
        let passed_on = format!("{own}Forwarded: for=198.51.100.{number}, for=203.0.113.7\r\n");
        statuses.push(proxy.ask(&upgrade_request("/ws/market", &passed_on)).await);
    }
    println!("  answers    {statuses:?}");
    assert!(statuses[..20] == [Some(101); 20] && statuses[20..].contains(&Some(429)), "{statuses:?}");
    let other = proxy.ask(&upgrade_request("/ws/market", "Forwarded: for=203.0.113.8\r\n")).await;
    assert_eq!(other, Some(101), "another client of the proxy is counted separately");
    siege.lift(&scene, &[proxy], GrowthBounds::SMALL).await;
}
