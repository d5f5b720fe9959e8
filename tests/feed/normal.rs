//! A healthy exchange: clients receive exactly what happened there (A01), connections are replaced without an
//! interruption (A06), many symbols are subscribed within the limits (A07), clocks decide nothing (A14), and the
//! subscriptions match what clients follow (A17).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    audience::{FeedClient, channels_of},
    nothing,
    stage::{FeedStage, MANY_CLIENTS, StageChanges, either, settings, unless},
    support::{dice::Dice, eventually},
};

/// A01: everything that clients receive is what happened, byte for byte.
pub async fn truth(defect: Option<&str>) -> Vec<String> {
    let symbols = ["BTCUSDT", "ETHUSDT", "ADAUSDT", "QUIETUSDT", "NEWUSDT", "STOPUSDT"];
    let mut stage = FeedStage::set(StageChanges { symbols: &symbols, defect, ..StageChanges::default() }).await;
    let mut wrong = stage.live().await;
    if !wrong.is_empty() {
        return wrong;
    }
    stage.audience.watch(if defect.is_some() { 1.0 } else { either(5.0, 60.0) }).await;
    wrong.extend(stage.judged().await);
    let seen = &stage.audience;
    let books = seen.books.get("BTCUSDT").map_or(0, Vec::len);
    wrong.extend(unless(books > 5 && seen.tickers.contains_key("BTCUSDT"), format!("only {books} books")));
    wrong.extend(unless(!seen.tickers.contains_key("NEWUSDT"), "a price for a symbol that was never traded"));
    wrong
}

pub async fn a01_what_clients_receive_is_what_happened() {
    nothing(truth(None).await);
}

/// Both market endpoints offer the status of the feed.
pub async fn the_status_is_offered_on_both_endpoints() {
    let mut stage = FeedStage::usual(None).await;
    let wrong = stage.live().await;
    for mut client in [stage.replica.trading("alice").await, stage.replica.market().await] {
        client.subscribe(&["feed:binance"]).await;
        let status = client.expect_type("feed_status").await;
        assert_eq!((&status["feed"], &status["status"]), (&json!("binance"), &json!("live")), "{status}");
    }
    nothing(wrong);
}

/// A06: the end of a connection is announced, or follows from its age: another one replaces it first.
pub async fn a06_connections_are_replaced_without_an_interruption() {
    let plan = StageChanges {
        exchange: &["--set", "day=30s"],
        settings: "connection_age_max = \"10s\"",
        ..StageChanges::default()
    };
    let mut stage = FeedStage::set(plan).await;
    let mut wrong = stage.live().await;
    let from = stage.audience.statuses.len();
    stage.exchange.fault(json!({"kind": "shutdown", "for": "6s"})).await;
    stage.audience.watch(either(22.0, 300.0)).await;
    wrong.extend(stage.audience.troubles_since(from));
    wrong.extend(stage.judged().await);
    let rotations = stage.metric("tickgate_feed_rotations_total").await;
    wrong.extend(unless(rotations >= 2.0, format!("{rotations} rotations")));
    let repeated = stage.audience.trades.values().flatten().filter(|trade| trade["backfilled"] == true).count();
    wrong.extend(unless(repeated == 0, format!("{repeated} trades were missed by both connections")));
    nothing(wrong);
}

/// A07: many symbols at the start, and more later, while pings arrive.
pub async fn many(defect: Option<&str>) -> Vec<String> {
    let name = |number: usize| format!("SIM{number}USDT");
    let fixed: Vec<_> = (8..either(228, 308)).map(name).collect();
    let lines = format!("symbols = {fixed:?}\nsymbols_max = {}", fixed.len() + 20);
    let plan = StageChanges {
        exchange: &["--symbols", either("262", "340"), "--rate", "0.5", "--set", "ping-interval=1s"],
        settings: &lines,
        symbols: &["SIM8USDT"],
        defect,
    };
    let mut stage = FeedStage::set(plan).await;
    let live = |seen: &FeedClient| seen.state() == "live" && seen.named("symbols_stale").is_empty();
    let mut wrong = stage.until("every symbol is live", 30, live).await;
    wrong.extend(too_close(&stage.exchange.log("message").await));
    if !wrong.is_empty() {
        return wrong;
    }
    // Twenty fit within the limit; the others are named.
    let more: Vec<_> = (fixed.len() + 8..fixed.len() + 32).map(name).collect();
    let channels: Vec<_> = more.iter().flat_map(|symbol| channels_of(symbol)).collect();
    stage.audience.follow(&channels.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let named = |seen: &FeedClient| seen.named("symbols_refused").len() == 4 && live(seen);
    wrong.extend(stage.until("symbols beyond the limit are named", 30, named).await);
    wrong.extend(stage.judged().await);
    let subscribes = stage.exchange.log("message").await;
    let large = subscribes.iter().filter(|entry| entry["detail"]["bytes"].as_u64().unwrap() > 3_600).count();
    wrong.extend(unless(large == 0, format!("{large} messages of more than 3,500 bytes")));
    wrong
}

/// Errors in the intervals between control messages. A busy machine delays single ones, and then the next interval is
/// shorter.
fn too_close(messages: &[Value]) -> Option<String> {
    let times: Vec<_> = messages.iter().map(|entry| entry["at"].as_u64().unwrap()).collect();
    let mut between: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    between.sort_unstable();
    let median = between.get(between.len() / 2).copied().unwrap_or(u64::MAX);
    unless(median >= 290, format!("half of the control messages are within {median} ms: {times:?}"))
}

pub async fn a07_many_symbols_are_subscribed_within_the_limits() {
    nothing(many(None).await);
}

/// A14: wrong and backward times of the exchange change neither order nor staleness.
pub async fn a14_wrong_times_of_the_exchange_change_nothing() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let from = stage.audience.statuses.len();
    for (switch, value) in
        [("clock-skew", "1h"), ("clock-skew", "-1h"), ("clock-skew", "0ms"), ("event-time", "backwards")]
    {
        stage.exchange.set(switch, value).await;
        let tickers = |seen: &FeedClient| seen.tickers.get("BTCUSDT").map_or(0, Vec::len);
        let before = tickers(&stage.audience);
        stage.audience.watch(either(3.0, 20.0)).await;
        let count = tickers(&stage.audience) - before;
        wrong.extend(unless(count >= 2, format!("{count} tickers with {switch} {value}")));
    }
    wrong.extend(stage.audience.troubles_since(from));
    wrong.extend(stage.audience.judged_trades(&stage.exchange, false).await);
    wrong.extend(stage.exchange.violations().await);
    nothing(wrong);
}

