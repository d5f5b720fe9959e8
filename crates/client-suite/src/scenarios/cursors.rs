//! Rules 11 to 19: which cursors are stored, and sent back.

use std::time::Duration;

use serde_json::{Value, json};

use super::requests::{publish, published};
use crate::{
    requests::elements,
    script::{live, of_stream, past, pushed, time_in},
    stage::{PATIENCE, SuiteRun},
    suite::Suite,
    trace::StepResult,
};

pub(super) async fn first_cursor(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, asked) = stage.opened(&[live("orders", "0-0")]).await?;
    stage.check(asked.element("orders")["since"].is_null(), "no `since` without a cursor", "`since`")?;
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "0-0" })).await?;
    stage.grant(line, &asked, &[past("orders", "0-0")], &[]).await;
    stage.replayed(line, "orders", "7-1").await;
    stage.delivers("orders", "7-1").await?;
    stage.finish().await
}

pub(super) async fn opaque_cursor(suite: Suite) -> StepResult {
    let (first, second) = ("anchor:Z\u{fc}rich/7f==", "99999999999999999999999-1");
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", first)]).await?;
    stage.cut(line);
    let line = stage.resumed(json!({ "orders": first })).await?;
    stage.push(line, "orders", second).await;
    stage.delivers("orders", second).await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": second })).await?;
    stage.finish().await
}

pub(super) async fn null_cursor(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["logs"])).await?;
    let granted = json!({ "channel": "logs", "class": "event", "cursor": null, "live": true });
    let (line, _) = stage.opened(std::slice::from_ref(&granted)).await?;
    stage.send_text(line, &pushed(&json!({ "n": 1 }), &json!({ "channel": "logs" }))).await;
    let expected = "a message of logs with `id` null";
    let event = stage.until(expected, PATIENCE, |stage| stage.data.pop_front()).await?;
    let is = event["id"].is_null() && event["channel"] == "logs" && event["data"] == json!({ "n": 1 });
    stage.check(is, expected, &event.to_string())?;
    stage.cut(line);
    stage.resumed(json!({ "logs": null })).await?;
    stage.finish().await
}

pub(super) async fn resume(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    for id in ["7-41", "7-42"] {
        stage.push(line, "orders", id).await;
        stage.delivers("orders", id).await?;
    }
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "7-42" })).await?;
    stage.grant(line, &asked, &[past("orders", "7-42")], &[]).await;
    for id in ["7-43", "7-44"] {
        stage.replayed(line, "orders", id).await;
    }
    let end = json!([{ "channel": "orders", "cursor": "7-44", "replayed": 2, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.push(line, "orders", "7-45").await;
    for id in ["7-43", "7-44"] {
        let event = stage.delivers("orders", id).await?;
        stage.check(event["replayed"] == true, "`replayed` of a replayed message", &event.to_string())?;
    }
    stage.delivers("orders", "7-45").await?;
    stage.finish().await
}

pub(super) async fn state_channel(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["ticker:X"])).await?;
    let granted = json!({ "channel": "ticker:X", "class": "state", "cursor": "7-1", "live": false });
    let (line, _) = stage.opened(&[granted]).await?;
    stage.push_with(line, "ticker:X", "7-1", json!({ "snapshot": true })).await;
    let end = json!([{ "channel": "ticker:X", "cursor": "7-1", "replayed": 1, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.push_with(line, "ticker:X", "7-9", json!({ "conflated": 7 })).await;
    let event = stage.delivers("ticker:X", "7-1").await?;
    stage.check(event["snapshot"] == true, "`snapshot` of the current value", &event.to_string())?;
    let event = stage.delivers("ticker:X", "7-9").await?;
    stage.check(event["conflated"] == 7, "`conflated` 7", &event.to_string())?;
    stage.cut(line);
    stage.resumed(json!({ "ticker:X": "7-9" })).await?;
    stage.finish().await
}

pub(super) async fn epoch_change(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "9-99")]).await?;
    // As text, 10-0 comes before 9-100; by its number, 3-5 comes before both.
    for id in ["9-100", "10-0", "10-1", "3-5"] {
        stage.push(line, "orders", id).await;
        stage.delivers("orders", id).await?;
    }
    stage.cut(line);
    stage.resumed(json!({ "orders": "3-5" })).await?;
    stage.finish().await
}

