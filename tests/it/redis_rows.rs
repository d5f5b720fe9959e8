//! Findings of a fault suite that was written from the contract alone (docs/guarantees.md), one by one, on real servers
//! and processes: no acknowledged order is silently lost, and no false loss is reported.

use std::process::Command;

use redis::FromRedisValue;
use serde_json::{Value, json};

use crate::support::{
    self,
    client::TestClient,
    eventually,
    proxy::{Proxy, Weather},
    redis::RedisServer,
    replica::{IMPATIENT, TestReplica},
};

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

/// Publishes an order of alice until it is acknowledged; returns its id.
async fn publish(replica: &TestReplica, number: u32) -> Value {
    eventually("the order is acknowledged", async || {
        let publication = json!({"channel": "orders", "user": "alice", "data": order(number)});
        let answer = replica.api_post("/api/v1/publish", publication).await;
        (answer.status == 200).then(|| answer.json()["id"].clone())
    })
    .await
}

/// Alice's stream, whose name is also that of its channel.
async fn stream(server: &RedisServer) -> String {
    let keys: Vec<String> = server.run(&["KEYS", "tg2:{t:*alice*}:s"]).await;
    keys.into_iter().next().expect("alice's stream")
}

/// Alice, subscribed to her orders from a position, if given; and where her subscription starts.
async fn alice(replica: &TestReplica, since: Option<&Value>) -> (TestClient, Value) {
    let mut alice = replica.trading("alice").await;
    let answer = match since {
        Some(cursor) => alice.subscribe_since(&["orders"], cursor).await,
        None => alice.subscribe(&["orders"]).await,
    };
    let cursor = answer["channels"][0]["cursor"].clone();
    (alice, cursor)
}

/// Alice resumes with a cursor: she receives a gap with one of these reasons, then these orders.
async fn told(replica: &TestReplica, since: &Value, reasons: &[&str], orders: &[u32]) {
    let (mut alice, _) = alice(replica, Some(since)).await;
    let gap = alice.expect_type("gap").await;
    assert!(reasons.contains(&gap["reason"].as_str().unwrap()), "{gap}");
    for number in orders {
        alice.expect(order(*number)).await;
    }
    assert_eq!(alice.caught_up().await["complete"], false);
    alice.expect_nothing().await;
}

/// A server with all data of another one, and a separate primary.
async fn copy_of(server: &RedisServer) -> RedisServer {
    let copy = RedisServer::start();
    follow(&copy, server).await;
    copy.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    copy
}

/// Lets one server replicate the dataset of another one.
async fn follow(server: &RedisServer, primary: &RedisServer) {
    server.run::<()>(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let offset = async |server: &RedisServer, field: &str| -> Option<String> {
        let info: String = server.run(&["INFO", "replication"]).await;
        info.lines().find_map(|line| line.strip_prefix(field).map(str::to_owned))
    };
    eventually("everything is copied", async || {
        let linked = offset(server, "master_link_status:").await.as_deref() == Some("up");
        let (has, all) = (offset(server, "slave_repl_offset:").await, offset(primary, "master_repl_offset:").await);
        (linked && has == all).then_some(())
    })
    .await;
}

async fn run<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    server.run(words).await
}

#[test]
fn l1_another_database_is_refused() {
    let url = "redis://127.0.0.1:6379/1";
    let output = Command::new(support::program()).args(["check-config", "--redis", url]).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("requires database 0"), "{said}");
}

#[tokio::test]
async fn l1_a_foreign_message_moves_nothing() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    let (mut alice, _) = alice(&replica, None).await;
    publish(&replica, 1).await;
    alice.expect(order(1)).await;
    let channel = stream(&server).await;
    for header in ["8000000000000000-0 ? 8000000000000000 0 orders", "1-1 ? 1 0 orders", "nonsense"] {
        run::<()>(&server, &["PUBLISH", &channel, &format!("{header}\n{}", order(66))]).await;
    }
    publish(&replica, 2).await;
    alice.expect(order(2)).await;
    alice.expect_nothing().await;
}

#[tokio::test]
async fn l3_l5_a_stream_that_is_deleted_and_starts_again_gives_no_id_twice() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::process(&server, "").await, TestReplica::process(&server, "").await);
    let (mut here, _) = alice(&one, None).await;
    let (mut there, _) = alice(&other, None).await;
    let mut ids = Vec::new();
    for number in 1..=20 {
        // Also by the replica that has never published there.
        ids.push(publish(if number % 3 == 0 { &other } else { &one }, number).await.to_string());
        here.expect(order(number)).await;
        there.expect(order(number)).await;
        run::<()>(&server, &["DEL", &stream(&server).await]).await;
    }
    let given = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), given, "{ids:?}");
}

