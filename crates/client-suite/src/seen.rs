//! What the scripted gateway observes, with the time of each observation.

use std::time::Instant;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::http::RequestHead;

/// One observation.
#[derive(Debug)]
pub(crate) struct Observation {
    pub at: Instant,
    pub what: What,
}

/// What was observed.
#[derive(Debug)]
pub(crate) enum What {
    /// A client connected and sent the head of a request. `at` is the time at which the connection was accepted.
    Request(RequestHead, TcpStream),
    /// A client connected but sent no request.
    NoRequest(String),
    /// A frame arrived on the connection with this number.
    Frame(usize, SocketInput),
    /// The client reports an event.
    Event(Value),
    /// The client wrote something else to its standard output.
    NoEvent(String),
    /// A line of the client's standard error.
    Diagnostic(String),
}

/// What arrived on a WebSocket.
#[derive(Clone, Debug)]
pub(crate) enum SocketInput {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A Close frame; `None` without a code.
    Close(Option<u16>),
    /// The client broke the WebSocket protocol, or sent a binary message.
    Violation(String),
    /// The TCP connection ended.
    End,
}

impl Observation {
    pub(crate) fn now(what: What) -> Self {
        Self { at: Instant::now(), what }
    }
}

impl What {
    /// Classifies a line of the client's standard output.
    pub(crate) fn of_line(line: String) -> Self {
        match serde_json::from_str::<Value>(&line) {
            Ok(event) if event["event"].is_string() => Self::Event(event),
            _ => Self::NoEvent(line),
        }
    }
}
