//! Connections that end (A02), misleading acknowledgements (A08), invalid frames (A12), more frames than can be
//! processed (A13), and an exchange that violates the protocol (A18).

use serde_json::json;

use crate::{
    audience::FeedClient,
    nothing,
    stage::{FeedStage, StageChanges, either, is_long, unless},
};

/// A02: no trade is lost or duplicated, however a connection ends.
pub async fn a02_no_trade_is_lost_however_a_connection_ends() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let mut forms = vec!["eof", "rst", "close-1001", "close-none", "half-frame"];
    if is_long() {
        forms = forms.into_iter().cycle().take(25).chain(["close-1008"]).collect();
    }
    for form in forms {
        if form == "close-1008" {
            // The delay after a disconnection for rule violations doubles with each failure, until data has flowed for
            // ten seconds.
            stage.audience.watch(12.0).await;
        }
        stage.exchange.set("cut-form", form).await;
        stage.exchange.fault(json!({"kind": "cut"})).await;
        let is_lost = |seen: &FeedClient| seen.state() == "stale" || seen.trades["BTCUSDT"].len() > 100_000;
        stage.until("", either(1, 3), is_lost).await;
        wrong.extend(stage.more_trades("BTCUSDT").await);
        stage.audience.watch(either(0.5, 7.0)).await;
    }
    wrong.extend(stage.judged().await);
    let lost = stage.metric("tickgate_feed_reconnects_total{reason=\"lost\"}").await;
    wrong.extend(unless(lost >= 4.0, format!("{lost} connections ended")));
    nothing(wrong);
}

/// The last trades arrive again after a reconnect, trades arrive twice, and out of order: none is published twice, or
/// sent to the backplane twice.
pub async fn overlap(defect: Option<&str>) -> Vec<String> {
    let mut stage = FeedStage::usual(defect).await;
    let mut wrong = stage.live().await;
    stage.exchange.fault(json!({"kind": "overlap", "for": "60s", "amount": 30})).await;
    stage.exchange.fault(json!({"kind": "duplicate", "for": "3s"})).await;
    stage.exchange.fault(json!({"kind": "reorder", "for": "3s", "chance": 0.1})).await;
    stage.exchange.fault(json!({"kind": "cut"})).await;
    stage.audience.watch(4.0).await;
    wrong.extend(stage.judged().await);
    let repeats = stage.metric("tickgate_feed_repeats_total").await;
    wrong.extend(unless(repeats > 0.0, "nothing was repeated"));
    let name = "tickgate_publications_total{result=\"duplicate\",source=\"feed\"}";
    let doubled = stage.metric(name).await;
    wrong.extend(unless(doubled == 0.0, format!("{doubled} trades were published again")));
    wrong
}

pub async fn a02_repeated_trades_are_published_once() {
    nothing(overlap(None).await);
}

/// A08: neither an acknowledgement nor its absence proves anything.
pub async fn a08_only_data_makes_the_feed_live() {
    let mut stage = FeedStage::set(StageChanges { exchange: &["--set", "acks=drop"], ..StageChanges::default() }).await;
    let mut wrong = stage.live().await;
    for (switch, value) in [("acks", "late"), ("acks", "flat-errors"), ("acks", "wrong-id")] {
        stage.exchange.set(switch, value).await;
        stage.exchange.fault(json!({"kind": "cut"})).await;
        stage.audience.watch(1.0).await;
        wrong.extend(stage.more_trades("BTCUSDT").await);
    }
    stage.exchange.set("acks", "on").await;
    stage.exchange.set("ack-only", "*").await;
    stage.exchange.fault(json!({"kind": "cut"})).await;
    wrong.extend(stage.until("what is only acknowledged is not live", 12, |seen| seen.state() != "live").await);
    let from = stage.audience.statuses.len();
    stage.audience.watch(either(8.0, 60.0)).await;
    let live = stage.audience.statuses[from..].iter().any(|status| status["status"] == "live");
    wrong.extend(unless(!live, "an acknowledgement was mistaken for data"));
    stage.exchange.set("ack-only", "").await;
    wrong.extend(stage.until("data flows again", 50, |seen| seen.state() == "live").await);
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.judged().await);
    nothing(wrong);
}

