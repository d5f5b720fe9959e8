//! Rules 6 to 10: what a frame may contain, and what cannot be read.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tickgate_wire::websocket::Opcode;

use crate::{
    script::{live, publication, pushed, refusal, with_retry},
    stage::{PATIENCE, SocketLine},
    suite::Suite,
    trace::StepResult,
};

pub(super) async fn push_or_reply(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, asked) = stage.opened(&[live("orders", "7-40")]).await?;
    let subscribe_id = asked.0[0].0.clone();
    let looks_like = [
        json!({ "type": "closing", "code": 4500, "reconnect": "no", "n": "7-41" }),
        json!({ "type": "gap", "channels": ["orders"], "cursor": "9-9", "n": "7-42" }),
        json!({ "type": "unsubscribed", "channels": ["orders"], "code": 4502, "n": "7-43" }),
        json!({ "type": "heartbeat", "cursors": { "orders": "9-9" }, "n": "7-44" }),
        json!({ "type": "error", "id": subscribe_id, "code": 4004, "n": "7-45" }),
    ];
    for data in &looks_like {
        let id = data["n"].as_str().unwrap_or_default();
        stage.send_text(line, &pushed(data, &json!({ "channel": "orders", "id": id }))).await;
        let event = stage.delivers("orders", id).await?;
        stage.check(event["data"] == *data, &format!("`data` {data}"), &event.to_string())?;
    }
    let publish =
        json!({ "command": "publish", "ref": "p", "channel": "out", "data": { "a": 1 }, "deadline_ms": 9000 });
    stage.command(&publish).await?;
    let asked = stage.request(line, "publish", "`publish` to out").await?;
    let data = json!({ "type": "published", "id": asked.body["id"], "publication_id": "9-9", "n": "7-46" });
    stage.send_text(line, &pushed(&data, &json!({ "channel": "orders", "id": "7-46" }))).await;
    stage.delivers("orders", "7-46").await?;
    stage.check(stage.reports.is_empty(), "no outcome before the reply", "an outcome")?;
    let reply = json!({
        "type": "published", "id": asked.body["id"], "channel": "out", "publication_id": "3-1", "duplicate": false,
    });
    stage.send(line, &reply).await;
    let outcome = stage.reports_outcome("p", "accepted").await?;
    stage.check(outcome["id"] == "3-1", "`id` 3-1", &outcome.to_string())?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-46" })).await?;
    stage.finish().await
}

pub(super) async fn array_frame(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let line = stage.connected().await?;
    let asked = stage.subscribes(line, &["orders"]).await?;
    let reply = json!({ "type": "subscribed", "id": asked.0[0].0, "channels": [live("orders", "7-40")], "errors": [] });
    let push = |id| publication("orders", id, json!({}));
    stage.send_text(line, &format!("[{reply},{},{}]", push("7-41"), push("7-42"))).await;
    stage.delivers("orders", "7-41").await?;
    stage.delivers("orders", "7-42").await?;
    stage.send_text(line, "[]").await;
    let heartbeat = json!({ "type": "heartbeat", "timestamp": crate::script::time_in(0) });
    stage.send_text(line, &format!(" [ {heartbeat}, {}\n]", push("7-43"))).await;
    stage.delivers("orders", "7-43").await?;
    stage.send_text(line, &format!("[{},7,{}]", push("7-44"), push("7-45"))).await;
    stage.delivers("orders", "7-44").await?;
    stage.resumed(json!({ "orders": "7-44" })).await?;
    stage.finish().await
}

pub(super) async fn large_message(suite: Suite) -> StepResult {
    const BYTES: usize = 1 << 20;
    let mut stage = suite.start(json!(["orders"])).await?;
    let (line, _) = stage.opened(&[live("orders", "7-40")]).await?;
    let meta = json!({ "channel": "orders", "id": "7-41" });
    let rest = pushed(&json!({ "fill": "", "n": "7-41" }), &meta).len();
    let text = pushed(&json!({ "fill": "x".repeat(BYTES - rest), "n": "7-41" }), &meta);
    stage.note(&format!("#{line} gateway: a message of {} bytes in four fragments", text.len()));
    if let Some(socket) = &mut stage.lines[line].socket {
        socket.fragments(&text, 4).await;
    }
    stage.delivers("orders", "7-41").await?;
    stage.until("pongs to the pings between", PATIENCE, |stage| stage.lines[line].pongs.pop()).await?;
    stage.finish().await
}

