//! The vocabulary of scenarios: what the gateway does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tickgate_wire::time::Timestamp;

use crate::{
    stage::{OfferedConnection, ReceivedRequest, SocketLine, SuiteRun},
    trace::StepResult,
};

/// The sub-protocol of the contract.
pub(crate) const PROTOCOL: &str = "tickgate.v1";
/// How long a client may take to close its connection once it is stopped.
const GOODBYE: Duration = Duration::from_secs(2);

/// The `subscribe` requests of a client: their ids and elements.
#[derive(Debug)]
pub(crate) struct Subscribes(pub Vec<(Value, Vec<Value>)>);

impl Subscribes {
    /// The element of a channel.
    pub(crate) fn element(&self, channel: &str) -> &Value {
        self.0.iter().flat_map(|(_, elements)| elements).find(|element| element["channel"] == channel).unwrap_or(&NONE)
    }

    /// The cursor of each channel; `null` without one.
    pub(crate) fn since(&self) -> BTreeMap<String, Value> {
        let elements = self.0.iter().flat_map(|(_, elements)| elements);
        elements
            .map(|element| (element["channel"].as_str().unwrap_or_default().to_owned(), element["since"].clone()))
            .collect()
    }
}

const NONE: Value = Value::Null;

/// A granted channel without a backlog to replay.
pub(crate) fn live(channel: &str, cursor: &str) -> Value {
    json!({ "channel": channel, "class": "reliable", "cursor": cursor, "live": true })
}

/// A granted channel whose backlog follows.
pub(crate) fn past(channel: &str, cursor: &str) -> Value {
    json!({ "channel": channel, "class": "reliable", "cursor": cursor, "live": false })
}

/// The same with a stream that other channels share.
pub(crate) fn of_stream(mut granted: Value, stream: &str) -> Value {
    granted["stream"] = stream.into();
    granted
}

/// A refused channel.
pub(crate) fn refusal(channel: &str, code: u16, error: &str) -> Value {
    json!({ "channel": channel, "code": code, "error": error, "message": "as the scenario has it" })
}

/// Adds that the same request may succeed after this time.
pub(crate) fn with_retry(mut refusal: Value, after_ms: u64) -> Value {
    refusal["details"] = json!({ "retry_after_ms": after_ms });
    refusal
}

/// The notice before a Close frame.
pub(crate) fn closing(code: u16, reconnect: &str, after_ms: Option<u64>) -> Value {
    let mut notice = json!({
        "type": "closing", "code": code, "error": "closing", "message": "as the scenario has it", "reconnect": reconnect,
    });
    if let Some(after_ms) = after_ms {
        notice["after_ms"] = after_ms.into();
    }
    notice
}

/// The time `seconds` from now, in the format of the wire.
pub(crate) fn time_in(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
    Timestamp::from_ms((now + seconds * 1000).cast_unsigned()).to_string()
}

impl SuiteRun {
    /// Upgrades a connection. Returns the number of its line.
    pub(crate) async fn upgrade(&mut self, arrival: OfferedConnection) -> StepResult<usize> {
        self.upgrade_as(arrival, Some(PROTOCOL)).await
    }

    pub(crate) async fn upgrade_as(&mut self, arrival: OfferedConnection, protocol: Option<&str>) -> StepResult<usize> {
        let Some(answer) = arrival.request.upgrade(protocol) else {
            return self.fail("the request of a WebSocket", &arrival.request.shown());
        };
        let line = self.add_line(arrival.stream);
        self.note(&format!("#{line} gateway: 101 {}", protocol.unwrap_or("without a sub-protocol")));
        if let Some(socket) = &mut self.lines[line].socket {
            socket.bytes(answer.as_bytes()).await;
        }
        Ok(line)
    }

