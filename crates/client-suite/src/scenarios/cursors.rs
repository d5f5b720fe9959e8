//! Rules 11 to 19: which cursors are stored, and sent back.

use serde_json::json;

use crate::{
    script::{live, of_stream, past, pushed},
    stage::PATIENCE,
    suite::Suite,
    trace::Verdict,
};

pub(super) async fn first_cursor(suite: Suite) -> Verdict {
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

pub(super) async fn opaque_cursor(suite: Suite) -> Verdict {
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

pub(super) async fn null_cursor(suite: Suite) -> Verdict {
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

pub(super) async fn resume(suite: Suite) -> Verdict {
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

pub(super) async fn state_channel(suite: Suite) -> Verdict {
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

pub(super) async fn epoch_change(suite: Suite) -> Verdict {
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

pub(super) async fn gap(suite: Suite) -> Verdict {
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

pub(super) async fn shared_stream(suite: Suite) -> Verdict {
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

pub(super) async fn heartbeat_cursors(suite: Suite) -> Verdict {
    let mut stage = suite.start(json!(["orders", "risk", "bots", "ticker:X"])).await?;
    let granted = [
        of_stream(live("orders", "7-40"), "@"),
        of_stream(live("risk", "7-40"), "@"),
        of_stream(past("bots", "7-30"), "@"),
        live("ticker:X", "5-5"),
    ];
    let (line, _) = stage.opened(&granted).await?;
    let now = crate::script::time_in(0);
    let cursors = json!({ "@": "7-60", "ticker:X": "5-9", "unknown": "1-1" });
    stage.send(line, &json!({ "type": "heartbeat", "timestamp": now, "server_time": now, "cursors": cursors })).await;
    stage.push(line, "ticker:X", "5-10").await;
    stage.delivers("ticker:X", "5-10").await?;
    stage.cut(line);
    let since = json!({ "orders": "7-60", "risk": "7-60", "bots": "7-30", "ticker:X": "5-10" });
    stage.resumed(since).await?;
    stage.finish().await
}

pub(super) async fn handled(suite: Suite) -> Verdict {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.reports_cursors(&json!({ "orders": "7-40" })).await?;
    stage.hold().await?;
    stage.push(line, "orders", "7-41").await;
    stage.push(line, "orders", "7-42").await;
    stage.delivers_nothing(std::time::Duration::from_millis(300)).await?;
    stage.reports_cursors(&json!({ "orders": "7-40" })).await?;
    stage.go().await?;
    stage.delivers("orders", "7-41").await?;
    stage.delivers("orders", "7-42").await?;
    stage.reports_cursors(&json!({ "orders": "7-42" })).await?;
    stage.finish().await
}

pub(super) async fn stored_cursors(suite: Suite) -> Verdict {
    let mut stage = suite.start(json!([{ "channel": "orders", "since": "7-33" }, "risk"])).await?;
    let line = stage.connected().await?;
    let asked = stage.resumes(line, &json!({ "orders": "7-33", "risk": null })).await?;
    stage.grant(line, &asked, &[past("orders", "7-33"), live("risk", "7-50")], &[]).await;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-33", "risk": "7-50" })).await?;
    stage.finish().await
}

pub(super) async fn options(suite: Suite) -> Verdict {
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

pub(super) async fn unsubscribe(suite: Suite) -> Verdict {
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

pub(super) async fn other_user(suite: Suite) -> Verdict {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    stage.push(line, "orders", "7-41").await;
    stage.delivers("orders", "7-41").await?;
    stage.cut(line);
    let line = stage.connected_with(json!({ "user": "bob" })).await?;
    let asked = stage.resumes(line, &json!({ "orders": null })).await?;
    stage.grant(line, &asked, &[live("orders", "2-1")], &[]).await;
    stage.cut(line);
    let line = stage.connected_with(json!({ "user": "bob" })).await?;
    let asked = stage.resumes(line, &json!({ "orders": "2-1" })).await?;
    stage.grant(line, &asked, &[live("orders", "2-1")], &[]).await;
    stage.finish().await
}
