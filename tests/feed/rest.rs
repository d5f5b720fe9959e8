//! Refusals: holes that REST does not fill (A09), and an exchange that does not serve this address (A16).

use serde_json::json;

use crate::{
    audience::FeedClient,
    nothing,
    stage::{FeedStage, StageChanges, either, is_long, unless},
};

/// A09: what REST refuses is reported as a gap with its exact range, and nothing is requested before the exchange
/// allows it.
pub async fn refused(defect: Option<&str>) -> Vec<String> {
    let plan = StageChanges { exchange: &["--set", "retry-after=20s"], defect, ..StageChanges::default() };
    let mut stage = FeedStage::set(plan).await;
    let mut wrong = stage.live().await;
    stage.exchange.set("rest-limit", "1").await;
    for count in 1..=3 {
        stage.exchange.fault(json!({"kind": "gap", "streams": "btcusdt@aggTrade", "n": 7})).await;
        let is_reported = |seen: &FeedClient| seen.gaps("BTCUSDT").len() >= count;
        wrong.extend(stage.until("the gap is reported", 12, is_reported).await);
        if !wrong.is_empty() {
            return wrong;
        }
    }
    let gaps = stage.audience.gaps("BTCUSDT");
    let missing: u64 = gaps.iter().map(|(from, to)| to - from + 1).sum();
    wrong.extend(unless(missing == 21, format!("21 trades are missing, reported are {gaps:?}")));
    wrong.extend(stage.judged().await);
    wrong
}

pub async fn a09_what_rest_refuses_is_reported_as_a_gap() {
    nothing(refused(None).await);
}

/// A09: a lagging source is asked again; one that fails, responds with HTML or hangs is not waited for.
pub async fn a09_a_source_that_lags_or_fails() {
    let mut stage = FeedStage::usual(None).await;
    let mut wrong = stage.live().await;
    let gap = json!({"kind": "gap", "streams": "btcusdt@aggTrade", "n": 7});
    stage.exchange.fault(json!({"kind": "rest-lag", "amount": 200, "for": "900ms"})).await;
    stage.exchange.fault(gap.clone()).await;
    stage.audience.watch(3.0).await;
    wrong.extend(unless(stage.audience.gaps("BTCUSDT").is_empty(), "a lagging source was given up"));
    for (count, error) in ["500", "html", "hang", "403", "reset"].iter().take(either(3, 5)).enumerate() {
        stage.exchange.set("rest-error", error).await;
        stage.exchange.fault(gap.clone()).await;
        let is_reported = |seen: &FeedClient| seen.gaps("BTCUSDT").len() > count;
        wrong.extend(stage.until(&format!("the gap is reported after {error}"), 12, is_reported).await);
    }
    stage.exchange.set("rest-error", "none").await;
    stage.exchange.fault(gap).await;
    let before = stage.audience.gaps("BTCUSDT").len();
    stage.audience.watch(3.0).await;
    wrong.extend(unless(stage.audience.gaps("BTCUSDT").len() == before, "the last hole was not filled"));
    wrong.extend(stage.judged().await);
    nothing(wrong);
}

/// A16: a region that is not served is reported at once, and retried rarely.
pub async fn a16_a_restricted_region_is_reported_and_retried_rarely() {
    let mut stage =
        FeedStage::set(StageChanges { exchange: &["--set", "upgrade-status=451"], ..StageChanges::default() }).await;
    let is_told = |seen: &FeedClient| (seen.state(), seen.reason()) == ("down", "restricted");
    let mut wrong = stage.until("the refusal is reported", 10, is_told).await;
    stage.audience.watch(either(5.0, 60.0)).await;
    let connects = stage.exchange.connects().await;
    wrong.extend(unless(connects == 1, format!("{connects} attempts in the first minute")));
    if is_long() {
        stage.exchange.set("upgrade-status", "101").await;
        wrong.extend(stage.until("the exchange is back", 190, |seen| seen.is_live("BTCUSDT")).await);
    }
    nothing(wrong);
}

/// A rate-limited upgrade waits for as long as the exchange demands.
pub async fn a16_a_rate_limited_connection_waits_as_long_as_demanded() {
    let mut stage =
        FeedStage::set(StageChanges { exchange: &["--set", "upgrade-status=429"], ..StageChanges::default() }).await;
    let is_told = |seen: &FeedClient| seen.reason() == "rate_limited";
    let mut wrong = stage.until("the limit is reported", 10, is_told).await;
    stage.exchange.set("upgrade-status", "101").await;
    wrong.extend(stage.until("data flows after that", 25, |seen| seen.is_live("BTCUSDT")).await);
    let times: Vec<_> = stage.exchange.log("connect").await.iter().map(|entry| entry["at"].as_u64().unwrap()).collect();
    let waited = times[1] - times[0];
    wrong.extend(unless(waited >= 5_000, format!("the second attempt came after {waited} ms")));
    nothing(wrong);
}
