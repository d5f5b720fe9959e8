//! S6: strangers at several addresses name topics that nobody publishes, as many as they may. They once used up what a
//! replica follows, and everybody else's new topics were refused.

use std::{net::Ipv4Addr, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::{
    attacker::Attacker,
    cost::{Cost, megabytes},
    neighbour::Neighbour,
    scene::{Form, Scene},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: usize = 200;

/// How much of it there is.
struct Plan {
    settings: &'static str,
    addresses: u8,
    /// Of each address.
    connections: usize,
    topics_max: f64,
    /// What the gateway and Redis may take more than before, at the most.
    gateway_bytes_max: u64,
    redis_bytes_max: u64,
}

impl Plan {
    const fn of(form: Form) -> Self {
        match form {
            Form::Short => Self {
                settings: "[hub]\nunpublished_topics_max = 2000\nunpublished_per_address_max = 800\n",
                addresses: 4,
                connections: 6,
                topics_max: 2_000.0,
                gateway_bytes_max: 60_000_000,
                redis_bytes_max: 10_000_000,
            },
            Form::Long => Self {
                settings: "",
                addresses: 8,
                connections: 120,
                topics_max: 100_000.0,
                gateway_bytes_max: 300_000_000,
                redis_bytes_max: 80_000_000,
            },
        }
    }
}

fn subscribe(address: u8, connection: usize) -> String {
    let channels: Vec<_> = (0..CHANNELS).map(|n| format!("trades:{address}X{connection}X{n}")).collect();
    json!({"type": "subscribe", "channels": channels}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_topics_that_nobody_publishes_take_nobodys_room() {
    let plan = Plan::of(Form::asked());
    let title = "S6: strangers at several addresses name topics that nobody publishes";
    let scene = Scene::set(title, plan.settings, Duration::ZERO).await;
    for number in 0..50 {
        assert_eq!(scene.gateway.publish(&format!("trades:KNOWN{number}"), &json!({"n": number})).await, 200);
    }
    let neighbour = Neighbour::at(scene.gateway.public).await;
    let (neighbour, rest) = neighbour.subscribes_for(Duration::from_secs(1)).await;
    let before = scene.usage().await;
    let asking = neighbour.subscribes();
    let (mut attackers, mut staying) = (Vec::new(), Vec::new());
    for address in 2..2 + plan.addresses {
        let attacker = Attacker::at(scene.gateway.public, Ipv4Addr::new(127, 0, 0, address));
        let stay = |connection| {
            let (attacker, text) = (&attacker, subscribe(address, connection));
            async move { attacker.stay("/ws/market", &text).await }
        };
        let stays: Vec<_> = stream::iter(0..plan.connections).map(stay).buffer_unordered(16).collect().await;
        staying.extend(stays);
        attackers.push(attacker);
    }
    let (neighbour, during) = asking.stop().await;
    // It is looked at every second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let unpublished = scene.gateway.metric("tickgate_unpublished_topics").await;
    // Those that are published to have room whoever asks.
    let known: Vec<_> = (0..50).map(|number| format!("trades:KNOWN{number}")).collect();
    let late = Attacker::at(scene.gateway.public, Ipv4Addr::new(127, 0, 0, 2));
    let text = json!({"type": "subscribe", "channels": known}).to_string();
    let answer = late.asks("/ws/market", &text).await.expect("an answer");
    let (_, after) = neighbour.subscribes_for(Duration::from_secs(2)).await;
    let cost = Cost::between(before, scene.usage().await);
    let sent: u64 = attackers.iter().map(Attacker::sent_bytes).sum();
    let (connections, names) = (staying.len(), staying.len() * CHANNELS);
    println!("  attackers  {connections} connections, {names} names; {} sent", megabytes(sent));
    println!("{}", cost.beside(sent));
    println!("  topics     {unpublished} that nobody publishes are followed");
    println!("  neighbour  at rest: {rest}\n             during:  {during}\n             after:   {after}");
    assert!(names as f64 > plan.topics_max, "the attack did not take place");
    // What is on trial is over in a moment.
    assert!(unpublished <= plan.topics_max + 1_024.0, "{unpublished} topics");
    assert!(answer.contains(r#""errors":[]"#), "published topics were refused: {answer:.300}");
    assert_eq!(during.refused + after.refused, 0, "the neighbour was refused new channels");
    cost.check_amplification(sent);
    let (gateway, redis) = (cost.grown_bytes(), cost.redis_grown_bytes());
    assert!(gateway < plan.gateway_bytes_max, "the gateway grew by {}", megabytes(gateway));
    assert!(redis < plan.redis_bytes_max, "Redis grew by {}", megabytes(redis));
}