/// A17: clients come and go at random; in the end exactly what they follow is subscribed at the exchange.
pub async fn a17_subscriptions_match_what_clients_follow() {
    let plan = StageChanges {
        exchange: &["--symbols", "58"],
        settings: &format!("symbols = [\"BTCUSDT\"]\nlinger = \"2s\"\n{MANY_CLIENTS}"),
        symbols: &["BTCUSDT"],
        ..StageChanges::default()
    };
    let mut stage = FeedStage::set(plan).await;
    let mut wrong = stage.until("data flows", 25, |seen| seen.is_live("BTCUSDT")).await;
    let mut dice = Dice::new(5);
    // Clients, and what each of them follows.
    let mut clients = Vec::new();
    for _ in 0..either(20, 1_000) {
        clients.push((stage.replica.market().await, BTreeSet::new()));
    }
    for _ in 0..either(4, 20) {
        for (client, follows) in &mut clients {
            let any = |dice: &mut Dice| format!("ticker:SIM{}USDT", 8 + dice.below(50));
            let leaves: Vec<_> = (0..3).map(|_| any(&mut dice)).collect();
            let joins: Vec<_> = (0..2).map(|_| any(&mut dice)).collect();
            client.send(json!({"type": "unsubscribe", "channels": leaves})).await;
            client.send(json!({"type": "subscribe", "channels": joins})).await;
            follows.retain(|channel| !leaves.contains(channel));
            follows.extend(joins);
        }
        stage.audience.watch(1.0).await;
    }
    let kept = clients.split_off(clients.len() - 2);
    clients.into_iter().for_each(|(client, _)| client.vanish());
    let follows = kept.iter().flat_map(|(_, follows)| follows).filter_map(|channel| channel.split_once(':'));
    let mut desired: BTreeSet<_> = follows.map(|(_, symbol)| symbol.to_ascii_lowercase()).collect();
    desired.insert("btcusdt".into());
    let kinds = ["aggTrade", "depth20@100ms", "ticker"];
    let mut expected: Vec<_> = desired.iter().flat_map(|symbol| kinds.map(|kind| format!("{symbol}@{kind}"))).collect();
    expected.sort();
    eventually("the followed symbols to be subscribed", async || {
        (stage.exchange.streams().await == [expected.clone()]).then_some(())
    })
    .await;
    wrong.extend(stage.exchange.violations().await);
    nothing(wrong);
}

/// Topics of another feed are neither followed nor named.
pub async fn the_synthetic_feed_keeps_its_symbols() {
    let exchange = crate::exchange::ExchangeProcess::start(&[]);
    let redis = crate::support::redis::RedisServer::start();
    let made_up = "[feeds.synthetic]\nenabled = \"on\"\nsymbols = [\"MADEUSDT\"]\ninterval = \"50ms\"\n";
    let settings = format!("{}{made_up}", settings(&exchange, "symbols = [\"BTCUSDT\"]"));
    let replica = crate::support::replica::TestReplica::process_with(&redis, &settings, None, &[]).await;
    let mut audience = FeedClient::of(&replica, &["BTCUSDT", "MADEUSDT", "NOUSDT"]).await;
    let both = |seen: &FeedClient| {
        seen.is_live("BTCUSDT") && seen.count("MADEUSDT") > 0 && !seen.named("symbols_unknown").is_empty()
    };
    let wrong = audience.until("both markets flow", 25, both).await;
    assert_eq!(audience.named("symbols_unknown"), ["NOUSDT"]);
    nothing(wrong);
}
