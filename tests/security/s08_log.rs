//! S8: the reader of the log ends, stalls, or has a full disk. This must not affect clients, even while Redis is
//! restarted; and a panic in a vital task ends the replica.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use serde_json::json;

use crate::{
    gateway::{AttackedGateway, Oddity},
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege, repelled},
    support::{client::ConnectRequest, eventually},
};

/// Many lines, and a short drain.
const SETTINGS: &str = "[log]\nfilter = \"trace\"\n[drain]\ndelay = \"0s\"\nspread = \"1s\"\n";

/// A log whose reader has ended.
fn abandoned() -> OwnedFd {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// A log that accepts nothing more, and its reader.
fn stalled() -> (OwnedFd, UnixStream) {
    let (reader, mut writer) = UnixStream::pair().expect("a pair of sockets");
    writer.set_nonblocking(true).expect("a socket");
    let refused = loop {
        if let Err(error) = writer.write(&[b'x'; 4_096]) {
            break error.kind();
        }
    };
    assert_eq!(refused, ErrorKind::WouldBlock);
    writer.set_nonblocking(false).expect("a socket");
    (writer.into(), reader)
}

fn full_disk() -> OwnedFd {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

/// Connects, subscribes, publishes and receives.
async fn serves(gateway: &AttackedGateway) {
    let mut client = ConnectRequest::new(gateway.public, "/ws/market").open().await;
    client.greeted().await;
    client.subscribe(&["ticker:LOG"]).await;
    // A gateway that was disconnected first asks the others what Redis may have lost.
    let accepted = async || (gateway.publish("ticker:LOG", &json!({"n": 1})).await == 200).then_some(());
    eventually("a publication is accepted", accepted).await;
    client.expect(json!({"n": 1})).await;
    client.vanish();
}

/// With such a log, clients are not affected, even while Redis is restarted, and the gateway drains.
async fn goes_on_without_a_log(name: &'static str, attack: &'static str, log: OwnedFd) {
    let mut scene = AttackScene::oddly(SETTINGS, Oddity { log: Some(log), ..Oddity::default() }).await;
    let siege = Siege::lay(&scene, attack, Question::Ping).await;
    serves(&scene.gateway).await;
    scene.redis.kill();
    let down = async || (scene.gateway.metric("tickgate_redis_up").await == 0.0).then_some(());
    eventually(&format!("{name}: no link to Redis"), down).await;
    scene.redis.restart();
    scene.gateway.linked().await;
    serves(&scene.gateway).await;
    siege.lift(&scene, &[], GrowthBounds::SMALL).await;
    assert_eq!(scene.gateway.metric("tickgate_panics_total").await, 0.0, "{name}");
    // For a reader that only stalls, the gateway queues up to its limit.
    if name != "stalled" {
        let dropped = async || (scene.gateway.metric("tickgate_log_lines_dropped_total").await > 0.0).then_some(());
        eventually(&format!("{name}: dropped lines are counted"), dropped).await;
    }
    assert_eq!(scene.gateway.end().await.code(), Some(0), "{name}: it drains");
}

pub async fn s08_a_log_whose_reader_is_gone_stops_nothing() {
    goes_on_without_a_log("gone", "S8  the log's reader is gone", abandoned()).await;
}

pub async fn s08_a_log_whose_reader_stalls_stops_nothing() {
    let (stalled, _reader) = stalled();
    goes_on_without_a_log("stalled", "S8  the log's reader stalls", stalled).await;
}

pub async fn s08_a_log_on_a_full_disk_stops_nothing() {
    goes_on_without_a_log("full", "S8  the log's disk is full", full_disk()).await;
}

pub async fn s08_a_replica_that_lost_a_vital_task_drains_and_ends_with_a_code() {
    let oddity = Oddity { defect: Some("VitalTaskPanics"), ..Oddity::default() };
    let mut gateway = AttackScene::oddly(SETTINGS, oddity).await.gateway;
    let mut client = ConnectRequest::new(gateway.public, "/ws/market").open().await;
    client.greeted().await;
    client.expect_close(1012).await;
    assert_eq!(gateway.ended().await.code(), Some(1));
    let log = gateway.log();
    assert!(log.contains("a deliberate defect") && log.contains("the vital task \"linger\" panicked"), "{log}");
    repelled("S8  a vital task panics");
}
