//! Rules 20 to 22: channels that are refused temporarily or permanently.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    script::{live, refusal, with_retry},
    suite::Suite,
    trace::StepResult,
};

const QUIET: Duration = Duration::from_millis(1200);

pub(super) async fn channel_refused(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "payroll"])).await?;
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders", "payroll"]).await?;
    stage.grant(line, &asked, &[live("orders", "7-40")], &[refusal("payroll", 4502, "forbidden")]).await;
    stage.reports_refused("payroll", 4502).await?;
    stage.state("live").await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.is_quiet(line, QUIET).await?;
    stage.cut(line);
    let line = stage.resumed(json!({ "orders": "7-41" })).await?;
    stage.is_quiet(line, Duration::from_millis(300)).await?;
    stage.finish().await
}

pub(super) async fn channel_later(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders", "risk"]).await?;
    let refused = with_retry(refusal("risk", 1013, "try_again_later"), 700);
    let began = Instant::now();
    stage.grant(line, &asked, &[live("orders", "7-40")], &[refused]).await;
    let asked = stage.request(line, "subscribe", "`subscribe` of risk again").await?;
    let after = Duration::from_millis(700);
    stage.check_wait("`subscribe` of risk", asked.at - began, after, after)?;
    let channels = &asked.body["channels"];
    let is_risk = *channels == json!(["risk"]) || *channels == json!([{ "channel": "risk" }]);
    stage.check(is_risk, "`subscribe` of risk alone", &asked.body.to_string())?;
    let reply =
        json!({ "type": "subscribed", "id": asked.body["id"], "channels": [live("risk", "3-3")], "errors": [] });
    stage.send(line, &reply).await;
    stage.state("live").await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-40", "risk": "3-3" })).await?;
    stage.finish().await
}

/// The whole `subscribe` is refused with this error; the client repeats it after 500 ms.
async fn asked_again(suite: &Suite, error: Value) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let line = stage.connected().await?;
    let asked = stage.request(line, "subscribe", "`subscribe` of orders").await?;
    let began = Instant::now();
    stage.refuse(line, &asked, error).await;
    let asked = stage.request(line, "subscribe", "`subscribe` of orders again").await?;
    let after = Duration::from_millis(500);
    stage.check_wait("`subscribe`", asked.at - began, after, after)?;
    let reply =
        json!({ "type": "subscribed", "id": asked.body["id"], "channels": [live("orders", "7-40")], "errors": [] });
    stage.send(line, &reply).await;
    stage.state("live").await?;
    stage.check(stage.reports.is_empty(), "no channel is refused", "`refused`")?;
    stage.finish().await
}

pub(super) async fn request_later(suite: Suite) -> StepResult {
    let error =
        json!({ "code": 4100, "error": "rate_limited", "message": "wait", "details": { "retry_after_ms": 500 } });
    asked_again(&suite, error).await
}

pub(super) async fn request_refused(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let line = stage.connected().await?;
    let asked = stage.request(line, "subscribe", "`subscribe` of orders").await?;
    let error = json!({
        "code": 4004, "error": "invalid_message", "message": "no", "details": { "field": "channels" },
    });
    stage.refuse(line, &asked, error).await;
    stage.reports_refused("orders", 4004).await?;
    stage.is_quiet(line, QUIET).await?;
    stage.finish().await
}

pub(super) async fn unsubscribed_later(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40"), live("risk", "3-3")]).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    let notice = json!({
        "type": "unsubscribed", "channels": ["orders"], "code": 1013, "error": "try_again_later", "message": "later",
        "details": { "retry_after_ms": 600 },
    });
    let began = Instant::now();
    stage.send(line, &notice).await;
    let asked = stage.request(line, "subscribe", "`subscribe` of orders again").await?;
    let after = Duration::from_millis(600);
    stage.check_wait("`subscribe` of orders", asked.at - began, after, after)?;
    let element = json!([{ "channel": "orders", "since": "7-41" }]);
    stage.check(asked.body["channels"] == element, &format!("`channels` {element}"), &asked.body.to_string())?;
    let reply =
        json!({ "type": "subscribed", "id": asked.body["id"], "channels": [live("orders", "7-41")], "errors": [] });
    stage.send(line, &reply).await;
    stage.push(line, "orders", "7-42").await;
    stage.delivers("orders", "7-42").await?;
    stage.finish().await
}

pub(super) async fn unsubscribed_refused(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40"), live("risk", "3-3")]).await?;
    let notice = json!({
        "type": "unsubscribed", "channels": ["orders"], "code": 4502, "error": "forbidden", "message": "no longer",
    });
    stage.send(line, &notice).await;
    stage.reports_refused("orders", 4502).await?;
    stage.is_quiet(line, QUIET).await?;
    stage.cut(line);
    stage.resumed(json!({ "risk": "3-3" })).await?;
    stage.finish().await
}
