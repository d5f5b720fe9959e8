//! Rules 30 to 32, and the state `stale`: connections that are silent, abandoned, or not read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    requests::elements,
    script::{closing, live, past, pushed, time_in},
    stage::{PATIENCE, SuiteRun},
    suite::Suite,
    trace::StepResult,
};

const INTERVAL: Duration = Duration::from_secs(2);

async fn opened(suite: &Suite) -> StepResult<(SuiteRun, usize)> {
    let mut stage = suite.start(json!(["orders"])).await?;
    let welcome = json!({ "heartbeat_interval": INTERVAL.as_secs() });
    let (line, _) = stage.opened_with(&[live("orders", "7-40")], welcome).await?;
    Ok((stage, line))
}

async fn heartbeat(stage: &mut SuiteRun, line: usize) {
    let now = time_in(0);
    stage.send(line, &json!({ "type": "heartbeat", "timestamp": now, "server_time": now })).await;
}

pub(super) async fn half_open(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    stage.push(line, "orders", "7-41").await;
    let began = Instant::now();
    stage.lines[line].answers = false;
    stage.delivers("orders", "7-41").await?;
    let arrival = stage.arrival().await?;
    stage.check_wait(
        "the next attempt",
        arrival.at - began,
        INTERVAL * 2,
        INTERVAL * 2 + Duration::from_millis(500),
    )?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    let asked = stage.resumes(line, &json!({ "orders": "7-41" })).await?;
    stage.grant(line, &asked, &[live("orders", "7-41")], &[]).await;
    stage.finish().await
}

pub(super) async fn heartbeats(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    for _ in 0..3 {
        heartbeat(&mut stage, line).await;
        stage.is_quiet(line, INTERVAL * 4 / 5).await?;
    }
    stage.note("from now on nothing but WebSocket pings");
    for _ in 0..3 {
        if let Some(socket) = &mut stage.lines[line].socket {
            socket.ping(b"alive").await;
        }
        stage.is_quiet(line, INTERVAL * 4 / 5).await?;
    }
    stage.check(stage.lines[line].closed.is_none(), "the connection stays", "a Close frame")?;
    stage.finish().await
}

pub(super) async fn late_socket(suite: Suite) -> StepResult {
    let (mut stage, old) = opened(&suite).await?;
    stage.lines[old].answers = false;
    let line = stage.resumed(json!({ "orders": "7-40" })).await?;
    stage.push(old, "orders", "7-99").await;
    stage.send(old, &closing(4500, "no", None)).await;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.delivers_nothing(Duration::from_millis(500)).await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-41" })).await?;
    stage.finish().await
}

