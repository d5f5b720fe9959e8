//! A WebSocket client that reads like prose: it states what it expects, and shows what arrived instead.

use std::{collections::VecDeque, fmt, net::SocketAddr};

use serde_json::{Value, json};
use tickgate_client::{ClientSocket, Error, Opening, SocketSender, http::HeaderMap};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::PATIENCE;

/// Maximum number of received messages that wait for the test before the client stops reading.
const SEEN_MAX: usize = 65_536;

/// A connection that is not open yet.
pub struct ConnectRequest {
    address: SocketAddr,
    path: String,
    name: String,
    headers: Vec<(&'static str, String)>,
}

/// A refused upgrade.
#[derive(Debug)]
pub struct RefusedUpgrade {
    /// The HTTP status.
    pub status: u16,
    /// The response body.
    pub body: String,
    /// The `Retry-After` header.
    pub retry_after: Option<String>,
}

impl ConnectRequest {
    /// Prepares a connection to the endpoint at the path.
    pub fn new(address: SocketAddr, path: &str) -> Self {
        Self { address, path: path.into(), name: format!("the client at {path}"), headers: Vec::new() }
    }

    /// The client's name in test failures.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// A parameter of the URL.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        self.path = format!("{}{mark}{name}={value}", self.path);
        self
    }

    /// A token in the URL, as the oldest clients send it.
    pub fn token(self, token: &str) -> Self {
        self.query("token", token)
    }

    /// Adds a header to the handshake.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Connects like a page in a browser.
    pub fn origin(self, origin: &str) -> Self {
        self.header("origin", origin)
    }

    fn opening(&self) -> Opening {
        let opening = Opening::to(format!("ws://{}{}", self.address, self.path));
        self.headers.iter().fold(opening, |opening, (name, value)| opening.header(*name, value))
    }

    /// Connects; the server must accept.
    pub async fn open(self) -> TestClient {
        let name = self.name.clone();
        match self.try_open().await {
            Ok(client) => client,
            Err(refusal) => panic!("{name} was refused: {refusal:?}"),
        }
    }

    /// Connects, or returns the refusal.
    pub async fn try_open(self) -> Result<TestClient, RefusedUpgrade> {
        match self.opening().open().await {
            Ok(socket) => Ok(TestClient::new(self.name, socket)),
            Err(Error::Refused(refusal)) => {
                let retry_after = refusal.headers.get("retry-after").and_then(|v| Some(v.to_str().ok()?.to_owned()));
                Err(RefusedUpgrade { status: refusal.status.as_u16(), body: refusal.body, retry_after })
            }
            Err(error) => panic!("{} could not connect: {error}", self.name),
        }
    }

    /// Connects; the server must refuse with this HTTP status.
    pub async fn expect_refused(self, status: u16) -> RefusedUpgrade {
        let name = self.name.clone();
        match self.try_open().await {
            Ok(_) => panic!("{name} was accepted; expected {status}"),
            Err(refusal) => {
                assert_eq!(refusal.status, status, "{name}: {refusal:?}");
                refusal
            }
        }
    }

    /// Connects; the server must upgrade and close with this code. Returns the reason.
    pub async fn expect_closed(self, code: u16) -> String {
        self.open().await.expect_close(code).await
    }
}

/// What a client receives.
#[derive(Debug)]
enum ClientInput {
    Text(String),
    /// A Close frame; 1005 if it had no code.
    Closed(u16, String),
    /// The connection ended without a Close frame.
    Gone,
}

/// A connected client.
pub struct TestClient {
    name: String,
    sender: SocketSender,
    seen: mpsc::Receiver<ClientInput>,
    reader: AbortHandle,
    /// What arrived while waiting for something else.
    kept: VecDeque<Value>,
    /// The `caught_up` notices that were skipped.
    ends: VecDeque<Value>,
    /// The first message, after [`TestClient::greeted`].
    pub welcome: Value,
    /// The headers of the upgrade response.
    pub headers: HeaderMap,
}