/// A12: whatever a frame contains, it is counted, and nothing ends unnecessarily.
pub async fn a12_bad_frames_are_counted_and_dropped() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let kinds = [
        "garbage",
        "unknown-event",
        "unknown-field",
        "null-field",
        "number-for-string",
        "exponent",
        "crossed",
        "locked",
        "unsorted",
        "one-sided",
        "empty-book",
        "zero-price",
        "fragment",
    ];
    for kind in kinds {
        stage
            .exchange
            .fault(json!({"kind": kind, "chance": 0.3, "n": either(60, 10_000), "for": either("1s", "60s")}))
            .await;
        stage.audience.watch(either(0.8, 60.0)).await;
    }
    stage.exchange.fault(json!({"kind": "rsv"})).await;
    stage.audience.watch(1.0).await;
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.audience.judged_trades(&stage.exchange, true).await);
    wrong.extend(stage.exchange.violations().await);
    for reason in ["json", "field", "crossed", "unsorted", "binary"] {
        let count = stage.metric(&format!("tickgate_feed_bad_frames_total{{reason=\"{reason}\"}}")).await;
        wrong.extend(unless(count > 0.0, format!("no bad frame was counted as {reason}")));
    }
    let panics = stage.metric("tickgate_panics_total").await;
    wrong.extend(unless(panics == 0.0, format!("{panics} panics")));
    let zero = stage.audience.tickers.values().flatten().any(|ticker| ticker["price"] == "0.00000000");
    wrong.extend(unless(!zero, "a price of zero"));
    nothing(wrong);
}

/// A13: more than can be processed, over a Redis that pauses now and then: memory is bounded, and trades are complete
/// or reported as missing.
pub async fn a13_a_burst_is_survived() {
    let plan = StageChanges {
        exchange: &["--set", "ping-interval=1s", "--set", "pong-deadline=5s"],
        ..StageChanges::default()
    };
    let mut stage = FeedStage::set(plan).await;
    let mut wrong = stage.live().await;
    let memory = stage.metric("process_resident_memory_bytes").await;
    stage.exchange.fault(json!({"kind": "burst", "amount": either(20, 100), "for": either("3s", "10s")})).await;
    for _ in 0..either(5, 16) {
        stage.redis.freeze();
        stage.audience.watch(0.3).await;
        stage.redis.thaw();
        stage.audience.watch(0.4).await;
    }
    wrong.extend(stage.more_trades("BTCUSDT").await);
    stage.audience.watch(3.0).await;
    wrong.extend(stage.audience.judged_trades(&stage.exchange, true).await);
    wrong.extend(stage.exchange.violations().await);
    let grown = stage.metric("process_resident_memory_bytes").await - memory;
    wrong.extend(unless(grown < 300e6, format!("the replica grew by {grown} bytes")));
    nothing(wrong);
}

/// A18: an unrequested extension, a Close without a response, bytes that arrive one by one.
pub async fn a18_an_exchange_that_bends_the_protocol_is_tolerated() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    stage.exchange.set("deflate-header", "on").await;
    stage.exchange.fault(json!({"kind": "cut"})).await;
    stage.audience.watch(4.0).await;
    stage.exchange.set("deflate-header", "off").await;
    wrong.extend(stage.more_trades("BTCUSDT").await);
    stage.exchange.fault(json!({"kind": "slow-drip", "for": "3s"})).await;
    stage.audience.watch(3.0).await;
    wrong.extend(stage.more_trades("BTCUSDT").await);
    wrong.extend(stage.judged().await);
    // The Close of the drain gets no response either.
    stage.replica.drain();
    stage.replica.ended().await;
    nothing(wrong);
}
