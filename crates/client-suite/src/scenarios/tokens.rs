//! Rules 26 to 29: tokens that expire, are refused, or cannot be obtained.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    script::{closing, live, past, time_in},
    stage::{OfferedConnection, PATIENCE, ReceivedRequest, SuiteRun},
    suite::Suite,
    trace::StepResult,
};

/// How long a reply may take.
const ANSWER: Duration = Duration::from_secs(12);

/// The client sends `auth` with its newest token.
async fn auth(stage: &mut SuiteRun, line: usize, patience: Duration) -> StepResult<ReceivedRequest> {
    let asked = stage.request_within(line, "auth", "`auth` with a new token", patience).await?;
    let newest = format!("token-{}", stage.tokens.given);
    let is_new = asked.body["token"] == newest.as_str() && newest != "token-1";
    stage.check(is_new, &format!("`auth` with {newest}"), &asked.body.to_string())?;
    Ok(asked)
}

async fn authenticated(stage: &mut SuiteRun, line: usize, asked: &ReceivedRequest, expires_at: &str) {
    let reply = json!({ "type": "authenticated", "id": asked.body["id"], "user": "alice", "expires_at": expires_at });
    stage.send(line, &reply).await;
}

fn bears(stage: &SuiteRun, arrival: &OfferedConnection, token: &str) -> StepResult {
    let is = arrival.request.bearer() == Some(token);
    stage.check(is, &format!("a connection with bearer.{token}"), &arrival.request.shown())
}

fn expiring(seconds: i64) -> Value {
    json!({ "type": "token_expiring", "expires_at": time_in(seconds) })
}

pub(super) async fn token_expiring(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.send(line, &expiring(60)).await;
    let asked = auth(&mut stage, line, PATIENCE).await?;
    authenticated(&mut stage, line, &asked, &time_in(3600)).await;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.is_quiet(line, Duration::from_millis(500)).await?;
    stage.cut(line);
    let arrival = stage.arrival().await?;
    bears(&stage, &arrival, "token-2")?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-41")]).await?;
    stage.finish().await
}

pub(super) async fn token_planned(suite: Suite) -> StepResult {
    let (hour, left) = (3600, 6);
    let mut stage = suite.start(json!(["orders"])).await?;
    let began = Instant::now();
    let welcome = json!({ "server_time": time_in(-hour), "expires_at": time_in(left - hour) });
    let (line, _) = stage.opened_with(&[live("orders", "7-40")], welcome).await?;
    let asked = auth(&mut stage, line, PATIENCE).await?;
    // Half of the time left, minus a margin: the client's clock starts with the welcome.
    let half = Duration::from_millis(2900);
    stage.check_wait("`auth`", asked.at - began, half, half)?;
    authenticated(&mut stage, line, &asked, &time_in(0)).await;
    stage.is_quiet(line, Duration::from_secs(1)).await?;
    stage.finish().await
}

pub(super) async fn auth_paced(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.send(line, &expiring(60)).await;
    let first = auth(&mut stage, line, PATIENCE).await?;
    authenticated(&mut stage, line, &first, &time_in(3600)).await;
    stage.send(line, &expiring(60)).await;
    stage.send(line, &expiring(60)).await;
    let second = auth(&mut stage, line, PATIENCE).await?;
    // The first may have been observed later than it was sent.
    let after = Duration::from_millis(700);
    stage.check_wait("the next `auth`", second.at - first.at, after, after)?;
    stage.send(line, &expiring(60)).await;
    stage.is_quiet(line, Duration::from_millis(1200)).await?;
    authenticated(&mut stage, line, &second, &time_in(3600)).await;
    stage.finish().await
}

pub(super) async fn unanswered_auth(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.send(line, &expiring(60)).await;
    let asked = auth(&mut stage, line, PATIENCE).await?;
    let arrival = stage.arrival_within(ANSWER * 2).await?;
    stage.check_wait("the next attempt", arrival.at - asked.at, ANSWER - Duration::from_secs(1), ANSWER)?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    let asked = stage.resumes(line, &json!({ "orders": "7-40" })).await?;
    stage.grant(line, &asked, &[live("orders", "7-40")], &[]).await;
    stage.finish().await
}

