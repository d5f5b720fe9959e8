//! Rules 23 to 25: requests, replies, and the outcome of publications.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    requests::elements,
    script::{closing, live},
    stage::{PATIENCE, ReceivedRequest, SuiteRun},
    suite::Suite,
    trace::StepResult,
};

const ANSWER: Duration = Duration::from_secs(12);

/// Makes the client publish the number `n`.
pub(super) async fn publish(stage: &mut SuiteRun, name: &str, n: u32, deadline_ms: u64) -> StepResult {
    let command = json!({
        "command": "publish", "ref": name, "channel": "out", "data": { "type": "signal", "n": n },
        "deadline_ms": deadline_ms,
    });
    stage.command(&command).await
}

/// The client's request for it.
pub(super) async fn published(stage: &mut SuiteRun, line: usize, n: u32) -> StepResult<ReceivedRequest> {
    let expected = format!("`publish` of n = {n} to out with a `msg_id`");
    let asked = stage.request(line, "publish", &expected).await?;
    let body = &asked.body;
    let is = body["channel"] == "out" && body["data"] == json!({ "type": "signal", "n": n });
    stage.check(is && body["msg_id"].is_string(), &expected, &body.to_string())?;
    Ok(asked)
}

async fn accept(stage: &mut SuiteRun, line: usize, asked: &ReceivedRequest, id: &str, duplicate: bool) {
    let reply = json!({
        "type": "published", "id": asked.body["id"], "channel": "out", "publication_id": id, "duplicate": duplicate,
    });
    stage.send(line, &reply).await;
}

fn try_again(outcome: &str, after_ms: u64) -> Value {
    let details = json!({ "retry_after_ms": after_ms, "outcome": outcome });
    json!({ "code": 1013, "error": "try_again_later", "message": "later", "details": details })
}

pub(super) async fn replies_in_any_order(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    publish(&mut stage, "first", 1, 9000).await?;
    let first = published(&mut stage, line, 1).await?;
    publish(&mut stage, "second", 2, 9000).await?;
    let second = published(&mut stage, line, 2).await?;
    let differ = first.body["msg_id"] != second.body["msg_id"];
    stage.check(differ, "a different `msg_id` for each publication", &second.body.to_string())?;
    accept(&mut stage, line, &second, "3-2", false).await;
    let outcome = stage.reports_outcome("second", "accepted").await?;
    stage.check(outcome["id"] == "3-2", "`id` 3-2", &outcome.to_string())?;
    accept(&mut stage, line, &first, "3-1", false).await;
    let outcome = stage.reports_outcome("first", "accepted").await?;
    stage.check(outcome["id"] == "3-1", "`id` 3-1", &outcome.to_string())?;
    stage.finish().await
}

pub(super) async fn unanswered_subscribe(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let line = stage.connected().await?;
    let asked = stage.request(line, "subscribe", "`subscribe` of orders").await?;
    let arrival = stage.arrival_within(ANSWER * 2).await?;
    // The request is observed later than it was sent.
    stage.check_wait("the next attempt", arrival.at - asked.at, ANSWER - Duration::from_secs(1), ANSWER)?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.finish().await
}

pub(super) async fn unnamed_channel(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders", "risk"]).await?;
    let mut replied = Instant::now();
    stage.grant(line, &asked, &[live("orders", "7-40")], &[]).await;
    for granted in [json!([]), json!([live("risk", "3-3")])] {
        let asked = stage.request(line, "subscribe", "`subscribe` of risk again").await?;
        stage.check_wait("`subscribe` of risk", asked.at - replied, Duration::from_secs(1), PATIENCE)?;
        let named: Vec<_> = elements(&asked.body).unwrap_or_default();
        let alone = named.len() == 1 && named[0]["channel"] == "risk";
        stage.check(alone, "`subscribe` of risk alone", &asked.body.to_string())?;
        replied = Instant::now();
        let reply = json!({ "type": "subscribed", "id": asked.body["id"], "channels": granted, "errors": [] });
        stage.send(line, &reply).await;
    }
    stage.state("live").await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-40", "risk": "3-3" })).await?;
    stage.finish().await
}

pub(super) async fn too_large(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let arrival = stage.arrival().await?;
    let line = stage.upgrade(arrival).await?;
    let limits = json!({
        "message_bytes": 2_048, "messages_per_second": 100, "messages_burst": 200, "subscriptions": 200,
        "queued_messages": 100, "names_per_second": 100, "names_burst": 200,
    });
    stage.welcome(line, json!({ "limits": limits })).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    // In characters it is below the limit, in bytes above.
    let data = json!({ "type": "signal", "text": "\u{20ac}".repeat(1_000) });
    let command = json!({ "command": "publish", "ref": "large", "channel": "out", "data": data, "deadline_ms": 9000 });
    stage.command(&command).await?;
    stage.reports_outcome("large", "refused").await?;
    publish(&mut stage, "small", 1, 9000).await?;
    let small = published(&mut stage, line, 1).await?;
    accept(&mut stage, line, &small, "3-1", false).await;
    stage.reports_outcome("small", "accepted").await?;
    stage.finish().await
}