pub(super) async fn left_channel(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let granted = [of_stream(live("orders", "7-40"), "@"), of_stream(live("risk", "7-40"), "@")];
    let (line, _) = stage.opened(&granted).await?;
    stage.hold().await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers_nothing(Duration::from_millis(300)).await?;
    stage.command(&json!({ "command": "unsubscribe", "channels": ["orders"] })).await?;
    let asked = stage.request(line, "unsubscribe", "`unsubscribe` of orders").await?;
    stage.push(line, "orders", "7-42").await;
    stage.send(line, &json!({ "type": "unsubscribed", "id": asked.body["id"], "channels": ["orders"] })).await;
    stage.push(line, "risk", "7-43").await;
    stage.go().await?;
    // Messages that wait for the application may be delivered or dropped.
    let waits = |stage: &mut SuiteRun| stage.data.pop_front_if(|event| event["id"] == "7-41");
    stage.watch(PATIENCE, |stage| !stage.data.is_empty()).await?;
    waits(&mut stage);
    stage.delivers("risk", "7-43").await?;
    stage.reports_cursors(&json!({ "risk": "7-43" })).await?;
    stage.cut(line);
    stage.resumed(json!({ "risk": "7-43" })).await?;
    stage.finish().await
}

pub(super) async fn gap(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let (line, _) =
        stage.opened(&[of_stream(live("orders", "7-40"), "@"), of_stream(live("risk", "7-40"), "@")]).await?;
    stage.push(line, "orders", "7-41").await;
    let gap = json!({
        "type": "gap", "channels": ["orders", "risk"], "after": "7-41", "before": null, "count": null,
        "reason": "failover", "cursor": "8-0",
    });
    stage.send(line, &gap).await;
    stage.push(line, "risk", "8-3").await;
    stage.delivers("orders", "7-41").await?;
    stage.reports_gap(&gap).await?;
    stage.delivers("risk", "8-3").await?;
    let gap = json!({
        "type": "gap", "channels": ["orders", "risk"], "after": "8-3", "before": "8-9", "count": 5,
        "reason": "backplane", "cursor": "8-8",
    });
    stage.send(line, &gap).await;
    stage.reports_gap(&gap).await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "8-8", "risk": "8-8" })).await?;
    stage.finish().await
}

pub(super) async fn shared_stream(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk", "ticker:X"])).await?;
    let granted =
        [of_stream(live("orders", "7-40"), "@"), of_stream(live("risk", "7-40"), "@"), live("ticker:X", "5-5")];
    let (line, _) = stage.opened(&granted).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-41", "risk": "7-41", "ticker:X": "5-5" })).await?;
    stage.finish().await
}

async fn heartbeat(stage: &mut SuiteRun, line: usize, cursors: Value) {
    let now = time_in(0);
    stage.send(line, &json!({ "type": "heartbeat", "timestamp": now, "server_time": now, "cursors": cursors })).await;
}

pub(super) async fn heartbeat_cursors(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk", "bots", "ticker:X"])).await?;
    let granted = [
        of_stream(live("orders", "7-40"), "@"),
        of_stream(live("risk", "7-40"), "@"),
        of_stream(past("bots", "7-30"), "@"),
        live("ticker:X", "5-5"),
    ];
    let (line, _) = stage.opened(&granted).await?;
    heartbeat(&mut stage, line, json!({ "@": "7-60", "ticker:X": "5-9", "unknown": "1-1" })).await;
    stage.push(line, "ticker:X", "5-10").await;
    stage.delivers("ticker:X", "5-10").await?;
    stage.cut(line);
    let since = json!({ "orders": "7-60", "risk": "7-60", "bots": "7-30", "ticker:X": "5-10" });
    stage.resumed(since).await?;
    stage.finish().await
}

pub(super) async fn handled(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.reports_cursors(&json!({ "orders": "7-40" })).await?;
    stage.hold().await?;
    stage.push(line, "orders", "7-41").await;
    stage.push(line, "orders", "7-42").await;
    heartbeat(&mut stage, line, json!({ "orders": "7-50" })).await;
    stage.delivers_nothing(Duration::from_millis(300)).await?;
    stage.reports_cursors(&json!({ "orders": "7-40" })).await?;
    stage.go().await?;
    stage.delivers("orders", "7-41").await?;
    stage.delivers("orders", "7-42").await?;
    stage.reports_cursors(&json!({ "orders": "7-50" })).await?;
    stage.finish().await
}

pub(super) async fn stored_cursors(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!([{ "channel": "orders", "since": "7-33" }, "risk"])).await?;
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "7-33", "risk": null })).await?;
    stage.grant(line, &asked, &[past("orders", "7-33"), live("risk", "7-50")], &[]).await;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-33", "risk": "7-50" })).await?;
    stage.finish().await
}