/// Dropping a client closes its connection, as the end of its process would.
impl Drop for TestClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl TestClient {
    fn new(name: String, socket: ClientSocket) -> Self {
        let headers = socket.headers().clone();
        let (sender, mut receiver) = socket.split();
        let (seeing, seen) = mpsc::channel(SEEN_MAX);
        // Reads all the time, as a browser does: pings are answered whether or not the test waits for a message.
        #[expect(clippy::disallowed_methods, reason = "a task of the test's own")]
        let reader = tokio::spawn(async move {
            loop {
                let seen = match receiver.next().await {
                    Ok(text) => ClientInput::Text(text),
                    Err(Error::Closed(closed)) => ClientInput::Closed(closed.code.unwrap_or(1005), closed.reason),
                    Err(_) => ClientInput::Gone,
                };
                let ended = matches!(seen, ClientInput::Gone);
                if seeing.send(seen).await.is_err() || ended {
                    return;
                }
            }
        });
        let reader = reader.abort_handle();
        Self { name, sender, seen, reader, kept: VecDeque::new(), ends: VecDeque::new(), welcome: Value::Null, headers }
    }

    /// Reads the welcome.
    pub async fn greeted(&mut self) {
        self.welcome = self.expect_type("connection_established").await;
    }

    /// The secret that takes over the session.
    pub fn session(&self) -> String {
        self.welcome["session"].as_str().expect("a session in the welcome").to_owned()
    }

    /// Sends a message as JSON.
    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends a text frame as it is.
    pub async fn send_text(&mut self, text: &str) {
        // A server that closed first is detected by the next read.
        let _ = self.sender.send(text).await;
    }

    /// Sends a request and waits for its reply; other messages are kept.
    pub async fn ask(&mut self, mut request: Value) -> Value {
        let id = format!("ask-{}", request["type"].as_str().unwrap_or_default());
        request["id"] = json!(id);
        self.send(request).await;
        let mut others = VecDeque::new();
        loop {
            let message = self.next().await;
            if message["id"] == json!(id) {
                others.append(&mut self.kept);
                self.kept = others;
                return message;
            }
            others.push_back(message);
        }
    }

    /// Subscribes to channels, all of which must be granted; returns the reply.
    pub async fn subscribe(&mut self, channels: &[&str]) -> Value {
        self.subscribe_with(json!({ "type": "subscribe", "channels": channels })).await
    }

    /// Subscribes to channels from a position on; returns the reply.
    pub async fn subscribe_since(&mut self, channels: &[&str], cursor: &Value) -> Value {
        let elements: Vec<_> = channels.iter().map(|name| json!({ "channel": name, "since": cursor })).collect();
        self.subscribe_with(json!({ "type": "subscribe", "channels": elements })).await
    }

    /// Subscribes with any request; returns the reply.
    pub async fn subscribe_with(&mut self, request: Value) -> Value {
        let answer = self.ask(request).await;
        assert_eq!(answer["type"], "subscribed", "{self:?} was answered {answer}");
        assert_eq!(answer["errors"], json!([]), "{self:?} was refused a channel: {answer}");
        answer
    }

    /// The `caught_up` notice: its first channel. Earlier messages are kept, except other such notices.
    pub async fn caught_up(&mut self) -> Value {
        let mut others = VecDeque::new();
        while self.ends.is_empty() {
            let text = self.next_text().await.unwrap_or_else(|close| panic!("{self:?} was closed with {close:?}"));
            self.sort(&text, &mut others);
        }
        self.kept.append(&mut others);
        self.ends.pop_front().map_or(Value::Null, |end| end["channels"][0].clone())
    }

    fn sort(&mut self, text: &str, others: &mut VecDeque<Value>) {
        let message: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{self:?} got {text:?}: {e}"));
        if message["type"] == "caught_up" { &mut self.ends } else { others }.push_back(message);
    }

    /// The next message other than a heartbeat or `caught_up`.
    pub async fn next(&mut self) -> Value {
        match self.next_or_close().await {
            Ok(message) => message,
            Err((code, reason)) => panic!("{self:?} was closed with {code} ({reason}); expected a message"),
        }
    }

    /// The text of the next message other than a heartbeat, as sent; or how the connection was closed.
    pub async fn next_text(&mut self) -> Result<String, (u16, String)> {
        loop {
            let text = self.next_frame().await?;
            if !is_heartbeat(&text) {
                return Ok(text);
            }
        }
    }

