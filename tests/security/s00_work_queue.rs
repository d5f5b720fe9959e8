//! S0: strangers subscribe to as many new topics as allowed, and leave. Topics that had been unfollowed once delayed
//! everyone else's new topics, long after the strangers had left.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: u32 = 200;
/// Visits per second, within the limits of one address.
const VISITS_PER_SECOND: u32 = 23;
/// Maximum number of concurrent connections.
const AT_ONCE_MAX: usize = 200;

/// The scale of the attack.
#[derive(Clone, Copy)]
struct WorkQueueScale {
    settings: &'static str,
    /// Latency per 16 KiB between the gateway and Redis. Queues show only if Redis is not on the same machine.
    distance: Duration,
    /// How long strangers come and go.
    visits: Duration,
    /// How many strangers come and leave together, and how often.
    herd: u32,
    rounds: u32,
    /// Longer than the linger time of a topic.
    after: Duration,
    bounds: GrowthBounds,
}

impl WorkQueueScale {
    fn asked() -> Self {
        let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
        AttackLength::asked().or(
            Self {
                settings: "[hub]\nlinger = \"1s\"\n[redis]\ncompare_interval = \"1s\"\n",
                distance: millis(5),
                visits: seconds(3),
                herd: 40,
                rounds: 2,
                after: seconds(2),
                bounds: GrowthBounds { gateway: 100_000_000, redis: 20_000_000 },
            },
            Self {
                settings: "",
                distance: millis(2),
                visits: seconds(20),
                herd: 200,
                rounds: 3,
                after: seconds(15),
                // Twenty thousand topics with long names, for ten seconds after their last subscribers left.
                bounds: GrowthBounds { gateway: 150_000_000, redis: 40_000_000 },
            },
        )
    }
}

/// A stranger's subscribe to new channels with names of maximum length.
fn subscribe(stranger: u32) -> String {
    let name = |channel| format!("trades:{stranger:04}:{channel:04}:{:-<182}", "");
    let channels: Vec<_> = (0..CHANNELS).map(name).collect();
    json!({"type": "subscribe", "channels": channels}).to_string()
}

/// One after another, for this time.
async fn come_and_go(attacker: Arc<Attacker>, time: Duration) {
    let mut visits = JoinSet::new();
    let mut pace = interval(Duration::from_secs(1) / VISITS_PER_SECOND);
    for stranger in 0..time.as_secs() as u32 * VISITS_PER_SECOND {
        pace.tick().await;
        if visits.len() >= AT_ONCE_MAX {
            visits.join_next().await;
        }
        let attacker = Arc::clone(&attacker);
        visits.spawn(async move { attacker.visit("/ws/market", &subscribe(stranger)).await });
    }
    visits.join_all().await;
}

/// A group of strangers comes and leaves together, repeatedly; no one comes while their topics are being unfollowed.
async fn leave_together(attacker: Arc<Attacker>, plan: WorkQueueScale) {
    for round in 0..plan.rounds {
        let come = |stranger| {
            let attacker = &attacker;
            async move { attacker.stay("/ws/market", &subscribe(stranger)).await }
        };
        let herd = round * plan.herd..(round + 1) * plan.herd;
        let staying: Vec<_> = stream::iter(herd).map(come).buffer_unordered(16).collect().await;
        drop(staying);
        sleep(plan.after).await;
    }
}

async fn judge(siege: Siege, scene: &AttackScene, attacker: Arc<Attacker>, bounds: GrowthBounds) {
    println!("  attacker   {} connections, {} more failed", attacker.visits(), attacker.failed());
    assert!(attacker.visits() > 0 && attacker.failed() == 0, "the attack did not take place");
    siege.lift(scene, &[attacker], bounds).await;
}

pub async fn s00_strangers_who_come_and_go_keep_nobody_from_subscribing() {
    let plan = WorkQueueScale::asked();
    let (scene, _network) = AttackScene::apart(plan.settings, plan.distance).await;
    let siege = Siege::lay(&scene, "S0  new topics, one stranger after another", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(come_and_go(Arc::clone(&attacker), plan.visits)).await;
    sleep(plan.after).await;
    judge(siege, &scene, attacker, plan.bounds).await;
}

pub async fn s00_strangers_who_leave_together_keep_nobody_from_subscribing() {
    let plan = WorkQueueScale::asked();
    let (scene, _network) = AttackScene::apart(plan.settings, plan.distance).await;
    let siege = Siege::lay(&scene, "S0  new topics, strangers all at once", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(leave_together(Arc::clone(&attacker), plan)).await;
    judge(siege, &scene, attacker, plan.bounds).await;
}