pub(super) async fn options(suite: Suite) -> StepResult {
    let trades = json!({ "channel": "trades:X", "last": 50 });
    let ticker = json!({ "channel": "ticker:X", "max_rate": 2, "snapshot": false });
    let logs = json!({ "channel": "logs", "last": 5 });
    let mut stage = suite.start(json!([trades, ticker, logs])).await?;
    let none = json!({ "channel": "logs", "class": "event", "cursor": null, "live": true });
    let (line, asked) = stage.opened(&[live("trades:X", "7-40"), live("ticker:X", "5-5"), none]).await?;
    for element in [&trades, &ticker, &logs] {
        let got = asked.element(element["channel"].as_str().unwrap_or_default());
        stage.check(got == element, &format!("the element {element}"), &got.to_string())?;
    }
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["trades:X", "ticker:X", "logs"]).await?;
    let again = [
        json!({ "channel": "trades:X", "since": "7-40" }),
        json!({ "channel": "ticker:X", "max_rate": 2, "snapshot": false, "since": "5-5" }),
        logs,
    ];
    for element in &again {
        let got = asked.element(element["channel"].as_str().unwrap_or_default());
        stage.check(got == element, &format!("the element {element}"), &got.to_string())?;
    }
    stage.finish().await
}

pub(super) async fn options_changed(suite: Suite) -> StepResult {
    let name = "ticker:X";
    let mut stage = suite.start(json!([{ "channel": name, "max_rate": 2 }])).await?;
    let (line, _) = stage.opened(&[live(name, "7-40")]).await?;
    stage.state("live").await?;
    let other = json!({ "channel": name, "max_rate": 9 });
    stage.command(&json!({ "command": "subscribe", "channels": [other] })).await?;
    let expected = "`subscribe` of ticker:X with `max_rate` 9";
    let first = stage.until(expected, PATIENCE, |stage| stage.lines[line].requests.pop_front()).await?;
    // A client may unsubscribe first; then it has no cursor.
    let left = first.body["type"] == "unsubscribe";
    let (asked, since) = if left {
        stage.send(line, &json!({ "type": "unsubscribed", "id": first.body["id"], "channels": [name] })).await;
        (stage.request(line, "subscribe", expected).await?, Value::Null)
    } else {
        (first, "7-40".into())
    };
    let element = elements(&asked.body).unwrap_or_default().pop().unwrap_or_default();
    let is = element["max_rate"] == 9 && element["since"] == since;
    stage.check(is, &format!("{expected} and `since` {since}"), &asked.body.to_string())?;
    if !left {
        // Sent for the previous subscription; the replay repeats it.
        stage.push(line, name, "7-41").await;
        stage.delivers_nothing(Duration::from_millis(300)).await?;
    }
    let reply = json!({ "type": "subscribed", "id": asked.body["id"], "channels": [past(name, "7-40")], "errors": [] });
    stage.send(line, &reply).await;
    stage.replayed(line, name, "7-41").await;
    let end = json!([{ "channel": name, "cursor": "7-41", "replayed": 1, "complete": true }]);
    stage.caught_up(line, end).await;
    stage.push(line, name, "7-42").await;
    stage.delivers(name, "7-41").await?;
    stage.delivers(name, "7-42").await?;
    stage.cut(line);
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ name: "7-42" })).await?;
    stage.check(asked.element(name)["max_rate"] == 9, expected, &asked.element(name).to_string())?;
    stage.finish().await
}

pub(super) async fn unsubscribe(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "risk"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40"), live("risk", "7-40")]).await?;
    stage.command(&json!({ "command": "unsubscribe", "channels": ["orders"] })).await?;
    let asked = stage.request(line, "unsubscribe", "`unsubscribe` of orders").await?;
    stage.check(asked.body["channels"] == json!(["orders"]), "`unsubscribe` of orders", &asked.body.to_string())?;
    let reply = json!({ "type": "unsubscribed", "id": asked.body["id"], "channels": ["orders"] });
    stage.send(line, &reply).await;
    stage.cut(line);
    let line = stage.resumed(json!({ "risk": "7-40" })).await?;
    stage.command(&json!({ "command": "subscribe", "channels": ["orders"] })).await?;
    let asked = stage.resumes(line, &json!({ "orders": null })).await?;
    stage.grant(line, &asked, &[live("orders", "7-60")], &[]).await;
    stage.push(line, "orders", "7-61").await;
    stage.delivers("orders", "7-61").await?;
    stage.finish().await
}

pub(super) async fn other_user(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    publish(&mut stage, "alice's", 1, 20_000).await?;
    published(&mut stage, line, 1).await?;
    stage.cut(line);
    let (mut line, mut user) = (line, json!("alice"));
    for (next, cursor) in [(json!("bob"), "2-1"), (json!("bob"), "2-1"), (Value::Null, "3-1"), (json!("alice"), "4-1")]
    {
        line = stage.connected_with(json!({ "user": next })).await?;
        let since = if next == user { json!(cursor) } else { Value::Null };
        let asked = stage.resumes(line, &json!({ "orders": since })).await?;
        stage.grant(line, &asked, &[live("orders", cursor)], &[]).await;
        if user == "alice" {
            stage.reports_outcome("alice's", "unknown").await?;
        }
        user = next;
        stage.cut(line);
    }
    stage.lines[line].requests.clear();
    stage.finish().await
}