#[tokio::test]
async fn l4_a_generation_is_above_every_epoch_seen() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::process(&server, "").await, TestReplica::process(&server, "").await);
    let (mut here, _) = alice(&one, None).await;
    let (mut there, _) = alice(&other, None).await;
    // As after a long time on a server whose numbers are far ahead.
    run::<()>(&server, &["HSET", "tg2:{gen}", "alloc", "8000000000000000"]).await;
    run::<()>(&server, &["DEL", &stream(&server).await]).await;
    let ahead = publish(&one, 1).await;
    assert!(ahead.as_str().unwrap() > "8000000000000000", "{ahead}");
    for client in [&mut here, &mut there] {
        // A `retention` gap may precede it: an anchor that is gone may have taken publications with it.
        while client.next().await["order_id"] != "1" {}
    }
    run::<()>(&server, &["FLUSHALL"]).await;
    let next = publish(&other, 2).await;
    assert!(next.as_str() > ahead.as_str(), "{next} after {ahead}");
    for client in [&mut here, &mut there] {
        // She has what was flushed.
        while client.next().await["order_id"] != "2" {}
    }
}

#[tokio::test]
async fn l6_the_cursor_of_an_empty_stream_gets_a_report_of_what_was_lost_since() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    let (alice, cursor) = alice(&replica, None).await;
    alice.vanish();
    for number in 1..=3 {
        publish(&replica, number).await;
    }
    run::<()>(&server, &["DEL", &stream(&server).await]).await;
    publish(&replica, 4).await;
    // A new one, which remembers nothing about it.
    let other = TestReplica::process(&server, "").await;
    for since in [cursor, json!("0-0")] {
        told(&other, &since, &["retention"], &[4]).await;
    }
}

#[tokio::test]
async fn l7_a_removed_entry_is_reported() {
    for newest in [false, true] {
        let server = RedisServer::start();
        let replica = TestReplica::process(&server, "").await;
        let first = publish(&replica, 1).await;
        let second = publish(&replica, 2).await;
        if newest {
            run::<i64>(&server, &["XDEL", &stream(&server).await, second.as_str().unwrap()]).await;
        }
        publish(&replica, 3).await;
        if !newest {
            run::<i64>(&server, &["XDEL", &stream(&server).await, second.as_str().unwrap()]).await;
        }
        // A new one, which remembers nothing about it.
        let other = TestReplica::process(&server, "").await;
        told(&other, &first, &["retention"], &[3]).await;
    }
}

#[tokio::test]
async fn l8_a_dataset_replaced_inside_the_running_server_gives_no_id_twice() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    let first = publish(&replica, 1).await;
    let older = copy_of(&server).await;
    let lost = publish(&replica, 2).await;
    run::<()>(&server, &["FLUSHALL"]).await;
    follow(&server, &older).await;
    run::<()>(&server, &["REPLICAOF", "NO", "ONE"]).await;
    let next = publish(&replica, 3).await;
    assert_ne!(next, lost);
    told(&replica, &first, &["failover"], &[3]).await;
}

#[tokio::test]
async fn l8_databases_that_are_swapped_and_swapped_back_give_no_id_twice() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    let first = publish(&replica, 1).await;
    run::<()>(&server, &["SWAPDB", "0", "1"]).await;
    let meanwhile = publish(&replica, 2).await;
    run::<()>(&server, &["SWAPDB", "0", "1"]).await;
    let next = publish(&replica, 3).await;
    assert!(first != next && meanwhile != next, "{first} {meanwhile} {next}");
    told(&replica, &first, &["failover"], &[3]).await;
}

#[tokio::test]
async fn l9_an_address_that_briefly_leads_to_a_promoted_server_gives_no_id_twice() {
    let server = RedisServer::start();
    let way = Proxy::start(server.port()).await;
    let replica = TestReplica::unready_process(&way.url(), "").await;
    let first = publish(&replica, 1).await;
    let promoted = copy_of(&server).await;
    let mut ids = vec![first.clone()];
    for (number, to) in [(2, &promoted), (3, &server)] {
        way.retarget(to.port());
        way.change_old(Weather::Refuse);
        ids.push(publish(&replica, number).await);
    }
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]) && ids[0] != ids[2], "{ids:?}");
    told(&replica, &first, &["failover"], &[3]).await;
}

