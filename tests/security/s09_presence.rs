//! S9: strangers ask who follows what. A replica once asked the others about 20 topics a second, so that a hundred askers
//! kept everybody else's question waiting until it was refused.

use std::{sync::Arc, time::Duration};

use tokio::{io::AsyncReadExt, task::JoinSet};

use crate::{
    attacker::Attacker,
    cost::{Cost, megabytes},
    neighbour::Neighbour,
    scene::{Form, Scene},
};

/// Askers at once.
const ASKERS: usize = 100;

/// Follows some channels, and asks about each of them: as often as one connection may ask.
fn questions(asker: usize) -> Vec<String> {
    let names: Vec<_> = (0..20).map(|n| format!("trades:A{asker}X{n}")).collect();
    let subscribe = format!(r#"{{"type":"subscribe","channels":["{}"]}}"#, names.join("\",\""));
    let presence = names.iter().map(|name| format!(r#"{{"type":"presence","channel":"{name}"}}"#));
    [subscribe].into_iter().chain(presence).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s09_a_question_for_presence_waits_for_no_other() {
    let time = match Form::asked() {
        Form::Short => Duration::from_secs(3),
        Form::Long => Duration::from_secs(30),
    };
    let scene = Scene::set("S9: a hundred strangers ask for presence", "", Duration::ZERO).await;
    let attacker = Arc::new(Attacker::of(scene.gateway.public));
    let (neighbour, before_it) = Neighbour::at(scene.gateway.public).await.wonders_for(Duration::from_secs(1)).await;
    let before = scene.usage().await;
    let asking = neighbour.wonders();
    let mut asked = JoinSet::new();
    for asker in 0..ASKERS {
        let attacker = Arc::clone(&attacker);
        asked.spawn(async move {
            let texts = questions(asker);
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            loop {
                let Some(mut stream) = attacker.pester("/ws/market", &texts).await else { continue };
                // Until all is answered, or refused.
                let (mut heard, mut answers) = (vec![0; 1 << 16], 0);
                while answers < texts.len() {
                    let Ok(Ok(len @ 1..)) = tokio::time::timeout(time, stream.read(&mut heard)).await else { break };
                    answers += heard[..len].windows(9).filter(|bytes| bytes == b"{\"type\":\"").count();
                }
            }
        });
    }
    tokio::time::sleep(time).await;
    let cost = Cost::between(before, scene.usage().await);
    asked.shutdown().await;
    let (_, during) = asking.stop().await;
    println!("  attacker   {ASKERS} askers; {} sent", megabytes(attacker.sent_bytes()));
    println!(
        "{}\n  neighbour  at rest: {before_it}\n             during:  {during}",
        cost.beside(attacker.sent_bytes())
    );
    cost.check_amplification(attacker.sent_bytes());
    assert_eq!(during.refused, 0, "the neighbour was told to try again");
    let amplification = cost.amplification(attacker.sent_bytes());
    assert!(amplification < 20.0, "Redis was sent {amplification:.1} bytes for each byte of the attacker");
}
