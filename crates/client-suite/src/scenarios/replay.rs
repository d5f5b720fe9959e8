//! Rules 13, 14 and 16 during replays.

use serde_json::json;

use crate::{
    script::{live, of_stream, past},
    suite::Suite,
    trace::StepResult,
};

pub(super) async fn gap_in_replay(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!([{ "channel": "orders", "since": "7-10" }])).await?;
    let (line, _) = stage.opened(&[past("orders", "7-10")]).await?;
    let gap = json!({
        "type": "gap", "channels": ["orders"], "after": "7-10", "before": "7-51", "count": 40, "reason": "retention",
        "cursor": "7-50",
    });
    stage.send(line, &gap).await;
    stage.reports_gap(&gap).await?;
    // The rest was not received: the loss must not be reported again.
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "7-50" })).await?;
    stage.grant(line, &asked, &[past("orders", "7-50")], &[]).await;
    stage.replayed(line, "orders", "7-51").await;
    let end = json!([{ "channel": "orders", "cursor": "7-51", "replayed": 1, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.push(line, "orders", "7-52").await;
    stage.delivers("orders", "7-51").await?;
    stage.delivers("orders", "7-52").await?;
    stage.finish().await
}

pub(super) async fn cut_replay(suite: Suite) -> StepResult {
    let since = |channel: &str, cursor: &str| json!({ "channel": channel, "since": cursor });
    let channels = [since("orders", "7-40"), since("risk", "7-40"), since("bots", "7-50")];
    let mut stage = suite.start(json!(channels)).await?;
    let of_user = |granted| of_stream(granted, "@");
    let bots = of_user(live("bots", "7-50"));
    let granted = [of_user(past("orders", "7-40")), of_user(past("risk", "7-40")), bots.clone()];
    let (line, _) = stage.opened(&granted).await?;
    for id in ["7-41", "7-44"] {
        stage.replayed(line, "orders", id).await;
        stage.delivers("orders", id).await?;
    }
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "7-44", "risk": "7-40", "bots": "7-50" })).await?;
    let granted = [of_user(past("orders", "7-44")), of_user(past("risk", "7-40")), bots];
    stage.grant(line, &asked, &granted, &[]).await;
    let end = json!([{ "channel": "orders", "cursor": "7-44", "replayed": 0, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.replayed(line, "risk", "7-42").await;
    stage.push(line, "orders", "7-51").await;
    stage.delivers("risk", "7-42").await?;
    stage.delivers("orders", "7-51").await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-51", "risk": "7-42", "bots": "7-51" })).await?;
    stage.finish().await
}

pub(super) async fn named_channels(suite: Suite) -> StepResult {
    let since = |channel: &str, cursor: &str| json!({ "channel": channel, "since": cursor });
    let mut stage = suite.start(json!([since("orders", "7-40"), since("risk", "7-30")])).await?;
    let granted = [of_stream(live("orders", "7-40"), "@"), of_stream(past("risk", "7-30"), "@")];
    let (line, _) = stage.opened(&granted).await?;
    let end = json!([{ "channel": "risk", "cursor": "7-35", "replayed": 0, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.state("live").await?;
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "7-40", "risk": "7-35" })).await?;
    let granted = [of_stream(live("orders", "7-40"), "@"), of_stream(live("risk", "7-35"), "@")];
    stage.grant(line, &asked, &granted, &[]).await;
    let gap = json!({
        "type": "gap", "channels": ["risk"], "after": "7-35", "before": "7-39", "count": 3, "reason": "retention",
        "cursor": "7-38",
    });
    stage.send(line, &gap).await;
    stage.reports_gap(&gap).await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-40", "risk": "7-38" })).await?;
    stage.finish().await
}

pub(super) async fn caught_up(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!([{ "channel": "orders", "since": "7-40" }, "risk"])).await?;
    let (line, _) = stage.opened(&[past("orders", "7-40"), live("risk", "3-3")]).await?;
    stage.state("catching_up").await?;
    let end = json!([{ "channel": "orders", "cursor": "7-49", "replayed": 0, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.state("live").await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-49", "risk": "3-3" })).await?;
    stage.finish().await
}
