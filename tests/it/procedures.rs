//! Runs the procedures of docs/operations.md on replicas with clients: each code block below a comment `procedure: …` is
//! run unchanged.

use std::{fs, path::Path, process::Command};

use serde_json::json;
use tempfile::{NamedTempFile, TempDir};

use crate::support::{
    client::TestClient,
    eventually,
    redis::{RedisServer, url_of},
    replica::{API_KEY, TestReplica},
};

const PAGE: &str = include_str!("../../docs/operations.md");

/// Runs a block with these variables; its output is shown if it fails.
async fn follow(name: &str, variables: &[(&str, &str)]) {
    let mark = format!("<!-- procedure: {name} -->\n```sh\n");
    let (_, rest) = PAGE.split_once(&mark).unwrap_or_else(|| panic!("docs/operations.md has no procedure {name:?}"));
    let (block, _) = rest.split_once("```\n").expect("the end of the block");
    let mut shell = Command::new("bash");
    shell.args(["-eu", "-c", block]).envs(variables.iter().copied());
    let done = tokio::task::spawn_blocking(move || shell.output()).await.expect("no panic").expect("bash");
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success(), "{name}: {block}{}", said.concat());
}

#[test]
fn every_procedure_of_the_page_is_tested() {
    let named = PAGE.lines().filter_map(|line| line.strip_prefix("<!-- procedure: ")?.strip_suffix(" -->"));
    let code = include_str!("procedures.rs");
    let untested: Vec<_> = named.filter(|name| !code.contains(&format!("\"{name}\""))).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

/// Publishes, and retries with the same id until it is acknowledged.
async fn publish(replica: &TestReplica, number: u64) {
    let entry = json!({
        "channel": "orders", "user": "alice", "msg_id": format!("m-{number}"),
        "data": {"type": "order_update", "number": number},
    });
    eventually("an acknowledgement", async || {
        (replica.api_post("/api/v1/publish", entry.clone()).await.status == 200).then_some(())
    })
    .await;
}

/// Expects exactly these numbers as the next publications.
async fn expect(client: &mut TestClient, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let next = client.next().await;
        assert_eq!((&next["type"], &next["number"]), (&json!("order_update"), &json!(number)), "{next}");
    }
}

async fn following(replica: &TestReplica) -> TestClient {
    let mut client = replica.trading("alice").await;
    client.subscribe(&["orders"]).await;
    client
}

fn url_file(url: &str) -> (NamedTempFile, String) {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{url}\n")).unwrap();
    let settings = format!("[redis]\nurl_file = \"{}\"\n", file.path().display());
    (file, settings)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[tokio::test]
async fn a_backup_is_restored_and_every_loss_is_reported() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let backup = TempDir::with_prefix("tickgate-backup-").unwrap();
    let replica = TestReplica::on(&server).await;
    let mut client = following(&replica).await;
    for number in 0..3 {
        publish(&replica, number).await;
    }
    expect(&mut client, 0..3).await;
    let (url, folder) = (server.url(), path(backup.path()).to_owned());
    follow("back up", &[("REDIS", &url), ("BACKUP", &folder)]).await;
    for number in 3..5 {
        publish(&replica, number).await;
    }
    expect(&mut client, 3..5).await;

    server.kill();
    let data = server.directory().to_owned();
    follow("restore, with Redis stopped", &[("BACKUP", &folder), ("DATA", path(&data))]).await;
    server.restart_with(&["--appendonly", "no"]);
    follow("restore, with Redis started", &[("REDIS", &url)]).await;
    publish(&replica, 5).await;
    // This client had received everything that was lost; it continues from there.
    expect(&mut client, 5..6).await;
    let history = client.ask(json!({"type": "history", "channel": "orders", "last": 10})).await;
    let kept: Vec<_> = history["messages"].as_array().into_iter().flatten().map(|m| m["number"].clone()).collect();
    assert_eq!(kept, [json!(0), json!(1), json!(2), json!(5)], "{history}");

    // A regular start of the server loads everything.
    server.kill();
    server.restart();
    publish(&replica, 6).await;
    expect(&mut client, 6..7).await;
    let _ = fs::remove_dir_all(data.with_extension("before"));
}

