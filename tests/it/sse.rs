//! Server-Sent Events: the same pushes in one direction, resumed by `Last-Event-ID` on any replica.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    PATIENCE, eventually,
    http::TestResponse,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
    sse::EventStream,
};

fn trade(number: u32) -> Value {
    json!({"type": "trade", "symbol": "BTCUSDT", "number": number})
}

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

async fn open(replica: &TestReplica, channels: &str, headers: &[(&str, &str)]) -> EventStream {
    let stream = EventStream::open(replica.address(), &format!("/sse?channels={channels}"), headers).await;
    stream.unwrap_or_else(|answer| panic!("{channels} was refused: {answer:?}"))
}

/// A new reader that received its `subscribed`, without refused channels.
async fn subscribed(replica: &TestReplica, channels: &str, headers: &[(&str, &str)]) -> EventStream {
    let mut stream = open(replica, channels, headers).await;
    let answer = stream.next().await;
    assert_eq!((&answer["type"], &answer["errors"]), (&json!("subscribed"), &json!([])), "{answer}");
    stream
}

async fn refused(replica: &TestReplica, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    match EventStream::open(replica.address(), path, headers).await {
        Ok(_) => panic!("{path} was not refused"),
        Err(answer) => answer,
    }
}

fn bearer(user: &str) -> String {
    format!("Bearer {}", token(user))
}

#[tokio::test]
async fn events_are_sent_as_they_happen_followed_by_cursors() {
    let replica = TestReplica::alone().await;
    let value = replica.publish("ticker:BTCUSDT", json!({"price": "1.10"})).await;
    let mut reader = open(&replica, "ticker:BTCUSDT,trades:BTCUSDT", &[]).await;
    assert_eq!(reader.headers["content-type"], "text/event-stream");
    assert_eq!(reader.headers["cache-control"], "no-store");
    let answer = reader.next().await;
    let classes: Vec<_> = answer["channels"].as_array().unwrap().iter().map(|channel| &channel["class"]).collect();
    assert_eq!(classes, ["state", "event"], "{answer}");
    let meta = reader.expect(json!({"price": "1.10"})).await;
    assert_eq!((&meta["channel"], &meta["snapshot"]), (&json!("ticker:BTCUSDT"), &json!(true)));
    let cursors = |value: &Value, trade: &Value| format!("{},{}", value.as_str().unwrap(), trade.as_str().unwrap());
    let beginning = answer["channels"][1]["cursor"].clone();
    assert_eq!(reader.last_id().await, cursors(&value, &beginning), "before anything was published");
    let id = replica.publish("trades:BTCUSDT", trade(1)).await;
    assert_eq!(reader.expect(trade(1)).await, json!({"channel": "trades:BTCUSDT", "id": id}));
    assert_eq!(reader.last_id().await, cursors(&value, &id));
    let value = replica.publish("ticker:BTCUSDT", json!({"price": "1.20"})).await;
    reader.expect(json!({"price": "1.20"})).await;
    assert_eq!(reader.last_id().await, cursors(&value, &id));
}

