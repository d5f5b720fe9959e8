//! S0: strangers subscribe to as many new topics as they may, and leave. Topics that were let go meanwhile once kept
//! everybody else's new topics waiting, also long after the strangers had left.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{task::JoinSet, time::interval};

use crate::{
    attacker::Attacker,
    cost::{Cost, Usage, megabytes},
    neighbour::{Latencies, Neighbour},
    scene::{Form, Scene},
};

/// Channels of one connection: `limits.subscriptions_max`.
const CHANNELS: u32 = 200;
/// Visits a second: within the limits of one address.
const VISITS_PER_SECOND: u32 = 23;
/// Connections under way at once.
const AT_ONCE_MAX: usize = 200;

/// How much of it there is.
struct Plan {
    settings: &'static str,
    /// Time that every 16 KiB take between the gateway and Redis. What waits shows when Redis is not next door.
    distance: Duration,
    rest: Duration,
    /// How long strangers come and go.
    visits: Duration,
    /// How many come and leave together, and how often.
    herd: u32,
    rounds: u32,
    /// Longer than a topic lingers.
    after: Duration,
}

impl Plan {
    const fn of(form: Form) -> Self {
        let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
        match form {
            Form::Short => Self {
                settings: "[hub]\nlinger = \"1s\"\n[redis]\ncompare_interval = \"1s\"\n",
                distance: millis(5),
                rest: seconds(1),
                visits: seconds(3),
                herd: 40,
                rounds: 2,
                after: seconds(3),
            },
            Form::Long => Self {
                settings: "",
                distance: millis(2),
                rest: seconds(5),
                visits: seconds(20),
                herd: 200,
                rounds: 5,
                after: seconds(15),
            },
        }
    }
}

/// What a stranger says: a subscribe to channels that nobody has named before, as long as a name may be.
fn subscribe(stranger: u32) -> String {
    let name = |channel| format!("trades:{stranger:04}:{channel:04}:{:-<182}", "");
    let channels: Vec<_> = (0..CHANNELS).map(name).collect();
    json!({"type": "subscribe", "channels": channels}).to_string()
}

/// One after the other, for so long.
async fn come_and_go(attacker: &Arc<Attacker>, time: Duration) {
    let mut visits = JoinSet::new();
    let mut pace = interval(Duration::from_secs(1) / VISITS_PER_SECOND);
    for stranger in 0..time.as_secs() as u32 * VISITS_PER_SECOND {
        pace.tick().await;
        if visits.len() >= AT_ONCE_MAX {
            visits.join_next().await;
        }
        let attacker = Arc::clone(attacker);
        visits.spawn(async move { attacker.visit("/ws/market", &subscribe(stranger)).await });
    }
    visits.join_all().await;
}

/// All of a herd come, and leave together.
async fn leave_together(attacker: &Attacker, herd: std::ops::Range<u32>) {
    let come = |stranger| async move { attacker.stay("/ws/market", &subscribe(stranger)).await };
    let staying: Vec<_> = stream::iter(herd).map(come).buffer_unordered(16).collect().await;
    drop(staying);
}

/// Prints what was seen, and judges it.
async fn judge(scene: &Scene, attacker: &Attacker, before: Usage, neighbour: [&Latencies; 3]) {
    let cost = Cost::between(before, scene.usage().await);
    let sent = attacker.sent_bytes();
    let visits = attacker.visits();
    println!("  attacker   {visits} connections, {} more failed; {} sent", attacker.failed(), megabytes(sent));
    println!("{}", cost.beside(sent));
    let [rest, during, after] = neighbour;
    println!("  neighbour  at rest: {rest}\n             during:  {during}\n             after:   {after}");
    assert!(visits > 0 && attacker.failed() == 0, "the attack did not take place");
    assert_eq!(during.refused + after.refused, 0, "the neighbour was refused new channels");
    assert!(scene.gateway.is_ready().await, "the gateway is not ready");
    cost.check_amplification(sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s00_strangers_who_come_and_go_keep_nobody_from_subscribing() {
    let plan = Plan::of(Form::asked());
    let scene = Scene::set(
        "S0: strangers subscribe to new topics and leave, one after the other",
        plan.settings,
        plan.distance,
    )
    .await;
    let attacker = Arc::new(Attacker::of(scene.gateway.public));
    let (neighbour, rest) = Neighbour::at(scene.gateway.public).await.subscribes_for(plan.rest).await;
    let before = scene.usage().await;
    let asking = neighbour.subscribes();
    come_and_go(&attacker, plan.visits).await;
    let (neighbour, during) = asking.stop().await;
    let (_, after) = neighbour.subscribes_for(plan.after).await;
    judge(&scene, &attacker, before, [&rest, &during, &after]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s00_strangers_who_leave_together_keep_nobody_from_subscribing() {
    let plan = Plan::of(Form::asked());
    let scene =
        Scene::set("S0: strangers subscribe to new topics and leave, all at once", plan.settings, plan.distance).await;
    let attacker = Attacker::of(scene.gateway.public);
    let (neighbour, rest) = Neighbour::at(scene.gateway.public).await.subscribes_for(plan.rest).await;
    let before = scene.usage().await;
    let (mut neighbour, mut during, mut after) = (neighbour, Latencies::default(), Latencies::default());
    for round in 0..plan.rounds {
        let asking = neighbour.subscribes();
        leave_together(&attacker, round * plan.herd..(round + 1) * plan.herd).await;
        let (next, seen) = asking.stop().await;
        during.add(seen);
        // The topics are let go in the meantime.
        let (next, seen) = next.subscribes_for(plan.after).await;
        after.add(seen);
        neighbour = next;
    }
    judge(&scene, &attacker, before, [&rest, &during, &after]).await;
}