pub(super) async fn auth_refused(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.send(line, &expiring(60)).await;
    let asked = auth(&mut stage, line, PATIENCE).await?;
    let began = Instant::now();
    let later =
        json!({ "code": 1013, "error": "try_again_later", "message": "", "details": { "retry_after_ms": 1500 } });
    stage.refuse(line, &asked, later).await;
    stage.send(line, &expiring(59)).await;
    let asked = auth(&mut stage, line, PATIENCE).await?;
    let after = Duration::from_millis(1500);
    stage.check_wait("`auth`", asked.at - began, after, after)?;
    let given = stage.tokens.given;
    stage.refuse(line, &asked, json!({ "code": 4502, "error": "forbidden", "message": "another user" })).await;
    let arrival = stage.arrival().await?;
    let fits = (given..=stage.tokens.given).any(|n| arrival.request.bearer() == Some(format!("token-{n}").as_str()));
    stage.check(fits, "a new connection with the new token", &arrival.request.shown())?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    let asked = stage.resumes(line, &json!({ "orders": "7-40" })).await?;
    stage.grant(line, &asked, &[live("orders", "7-40")], &[]).await;
    stage.finish().await
}

pub(super) async fn new_token(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (mut line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    for (announced, token) in [(true, "token-2"), (false, "token-3")] {
        if announced {
            stage.send(line, &closing(4001, "new_token", None)).await;
        }
        stage.close(line, Some(4001)).await;
        let arrival = stage.arrival().await?;
        bears(&stage, &arrival, token)?;
        line = stage.upgrade(arrival).await?;
        stage.welcome(line, json!({})).await;
        let asked = stage.resumes(line, &json!({ "orders": "7-40" })).await?;
        stage.grant(line, &asked, &[live("orders", "7-40")], &[]).await;
    }
    stage.finish().await
}

pub(super) async fn new_token_twice(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    refused_at_once(&mut stage, "token-1").await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.send(line, &closing(4001, "new_token", None)).await;
    refused_at_once(&mut stage, "token-3").await?;
    // An attempt that fails otherwise does not count.
    let arrival = stage.arrival().await?;
    bears(&stage, &arrival, "token-4")?;
    drop(arrival);
    refused_at_once(&mut stage, "token-4").await?;
    stage.ends(Some(4001)).await?;
    stage.finish().await
}

/// The client connects with this token, which is refused.
async fn refused_at_once(stage: &mut SuiteRun, token: &str) -> StepResult {
    let arrival = stage.arrival().await?;
    bears(stage, &arrival, token)?;
    let line = stage.upgrade(arrival).await?;
    stage.send(line, &closing(4001, "new_token", None)).await;
    stage.close(line, Some(4001)).await;
    Ok(())
}

pub(super) async fn expiry_in_replay(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!([{ "channel": "orders", "since": "7-40" }])).await?;
    let (line, _) = stage.opened(&[past("orders", "7-40")]).await?;
    stage.cut(line);
    let arrival = stage.arrival().await?;
    bears(&stage, &arrival, "token-1")?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    let asked = stage.resumes(line, &json!({ "orders": "7-40" })).await?;
    stage.grant(line, &asked, &[past("orders", "7-40")], &[]).await;
    stage.replayed(line, "orders", "7-41").await;
    stage.send(line, &closing(4001, "new_token", None)).await;
    stage.close(line, Some(4001)).await;
    stage.delivers("orders", "7-41").await?;
    let arrival = stage.arrival().await?;
    bears(&stage, &arrival, "token-2")?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    let asked = stage.resumes(line, &json!({ "orders": "7-41" })).await?;
    stage.grant(line, &asked, &[past("orders", "7-41")], &[]).await;
    stage.replayed(line, "orders", "7-42").await;
    stage.delivers("orders", "7-42").await?;
    stage.finish().await
}

pub(super) async fn token_unavailable(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    stage.tokens.failures = 2;
    stage.waits().await?;
    stage.waits().await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.check(stage.tokens.asked == 3, "three requests for a token", &stage.tokens.asked.to_string())?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.finish().await
}