#[tokio::test]
async fn a_reader_resumes_on_another_replica_exactly_where_it_was() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let alice = bearer("alice");
    let channels = "trades:BTCUSDT,orders,ticker:BTCUSDT,risk_alerts,trades:ETHUSDT";
    let mut reader = subscribed(&one, channels, &[("authorization", &alice)]).await;
    let known = one.publish("trades:BTCUSDT", trade(1)).await;
    reader.expect(trade(1)).await;
    let cursors = reader.last_id().await;
    // In the order of the channels; the private ones share one.
    assert!(cursors.starts_with(known.as_str().unwrap()) && cursors.split(',').count() == 4, "{cursors}");
    drop(reader);
    for number in 2..=4 {
        other.publish("trades:BTCUSDT", trade(number)).await;
        one.publish_to("alice", "orders", order(number)).await;
        one.publish_to("bob", "orders", order(number)).await;
    }
    one.publish_to("alice", "risk_alerts", json!({"type": "risk_alert"})).await;

    let headers = [("authorization", alice.as_str()), ("last-event-id", cursors.as_str())];
    let mut reader = open(&other, channels, &headers).await;
    let answer = reader.next().await;
    let of = |channel: &Value| (channel["channel"].as_str().unwrap().to_owned(), channel["live"] == true);
    let live: BTreeMap<_, _> = answer["channels"].as_array().unwrap().iter().map(of).collect();
    let past = ["trades:BTCUSDT", "orders", "risk_alerts"];
    assert!(live.iter().all(|(channel, live)| *live != past.contains(&channel.as_str())), "{answer}");
    let mut missed: Vec<(String, Value)> = Vec::new();
    while missed.len() < 7 {
        let mut event = reader.next().await;
        let meta = event.as_object_mut().unwrap().remove("_meta").unwrap();
        assert_eq!(meta["replayed"], true, "{event}");
        missed.push((meta["channel"].as_str().unwrap().to_owned(), event));
    }
    let of = |name: &str| -> Vec<Value> {
        missed.iter().filter(|(channel, _)| channel == name).map(|(_, event)| event.clone()).collect()
    };
    assert_eq!(of("trades:BTCUSDT"), (2..=4).map(trade).collect::<Vec<_>>());
    assert_eq!(of("orders"), (2..=4).map(order).collect::<Vec<_>>());
    assert_eq!(of("risk_alerts").len(), 1);
    reader.last_id().await;
    let ends: Vec<_> = reader.ends.iter().flat_map(|end| end["channels"].as_array().unwrap().clone()).collect();
    let end = |end: &Value| (end["channel"].as_str().unwrap().to_owned(), end["replayed"].as_u64().unwrap());
    let ends: BTreeMap<_, _> = ends.iter().inspect(|end| assert_eq!(end["complete"], true, "{end}")).map(end).collect();
    assert_eq!(ends, [("trades:BTCUSDT", 3), ("orders", 3), ("risk_alerts", 1)].map(|(c, n)| (c.to_owned(), n)).into());
    one.publish_to("alice", "orders", order(5)).await;
    assert!(reader.expect(order(5)).await.get("replayed").is_none(), "live again");
}

#[tokio::test]
async fn a_reader_that_was_lost_before_any_event_misses_nothing() {
    let replica = TestReplica::alone().await;
    replica.publish("trades:BTCUSDT", trade(1)).await;
    let mut reader = subscribed(&replica, "trades:BTCUSDT", &[]).await;
    let cursor = reader.last_id().await;
    drop(reader);
    replica.publish("trades:BTCUSDT", trade(2)).await;
    let mut reader = subscribed(&replica, "trades:BTCUSDT", &[("last-event-id", &cursor)]).await;
    reader.expect(trade(2)).await;
}

#[tokio::test]
async fn a_value_does_not_go_back_in_time_on_a_replica_that_lags() {
    let server = RedisServer::start();
    let replica = TestReplica::on(&server).await;
    let mut reader = subscribed(&replica, "ticker:BTCUSDT", &[]).await;
    let price = |price: &str| json!({"price": price});
    let id = replica.publish("ticker:BTCUSDT", price("1")).await;
    reader.expect(price("1")).await;
    assert_eq!(reader.last_id().await, id.as_str().unwrap());
    // Stored, but not delivered yet; a reader that comes from another replica has seen it.
    let (epoch, stream) = (id.as_str().unwrap().split('-').next().unwrap(), "tg2:{t:ticker:BTCUSDT}:s");
    let seen: String = server.run(&["XADD", stream, &format!("{epoch}-*"), "d", &price("2").to_string()]).await;
    let mut again = subscribed(&replica, "ticker:BTCUSDT", &[("last-event-id", &seen)]).await;
    assert_eq!(again.expect(price("2")).await["snapshot"], true);
    assert_eq!(again.last_id().await, seen);
    replica.publish("ticker:BTCUSDT", price("3")).await;
    again.expect(price("3")).await;
}

