//! Symbols that stop, vanish, change their names or never existed (A15).

use serde_json::json;

use crate::{
    audience::Audience,
    nothing,
    stage::{Plan, Stage, unless},
};

#[tokio::test]
async fn a15_symbols_that_stop_are_marked_and_the_others_go_on() {
    let symbols =
        ["BTCUSDT", "ADAUSDT", "ETHUSDT", "OLDUSDT", "NEWUSDT", "STOPUSDT", "NOUSDT", "btcusdt", "a/b", "测试USDT"];
    let mut stage = Stage::set(Plan { symbols: &symbols, ..Plan::default() }).await;
    let mut wrong = stage.live().await;
    let is_named = |seen: &Audience| {
        seen.named("symbols_unknown") == ["NOUSDT", "OLDUSDT", "a/b", "btcusdt"]
            && ["ADAUSDT", "ETHUSDT"].iter().all(|symbol| seen.ticker_has(symbol, "price"))
    };
    wrong.extend(stage.audience.until("symbols without data are named", 10, is_named).await);
    let from = stage.audience.statuses.len();
    stage.exchange.fault(json!({"kind": "status", "symbol": "ADAUSDT", "value": "BREAK"})).await;
    stage.exchange.fault(json!({"kind": "delist", "symbol": "ETHUSDT"})).await;
    stage.exchange.fault(json!({"kind": "list", "symbol": "ODD*USDT"})).await;
    let is_marked = |seen: &Audience| {
        ["ADAUSDT", "ETHUSDT"].iter().all(|symbol| {
            seen.ticker_has(symbol, "stale")
                && seen.ticker_has(symbol, "symbol_status")
                && seen.named("symbols_unknown").contains(symbol)
        })
    };
    wrong.extend(stage.audience.until("both are marked with their status", 75, is_marked).await);
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(unless(stage.audience.count("测试USDT") > 0, "no trade of the symbol in another alphabet"));
    let skipped = stage.metric("tickgate_feed_symbols_skipped").await;
    wrong.extend(unless(skipped == 1.0, format!("{skipped} symbols were skipped")));
    // The one comes back, and another is listed.
    stage.exchange.fault(json!({"kind": "status", "symbol": "ADAUSDT", "value": "TRADING"})).await;
    stage.exchange.fault(json!({"kind": "list", "symbol": "NOUSDT"})).await;
    stage.audience.follow(&["ticker:ANYUSDT"]).await;
    let is_back = |seen: &Audience| {
        !seen.ticker_has("ADAUSDT", "stale") && seen.count("NOUSDT") > 0 && seen.ticker_has("NOUSDT", "price")
    };
    wrong.extend(stage.audience.until("both are live", 75, is_back).await);
    wrong.extend(stage.audience.troubles_since(from));
    wrong.extend(unless(!stage.audience.tickers.contains_key("NEWUSDT"), "a price of a symbol without trades"));
    let zero = stage.audience.tickers.values().flatten().any(|ticker| ticker["price"] == "0.00000000");
    wrong.extend(unless(!zero, "a price of zero"));
    // The exchange itself no longer knows what happened to this one.
    stage.audience.trades.remove("ETHUSDT");
    wrong.extend(stage.audience.judged_trades(&stage.exchange, true).await);
    nothing(wrong);
}

/// Everything stops, as in a maintenance of the exchange.
#[tokio::test]
async fn a15_a_maintenance_is_reported_and_its_end_is_found() {
    let mut stage = Stage::usual(None).await;
    let mut wrong = stage.live().await;
    stage.exchange.fault(json!({"kind": "freeze-all", "for": "45s"})).await;
    let is_told = |seen: &Audience| seen.reason() == "maintenance" && seen.ticker_has("BTCUSDT", "symbol_status");
    wrong.extend(stage.audience.until("the maintenance is reported", 44, is_told).await);
    wrong.extend(stage.audience.until("its end is found", 60, |seen| seen.state() == "live").await);
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.audience.judged_trades(&stage.exchange, true).await);
    wrong.extend(stage.exchange.violations().await);
    nothing(wrong);
}
