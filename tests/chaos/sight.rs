//! Observations from outside: who is connected, what the replicas count, whether their links are up. Waits, but never
//! acts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    gateway,
    record::{ClientStream, Diary, HeardEvent},
    stage::{ChaosStage, StageClient, eventually},
};

/// The close code of a client that no longer responds.
const SILENT: u16 = 4101;

/// Connections that ended in a way that a drain must not cause. Without those whose path an earlier fault disturbed:
/// nothing arrives from such a client any more, which takes two heartbeats to detect, on whichever replica it is.
pub fn badly_ended(stage: &ChaosStage, since: Instant) -> Vec<String> {
    let mut bad = Vec::new();
    for client in stage.clients.lock().iter().filter(|client| !client.dismissed) {
        let diary = client.diary.lock();
        let drained = diary.ended.iter().filter(|ended| ended.at >= since && ended.code != SILENT);
        for ended in drained.filter(|ended| ended.code != 1012 || !ended.hinted) {
            let hinted = if ended.hinted { "with" } else { "without" };
            bad.push(format!("{} saw a drain as {} {} {hinted} a hint", client.name, ended.code, ended.reason));
        }
    }
    bad
}

/// Waits until each client is connected.
pub async fn connected(stage: &ChaosStage) {
    eventually("every client to be connected", Duration::from_secs(20), async || {
        let clients = stage.clients.lock();
        let begun = |client: &StageClient| {
            let diary = client.diary.lock();
            diary.connected && client.channels.iter().all(|channel| has_begun(&diary, &channel.stream))
        };
        clients.iter().filter(|client| !client.dismissed).all(begun).then_some(())
    })
    .await;
}

fn has_begun(diary: &Diary, stream: &ClientStream) -> bool {
    diary.streams.get(stream).into_iter().flatten().any(|(_, heard)| matches!(heard, HeardEvent::Began(_)))
}

/// Waits until a publication after `since` was acknowledged on every stream.
pub async fn eventually_published(stage: &ChaosStage, since: Instant, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let heads = stage.ledger.lock().heads();
        let streams = stage.traffic.channels.iter().all(|c| heads.get(&c.stream).is_some_and(|(_, at)| *at > since));
        if streams {
            return true;
        }
        sleep(Duration::from_millis(5)).await;
    }
    false
}

pub async fn links(stage: &ChaosStage) -> (f64, f64) {
    let operations = stage.operations.read().clone();
    let (mut made, mut up) = (0.0, 0.0);
    for address in operations {
        if let Some(metrics) = gateway::metrics_of(address).await {
            made += metrics.sum("tickgate_redis_reconnects_total");
            up += metrics.sum("tickgate_redis_up");
        }
    }
    (made, up)
}

/// Records when a replica first counts a lost link.
pub async fn watch_links(stage: Arc<ChaosStage>, before: (f64, f64), noticed: Arc<Mutex<Option<Instant>>>) {
    loop {
        let (made, up) = links(&stage).await;
        if made > before.0 || up < before.1 {
            *noticed.lock() = Some(Instant::now());
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every living replica counts the clients correctly.
///
/// # Errors
/// What is counted instead.
pub async fn counts_are(stage: &ChaosStage, clients: usize, timeout: Duration) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let told = miscounted(stage, clients).await;
        match told {
            None => return Ok(()),
            Some(told) if Instant::now() > deadline => return Err(format!("{told}; {}", truth(stage).await)),
            Some(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What clients and replicas report about themselves.
async fn truth(stage: &ChaosStage) -> String {
    let mut told = Vec::new();
    for client in stage.clients.lock().iter() {
        let diary = client.diary.lock();
        if !diary.connected || !diary.refused.is_empty() {
            told.push(format!("{}: connected {}, refused {:?}", client.name, diary.connected, diary.refused));
        }
    }
    for place in &stage.places {
        let process = place.process.lock().await;
        let status = gateway::ask(process.public, "/ws/status").await.unwrap_or_default();
        told.push(format!("replica {}", status["replica"]));
    }
    told.join("; ")
}

async fn miscounted(stage: &ChaosStage, clients: usize) -> Option<String> {
    let mut living = 0;
    for place in &stage.places {
        living += usize::from(!place.process.lock().await.has_ended());
    }
    for place in &stage.places {
        let mut process = place.process.lock().await;
        if process.has_ended() {
            continue;
        }
        let Some(status) = gateway::ask(process.public, "/ws/status").await else { return Some("no status".into()) };
        if status["active_connections"] != clients {
            return Some(format!("{} connections instead of {clients}", status["active_connections"]));
        }
        if status["replicas"] != living {
            return Some(format!("{} replicas instead of {living}", status["replicas"]));
        }
        let counted: u64 = status["user_connections"].as_object()?.values().filter_map(|count| count.as_u64()).sum();
        if counted != clients as u64 {
            return Some(format!("{} instead of {clients}", status["user_connections"]));
        }
        let Some(listed) = gateway::ask(process.operations, "/api/v1/connections").await else {
            return Some("no list of connections".into());
        };
        let listed = listed["connections"].as_array().map_or(0, Vec::len);
        if listed != clients {
            return Some(format!("{listed} listed instead of {clients}"));
        }
    }
    None
}