#[tokio::test]
async fn cursors_of_another_list_and_invalid_requests_are_refused() {
    let replica = TestReplica::alone_with("[limits]\nsubscriptions_max = 2").await;
    let path = "/sse?channels=trades:BTCUSDT";
    for (id, says) in
        [("1-1,1-2", "another list"), ("1-1,", "holds cursors"), ("x", "holds cursors"), ("1", "holds cursors")]
    {
        let answer = refused(&replica, path, &[("last-event-id", id)]).await;
        assert!(answer.status == 400 && answer.body.contains(says), "{id}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let answer = refused(&replica, "/sse?channels=ticker:BTCUSDT", &[("last-event-id", "1-1,1-1")]).await;
    assert_eq!(answer.status, 400, "a value has one cursor");
    for path in ["/sse", "/sse?channels=", "/sse?channels=trades:A,trades:B,trades:C", "/sse?channels=trades:A&token=%"]
    {
        assert_eq!(refused(&replica, path, &[]).await.status, 400, "{path}");
    }
    // The right number of cursors with one that never existed is answered with a gap.
    let mut reader = open(&replica, "trades:BTCUSDT,ticker:BTCUSDT", &[("last-event-id", "7-7,0-0")]).await;
    assert_eq!(reader.next().await["channels"][0]["live"], false);
    let gap = reader.next().await;
    assert_eq!((&gap["type"], &gap["channels"]), (&json!("gap"), &json!(["trades:BTCUSDT"])), "{gap}");
}

#[tokio::test]
async fn pages_of_foreign_origins_read_nothing() {
    let replica = TestReplica::alone_with("[server]\nallowed_origins = [\"https://app.example\"]").await;
    let path = "/sse?channels=trades:BTCUSDT";
    let answer = refused(&replica, path, &[("origin", "https://evil.example")]).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let reader = subscribed(&replica, "trades:BTCUSDT", &[("origin", "https://app.example")]).await;
    assert_eq!(reader.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(reader.headers["vary"], "origin");
}

#[tokio::test]
async fn private_channels_require_a_token_and_restricted_ones_a_claim() {
    let replica = TestReplica::alone_with("[server]\nmode = \"production\"").await;
    let refusals = async |channels: &str, query: &str| {
        let mut reader = open(&replica, &format!("{channels}{query}"), &[]).await;
        let answer = reader.next().await;
        let errors = answer["errors"].as_array().unwrap();
        let of = |error: &Value| (error["channel"].as_str().unwrap().to_owned(), error["code"].clone());
        errors.iter().map(of).collect::<Vec<_>>()
    };
    let none = Vec::new();
    let forbidden = |name: &str| vec![(name.to_owned(), json!(4502))];
    let alice = format!("&token={}", token("alice"));
    let auditor = format!("&token={}", TokenBuilder::of("auditor").channels(&["system_log", "trades:*"]).sign());
    assert_eq!(refusals("orders,trades:BTCUSDT", "").await, forbidden("orders"));
    assert_eq!(refusals("orders,trades:BTCUSDT", &alice).await, none);
    assert_eq!(refusals("system_log,orders", &alice).await, forbidden("system_log"));
    assert_eq!(refusals("orders,system_log", &auditor).await, forbidden("orders"));
    let foreign = [("authorization", "Bearer not.a.token")];
    assert_eq!(refused(&replica, "/sse?channels=trades:BTCUSDT", &foreign).await.status, 401);
    // One refused channel does not affect the others.
    let mut reader = open(&replica, &format!("system_log,orders{alice}"), &[]).await;
    reader.next().await;
    replica.publish_to("bob", "orders", order(1)).await;
    replica.publish_to("alice", "orders", order(2)).await;
    reader.expect(order(2)).await;
}

#[tokio::test]
async fn an_announced_token_is_not_a_token() {
    let settings = "[[profiles]]\nname = \"sse\"\npath = \"/sse\"\ntransport = \"event-stream\"\ntoken = \"required\"\n\
                    channels = [{ name = \"trades:*\" }]";
    let replica = TestReplica::alone_with(settings).await;
    let path = "/sse?channels=trades:BTCUSDT";
    for promise in ["", "&auth=message"] {
        let answer = refused(&replica, &format!("{path}{promise}"), &[]).await;
        assert_eq!(answer.status, 401, "a reader can't send a token later: {answer:?}");
    }
    subscribed(&replica, &format!("trades:BTCUSDT&token={}", token("alice")), &[]).await;
}

#[tokio::test]
async fn the_path_parameter_selects_the_topic() {
    let settings = "[[profiles]]\nname = \"runs\"\npath = \"/sse/runs/{run_id}\"\ntransport = \"event-stream\"\ntoken = \"optional\"\n\
                    channels = [{ name = \"events\", topic = \"run:{run_id}\" }]";
    let replica = TestReplica::alone_with(settings).await;
    let mut reader = EventStream::open(replica.address(), "/sse/runs/r7?channels=events", &[]).await.unwrap();
    assert_eq!(reader.next().await["errors"], json!([]));
    replica.publish("run:r7", trade(1)).await;
    assert_eq!(reader.expect(trade(1)).await["channel"], "events");
    let answer = refused(&replica, "/sse/runs/a%0Ab?channels=events", &[]).await;
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[tokio::test]
async fn a_slow_reader_gets_gaps_and_holds_no_more_than_its_share() {
    let settings = "[limits]\noutbox_messages_max = 20\noutbox_bytes_max = 1048576\n[session]\nwrite_timeout = \"60s\"";
    let replica = TestReplica::alone_with(settings).await;
    let mut stuck = subscribed(&replica, "trades:BTCUSDT", &[]).await;
    let mut other = subscribed(&replica, "trades:BTCUSDT", &[]).await;
    let padding = "x".repeat(50_000);
    let mut number = 0_u64;
    while replica.metric("tickgate_dropped_total").await == 0.0 {
        replica.publish("trades:BTCUSDT", json!({"number": number, "padding": padding})).await;
        assert_eq!(other.next().await["number"], number, "a slow reader slows nobody");
        number += 1;
    }
    replica.publish("trades:BTCUSDT", json!({"number": number})).await;
    let (mut expected, mut gaps) = (0, 0);
    while expected <= number {
        let event = stuck.next().await;
        if event["type"] == "gap" {
            assert_eq!(event["reason"], "slow_consumer", "{event}");
            expected += event["count"].as_u64().unwrap();
            gaps += 1;
        } else {
            assert_eq!(event["number"], expected, "in order, and nothing missing that was not told");
            expected += 1;
        }
    }
    assert!(gaps > 0, "{number} were published");
}

#[tokio::test]
async fn a_reader_that_accepts_nothing_is_disconnected() {
    let settings = "[session]\nwrite_timeout = \"1s\"";
    let replica = TestReplica::alone_with(settings).await;
    let mut stuck = TcpStream::connect(replica.address()).await.unwrap();
    stuck.write_all(b"GET /sse?channels=trades:BTCUSDT HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let streams = async || replica.metric("tickgate_connections{endpoint=\"sse\"}").await;
    eventually("the stream", async || (streams().await == 1.0).then_some(())).await;
    let padding = "x".repeat(50_000);
    let closed = async {
        while replica.metric("tickgate_disconnects_total{reason=\"slow_consumer\"}").await == 0.0 {
            replica.publish("trades:BTCUSDT", json!({"padding": padding})).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the stuck reader to be closed");
    assert_eq!(streams().await, 0.0);
    // Its TCP connection ends as well: a client that never reads would not see the end of the stream.
    let ports = (replica.address().port(), stuck.local_addr().unwrap().port());
    assert!(is_established(ports.1, ports.0), "on this side it is open for as long as nobody reads");
    eventually("the server to hang up", async || (!is_established(ports.0, ports.1)).then_some(())).await;
}

/// Whether the kernel holds a connection open, seen from one of its ends on loopback.
fn is_established(own: u16, peer: u16) -> bool {
    let ends = format!(" 0100007F:{own:04X} 0100007F:{peer:04X} 01 ");
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&ends)
}

#[tokio::test]
async fn a_drain_asks_readers_to_reconnect_and_ends_their_streams() {
    let mut replica = TestReplica::alone().await;
    let reader = subscribed(&replica, "trades:BTCUSDT", &[]).await;
    replica.drain();
    let rest = reader.rest().await;
    let last = rest.last().expect("a last event");
    assert_eq!((&last["type"], &last["code"], &last["reconnect"]), (&json!("closing"), &json!(1012), &json!("yes")));
    assert!(last["after_ms"].is_u64(), "{last}");
    replica.ended().await;
}