pub(super) async fn newer_server(suite: Suite) -> StepResult {
    let mut stage = suite.start(json!(["orders", "ledger"])).await?;
    let newer = json!({ "server": "tickgate/9.0.0", "features": ["tables", "dead_man"], "region": { "name": "eu" } });
    let line = stage.connected_with(newer).await?;
    stage.send(line, &json!({ "type": "market_status", "open": true })).await;
    let asked = stage.subscribes(line, &["orders", "ledger"]).await?;
    let mut orders = live("orders", "7-40");
    orders["depth"] = json!(5);
    let ledger = json!({ "channel": "ledger", "class": "table", "cursor": "3-0", "live": true });
    stage.send(line, &json!({ "type": "subscribed", "id": "nobody's", "channels": "?" })).await;
    stage.grant(line, &asked, &[orders], &[with_retry(refusal("ledger", 4777, "not_yet"), 300)]).await;
    stage.granted(line, &[ledger]).await?;
    stage.push_with(line, "orders", "7-41", json!({ "op": "upsert" })).await;
    stage.delivers("orders", "7-41").await?;
    stage.push(line, "ledger", "3-1").await;
    stage.delivers("ledger", "3-1").await?;
    let mut gap = json!({
        "type": "gap", "channels": ["orders"], "after": "7-41", "before": "7-44", "count": 2, "reason": "entitlement",
        "cursor": "7-43", "until": "tomorrow",
    });
    stage.send(line, &gap).await;
    gap["event"] = "gap".into();
    stage.reports_gap(&gap).await?;
    stage.is_quiet(line, Duration::from_millis(300)).await?;
    stage.cut(line);
    stage.resumed(json!({ "orders": "7-43", "ledger": "3-1" })).await?;
    stage.finish().await
}

pub(super) async fn malformed(suite: Suite) -> StepResult {
    let frames: [(Opcode, &[u8]); 11] = [
        (Opcode::Text, br#"{"type":"update","n":"7-42","_meta":{"channel":"orders","id":"7-42"}"#),
        (Opcode::Text, br#"{"type":"update","n":"7-42","_meta":{"id":"7-42"}}"#),
        (Opcode::Text, br#"{"type":"update","n":"7-42","_meta":{"channel":"orders","id":7}}"#),
        (Opcode::Text, br#"{"type":"heartbeat","timestamp":"","server_time":"","cursors":{"orders":7}}"#),
        (Opcode::Text, br#"{"type":"caught_up","channels":{"channel":"orders"}}"#),
        (Opcode::Text, br#"{"type":"closing","code":"4500","error":"","message":"","reconnect":"no"}"#),
        (Opcode::Text, b"42"),
        (Opcode::Text, br#"[{"type":"heartbeat"},"text"]"#),
        (Opcode::Text, br#"{"type":"gap","channels":"orders"}"#),
        (Opcode::Text, br#"{"no":"type"}"#),
        (Opcode::Binary, b"\x00\x01"),
    ];
    try_join_all(frames.chunks(3).map(|frames| unreadable(&suite, frames))).await.map(drop)
}

/// One run for all frames, because starting a client costs more than a connection.
async fn unreadable(suite: &Suite, frames: &[(Opcode, &[u8])]) -> StepResult {
    let mut stage = suite.start(json!(["orders"])).await?;
    let (mut line, _) = stage.opened(&[live("orders", "8-0")]).await?;
    let mut last = "8-0".to_owned();
    for (at, (opcode, payload)) in frames.iter().enumerate() {
        stage.note(&format!("#{line} gateway: {opcode:?} {}", String::from_utf8_lossy(payload)));
        if let Some(socket) = &mut stage.lines[line].socket {
            socket.frame(*opcode, payload).await;
        }
        stage.push(line, "orders", "7-43").await;
        let again = stage.resumed(json!({ "orders": last })).await?;
        let ended = |line: &SocketLine| line.closed.is_some() || line.ended.is_some();
        stage.until("the old connection is closed", PATIENCE, |stage| ended(&stage.lines[line]).then_some(())).await?;
        last = format!("8-{}", at + 1);
        stage.push(again, "orders", &last).await;
        stage.delivers("orders", &last).await?;
        line = again;
    }
    let closed: Option<Value> =
        stage.states.iter().find(|(_, event)| event["state"] == "closed").map(|(_, e)| e.clone());
    stage.check(closed.is_none(), "the client stays", "`closed`")?;
    stage.finish().await
}
