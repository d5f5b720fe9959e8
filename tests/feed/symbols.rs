//! Symbols that stop, vanish, are renamed or never existed (A15).

use serde_json::json;

use crate::{
    audience::FeedClient,
    nothing,
    stage::{FeedStage, StageChanges, either, unless},
};

/// Symbols that the exchange stops, delists, and renames.
const STOPPED: [&str; 3] = ["ADAUSDT", "ETHUSDT", "SIM8USDT"];

/// The list of symbols is requested more often than by default.
fn refresh() -> &'static str {
    either("symbols_refresh = \"3s\"", "")
}

pub async fn a15_stopped_symbols_are_marked_and_the_others_continue() {
    let symbols = [
        "BTCUSDT",
        "ADAUSDT",
        "ETHUSDT",
        "SIM8USDT",
        "OLDUSDT",
        "NEWUSDT",
        "STOPUSDT",
        "NOUSDT",
        "RENAMEDUSDT",
        "btcusdt",
        "a/b",
        "测试USDT",
    ];
    let plan = StageChanges {
        exchange: &["--symbols", "9"],
        settings: refresh(),
        symbols: &symbols,
        ..StageChanges::default()
    };
    let mut stage = FeedStage::set(plan).await;
    let mut wrong = stage.live().await;
    let is_named = |seen: &FeedClient| {
        seen.named("symbols_unknown") == ["NOUSDT", "OLDUSDT", "RENAMEDUSDT", "a/b", "btcusdt"]
            && STOPPED.iter().all(|symbol| seen.ticker_has(symbol, "price"))
    };
    wrong.extend(stage.until("symbols without data are named", 10, is_named).await);
    let from = stage.audience.statuses.len();
    stage.exchange.fault(json!({"kind": "status", "symbol": "ADAUSDT", "value": "BREAK"})).await;
    stage.exchange.fault(json!({"kind": "delist", "symbol": "ETHUSDT"})).await;
    stage.exchange.fault(json!({"kind": "rename", "symbol": "SIM8USDT", "value": "RENAMEDUSDT"})).await;
    stage.exchange.fault(json!({"kind": "list", "symbol": "ODD*USDT"})).await;
    let is_marked = |seen: &FeedClient| {
        STOPPED.iter().all(|symbol| {
            seen.ticker_has(symbol, "stale")
                && seen.ticker_has(symbol, "symbol_status")
                && seen.named("symbols_unknown").contains(symbol)
        })
    };
    wrong.extend(stage.until("all three are marked with their status", 75, is_marked).await);
    let has_other_name = |seen: &FeedClient| seen.count("RENAMEDUSDT") > 0 && seen.ticker_has("RENAMEDUSDT", "price");
    wrong.extend(stage.until("the renamed symbol is live", 10, has_other_name).await);
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(unless(stage.audience.count("测试USDT") > 0, "no trade of the symbol in another alphabet"));
    let skipped = stage.metric("tickgate_feed_symbols_skipped").await;
    wrong.extend(unless(skipped == 1.0, format!("{skipped} symbols were skipped")));
    // One returns, and another is listed.
    stage.exchange.fault(json!({"kind": "status", "symbol": "ADAUSDT", "value": "TRADING"})).await;
    stage.exchange.fault(json!({"kind": "list", "symbol": "NOUSDT"})).await;
    stage.audience.follow(&["ticker:ANYUSDT"]).await;
    let is_back = |seen: &FeedClient| {
        !seen.ticker_has("ADAUSDT", "stale") && seen.count("NOUSDT") > 0 && seen.ticker_has("NOUSDT", "price")
    };
    wrong.extend(stage.until("both are live", 75, is_back).await);
    wrong.extend(stage.audience.troubles_since(from));
    wrong.extend(unless(!stage.audience.tickers.contains_key("NEWUSDT"), "a price for a symbol without trades"));
    let zero = stage.audience.tickers.values().flatten().any(|ticker| ticker["price"] == "0.00000000");
    wrong.extend(unless(!zero, "a price of zero"));
    // The exchange itself no longer has this data.
    stage.audience.trades.retain(|symbol, _| !["ETHUSDT", "SIM8USDT"].contains(&symbol.as_str()));
    wrong.extend(stage.audience.judged_trades(&stage.exchange, true).await);
    nothing(wrong);
}

/// Everything stops, as in a maintenance of the exchange.
pub async fn a15_a_maintenance_is_reported_and_its_end_noticed() {
    let mut stage = FeedStage::set(StageChanges { settings: refresh(), ..StageChanges::default() }).await;
    let mut wrong = stage.live().await;
    wrong.extend(stage.until("a ticker", 10, |seen| seen.ticker_has("BTCUSDT", "price")).await);
    stage.exchange.fault(json!({"kind": "freeze-all", "for": either("12s", "45s")})).await;
    let is_told = |seen: &FeedClient| seen.reason() == "maintenance" && seen.ticker_has("BTCUSDT", "symbol_status");
    wrong.extend(stage.until("the maintenance is reported", either(11, 44), is_told).await);
    wrong.extend(stage.until("its end is found", 60, |seen| seen.state() == "live").await);
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.audience.judged_trades(&stage.exchange, true).await);
    wrong.extend(stage.exchange.violations().await);
    nothing(wrong);
}
