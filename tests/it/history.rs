//! History of private channels, which share a stream with others: each has a separate one.

use serde_json::{Value, json};

use crate::support::{redis::RedisServer, replica::TestReplica};

const SETTINGS: &str = "[user_stream]\nretain_max = 5000\n[limits]\nmessages_per_connection = { per_second = 0, burst = 0 }\n\
                        messages_per_user = { per_second = 0, burst = 0 }";

/// Publishes to alice's channels, in this order.
async fn publish(replica: &TestReplica, all: impl Iterator<Item = (&'static str, u32)>) {
    let of = |(channel, n): (&str, u32)| json!({"channel": channel, "user": "alice", "data": {"n": n}});
    let publications: Vec<_> = all.map(of).collect();
    for some in publications.chunks(1_000) {
        let answer = replica.api_post("/api/v1/publish/batch", json!({"publications": some})).await.json();
        assert!(answer["results"].as_array().unwrap().iter().all(|result| result["id"].is_string()), "{answer}");
    }
}

fn numbers(messages: &Value, of: impl Fn(&Value) -> &Value) -> Vec<u64> {
    messages.as_array().unwrap().iter().map(|message| of(message)["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn the_last_publications_of_a_private_channel_are_found_among_many_others() {
    let server = RedisServer::start();
    for replica in [TestReplica::alone_with(SETTINGS).await, TestReplica::on_with(&server, SETTINGS).await] {
        let orders = |from: u32| (from..from + 20).map(|n| ("orders", n));
        let alerts = (0..1_500).map(|n| ("risk_alerts", n));
        publish(&replica, orders(0).chain(alerts.clone()).chain(orders(20)).chain(alerts)).await;
        let mut alice = replica.trading("alice").await;
        for (last, from) in [(1, 39), (20, 20), (30, 10), (100, 0)] {
            let page = alice.ask(json!({"type": "history", "channel": "orders", "last": last})).await;
            let expected: Vec<u64> = (from..40).collect();
            assert_eq!(numbers(&page["messages"], |message| message), expected, "last {last}");
            assert_eq!(page["more"], false, "{page}");
            let path = format!("/api/v1/topics/orders/history?user=alice&last={last}");
            let listed = replica.api_get(&path).await.json();
            assert_eq!(numbers(&listed["messages"], |message| &message["data"]), expected, "last {last}");
            assert_eq!((&listed["complete"], &listed["more"]), (&json!(true), &json!(false)), "{listed}");
            // Both continue from the end of the stream.
            assert_eq!(listed["cursor"], page["cursor"]);
        }
        let page = alice.ask(json!({"type": "history", "channel": "bot_status", "last": 10})).await;
        let end = &page["cursor"];
        assert_eq!(page["messages"], json!([]));
        publish(&replica, [("risk_alerts", 7), ("bot_status", 8)].into_iter()).await;
        let page = alice.ask(json!({"type": "history", "channel": "bot_status", "since": end})).await;
        assert_eq!((numbers(&page["messages"], |message| message), &page["more"]), (vec![8], &json!(false)));
    }
}

#[tokio::test]
async fn pages_by_cursor_skip_publications_of_other_channels() {
    let server = RedisServer::start();
    for replica in [TestReplica::alone_with(SETTINGS).await, TestReplica::on_with(&server, SETTINGS).await] {
        let all = (0..2_500).map(|n| if n % 500 == 0 { ("orders", n) } else { ("risk_alerts", n) });
        publish(&replica, all).await;
        let mut alice = replica.trading("alice").await;
        let (mut since, mut found) = (json!("earliest"), Vec::new());
        let mut path = "/api/v1/topics/orders/history?user=alice&limit=700&since=0-0".to_owned();
        let (mut pages, mut listed) = (0, Vec::new());
        loop {
            let page = alice.ask(json!({"type": "history", "channel": "orders", "since": since})).await;
            found.extend(numbers(&page["messages"], |message| message));
            pages += 1;
            since = page["cursor"].clone();
            if page["more"] == false {
                break;
            }
        }
        loop {
            let page = replica.api_get(&path).await.json();
            listed.extend(numbers(&page["messages"], |message| &message["data"]));
            path = format!(
                "/api/v1/topics/orders/history?user=alice&limit=700&since={}",
                page["cursor"].as_str().unwrap()
            );
            if page["more"] == false {
                break;
            }
        }
        assert_eq!((found, pages), (vec![0, 500, 1_000, 1_500, 2_000], 3));
        assert_eq!(listed, [0, 500, 1_000, 1_500, 2_000]);
    }
}

/// The end of an epoch is not known from the next one.
#[tokio::test]
async fn the_last_are_found_across_epochs() {
    let server = RedisServer::start();
    let replica = TestReplica::on_with(&server, SETTINGS).await;
    let stream = "tg2:{t:@@alice}:s";
    let mut number = 0;
    for (epoch, channel, count) in
        [(5, "orders", 3), (5, "risk_alerts", 300), (7, "risk_alerts", 400), (9, "orders", 2), (9, "risk_alerts", 5)]
    {
        for _ in 0..count {
            let (id, data) = (format!("{epoch}-*"), json!({"n": number}).to_string());
            let _: String = server.run(&["XADD", stream, &id, "d", &data, "c", channel]).await;
            number += 1;
        }
    }
    let mut alice = replica.trading("alice").await;
    for (last, expected) in [(2, vec![703, 704]), (4, vec![1, 2, 703, 704]), (9, vec![0, 1, 2, 703, 704])] {
        let page = alice.ask(json!({"type": "history", "channel": "orders", "last": last})).await;
        assert_eq!(numbers(&page["messages"], |message| message), expected, "last {last}");
    }
}

#[tokio::test]
async fn a_search_is_limited() {
    let settings = format!("{SETTINGS}\nreplay_entries_max = 1000");
    let replica = TestReplica::alone_with(&settings).await;
    let alerts = (0..1_200).map(|n| ("risk_alerts", n));
    publish(&replica, [("orders", 1)].into_iter().chain(alerts).chain([("orders", 2)])).await;
    let listed = replica.api_get("/api/v1/topics/orders/history?user=alice&last=5").await.json();
    assert_eq!(
        (numbers(&listed["messages"], |message| &message["data"]), &listed["complete"]),
        (vec![2], &json!(false))
    );
    let one = replica.api_get("/api/v1/topics/orders/history?user=alice&last=1").await.json();
    assert_eq!((numbers(&one["messages"], |message| &message["data"]), &one["complete"]), (vec![2], &json!(true)));
}
