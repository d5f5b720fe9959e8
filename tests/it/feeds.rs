//! Market data generated inside the gateway, over several replicas.

use serde_json::Value;

use crate::support::{
    client::TestClient,
    eventually,
    redis::RedisServer,
    replica::{TestReplica, token},
};

const SETTINGS: &str = "[feeds.synthetic]\nenabled = \"on\"\ninterval = \"50ms\"\nsymbols = [\"BTCUSDT\"]";
const FED: &str = "tickgate_publications_total{result=\"accepted\",source=\"feed\"}";

/// The ids of the next trades.
async fn next_trades(client: &mut TestClient, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let trade = client.expect_type("trade").await;
        ids.push(trade["_meta"]["id"].clone());
    }
    ids
}

#[tokio::test]
async fn one_replica_feeds_all_and_another_one_takes_over() {
    let server = RedisServer::start();
    let mut replicas = [TestReplica::on_with(&server, SETTINGS).await, TestReplica::on_with(&server, SETTINGS).await];
    let fed = async |replica: &TestReplica| replica.metric(FED).await > 0.0;
    let first = eventually("a replica that feeds", async || match (fed(&replicas[0]).await, fed(&replicas[1]).await) {
        (true, _) => Some(0),
        (_, true) => Some(1),
        _ => None,
    })
    .await;
    let mut watchers = Vec::new();
    for replica in &replicas {
        let mut watcher = replica.connect("/ws/market").token(&token("alice")).open().await;
        watcher.greeted().await;
        watcher.subscribe(&["trades:BTCUSDT"]).await;
        watchers.push(watcher);
    }
    // Both see the same market: what the later one sees, the earlier one sees too.
    let [early, late] = &mut watchers[..] else { panic!("two watchers") };
    let seen = next_trades(late, 20).await;
    while next_trades(early, 1).await != seen[..1] {}
    assert_eq!(next_trades(early, 19).await, seen[1..]);
    assert!(!fed(&replicas[1 - first]).await, "one lease, one feed");
    // The feeding replica leaves: its lease ends at once, and the other one takes over.
    replicas[first].drain();
    eventually("the other to feed", async || fed(&replicas[1 - first]).await.then_some(())).await;
    next_trades(&mut watchers[1 - first], 40).await;
}