    /// Answers a request for a connection with an HTTP response.
    pub(crate) async fn answer(&mut self, arrival: OfferedConnection, head: &str) {
        self.note(&format!("gateway: {}", head.replace("\r\n", " ")));
        let line = self.add_line(arrival.stream);
        if let Some(socket) = &mut self.lines[line].socket {
            socket.bytes(format!("{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).await;
        }
        self.cut(line);
    }

    /// Sends the welcome, with `fields` replaced.
    pub(crate) async fn welcome(&mut self, line: usize, fields: Value) {
        let now = time_in(0);
        let mut welcome = json!({
            "type": "connection_established", "timestamp": now, "message": "Connected to Tickgate",
            "connection_id": format!("c{line}"), "session": format!("session-{line}"), "user": "alice",
            "expires_at": time_in(3600), "server_time": now, "heartbeat_interval": 30,
            "limits": {
                "message_bytes": 65_536, "messages_per_second": 100, "messages_burst": 200, "subscriptions": 200,
                "queued_messages": 100, "names_per_second": 100, "names_burst": 400,
            },
            "resumed": false, "server": "tickgate/0.1.0", "features": [],
        });
        if let (Some(welcome), Value::Object(fields)) = (welcome.as_object_mut(), fields) {
            welcome.extend(fields);
        }
        self.send(line, &welcome).await;
    }

    /// The client connects and is welcomed. Returns the number of the line.
    pub(crate) async fn connected(&mut self) -> StepResult<usize> {
        self.connected_with(json!({})).await
    }

    pub(crate) async fn connected_with(&mut self, fields: Value) -> StepResult<usize> {
        let arrival = self.arrival().await?;
        let line = self.upgrade(arrival).await?;
        self.welcome(line, fields).await;
        Ok(line)
    }

    /// The client connects and subscribes to these channels, which are granted.
    pub(crate) async fn opened(&mut self, granted: &[Value]) -> StepResult<(usize, Subscribes)> {
        self.opened_with(granted, json!({})).await
    }

    pub(crate) async fn opened_with(&mut self, granted: &[Value], welcome: Value) -> StepResult<(usize, Subscribes)> {
        let line = self.connected_with(welcome).await?;
        let asked = self.granted(line, granted).await?;
        Ok((line, asked))
    }

    /// The client subscribes to these channels, which are granted.
    pub(crate) async fn granted(&mut self, line: usize, granted: &[Value]) -> StepResult<Subscribes> {
        let names: Vec<_> = granted.iter().filter_map(|granted| granted["channel"].as_str()).collect();
        let asked = self.subscribes(line, &names).await?;
        self.grant(line, &asked, granted, &[]).await;
        Ok(asked)
    }

    /// Answers each `subscribe` with its channels among the granted and the refused ones.
    pub(crate) async fn grant(&mut self, line: usize, asked: &Subscribes, granted: &[Value], refused: &[Value]) {
        for (id, elements) in &asked.0 {
            let of_request = |entry: &&Value| elements.iter().any(|element| element["channel"] == entry["channel"]);
            let channels: Vec<_> = granted.iter().filter(of_request).collect();
            let errors: Vec<_> = refused.iter().filter(of_request).collect();
            let reply = json!({ "type": "subscribed", "id": id, "channels": channels, "errors": errors });
            self.send(line, &reply).await;
        }
    }

    /// Answers a request with an error.
    pub(crate) async fn refuse(&mut self, line: usize, asked: &ReceivedRequest, mut error: Value) {
        error["type"] = "error".into();
        error["id"] = asked.body["id"].clone();
        error["timestamp"] = time_in(0).into();
        self.send(line, &error).await;
    }

    /// Sends a publication; its `n` is its id.
    pub(crate) async fn push(&mut self, line: usize, channel: &str, id: &str) {
        self.push_with(line, channel, id, json!({})).await;
    }

    pub(crate) async fn replayed(&mut self, line: usize, channel: &str, id: &str) {
        self.push_with(line, channel, id, json!({ "replayed": true })).await;
    }

    pub(crate) async fn push_with(&mut self, line: usize, channel: &str, id: &str, more: Value) {
        self.send_text(line, &publication(channel, id, more)).await;
    }

    pub(crate) async fn caught_up(&mut self, line: usize, channels: Value) {
        self.send(line, &json!({ "type": "caught_up", "channels": channels })).await;
    }

    /// Ends the TCP connection without a Close frame.
    pub(crate) fn cut(&mut self, line: usize) -> Instant {
        self.note(&format!("#{line} gateway: ends the TCP connection"));
        self.lines[line].socket = None;
        Instant::now()
    }

    /// Sends a Close frame. The TCP connection ends when the client answers it.
    pub(crate) async fn close(&mut self, line: usize, code: Option<u16>) -> Instant {
        self.note(&format!("#{line} gateway: Close {code:?}"));
        if let Some(socket) = &mut self.lines[line].socket {
            socket.close(code).await;
        }
        Instant::now()
    }

    /// Blocks the application on its next message.
    pub(crate) async fn hold(&mut self) -> StepResult {
        self.command(&json!({ "command": "hold" })).await?;
        // The reply confirms that `hold` was received.
        self.command(&json!({ "command": "cursors" })).await?;
        self.reports("`cursors`").await.map(drop)
    }

    pub(crate) async fn go(&mut self) -> StepResult {
        self.command(&json!({ "command": "go" })).await
    }

    /// Checks that nothing unexpected is left, and stops the client.
    pub(crate) async fn finish(mut self) -> StepResult {
        self.delivers_nothing(Duration::ZERO).await?;
        let left = self.lines.iter().flat_map(|line| &line.requests).map(|asked| asked.body.to_string()).next();
        self.check(left.is_none(), "no further request", &left.unwrap_or_default())?;
        self.note("suite: {\"command\":\"stop\"}");
        self.program.stop().await.inspect_err(|_| self.trace.fail())?;
        // Answers its Close frame. The scenario `stop` checks whether it sends one.
        let gone = |line: &SocketLine| line.socket.is_none() || line.closed.is_some() || line.ended.is_some();
        self.watch(GOODBYE, |stage| stage.lines.iter().all(gone)).await?;
        let ended = self.program.ended().await;
        ended.inspect_err(|_| self.trace.fail())
    }
}

/// A publication as it is sent, with more fields of `_meta`.
pub(crate) fn publication(channel: &str, id: &str, more: Value) -> String {
    let mut meta = json!({ "channel": channel, "id": id });
    if let (Some(meta), Value::Object(more)) = (meta.as_object_mut(), more) {
        meta.extend(more);
    }
    pushed(&json!({ "type": "update", "n": id }), &meta)
}

/// A publisher's object as it is sent: `_meta` is inserted before its last brace.
pub(crate) fn pushed(data: &Value, meta: &Value) -> String {
    let data = data.to_string();
    format!("{},\"_meta\":{meta}}}", data.strip_suffix('}').unwrap_or(&data))
}
