//! S6: strangers at several addresses subscribe to as many topics without publications as allowed. They once used up
//! the followed topics of a replica, so that everyone else's new topics were refused.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{net::TcpStream, time::sleep};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: usize = 200;

/// The scale of the attack.
struct UnpublishedScale {
    settings: &'static str,
    addresses: u8,
    /// Per address.
    connections: usize,
    topics_max: f64,
    bounds: GrowthBounds,
}

impl UnpublishedScale {
    fn asked() -> Self {
        AttackLength::asked().or(
            Self {
                settings: "[hub]\nlinger = \"1s\"\nunpublished_topics_max = 2000\nunpublished_per_address_max = 800\n",
                addresses: 4,
                connections: 6,
                topics_max: 2_000.0,
                bounds: GrowthBounds { gateway: 60_000_000, redis: 10_000_000 },
            },
            Self {
                settings: "",
                addresses: 8,
                connections: 120,
                topics_max: 100_000.0,
                bounds: GrowthBounds { gateway: 300_000_000, redis: 80_000_000 },
            },
        )
    }
}

fn subscribe(address: u8, connection: usize) -> String {
    let channels: Vec<_> = (0..CHANNELS).map(|n| format!("trades:{address}X{connection}X{n}")).collect();
    json!({"type": "subscribe", "channels": channels}).to_string()
}

/// All connections of one address arrive, and stay.
async fn come(attacker: Arc<Attacker>, address: u8, connections: usize) -> Vec<Option<TcpStream>> {
    let stay = |connection| {
        let (attacker, text) = (&attacker, subscribe(address, connection));
        async move { attacker.stay("/ws/market", &text).await }
    };
    stream::iter(0..connections).map(stay).buffer_unordered(16).collect().await
}

pub async fn s06_topics_that_nobody_publishes_take_nobodys_room() {
    let plan = UnpublishedScale::asked();
    let scene = AttackScene::set(plan.settings).await;
    for number in 0..50 {
        assert_eq!(scene.gateway.publish(&format!("trades:KNOWN{number}"), &json!({"n": number})).await, 200);
    }
    let siege = Siege::lay(&scene, "S6  topics that nobody publishes", Question::New).await;
    let (mut attackers, mut staying) = (Vec::new(), Vec::new());
    for address in 2..2 + plan.addresses {
        let attacker = Attacker::at(scene.gateway.public, Ipv4Addr::new(127, 0, 0, address));
        staying.extend(launch(come(Arc::clone(&attacker), address, plan.connections)).await);
        attackers.push(attacker);
    }
    // Checked every second.
    sleep(Duration::from_secs(2)).await;
    let unpublished = scene.gateway.metric("tickgate_unpublished_topics").await;
    // Published topics have room for every client.
    let known: Vec<_> = (0..50).map(|number| format!("trades:KNOWN{number}")).collect();
    let text = json!({"type": "subscribe", "channels": known}).to_string();
    let answer = attackers[0].asks("/ws/market", &text).await.expect("an answer");
    let (connections, names) = (staying.len(), staying.len() * CHANNELS);
    println!("  attackers  {connections} connections, {names} names");
    println!("  topics     {unpublished} that nobody publishes are followed");
    assert!(names as f64 > plan.topics_max, "the attack did not take place");
    // Topics on trial are decided within a moment.
    assert!(unpublished <= plan.topics_max + 1_024.0, "{unpublished} topics");
    assert!(answer.contains(r#""errors":[]"#), "published topics were refused: {answer:.300}");
    siege.lift(&scene, &attackers, plan.bounds).await;
    drop(staying);
}