#[tokio::test]
async fn l10_nothing_is_acknowledged_while_the_links_lead_to_two_servers() {
    let server = RedisServer::start();
    let way = Proxy::start(server.port()).await;
    let replica = TestReplica::unready_process(&way.url(), "").await;
    let (mut alice, _) = alice(&replica, None).await;
    publish(&replica, 1).await;
    alice.expect(order(1)).await;
    let promoted = copy_of(&server).await;
    way.retarget(promoted.port());
    // The commands go to the new primary, while the link for messages stays up.
    server.client_kill("normal").await;
    for number in 2..=5 {
        publish(&replica, number).await;
        // It may follow a gap, and nothing is missing.
        while alice.next().await["order_id"] != json!(number.to_string()) {}
    }
}

#[tokio::test]
async fn l14_a_replica_with_another_class_for_a_topic_is_not_ready_and_names_it() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    let rule = "[[topics]]\npattern = \"orders\"\nclass = \"state\"\nretain_max = 1";
    let other = TestReplica::unready_process(&server.url(), rule).await;
    let says = async || {
        let answer = other.get("/readyz").await;
        (answer.status == 503 && answer.body.contains("topic rules differ")).then_some(answer.body)
    };
    let said = eventually("it says which rule", says).await;
    assert!(said.contains("orders"), "{said}");
    let publication = json!({"channel": "orders", "user": "alice", "data": order(1)});
    assert_eq!(other.api_post("/api/v1/publish", publication).await.status, 503);
    publish(&replica, 2).await;
}

#[tokio::test]
async fn f1_a_topic_that_was_quiet_for_long_has_no_gap() {
    let server = RedisServer::start();
    let rule = "[[topics]]\npattern = \"trades:*\"\nclass = \"reliable\"\nretain_ttl = \"2s\"";
    let replica = TestReplica::process(&server, rule).await;
    let trade = |number: u32| json!({"type": "trade", "number": number});
    let mut market = replica.market().await;
    market.subscribe(&["trades:X"]).await;
    for number in 1..=2 {
        replica.publish("trades:X", trade(number)).await;
        market.expect(trade(number)).await;
        let emptied = async || (run::<u64>(&server, &["XLEN", "tg2:{t:trades:X}:s"]).await == 0).then_some(());
        eventually("its stream is emptied", emptied).await;
    }
    replica.publish("trades:X", trade(3)).await;
    market.expect(trade(3)).await;
    assert_eq!(replica.metric("tickgate_gaps_total").await, 0.0);
}

#[tokio::test]
async fn f5_an_invented_cursor_is_not_reported_as_a_loss_of_redis() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    publish(&replica, 1).await;
    // A later boundary at which something was lost.
    run::<()>(&server, &["FLUSHALL"]).await;
    publish(&replica, 2).await;
    for made_up in ["1-5", "5-0", "9007199254740990-5"] {
        let (mut alice, _) = alice(&replica, Some(&json!(made_up))).await;
        let gap = alice.expect_type("gap").await;
        assert_eq!(gap["reason"], "retention", "{made_up}: {gap}");
    }
    assert_eq!(replica.metric("tickgate_gaps_total{reason=\"failover\"}").await, 0.0);
}

#[tokio::test]
async fn f6_a_replica_without_the_right_to_read_is_not_ready_and_reports_it() {
    let server = RedisServer::start();
    let replica = TestReplica::process(&server, "").await;
    let first = publish(&replica, 1).await;
    run::<()>(&server, &["ACL", "SETUSER", "default", "-evalsha"]).await;
    let says = async || {
        let answer = replica.get("/readyz").await;
        (answer.status == 503 && answer.body.contains("NOPERM")).then_some(())
    };
    eventually("it says why it is not ready", says).await;
    run::<()>(&server, &["ACL", "SETUSER", "default", "+@all"]).await;
    let second = publish(&replica, 2).await;
    let (mut alice, _) = alice(&replica, Some(&first)).await;
    assert_eq!(alice.expect(order(2)).await["id"], second);
    assert_eq!(alice.caught_up().await["complete"], true);
}

#[tokio::test]
async fn f7_a_link_that_is_held_for_seconds_causes_no_gap() {
    let server = RedisServer::start();
    let way = Proxy::start(server.port()).await;
    let replica = TestReplica::unready_process(&way.url(), IMPATIENT).await;
    let (mut alice, _) = alice(&replica, None).await;
    let mut number = 0;
    for _ in 0..2 {
        publish(&replica, number).await;
        alice.expect(order(number)).await;
        number += 1;
        let lost = replica.metric("tickgate_redis_reconnects_total").await;
        way.change_old(Weather::BlackHole);
        let again = async || (replica.metric("tickgate_redis_reconnects_total").await >= lost + 2.0).then_some(());
        eventually("both links are made anew", again).await;
    }
    publish(&replica, number).await;
    alice.expect(order(number)).await;
    alice.expect_nothing().await;
    assert_eq!(replica.metric("tickgate_gaps_total").await, 0.0);
}
