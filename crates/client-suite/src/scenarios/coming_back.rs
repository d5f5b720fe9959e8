//! Rules 33 to 39: whether to reconnect, and when.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde_json::{Value, json};

use crate::{
    script::{closing, live, past, refusal, with_retry},
    stage::{PATIENCE, SuiteRun},
    suite::Suite,
    trace::StepResult,
};

/// The bound of the first wait, in milliseconds; it doubles with each failure.
const BOUND_MS: u64 = 500;
/// Concurrent runs of one scenario, because starting a client may be expensive.
const RUNS: usize = 4;
/// How long to wait for a state that must not occur.
const QUIET: Duration = Duration::from_millis(500);

async fn opened(suite: &Suite) -> StepResult<(SuiteRun, usize)> {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    Ok((stage, line))
}

/// The client reconnects and resumes, not before `after`.
async fn comes_back(mut stage: SuiteRun, since: Instant, after: Duration) -> StepResult {
    let arrival = stage.arrival().await?;
    stage.check_wait("the next connection", arrival.at - since, after, after.max(Duration::from_millis(BOUND_MS)))?;
    let line = stage.upgrade(arrival).await?;
    stage.welcome(line, json!({})).await;
    let asked = stage.resumes(line, &json!({ "orders": "7-40" })).await?;
    stage.grant(line, &asked, &[live("orders", "7-40")], &[]).await;
    stage.finish().await
}

pub(super) async fn closing_yes(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    let began = Instant::now();
    // The replica disappears before it can send the Close frame.
    stage.lines[line].answers = false;
    stage.send(line, &closing(1012, "yes", Some(900))).await;
    comes_back(stage, began, Duration::from_millis(900)).await
}

pub(super) async fn closing_no(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    stage.send(line, &closing(1013, "no", None)).await;
    stage.close(line, Some(1013)).await;
    stage.ends(Some(1013)).await?;
    stage.finish().await
}

pub(super) async fn closing_over_code(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    let began = Instant::now();
    stage.send(line, &closing(4500, "yes", Some(600))).await;
    stage.close(line, Some(4500)).await;
    comes_back(stage, began, Duration::from_millis(600)).await?;
    for (code, again) in [(4321, true), (4777, false)] {
        let (mut stage, line) = opened(&suite).await?;
        let began = Instant::now();
        stage.send(line, &closing(code, "by_and_by", None)).await;
        stage.close(line, Some(code)).await;
        if again {
            comes_back(stage, began, Duration::ZERO).await?;
        } else {
            stage.ends(Some(code)).await?;
            stage.finish().await?;
        }
    }
    Ok(())
}

pub(super) async fn final_codes(suite: Suite) -> StepResult {
    let codes = [1000, 1002, 1003, 1007, 1008, 1009, 4002, 4004, 4500, 4501, 4777];
    let ends = async |code| {
        let (mut stage, line) = opened(&suite).await?;
        stage.close(line, Some(code)).await;
        stage.ends(Some(code)).await?;
        stage.finish().await
    };
    stream::iter(codes.map(ends)).buffer_unordered(RUNS).try_collect().await
}

pub(super) async fn retried_codes(suite: Suite) -> StepResult {
    let codes = [1001, 1011, 1012, 1013, 4003, 4100, 4101, 4102, 4103, 4104, 4321].map(Some);
    let closes: Vec<_> = codes.into_iter().chain([None]).collect();
    let again = async |codes: &[Option<u16>]| {
        let (mut stage, mut line) = opened(&suite).await?;
        for code in codes {
            stage.close(line, *code).await;
            line = stage.resumed(json!({ "orders": "7-40" })).await?;
        }
        let began = stage.cut(line);
        comes_back(stage, began, Duration::ZERO).await
    };
    try_join_all(closes.chunks(closes.len().div_ceil(RUNS)).map(again)).await.map(drop)
}

pub(super) async fn failed_handshake(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    for head in ["HTTP/1.1 502 Bad Gateway", "HTTP/1.1 404 Not Found"] {
        let arrival = stage.arrival().await?;
        stage.answer(arrival, head).await;
    }
    let arrival = stage.arrival().await?;
    drop(arrival);
    stage.opened(&[live("orders", "7-40")]).await?;
    stage.finish().await
}

pub(super) async fn after_ms(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    let began = Instant::now();
    stage.send(line, &closing(4003, "yes", Some(1500))).await;
    stage.close(line, Some(4003)).await;
    let event = stage.state("waiting").await?;
    // The back-off, of 50 to 500 ms, is shorter: it is not added. A busy client may have spent some of the time already.
    let is = event["wait_ms"].as_u64().is_some_and(|wait_ms| (1000..1540).contains(&wait_ms));
    let is = is && event["code"] == 4003;
    stage.check(is, "`waiting` with a `wait_ms` of 1500 and `code` 4003", &event.to_string())?;
    comes_back(stage, began, Duration::from_millis(1500)).await
}

pub(super) async fn refused(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let arrival = stage.arrival().await?;
    let line = stage.upgrade(arrival).await?;
    let began = Instant::now();
    stage.send(line, &closing(1013, "yes", Some(800))).await;
    stage.close(line, Some(1013)).await;
    let arrival = stage.arrival().await?;
    let after = Duration::from_millis(800);
    stage.check_wait("the next connection", arrival.at - began, after, after)?;
    let line = stage.upgrade(arrival).await?;
    stage.send(line, &closing(1008, "no", None)).await;
    stage.close(line, Some(1008)).await;
    stage.ends(Some(1008)).await?;
    stage.finish().await
}