pub(super) async fn busy_application(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.hold().await?;
    for id in ["7-41", "7-42", "7-43"] {
        stage.push(line, "orders", id).await;
    }
    if let Some(socket) = &mut stage.lines[line].socket {
        socket.ping(b"busy").await;
    }
    let expected = "a pong while the application is busy";
    stage.until(expected, PATIENCE, |stage| stage.lines[line].pongs.pop()).await?;
    stage.delivers_nothing(Duration::ZERO).await?;
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders"]).await?;
    // A client may keep its queued messages over the reconnect or request them again.
    let since = asked.element("orders")["since"].as_str().unwrap_or_default().to_owned();
    let known = ["7-40", "7-41", "7-42", "7-43"];
    let Some(at) = known.iter().position(|id| *id == since) else {
        return stage.fail(&format!("`since` of one of {}", known.join(", ")), &since);
    };
    stage.grant(line, &asked, &[past("orders", &since)], &[]).await;
    for id in &known[at + 1..] {
        stage.replayed(line, "orders", id).await;
    }
    let end = json!([{ "channel": "orders", "cursor": "7-43", "replayed": known.len() - at - 1, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.push(line, "orders", "7-44").await;
    stage.go().await?;
    for id in ["7-41", "7-42", "7-43", "7-44"] {
        stage.delivers("orders", id).await?;
    }
    stage.finish().await
}

/// Number of messages published while the application handles none: far more than the socket buffers on both sides and
/// a queue of 1,000 messages can hold.
const FLOOD: u64 = 8_000;
const PADDING: usize = 8 << 10;
/// A client that accepts nothing for this long has stopped reading.
const TAKES_NOTHING: Duration = Duration::from_secs(2);

pub(super) async fn slow_application(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let welcome = json!({ "heartbeat_interval": INTERVAL.as_secs() });
    let (slow, _) = stage.opened_with(&[live("orders", "7-0")], welcome).await?;
    stage.hold().await?;
    stage.note(&format!("#{slow} gateway: pushes 7-1 to 7-{FLOOD} with {PADDING} bytes each, while they are taken"));
    let padding = "x".repeat(PADDING);
    let mut sent = 0;
    while sent < FLOOD && !leaves(&stage, slow) {
        sent += 1;
        let id = format!("7-{sent}");
        let data = json!({ "type": "update", "n": id, "padding": padding });
        let push = pushed(&data, &json!({ "channel": "orders", "id": id }));
        let Some(socket) = &mut stage.lines[slow].socket else { break };
        if !socket.takes(&push, TAKES_NOTHING).await {
            break;
        }
        stage.watch(Duration::ZERO, |_| false).await?;
    }
    let expected = "the client stops reading, or leaves the channel or the connection";
    stage.check(sent < FLOOD, expected, &format!("{FLOOD} messages were taken that the application did not handle"))?;
    let ended = stage.lines[slow].closed.is_some() || stage.lines[slow].ended.is_some();
    if leaves(&stage, slow) && !ended {
        return comes_back_to_the_channel(stage, slow, sent).await;
    }
    if !ended {
        // Time in which the client does not read is not silence.
        stage.stays_away(INTERVAL * 5 / 2).await?;
    }
    stage.cut(slow);
    stage.go().await?;
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders"]).await?;
    let last = received(&stage, asked.element("orders"), sent)?;
    stage.grant(line, &asked, &[live("orders", &format!("7-{last}"))], &[]).await;
    stage.push(line, "orders", &format!("7-{}", last + 1)).await;
    delivers_up_to(&mut stage, last + 1).await?;
    stage.finish().await
}

/// A client that cannot stop reading has unsubscribed instead: it subscribes again on the same connection, and drops
/// messages of the old subscription, which are sent again after the reply.
async fn comes_back_to_the_channel(mut stage: SuiteRun, line: usize, sent: u64) -> StepResult {
    let left = stage.request(line, "unsubscribe", "`unsubscribe` of orders").await?;
    stage.go().await?;
    let asked = stage.request(line, "subscribe", "`subscribe` of orders again").await?;
    let element = elements(&asked.body).unwrap_or_default().pop().unwrap_or_default();
    let last = received(&stage, &element, sent)?;
    let next = format!("7-{}", last + 1);
    stage.push(line, "orders", &next).await;
    stage.send(line, &json!({ "type": "unsubscribed", "id": left.body["id"], "channels": ["orders"] })).await;
    let granted = live("orders", &format!("7-{last}"));
    let reply = json!({ "type": "subscribed", "id": asked.body["id"], "channels": [granted], "errors": [] });
    stage.send(line, &reply).await;
    stage.push(line, "orders", &next).await;
    stage.push(line, "orders", &format!("7-{}", last + 2)).await;
    delivers_up_to(&mut stage, last + 2).await?;
    stage.finish().await
}

/// The number of the last message that the client has received, by its `since`.
fn received(stage: &SuiteRun, element: &Value, sent: u64) -> StepResult<u64> {
    let since = element["since"].as_str().unwrap_or_default();
    let last = since.strip_prefix("7-").and_then(|number| number.parse::<u64>().ok());
    match last.filter(|last| *last <= sent) {
        Some(last) => Ok(last),
        None => stage.fail(&format!("`since` of 7-0 to 7-{sent}"), &element.to_string()),
    }
}

async fn delivers_up_to(stage: &mut SuiteRun, last: u64) -> StepResult {
    for number in 1..=last {
        stage.delivers("orders", &format!("7-{number}")).await?;
    }
    Ok(())
}

/// Whether the client has sent a Close frame, disconnected, or unsubscribed.
fn leaves(stage: &SuiteRun, line: usize) -> bool {
    let line = &stage.lines[line];
    line.closed.is_some()
        || line.ended.is_some()
        || line.requests.iter().any(|asked| asked.body["type"] == "unsubscribe")
}

pub(super) async fn stale(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    stage.state("live").await?;
    let is_stale = |event: &Value| event["state"] == "stale";
    stage
        .until("the state \"stale\" before two intervals", INTERVAL * 2, |stage| {
            stage.states.pop_front().filter(|(_, event)| is_stale(event))
        })
        .await?;
    heartbeat(&mut stage, line).await;
    stage.state("live").await?;
    stage.finish().await
}