pub(super) async fn publish_repeated(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    publish(&mut stage, "p", 1, 20_000).await?;
    let first = published(&mut stage, line, 1).await?;
    stage.cut(line);
    let line = stage.resumed(json!({ "orders": "7-40" })).await?;
    let again = published(&mut stage, line, 1).await?;
    let same = again.body["msg_id"] == first.body["msg_id"];
    stage.check(same, &format!("the `msg_id` {}", first.body["msg_id"]), &again.body.to_string())?;
    accept(&mut stage, line, &again, "3-1", true).await;
    let outcome = stage.reports_outcome("p", "accepted").await?;
    let is = outcome["id"] == "3-1" && outcome["duplicate"] == true;
    stage.check(is, "`id` 3-1 and `duplicate` true", &outcome.to_string())?;
    stage.finish().await
}

pub(super) async fn publish_later(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    publish(&mut stage, "p", 1, 20_000).await?;
    let mut asked = published(&mut stage, line, 1).await?;
    for (outcome, after_ms) in [("refused", 600), ("unknown", 300)] {
        let began = Instant::now();
        stage.refuse(line, &asked, try_again(outcome, after_ms)).await;
        let again = published(&mut stage, line, 1).await?;
        let after = Duration::from_millis(after_ms);
        stage.check_wait("the same `publish`", again.at - began, after, after)?;
        let same = again.body["msg_id"] == asked.body["msg_id"];
        stage.check(same, &format!("the `msg_id` {}", asked.body["msg_id"]), &again.body.to_string())?;
        asked = again;
    }
    accept(&mut stage, line, &asked, "3-1", false).await;
    stage.reports_outcome("p", "accepted").await?;
    stage.finish().await
}

pub(super) async fn publish_refused(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    publish(&mut stage, "p", 1, 9000).await?;
    let asked = published(&mut stage, line, 1).await?;
    stage.refuse(line, &asked, json!({ "code": 4502, "error": "forbidden", "message": "no" })).await;
    let outcome = stage.reports_outcome("p", "refused").await?;
    stage.check(outcome["code"] == 4502, "`code` 4502", &outcome.to_string())?;
    let command = json!({ "command": "command", "ref": "c", "name": "pause", "deadline_ms": 9000 });
    stage.command(&command).await?;
    let expected = "`command` pause with a `msg_id`";
    let asked = stage.request(line, "command", expected).await?;
    let is = asked.body["command"] == "pause" && asked.body["msg_id"].is_string();
    stage.check(is, expected, &asked.body.to_string())?;
    let reply = json!({
        "type": "command_accepted", "id": asked.body["id"], "publication_id": "4-1", "duplicate": false,
    });
    stage.send(line, &reply).await;
    stage.reports_outcome("c", "accepted").await?;
    stage.is_quiet(line, Duration::from_millis(800)).await?;
    stage.finish().await
}

pub(super) async fn publish_deadline(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    let began = Instant::now();
    publish(&mut stage, "p", 1, 1200).await?;
    let asked = published(&mut stage, line, 1).await?;
    stage.refuse(line, &asked, try_again("unknown", 300)).await;
    published(&mut stage, line, 1).await?;
    stage.reports_outcome("p", "unknown").await?;
    let after = Duration::from_millis(1200);
    stage.check_wait("the outcome", began.elapsed(), after, after)?;
    stage.cut(line);
    let line = stage.resumed(json!({ "orders": "7-40" })).await?;
    stage.is_quiet(line, Duration::from_secs(1)).await?;
    stage.finish().await
}

pub(super) async fn publish_offline(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.cut(line);
    let arrival = stage.arrival().await?;
    publish(&mut stage, "p", 1, 800).await?;
    stage.reports_outcome("p", "refused").await?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.is_quiet(line, Duration::from_secs(1)).await?;
    stage.finish().await
}

pub(super) async fn publish_unsure(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    publish(&mut stage, "p", 1, 20_000).await?;
    published(&mut stage, line, 1).await?;
    stage.cut(line);
    let line = stage.resumed(json!({ "orders": "7-40" })).await?;
    let again = published(&mut stage, line, 1).await?;
    stage.refuse(line, &again, json!({ "code": 4502, "error": "forbidden", "message": "no" })).await;
    stage.reports_outcome("p", "unknown").await?;
    stage.is_quiet(line, Duration::from_millis(800)).await?;
    stage.finish().await
}

pub(super) async fn publish_ended(suite: Suite) -> StepResult {
    for stops in [true, false] {
        let mut stage = suite.start(json!(["orders"])).await?;
        let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
        publish(&mut stage, "open", 1, 30_000).await?;
        published(&mut stage, line, 1).await?;
        publish(&mut stage, "later", 2, 30_000).await?;
        let asked = published(&mut stage, line, 2).await?;
        stage.refuse(line, &asked, try_again("refused", 20_000)).await;
        // The client reads the refusal before the frame that stops it.
        stage.push(line, "orders", "7-41").await;
        stage.delivers("orders", "7-41").await?;
        if stops {
            stage.command(&json!({ "command": "stop" })).await?;
        } else {
            stage.send(line, &closing(4500, "no", None)).await;
        }
        let mut outcomes = Vec::new();
        while outcomes.len() < 2 {
            let event = stage.reports("the outcomes of two publications").await?;
            outcomes.push((event["ref"].clone(), event["outcome"].clone()));
        }
        outcomes.sort_by_key(|(name, _)| name.to_string());
        let expected = [(json!("later"), json!("refused")), (json!("open"), json!("unknown"))];
        stage.check(outcomes == expected, &format!("the outcomes {expected:?}"), &format!("{outcomes:?}"))?;
        if !stops {
            stage.ends(Some(4500)).await?;
            publish(&mut stage, "afterwards", 3, 30_000).await?;
            stage.reports_outcome("afterwards", "refused").await?;
        }
        stage.finish().await?;
    }
    Ok(())
}