#[tokio::test]
async fn replicas_move_to_another_redis_without_a_loss_for_clients() {
    let (old, new) =
        (RedisServer::start_with(&["--appendonly", "yes"]), RedisServer::start_with(&["--appendonly", "yes"]));
    let (file, settings) = url_file(&old.url());
    let (one, other) = (TestReplica::alone_with(&settings).await, TestReplica::alone_with(&settings).await);
    for replica in [&one, &other] {
        eventually("both replicas", async || (replica.metric("tickgate_replicas").await == 2.0).then_some(())).await;
    }
    let (mut here, mut there) = (following(&one).await, following(&other).await);
    for number in 0..3 {
        publish(&one, number).await;
    }
    let (old_url, new_url, ports) = (old.url(), new.url(), [old.port(), new.port()].map(|port| port.to_string()));
    let variables = [
        ("OLD", &*old_url),
        ("NEW", &*new_url),
        ("OLD_HOST", "127.0.0.1"),
        ("NEW_HOST", "127.0.0.1"),
        ("OLD_PORT", &*ports[0]),
        ("NEW_PORT", &*ports[1]),
        ("NEW_URL", &*new_url),
        ("URL_FILE", path(file.path())),
    ];
    follow("move to another Redis, copy", &variables).await;
    publish(&one, 3).await;
    follow("move to another Redis, name it", &variables).await;
    let publishing = async {
        for number in 4..20 {
            publish(&other, number).await;
        }
    };
    tokio::join!(follow("move to another Redis, change the roles", &variables), publishing);
    for replica in [&one, &other] {
        eventually("the links", async || {
            let up = replica.metric("tickgate_redis_up").await == 2.0;
            (up && replica.get("/readyz").await.status == 200).then_some(())
        })
        .await;
    }
    follow("move to another Redis, end the old one", &variables).await;
    for number in 20..23 {
        publish(&one, number).await;
    }
    for client in [&mut here, &mut there] {
        expect(client, 0..23).await;
    }
    assert_eq!(one.metric("tickgate_gaps_total").await + other.metric("tickgate_gaps_total").await, 0.0);
}

#[tokio::test]
async fn a_file_of_secrets_is_rotated_without_an_effect_on_clients() {
    let file = NamedTempFile::new().unwrap();
    let old = "an-old-key-of-32-bytes-or-more-000";
    fs::write(file.path(), format!("{old}\n")).unwrap();
    let settings = format!("[auth]\napi_keys = []\napi_keys_file = \"{}\"\n", file.path().display());
    let replica = TestReplica::alone_with(&settings).await;
    let mut client = following(&replica).await;
    let status = async |key: &str| replica.api("GET", "/api/v1/topics", &[("x-api-key", key)], None).await.status;
    let first = || fs::read_to_string(file.path()).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(status(old).await, 200);
    let variables = [("SECRETS", path(file.path()))];
    follow("rotate a file of secrets, first step", &variables).await;
    let new = first();
    eventually("the new one", async || (status(&new).await == 200).then_some(())).await;
    assert_eq!((status(old).await, status(API_KEY).await), (200, 401));
    follow("rotate a file of secrets, last step", &variables).await;
    eventually("the end of the old one", async || (status(old).await == 401).then_some(())).await;
    assert_eq!((status(&new).await, first() == new), (200, true));
    client.ask(json!({"type": "ping"})).await;
}

#[tokio::test]
async fn the_password_of_redis_is_rotated_without_an_effect_on_clients() {
    let server = RedisServer::shipped(&[]);
    let (file, settings) = url_file(&url_of("tickgate", format!("127.0.0.1:{}", server.port())));
    let before = fs::read_to_string(file.path()).unwrap();
    let replica = TestReplica::alone_with(&settings).await;
    eventually("the links", async || (replica.metric("tickgate_redis_up").await == 2.0).then_some(())).await;
    let mut client = following(&replica).await;
    let (admin, links) = (server.url(), replica.metric("tickgate_redis_reconnects_total").await);
    follow("rotate the password of Redis", &[("REDIS", &admin), ("URL_FILE", path(file.path()))]).await;
    assert_ne!(fs::read_to_string(file.path()).unwrap(), before);
    eventually("new links", async || {
        let made = replica.metric("tickgate_redis_reconnects_total").await >= links + 2.0;
        (made && replica.metric("tickgate_redis_up").await == 2.0).then_some(())
    })
    .await;
    publish(&replica, 0).await;
    expect(&mut client, 0..1).await;
    let stale = redis::Client::open(before.trim()).unwrap();
    assert!(stale.get_multiplexed_async_connection().await.is_err(), "the old password is still accepted");
}
