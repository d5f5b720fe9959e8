//! Silence in all its forms: of a connection (A03), of one stream (A04), of the exchange for a long time (A05).

use serde_json::json;

use crate::{
    nothing,
    stage::{FeedStage, StageChanges, either, is_long, unless},
};

/// A03: an open but silent connection, a muted one, a lagging one: reported, closed, and nothing is missing.
pub async fn a03_a_silent_connection_is_reported_and_replaced() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let faults = [
        ("half-open", json!({"kind": "half-open", "for": "60s", "connection": "newest"})),
        ("mute", json!({"kind": "mute", "for": "4s"})),
        ("lag", json!({"kind": "lag", "for": "3s", "amount": 4_000})),
    ];
    for (name, fault) in faults {
        let from = stage.audience.statuses.len();
        stage.exchange.fault(fault).await;
        let is_stale = |seen: &crate::audience::FeedClient| {
            seen.statuses[from..].iter().any(|status| status["status"] == "stale")
                && (seen.ticker_has("BTCUSDT", "stale") || seen.state() == "live")
        };
        wrong.extend(stage.until(&format!("{name} is reported"), 10, is_stale).await);
        wrong.extend(stage.more_trades("BTCUSDT").await);
        let is_fresh = |seen: &crate::audience::FeedClient| !seen.ticker_has("BTCUSDT", "stale");
        wrong.extend(stage.until("a ticker without the mark", 10, is_fresh).await);
    }
    wrong.extend(stage.judged().await);
    nothing(wrong);
}

/// A04: the trades of one symbol fall silent; its ticker reveals that.
pub async fn a04_a_silent_stream_is_found_and_its_trades_are_fetched() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let from = stage.audience.statuses.len();
    stage.exchange.fault(json!({"kind": "mute", "streams": "btcusdt@aggTrade", "for": "8s"})).await;
    let is_filled = |seen: &crate::audience::FeedClient| {
        seen.trades["BTCUSDT"].iter().filter(|trade| trade["backfilled"] == true).count() > 20
    };
    wrong.extend(stage.until("its trades are fetched", 10, is_filled).await);
    let again = stage.metric("tickgate_feed_resubscriptions_total").await;
    wrong.extend(unless(again >= 1.0, "it was not resubscribed"));
    stage.audience.watch(7.0).await;
    // The ticker of a symbol that is still traded.
    stage.exchange.fault(json!({"kind": "mute", "streams": "btcusdt@ticker", "for": "6s"})).await;
    let is_marked = |seen: &crate::audience::FeedClient| {
        seen.ticker_has("BTCUSDT", "stale") && seen.named("symbols_stale").contains(&"BTCUSDT")
    };
    wrong.extend(stage.until("its ticker is marked", 10, is_marked).await);
    let is_fresh = |seen: &crate::audience::FeedClient| {
        !seen.ticker_has("BTCUSDT", "stale") && seen.named("symbols_stale").is_empty()
    };
    wrong.extend(stage.until("its ticker is back", 20, is_fresh).await);
    wrong.extend(stage.audience.troubles_since(from));
    wrong.extend(stage.judged().await);
    nothing(wrong);
}

/// A05: pings without data for a long time: no storm of connections, and a quick recovery afterwards.
pub async fn pings_alone(defect: Option<&str>) -> Vec<String> {
    let plan = StageChanges { exchange: &["--set", "ping-interval=500ms"], defect, ..StageChanges::default() };
    let mut stage = FeedStage::set(plan).await;
    let mut wrong = stage.live().await;
    let before = stage.exchange.connects().await;
    stage.exchange.fault(json!({"kind": "mute", "for": either("14s", "600s")})).await;
    wrong.extend(stage.until("the silence is reported", 10, |seen| seen.state() != "live").await);
    if !wrong.is_empty() {
        return wrong;
    }
    if is_long() {
        wrong.extend(stage.until("the feed is down", 40, |seen| seen.state() == "down").await);
        // The exchange remembers its books for ten minutes.
        wrong.extend(stage.audience.judged(&stage.exchange).await);
        stage.audience.books.clear();
        stage.audience.tickers.clear();
        stage.audience.watch(555.0).await;
    }
    let limit = either(3, 45);
    wrong.extend(stage.until("data flows again", 50, |seen| seen.state() == "live").await);
    let connects = stage.exchange.connects().await - before;
    wrong.extend(unless(connects <= limit, format!("{connects} connections, at most {limit} are allowed")));
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.judged().await);
    wrong
}

pub async fn a05_pings_without_data_count_as_silence() {
    nothing(pings_alone(None).await);
}
