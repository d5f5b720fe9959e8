//! Rules 1 to 5: from the handshake to the first subscription.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    requests,
    script::{PROTOCOL, live},
    stage::{ReceivedRequest, SuiteRun},
    suite::Suite,
    trace::StepResult,
};

/// How long opening a connection may take, and by how much the suite may underestimate that, because it observes the
/// start late.
const OPENING: Duration = Duration::from_secs(10);
const SEEN_LATE: Duration = Duration::from_secs(1);

pub(super) async fn handshake(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let arrival = stage.arrival().await?;
    let (protocols, shown) = (arrival.request.protocols().join(", "), arrival.request.shown());
    stage.check(
        protocols == "tickgate.v1, bearer.token-1",
        "the sub-protocols tickgate.v1, bearer.token-1",
        &protocols,
    )?;
    stage.check(arrival.request.path == "/ws/trading", "the path of TICKGATE_URL", &shown)?;
    stage.check(arrival.request.query.is_empty(), "no session in the first request", &shown)?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.finish().await
}

pub(super) async fn anonymous(suite: Suite) -> StepResult {
    let mut stage = suite.start_with(json!(["orders"]), "none").await?;
    let arrival = stage.arrival().await?;
    let protocols = arrival.request.protocols().join(", ");
    stage.check(protocols == PROTOCOL, "the sub-protocol tickgate.v1 alone", &protocols)?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({ "user": null, "expires_at": null })).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.check(stage.tokens.asked == 0, "no token is asked for", "`token` was reported")?;
    stage.finish().await
}

pub(super) async fn protocol_not_selected(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let arrival = stage.arrival().await?;
    let old = stage.upgrade_as(arrival, None).await?;
    stage.welcome(old, json!({})).await;
    let arrival = stage.arrival().await?;
    let sent = stage.lines[old].requests.pop_front().map(|asked| asked.body.to_string());
    stage.check(sent.is_none(), "nothing is sent without tickgate.v1", &sent.unwrap_or_default())?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.finish().await
}

pub(super) async fn late_token(suite: Suite) -> StepResult {
    let mut stage = suite.start_with(json!(["orders"]), "message").await?;
    let (line, asked) = authenticates(&mut stage, "token-1").await?;
    stage.welcome(line, json!({})).await;
    let expires_at = crate::script::time_in(3600);
    let reply = json!({ "type": "authenticated", "id": asked.body["id"], "user": "alice", "expires_at": expires_at });
    stage.send(line, &reply).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.finish().await
}

/// The client connects and sends this token as its first message.
async fn authenticates(stage: &mut SuiteRun, token: &str) -> StepResult<(usize, ReceivedRequest)> {
    let arrival = stage.arrival().await?;
    let protocols = arrival.request.protocols().join(", ");
    stage.check(protocols == PROTOCOL, "the sub-protocol tickgate.v1 alone", &protocols)?;
    let line = stage.upgrade(arrival).await?;
    let expected = format!("`auth` with {token} as the first message");
    let asked = stage.request(line, "auth", &expected).await?;
    let first = stage.lines[line].requests.is_empty() && asked.body["token"] == token;
    stage.check(first, &expected, &asked.body.to_string())?;
    Ok((line, asked))
}

pub(super) async fn late_token_refused(suite: Suite) -> StepResult {
    let mut stage = suite.start_with(json!(["orders"]), "message").await?;
    let (line, asked) = authenticates(&mut stage, "token-1").await?;
    let (began, after) = (Instant::now(), Duration::from_millis(900));
    let later =
        json!({ "code": 1013, "error": "try_again_later", "message": "", "details": { "retry_after_ms": 900 } });
    stage.refuse(line, &asked, later).await;
    let (line, asked) = authenticates(&mut stage, "token-1").await?;
    stage.check_wait("`auth` on the next connection", asked.at - began, after, after)?;
    let mut error = json!({ "code": 4001, "error": "auth_required", "message": "expired" });
    stage.refuse(line, &asked, error.clone()).await;
    let (line, _) = authenticates(&mut stage, "token-2").await?;
    error["type"] = "error".into();
    stage.send(line, &error).await;
    stage.ends(None).await?;
    stage.finish().await
}

pub(super) async fn opening_timeout(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    // Kept open and never answered.
    let unanswered = stage.arrival().await?;
    let arrival = stage.arrival_within(OPENING * 2).await?;
    let took = arrival.at - unanswered.at;
    stage.check_wait("the next attempt", took, OPENING - SEEN_LATE, OPENING)?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.finish().await
}

pub(super) async fn no_welcome(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let arrival = stage.arrival().await?;
    let began = arrival.at;
    let silent = stage.upgrade(arrival).await?;
    stage.lines[silent].answers = false;
    let arrival = stage.arrival_within(OPENING * 2).await?;
    stage.check_wait("the next attempt", arrival.at - began, OPENING - SEEN_LATE, OPENING)?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    stage.granted(line, &[live("orders", "7-40")]).await?;
    stage.finish().await
}

pub(super) async fn limits(suite: Suite) -> StepResult {
    let (burst, per_second) = (2_usize, 4_u64);
    let names = ["a", "b", "c", "d", "e"];
    let mut stage = suite.start(json!(names)).await?;
    let limits = json!({
        "message_bytes": 65_536, "messages_per_second": 100, "messages_burst": 200, "subscriptions": 200,
        "queued_messages": 100, "names_per_second": per_second, "names_burst": burst,
    });
    let arrival = stage.arrival().await?;
    let line = stage.upgrade(arrival).await?;
    let began = Instant::now();
    stage.welcome(line, json!({ "limits": limits })).await;
    let mut count = 0;
    while count < names.len() {
        let asked = stage.request(line, "subscribe", "`subscribe` of all five channels").await?;
        let elements = requests::elements(&asked.body).unwrap_or_default();
        count += elements.len();
        let since = asked.at - began;
        let allowed = burst as f64 + since.as_secs_f64() * per_second as f64;
        let expected = format!("at most {burst} channels at once and {per_second} a second");
        let got = format!("{count} channels within {since:?}");
        stage.check(elements.len() <= burst && count as f64 <= allowed, &expected, &got)?;
        let granted = elements.iter().map(|element| live(element["channel"].as_str().unwrap_or_default(), "7-40"));
        let reply = json!({
            "type": "subscribed", "id": asked.body["id"], "channels": granted.collect::<Vec<_>>(), "errors": [],
        });
        stage.send(line, &reply).await;
    }
    stage.state("live").await?;
    stage.finish().await
}

pub(super) async fn session(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (mut line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    for number in 0..2 {
        stage.cut(line);
        let arrival = stage.arrival().await?;
        let expected = format!("session-{number}");
        let got = arrival.request.query.get("session").cloned().unwrap_or_default();
        stage.check(got == expected, &format!("?session={expected}"), &arrival.request.shown())?;
        line = stage.upgrade(arrival).await?;
        stage.welcome(line, json!({ "resumed": number == 0 })).await;
        stage.granted(line, &[live("orders", "7-40")]).await?;
    }
    stage.finish().await
}
