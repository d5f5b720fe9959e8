//! S8. What reads the log goes away, stalls, or has a full disk. Nobody else may notice, also when Redis is restarted
//! meanwhile; and a panic in a task that a replica can't do without ends the replica.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use serde_json::json;

use crate::{
    gateway::{Gateway, Oddity},
    scene,
    support::{client::Request, eventually, redis::RedisServer},
};

/// Many lines, and a short drain.
const SETTINGS: &str = "[log]\nfilter = \"trace\"\n[drain]\ndelay = \"0s\"\nspread = \"1s\"\n";

/// A log whose reader is gone.
fn abandoned() -> OwnedFd {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// A log that takes nothing more, and who should read it.
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
async fn serves(gateway: &Gateway) {
    let mut client = Request::new(gateway.public, "/ws/market").open().await;
    client.greeted().await;
    client.subscribe(&["ticker:LOG"]).await;
    // A gateway that was cut off asks the others first what Redis may have lost.
    let accepted = async || (gateway.publish("ticker:LOG", &json!({"n": 1})).await == 200).then_some(());
    eventually("a publication is accepted", accepted).await;
    client.expect(json!({"n": 1})).await;
    client.vanish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s08_a_log_that_nobody_reads_stops_nothing() {
    let _turn = scene::turn("S8: the log's reader is gone, stalls, or has a full disk").await;
    let mut redis = RedisServer::start();
    let (stalled, reader) = stalled();
    let mut gateways = Vec::new();
    for (name, log) in [("gone", abandoned()), ("stalled", stalled), ("full", full_disk())] {
        let oddity = Oddity { log: Some(log), ..Oddity::default() };
        gateways.push((name, Gateway::start_oddly(&redis.url(), SETTINGS, oddity).await));
    }
    for (_, gateway) in &gateways {
        serves(gateway).await;
    }
    redis.kill();
    for (name, gateway) in &gateways {
        let down = async || (gateway.metric("tickgate_redis_up").await == 0.0).then_some(());
        eventually(&format!("{name}: no link to Redis"), down).await;
    }
    redis.restart();
    for (name, gateway) in gateways {
        gateway.linked().await;
        serves(&gateway).await;
        assert_eq!(gateway.metric("tickgate_panics_total").await, 0.0, "{name}");
        // Of one that only stalls the gateway keeps what its bound allows.
        if name != "stalled" {
            let dropped = async || (gateway.metric("tickgate_log_lines_dropped_total").await > 0.0).then_some(());
            eventually(&format!("{name}: dropped lines are counted"), dropped).await;
        }
        assert_eq!(gateway.end().await.code(), Some(0), "{name}: it drains");
        println!("  {name:<10} served before and after a restart of Redis, and drained");
    }
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s08_a_replica_that_lost_a_vital_task_drains_and_ends_with_a_code() {
    let _turn = scene::turn("S8: a task panics that a replica can't do without").await;
    let redis = RedisServer::start();
    let oddity = Oddity { defect: Some("VitalTaskPanics"), ..Oddity::default() };
    let mut gateway = Gateway::start_oddly(&redis.url(), SETTINGS, oddity).await;
    let mut client = Request::new(gateway.public, "/ws/market").open().await;
    client.greeted().await;
    client.expect_close(1012).await;
    assert_eq!(gateway.ended().await.code(), Some(1));
    let log = gateway.log();
    assert!(log.contains("a deliberate defect") && log.contains("the task \"linger\" panicked"), "{log}");
}
