//! S5: a few bytes ask for megabytes of history, over and over, and some who ask never read an answer. Whoever came back
//! meanwhile waited behind all of them for the links that read streams, and what was never taken was kept.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    attacker::Attacker,
    cost::{Cost, megabytes},
    neighbour::Neighbour,
    scene::{Form, Scene},
};

/// What strangers ask for: more than one page holds.
const HEAVY: &str = "trades:HEAVY";
const HEAVY_MESSAGES: usize = 150;
const HEAVY_BYTES: usize = 60_000;
/// What the neighbour comes back to.
const LIGHT: &str = "trades:LIGHT";
const HISTORY: &str = r#"{"type":"history","channel":"trades:HEAVY","since":"earliest"}"#;
const REPLAY: &str = r#"{"type":"subscribe","channels":[{"channel":"trades:HEAVY","since":"earliest"}]}"#;
/// What the gateway may take more than before, at the most.
const MEMORY_BYTES_MAX: u64 = 150_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s05_whoever_asks_for_much_waits_for_himself() {
    // Half of the neighbour's answers come within the last: the short form is a debug build beside other work.
    let (silent, askers, time, median_max) = match Form::asked() {
        Form::Short => (50, 10, Duration::from_secs(3), Duration::from_secs(2)),
        Form::Long => (150, 100, Duration::from_secs(30), Duration::from_millis(20)),
    };
    let scene = Scene::set("S5: history and replays, read and unread", "", Duration::ZERO).await;
    let filler = "x".repeat(HEAVY_BYTES);
    for number in 0..HEAVY_MESSAGES {
        let heavy = json!({"type": "trade", "n": number, "filler": filler});
        assert_eq!(scene.gateway.publish(HEAVY, &heavy).await, 200);
        assert_eq!(scene.gateway.publish(LIGHT, &json!({"type": "trade", "n": number})).await, 200);
    }
    let attacker = Arc::new(Attacker::of(scene.gateway.public));
    let neighbour = Neighbour::at(scene.gateway.public).await;
    let (neighbour, before_it) = neighbour.comes_back_for(LIGHT, Duration::from_secs(2)).await;
    let before = scene.usage().await;
    let asking = neighbour.comes_back(LIGHT);
    let mut stays = Vec::new();
    for number in 0..silent {
        let text = if number % 2 == 0 { HISTORY } else { REPLAY };
        stays.extend(attacker.pester("/ws/market", &[text; 20]).await);
    }
    let mut asked = JoinSet::new();
    for number in 0..askers {
        let attacker = Arc::clone(&attacker);
        asked.spawn(async move {
            loop {
                attacker.visit("/ws/market", if number % 2 == 0 { HISTORY } else { REPLAY }).await;
            }
        });
    }
    tokio::time::sleep(time).await;
    let cost = Cost::between(before, scene.usage().await);
    asked.shutdown().await;
    let (_, during) = asking.stop().await;
    println!(
        "  attacker   {} who never read, {} answers that were read; {} sent",
        stays.len(),
        attacker.visits(),
        megabytes(attacker.sent_bytes())
    );
    println!(
        "{}\n  neighbour  at rest: {before_it}\n             during:  {during}",
        cost.beside(attacker.sent_bytes())
    );
    assert_eq!(during.refused, 0, "the neighbour could not come back");
    cost.check_amplification(attacker.sent_bytes());
    assert!(during.median() < median_max, "coming back took {:?} in the median", during.median());
    let grown = cost.grown_bytes();
    assert!(grown < MEMORY_BYTES_MAX, "the gateway grew by {}", megabytes(grown));
}
