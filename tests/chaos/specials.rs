//! Faults that need separate clients: trimmed history, clients that read slowly or not at all, a replica that sleeps
//! past its lease, and a rolling restart of all replicas. Under the same traffic as everything else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::Class;
use tokio::time::sleep;

use crate::{
    cast::Casting,
    dice::Dice,
    faults,
    follower::ClientOrder,
    publisher::Traffic,
    record::{HeardEvent, SharedDiary, TestedChannel},
    sight::{badly_ended, connected},
    stage::{self, ChaosStage},
};

/// By then, everything that was held back has arrived.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client misses more than its topic retains, and receives a gap.
pub async fn history_trimmed(stage: &Arc<ChaosStage>, dice: &mut Dice) -> Vec<String> {
    let brief = TestedChannel::public("brief", Class::Reliable);
    let casting = Casting::usual("visitor", "user0", vec![brief.clone()]);
    let (diary, orders) = stage.seat(casting, dice);
    connected(stage).await;
    flood(&stage.traffic, &brief, 10, 100, dice).await;
    orders.send_replace(ClientOrder::StayAway(stage.next_order(), Duration::from_secs(60)));
    flood(&stage.traffic, &brief, 120, 100, dice).await;
    // Longer than a replica keeps a topic without subscribers: its messages in memory are lost too.
    sleep(Duration::from_millis(2_500)).await;
    orders.send_replace(ClientOrder::Live);
    flood(&stage.traffic, &brief, 4, 100, dice).await;
    let mut wrong = has_all(stage, &diary, &brief).await;
    if !told_why(&diary, &brief, "retention") {
        wrong.push("a visitor missed more than is kept, and was not told".into());
    }
    stage.dismiss("visitor");
    wrong
}

/// A client reads nothing for a while and then continues: it loses nothing, and keeps its connection.
pub async fn slow_reader(stage: &Arc<ChaosStage>, dice: &mut Dice) -> Vec<String> {
    let (bulk, log) =
        (TestedChannel::public("bulk", Class::Reliable), TestedChannel::public("system_log", Class::Event));
    let (diary, orders) = stage.seat(casting("slow", &[&bulk, &log]), dice);
    connected(stage).await;
    let lagged = stage.metric("tickgate_lagged_total").await;
    let began = Instant::now();
    orders.send_replace(ClientOrder::Sleep(stage.next_order(), Duration::from_millis(1_500)));
    flood(&stage.traffic, &bulk, 240, 40_000, dice).await;
    let mut wrong = has_all(stage, &diary, &bulk).await;
    if stage.metric("tickgate_lagged_total").await <= lagged {
        wrong.push("the slow reader was not slow enough to test anything".into());
    }
    let diary = diary.lock();
    if let Some(ended) = diary.ended.iter().find(|ended| ended.at >= began) {
        wrong.push(format!("a reader that moves was disconnected: {ended:?}"));
    }
    if diary.streams[&bulk.stream].iter().any(|(_, heard)| matches!(heard, HeardEvent::Gap { .. })) {
        wrong.push("a slow reader of a reliable topic was told of a gap".into());
    }
    drop(diary);
    stage.dismiss("slow");
    wrong
}

/// A client reads nothing for longer than the write timeout: it is closed, reconnects, and has missed nothing.
pub async fn never_reader(stage: &Arc<ChaosStage>, dice: &mut Dice) -> Vec<String> {
    let bulk = TestedChannel::public("bulk", Class::Reliable);
    let (diary, orders) = stage.seat(casting("never", &[&bulk]), dice);
    connected(stage).await;
    let hung_up = async || {
        let mut sum = 0.0;
        for reason in ["slow_consumer", "heartbeat_timeout"] {
            sum += stage.metric_where("tickgate_disconnects_total", reason).await;
        }
        sum
    };
    let before = hung_up().await;
    orders.send_replace(ClientOrder::Sleep(stage.next_order(), Duration::from_secs(60)));
    flood(&stage.traffic, &bulk, 240, 40_000, dice).await;
    let mut wrong = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while hung_up().await <= before {
        if Instant::now() > deadline {
            wrong.push("a client that never read was not closed".into());
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    orders.send_replace(ClientOrder::Live);
    wrong.extend(has_all(stage, &diary, &bulk).await);
    stage.dismiss("never");
    wrong
}

/// A replica sleeps past its lease, and wakes up.
pub async fn frozen_past_its_lease(stage: &Arc<ChaosStage>, dice: &mut Dice) {
    let process = stage.places[dice.index(stage::REPLICAS)].process.lock().await;
    process.signal("-STOP");
    sleep(Duration::from_secs(13)).await;
    process.signal("-CONT");
}

/// All replicas are restarted one after another: every client receives a reconnect hint, and none is cut off.
pub async fn rolling_restart(stage: &Arc<ChaosStage>) -> Vec<String> {
    let began = Instant::now();
    for number in 0..stage::REPLICAS {
        faults::drain(stage, number).await;
        stage.ready(number).await;
    }
    badly_ended(stage, began)
}

/// A client whose missing reads are detected.
fn casting<'a>(name: &'a str, channels: &[&TestedChannel]) -> Casting<'a> {
    let channels = channels.iter().map(|channel| (*channel).clone()).collect();
    Casting { small_buffers: true, direct: true, ..Casting::usual(name, "user0", channels) }
}

/// Publishes many messages at once.
async fn flood(traffic: &Arc<Traffic>, channel: &TestedChannel, count: usize, padding: usize, dice: &mut Dice) {
    let quarter = async |mut dice: Dice| {
        for _ in 0..count / 4 {
            traffic.publish(channel, padding, &mut dice).await;
        }
    };
    let dice = [dice.fork(), dice.fork(), dice.fork(), dice.fork()];
    let [one, two, three, four] = dice;
    tokio::join!(quarter(one), quarter(two), quarter(three), quarter(four));
}

/// Waits until the client has the last acknowledged publication.
async fn has_all(stage: &ChaosStage, diary: &SharedDiary, channel: &TestedChannel) -> Vec<String> {
    let head = stage.ledger.lock().heads().get(&channel.stream).map(|(head, _)| *head).unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    while diary.lock().position(&channel.stream) < head {
        if Instant::now() > deadline {
            let diary = diary.lock();
            let (at, last) =
                (diary.position(&channel.stream), diary.streams.get(&channel.stream).map(|all| all.last()));
            return vec![format!("{} is not caught up: {at} of {head}, the last it heard is {last:?}", channel.name)];
        }
        sleep(Duration::from_millis(20)).await;
    }
    Vec::new()
}

fn told_why(diary: &SharedDiary, channel: &TestedChannel, why: &str) -> bool {
    let diary = diary.lock();
    let told = diary.streams.get(&channel.stream).into_iter().flatten();
    told.into_iter().any(|(_, heard)| matches!(heard, HeardEvent::Gap { reason, .. } if reason == why))
}
