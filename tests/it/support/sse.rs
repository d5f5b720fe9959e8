//! A reader of Server-Sent Events that follows the standard, as a browser does: what an event's id is, and when it counts.

use std::{collections::VecDeque, net::SocketAddr};

use http_body_util::BodyExt;
use hyper::{Request, body::Incoming, header::HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use super::{PATIENCE, http::Answer};

/// An open stream. Dropped, its connection is gone at once.
pub struct EventStream {
    pub headers: hyper::HeaderMap,
    body: Incoming,
    connection: JoinHandle<()>,
    lines: String,
    data: String,
    events: VecDeque<Value>,
    /// What a browser would send as `Last-Event-ID` if the connection were lost now.
    last_id: Option<String>,
    /// No event came after the last id.
    told: bool,
}

impl EventStream {
    /// Opens `GET <path>`, or returns how it was refused.
    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let mut request = Request::builder().uri(path).header(HOST, address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(String::new()).expect("a request");
        let stream = TcpStream::connect(address).await.expect("the server to accept");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("http to be spoken");
        #[expect(clippy::disallowed_methods, reason = "a task of the test's own")]
        let connection = tokio::spawn(async move {
            // Its end shows in the body.
            let _ = connection.await;
        });
        let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time");
        let (parts, body) = answer.expect("an answer").into_parts();
        if parts.status != 200 {
            let body = body.collect().await.expect("a whole body").to_bytes();
            let body = String::from_utf8(body.to_vec()).expect("text");
            return Err(Answer { status: parts.status.as_u16(), headers: parts.headers, body });
        }
        let (lines, data, events) = (String::new(), String::new(), VecDeque::new());
        Ok(Self { headers: parts.headers, body, connection, lines, data, events, last_id: None, told: false })
    }

    /// The data of the next event that has any.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            assert!(self.read().await, "the stream ended; expected an event");
        }
    }

    /// The next event is this publication; what the gateway says of it is returned.
    pub async fn expect(&mut self, payload: Value) -> Value {
        let mut event = self.next().await;
        let meta = event.as_object_mut().and_then(|fields| fields.remove("_meta"));
        assert_eq!(event, payload);
        meta.unwrap_or_else(|| panic!("{event} without _meta"))
    }

    /// The id that counts once nothing else is on its way: what to come back with. Every event was taken before.
    pub async fn last_id(&mut self) -> String {
        while !self.told {
            assert!(self.read().await, "the stream ended; expected an id");
        }
        assert!(self.events.is_empty(), "{:?} came as well", self.events);
        self.last_id.clone().expect("an id")
    }

    /// Reads to the end of the stream: all events that still came.
    pub async fn rest(mut self) -> Vec<Value> {
        while self.read().await {}
        self.events.drain(..).collect()
    }

    /// Reads more. False at the end.
    async fn read(&mut self) -> bool {
        match timeout(PATIENCE, self.body.frame()).await.expect("something to come") {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                self.lines.push_str(std::str::from_utf8(&data).expect("text that no piece cuts a character of"));
                while let Some((line, rest)) = self.lines.split_once('\n') {
                    let (line, rest) = (line.to_owned(), rest.to_owned());
                    self.line(&line);
                    self.lines = rest;
                }
                true
            }
            Some(Err(_)) | None => false,
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
                    self.events.push_back(serde_json::from_str(&data).expect("json"));
                }
            }
            _ => assert!(line.starts_with(':'), "a line of no kind: {line}"),
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
