//! What remains in Redis when all clients have left: nothing that grows with traffic stays for ever.

use serde_json::json;

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder},
};

const USERS: usize = 6;
/// Everything expires soon. Only the generation's key stays.
const SETTINGS: &str = "[session]\nresume_ttl = \"1s\"\nreplica_ttl = \"2s\"\nsession_ttl = \"5s\"\n\
                        [user_stream]\nretain_ttl = \"1s\"\ndedupe_ttl = \"1s\"\n";
const GENERATION: &str = "tg2:{gen}";

fn settings() -> String {
    let topics = ["ticker:*", "trades:*", "portfolio", "run:*", "commands", "ingest_events"].map(|pattern| {
        let class = if ["ticker:*", "portfolio"].contains(&pattern) { "state" } else { "reliable" };
        format!("[[topics]]\npattern = \"{pattern}\"\nclass = \"{class}\"\nretain_ttl = \"1s\"\ndedupe_ttl = \"1s\"\n")
    });
    format!("{SETTINGS}{}", topics.concat())
}

/// All keys, and those among them without an expiry.
async fn keys(server: &RedisServer) -> (Vec<String>, Vec<String>) {
    let all: Vec<String> = server.run(&["KEYS", "*"]).await;
    let mut lasting = Vec::new();
    for key in &all {
        if server.run::<i64>(&["PTTL", key]).await == -1 {
            lasting.push(key.clone());
        }
    }
    (all, lasting)
}

/// A user who does everything that leaves something in Redis, then disconnects with or without a Close frame.
async fn traffic(replica: &TestReplica, user: &str, farewell: bool) {
    let signed = TokenBuilder::of(user).publish(&["*"]).commands().sign();
    let ticker = format!("ticker:{user}");
    let mut client = replica.connect("/ws/trading").query("ticket", &replica.ticket(&signed).await).open().await;
    client.greeted().await;
    client.subscribe(&["orders", "portfolio", &ticker]).await;
    for (channel, private) in [("orders", true), ("portfolio", true), (&ticker, false)] {
        let mut publication = json!({"channel": channel, "data": {"n": 1}, "msg_id": format!("m-{user}")});
        if private {
            publication["user"] = json!(user);
        }
        assert_eq!(replica.api_post("/api/v1/publish", publication).await.status, 200);
    }
    replica.publish(&format!("trades:{user}"), json!({"n": 1})).await;
    client.ask(json!({"type": "presence", "channel": ticker})).await;
    client.ask(json!({"type": "publish", "channel": ticker, "data": {"n": 2}})).await;
    let mut run = replica.connect(&format!("/ws/backtest/{user}")).token(&signed).open().await;
    run.greeted().await;
    run.expect_type("subscribed").await;
    run.ask(json!({"type": "command", "command": "pause"})).await;
    let mut producer = replica.connect("/ws/ingest").token(&signed).open().await;
    let payload = json!({"run_id": user, "event_type": "order", "payload_json": {}});
    let event = json!({"msg_id": format!("i-{user}"), "msg_type": "ingest_event", "source": "s", "payload": payload});
    producer.send(event).await;
    producer.next().await;
    for client in [client, run, producer] {
        if farewell {
            client.close().await;
        } else {
            client.vanish();
        }
    }
}

#[tokio::test]
async fn everything_left_in_redis_expires() {
    let server = RedisServer::start();
    let (mut one, other) =
        (TestReplica::on_with(&server, &settings()).await, TestReplica::on_with(&server, &settings()).await);
    for number in 0..USERS {
        traffic(&one, &format!("a{number}"), number % 2 == 0).await;
        traffic(&other, &format!("b{number}"), number % 2 == 0).await;
    }
    let (_, lasting) = keys(&server).await;
    let is_stream = |key: &String| key.starts_with("tg2:{t:") && key.ends_with("}:s");
    let others: Vec<_> = lasting.iter().filter(|key| !is_stream(key) && *key != GENERATION).collect();
    assert!(others.is_empty(), "while they run only streams with entries have no expiry: {others:?}");
    eventually("the streams to be emptied", async || (keys(&server).await.1 == [GENERATION]).then_some(())).await;

    one.drain();
    one.ended().await;
    other.kill();
    // Of a stream its last id is kept for a month, so that whoever has a cursor from before is told.
    eventually("everything else to be gone", async || {
        let (all, lasting) = keys(&server).await;
        (all.iter().all(|key| is_stream(key) || key == GENERATION) && lasting == [GENERATION]).then_some(())
    })
    .await;
}
