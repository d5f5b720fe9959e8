//! A20: a recording of one replica is replayed to another one, whose clients receive what an independent script builds
//! from the file.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::{Map, Value};

use crate::{
    audience::FeedClient,
    exchange::ExchangeProcess,
    nothing,
    stage::{SYMBOLS, either, settings, unless},
    support::{eventually, redis::RedisServer, replica::TestReplica},
};

const LINES: &str = "symbols = [\"BTCUSDT\", \"ADAUSDT\"]";

/// Records for some seconds.
async fn record(file: &Path) {
    let (exchange, redis) = (ExchangeProcess::start(&[]), RedisServer::start());
    let arguments = ["--record", file.to_str().unwrap()];
    let mut replica = TestReplica::process_with(&redis, &settings(&exchange, LINES), None, &arguments).await;
    let mut audience = FeedClient::of(&replica, SYMBOLS).await;
    let wrong = audience.until("data flows", 25, |seen| SYMBOLS.iter().all(|symbol| seen.is_live(symbol))).await;
    audience.watch(either(4.0, 60.0)).await;
    assert_eq!(replica.metric("tickgate_feed_recording_dropped_total").await, 0.0);
    replica.drain();
    replica.ended().await;
    nothing(wrong);
}

/// The script's result: by topic, by id or time.
fn built(file: &Path) -> BTreeMap<String, Map<String, Value>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/feed/replay.py");
    let output = Command::new("python3").arg(script).arg(file).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Compares what was received with what was built; returns the number of messages.
fn compare(
    topic: &str,
    key: &str,
    received: &[Value],
    built: &BTreeMap<String, Map<String, Value>>,
    wrong: &mut Vec<String>,
) -> usize {
    for message in received {
        let key = message[key].as_str().map_or_else(|| message[key].to_string(), str::to_owned);
        let expected = built.get(topic).and_then(|messages| messages.get(&key));
        let same = expected
            .and_then(Value::as_object)
            .is_some_and(|expected| expected.iter().all(|(field, value)| message[field] == *value));
        wrong.extend(unless(same, format!("{topic}: {message}, but the script built {expected:?}")));
    }
    wrong.truncate(10);
    received.len()
}

pub async fn a20_a_replayed_recording_gives_what_an_independent_script_builds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("exchange.tsv");
    record(&file).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let is_item = |line: &str| {
        let parts: Vec<_> = line.splitn(3, '\t').collect();
        parts.len() == 3 && parts[0].parse::<u64>().is_ok() && (parts[1] == "ws" || parts[1].starts_with("/api/v3/"))
    };
    assert!(text.lines().count() > 100 && text.lines().all(is_item));
    let built = built(&file);

    let played = ["--replay", file.to_str().unwrap(), "--speed", "1", "--clock", "virtual"];
    let (exchange, redis) = (ExchangeProcess::start(&played), RedisServer::start());
    let replica = TestReplica::process_with(&redis, &settings(&exchange, LINES), None, &[]).await;
    let mut audience = FeedClient::of(&replica, SYMBOLS).await;
    eventually("everything is subscribed", async || {
        exchange.streams().await.first().filter(|streams| streams.len() == 6).map(|_| ())
    })
    .await;
    // Books are published four times a second.
    for _ in 0..either(80, 640) {
        exchange.step(1).await;
        audience.watch(0.1).await;
    }
    audience.watch(1.0).await;
    let mut wrong = Vec::new();
    for symbol in SYMBOLS {
        let empty = Vec::new();
        let list = |lists: &BTreeMap<String, Vec<Value>>| lists.get(*symbol).unwrap_or(&empty).clone();
        let (trades, books) = (list(&audience.trades), list(&audience.books));
        let topic = format!("trades:{symbol}");
        let count = compare(&topic, "trade_id", &trades, &built, &mut wrong);
        let all = built[&topic].len();
        wrong.extend(unless(count == all, format!("{topic}: {count} of {all} trades were received")));
        let fresh: Vec<_> = list(&audience.tickers).into_iter().filter(|ticker| ticker["stale"].is_null()).collect();
        let tickers = compare(&format!("ticker:{symbol}"), "timestamp", &fresh, &built, &mut wrong);
        let books = compare(&format!("orderbook:{symbol}"), "update_id", &books, &built, &mut wrong);
        wrong.extend(unless(tickers >= 2 && books >= 5, format!("{symbol}: {tickers} tickers, {books} books")));
    }
    nothing(wrong);
}