/// The next wait that the client reports follows the back-off after this number of failures.
async fn backs_off(stage: &mut SuiteRun, failures: u32) -> StepResult<Duration> {
    let bound = BOUND_MS << failures;
    let wait_ms = stage.waits().await?;
    let expected = format!("a wait of {} to {bound} ms", bound / 10);
    stage.check((bound / 10..=bound).contains(&wait_ms), &expected, &format!("{wait_ms} ms"))?;
    Ok(Duration::from_millis(wait_ms))
}

pub(super) async fn back_off(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let mut arrival = stage.arrival().await?;
    for failures in 0..4 {
        let began = Instant::now();
        drop(arrival);
        stage.note("gateway: ends the TCP connection without an answer");
        let wait = backs_off(&mut stage, failures).await?;
        arrival = stage.arrival().await?;
        stage.check_wait("the next connection", arrival.at - began, wait, wait)?;
    }
    drop(arrival);
    backs_off(&mut stage, 4).await?;
    stage.finish().await
}

/// Ends this number of connections right after the welcome.
async fn flap(stage: &mut SuiteRun, times: u32) -> StepResult {
    for failures in 0..times {
        let line = stage.connected().await?;
        stage.subscribes(line, &["orders"]).await?;
        stage.cut(line);
        if failures + 1 < times {
            backs_off(stage, failures).await?;
        }
    }
    Ok(())
}

pub(super) async fn flapping(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    flap(&mut stage, 5).await?;
    backs_off(&mut stage, 4).await?;
    stage.finish().await
}

pub(super) async fn back_off_reset(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    flap(&mut stage, 4).await?;
    backs_off(&mut stage, 3).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.is_quiet(line, Duration::from_millis(5300)).await?;
    stage.cut(line);
    backs_off(&mut stage, 0).await?;
    stage.finish().await
}

pub(super) async fn stop(suite: Suite) -> StepResult {
    let (mut stage, line) = opened(&suite).await?;
    stage.command(&json!({ "command": "stop" })).await?;
    let expected = "a Close frame with 1000";
    let code = stage.until(expected, PATIENCE, |stage| stage.lines[line].closed).await?;
    stage.check(code == Some(1000), expected, &format!("{code:?}"))?;
    stage.stays_away(Duration::from_secs(1)).await?;
    stage.program.ended().await.inspect_err(|_| stage.trace.fail())
}

pub(super) async fn states(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!([{ "channel": "orders", "since": "7-40" }])).await?;
    let (line, _) = stage.opened(&[past("orders", "7-40")]).await?;
    expect_states(&mut stage, &["connecting", "catching_up"]).await?;
    let end = json!([{ "channel": "orders", "cursor": "7-40", "replayed": 0, "complete": true }]);
    stage.caught_up(line, end).await;
    expect_states(&mut stage, &["live"]).await?;
    stage.close(line, Some(1011)).await;
    let waiting = expect_states(&mut stage, &["waiting"]).await?;
    let is = waiting["code"] == 1011 && waiting["wait_ms"].is_u64();
    stage.check(is, "`waiting` with `code` 1011 and `wait_ms`", &waiting.to_string())?;
    let line = stage.resumed(json!({ "orders": "7-40" })).await?;
    expect_states(&mut stage, &["connecting", "catching_up", "live"]).await?;
    stage.send(line, &closing(4500, "no", None)).await;
    stage.close(line, Some(4500)).await;
    let closed = expect_states(&mut stage, &["closed"]).await?;
    stage.check(closed["code"] == 4500, "`closed` with `code` 4500", &closed.to_string())?;
    stage.finish().await
}

pub(super) async fn live_state(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders"]).await?;
    let refused = with_retry(refusal("orders", 1013, "try_again_later"), 30_000);
    stage.grant(line, &asked, &[], &[refused]).await;
    let is_live = |stage: &mut SuiteRun| stage.states.iter().find(|(_, event)| event["state"] == "live").cloned();
    let expected = "not live while a channel has to wait";
    stage.nothing(expected, QUIET, |stage| is_live(stage).map(|(_, event)| event.to_string())).await?;
    stage.command(&json!({ "command": "unsubscribe", "channels": ["orders"] })).await?;
    stage.state("live").await?;
    // A client may unsubscribe the channel.
    stage.watch(QUIET, |_| false).await?;
    stage.lines[line].requests.clear();
    stage.finish().await?;
    let mut stage = suite.start(json!([])).await?;
    stage.connected().await?;
    stage.state("live").await?;
    stage.finish().await
}

/// The next states are these. Returns the last one.
async fn expect_states(stage: &mut SuiteRun, states: &[&str]) -> StepResult<Value> {
    let mut last = Value::Null;
    for state in states {
        let expected = format!("the state {state:?} next");
        let (_, event) = stage.until(&expected, PATIENCE, |stage| stage.states.pop_front()).await?;
        stage.check(event["state"] == *state, &expected, &event.to_string())?;
        last = event;
    }
    Ok(last)
}
