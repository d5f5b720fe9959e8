//! A reader of Server-Sent Events that follows the standard, as a browser does: it dispatches events and tracks the
//! last event id.

use std::{collections::VecDeque, net::SocketAddr};

use serde_json::Value;
use tickgate_client::http::{HeaderMap, Streaming};
use tokio::time::timeout;

use crate::{
    PATIENCE,
    http::{TestResponse, request},
};

/// An open stream. Dropping it closes its connection.
pub struct EventStream {
    /// The headers of the response.
    pub headers: HeaderMap,
    stream: Streaming,
    lines: String,
    data: String,
    events: VecDeque<Value>,
    /// The `caught_up` notices.
    pub ends: VecDeque<Value>,
    /// Number of heartbeats received.
    pub heartbeats: usize,
    /// What a browser would send as `Last-Event-ID` if the connection were lost now.
    last_id: Option<String>,
    /// No event followed the last id.
    told: bool,
}

impl EventStream {
    /// Opens `GET <path>`, or returns the refusal.
    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, TestResponse> {
        let mut stream = request(address, "GET", path, headers).stream().await.expect("an answer");
        let headers = std::mem::take(&mut stream.headers);
        if stream.status != 200 {
            let mut body = String::new();
            while let Some(piece) = stream.next().await.expect("a whole body") {
                body.push_str(std::str::from_utf8(&piece).expect("text that no piece cuts a character of"));
            }
            return Err(TestResponse { status: stream.status.as_u16(), headers, body });
        }
        let (lines, data, events) = (String::new(), String::new(), VecDeque::new());
        let ends = VecDeque::new();
        Ok(Self { headers, stream, lines, data, events, ends, heartbeats: 0, last_id: None, told: false })
    }

    /// The data of the next event with data, other than heartbeats and `caught_up`.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            assert!(self.read().await, "the stream ended; expected an event");
        }
    }

    /// The next event is this publication; returns its metadata.
    pub async fn expect(&mut self, payload: Value) -> Value {
        let mut event = self.next().await;
        let meta = event.as_object_mut().and_then(|fields| fields.remove("_meta"));
        assert_eq!(event, payload);
        meta.unwrap_or_else(|| panic!("{event} without _meta"))
    }

    /// The last event id when nothing else is in flight, for a reconnect. Every event must have been consumed.
    pub async fn last_id(&mut self) -> String {
        while !self.told {
            assert!(self.read().await, "the stream ended; expected an id");
        }
        assert!(self.events.is_empty(), "{:?} came as well", self.events);
        self.last_id.clone().expect("an id")
    }

    /// Waits for a heartbeat.
    pub async fn heartbeat(&mut self) {
        let before = self.heartbeats;
        while self.heartbeats == before {
            assert!(self.read().await, "the stream ended; expected a heartbeat");
        }
    }

    /// Reads to the end of the stream: all remaining events.
    pub async fn rest(mut self) -> Vec<Value> {
        while self.read().await {}
        self.events.drain(..).collect()
    }

    /// Reads more. False at the end.
    async fn read(&mut self) -> bool {
        match timeout(PATIENCE, self.stream.next()).await.expect("something to come") {
            Ok(Some(data)) => {
                self.lines.push_str(std::str::from_utf8(&data).expect("text that no piece cuts a character of"));
                while let Some((line, rest)) = self.lines.split_once('\n') {
                    let (line, rest) = (line.to_owned(), rest.to_owned());
                    self.line(&line);
                    self.lines = rest;
                }
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    fn line(&mut self, line: &str) {
        match line.split_once(": ") {
            Some(("data", text)) => self.data.push_str(text),
            Some(("id", id)) => {
                self.last_id = Some(id.to_owned());
                self.told = true;
            }
            _ if line.is_empty() => {
                let data = std::mem::take(&mut self.data);
                if !data.is_empty() {
                    self.told = false;
                    let event: Value = serde_json::from_str(&data).expect("json");
                    match event["type"].as_str() {
                        Some("caught_up") => self.ends.push_back(event),
                        Some("heartbeat") => self.heartbeats += 1,
                        _ => self.events.push_back(event),
                    }
                }
            }
            _ => assert!(line.starts_with(':'), "a line of an unknown kind: {line}"),
        }
    }
}