    /// The next message's text, optionally even a heartbeat's; or how the connection was closed.
    pub async fn say(&mut self, heartbeat: bool) -> Result<String, (u16, String)> {
        if heartbeat { self.next_frame().await } else { self.next_text().await }
    }

    /// A message that has arrived and was not consumed.
    pub fn unread(&mut self) -> Option<String> {
        loop {
            match self.seen.try_recv() {
                Ok(ClientInput::Text(text)) if !is_heartbeat(&text) => return Some(text),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next heartbeat; everything before it is skipped.
    pub async fn next_heartbeat(&mut self) -> Value {
        loop {
            match self.next_frame().await {
                Ok(text) if is_heartbeat(&text) => return serde_json::from_str(&text).expect("json"),
                Ok(_) => {}
                Err((code, reason)) => panic!("{self:?} was closed with {code} ({reason})"),
            }
        }
    }

    async fn next_frame(&mut self) -> Result<String, (u16, String)> {
        let seen = timeout(PATIENCE, self.seen.recv()).await;
        match seen.unwrap_or_else(|_| panic!("{self:?} received nothing for {PATIENCE:?}")) {
            Some(ClientInput::Text(text)) => Ok(text),
            Some(ClientInput::Closed(code, reason)) => Err((code, reason)),
            Some(ClientInput::Gone) | None => Err((1006, String::new())),
        }
    }

    /// The next message other than a heartbeat or `caught_up`; `None` if there is none by then.
    pub async fn next_until(&mut self, until: Instant) -> Option<Value> {
        loop {
            if let Some(kept) = self.kept.pop_front() {
                return Some(kept);
            }
            match timeout_at(until, self.seen.recv()).await.ok()? {
                Some(ClientInput::Text(text)) if is_heartbeat(&text) => {}
                Some(ClientInput::Text(text)) => {
                    let mut kept = VecDeque::new();
                    self.sort(&text, &mut kept);
                    self.kept = kept;
                }
                other => panic!("{self:?}: {other:?}; expected a message"),
            }
        }
    }

    async fn next_or_close(&mut self) -> Result<Value, (u16, String)> {
        loop {
            if let Some(kept) = self.kept.pop_front() {
                return Ok(kept);
            }
            let text = self.next_text().await?;
            let mut others = VecDeque::new();
            self.sort(&text, &mut others);
            self.kept.append(&mut others);
        }
    }

    /// The next message has this `type`.
    pub async fn expect_type(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{self:?} got {message}");
        message
    }

    /// The next message is this publication; returns its metadata.
    pub async fn expect(&mut self, payload: Value) -> Value {
        let mut message = self.next().await;
        let meta = message.as_object_mut().and_then(|fields| fields.remove("_meta"));
        assert_eq!(message, payload, "{self:?}");
        meta.unwrap_or_else(|| panic!("{self:?} got {message} without _meta"))
    }

    /// The next message is an error with this code.
    pub async fn expect_error(&mut self, code: u16) -> Value {
        let message = self.expect_type("error").await;
        assert_eq!(message["code"], code, "{self:?} got {message}");
        message
    }

    /// The server closes with this code, whatever it sends before. Returns the reason.
    pub async fn expect_close(&mut self, code: u16) -> String {
        loop {
            if let Err((with, reason)) = self.next_or_close().await {
                assert_eq!(with, code, "{self:?} was closed with {with} ({reason})");
                return reason;
            }
        }
    }

    /// Nothing has arrived, or arrives before the answer to a ping.
    pub async fn expect_nothing(&mut self) {
        let pong = self.ask(json!({ "type": "ping" })).await;
        assert_eq!(pong["type"], "pong", "{self:?}");
        assert!(self.kept.is_empty(), "{self:?} got {:?}", self.kept);
    }

    /// Closes from this side, and waits for the server to respond.
    pub async fn close(mut self) {
        let _ = self.sender.close().await;
        while let Ok(Ok(_)) = timeout(PATIENCE, self.next_or_close()).await {}
    }

    /// Disconnects without a Close frame.
    pub fn vanish(self) {
        drop(self);
    }
}

fn is_heartbeat(text: &str) -> bool {
    text.starts_with(r#"{"type":"heartbeat""#)
}
