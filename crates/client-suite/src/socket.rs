//! The gateway's side of one WebSocket: reads and writes frames. Never responds.

use std::time::Duration;

use bytes::BytesMut;
use tickgate_wire::websocket::{self, FrameReader, Opcode, Peer, WebSocketEvent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::Sender,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use crate::seen::{Observation, SocketInput, What};

/// Maximum size of a client's message.
const MESSAGE_BYTES_MAX: u32 = 64 << 10;
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection. Dropping it ends its TCP connection without a Close frame.
#[derive(Debug)]
pub(crate) struct SuiteSocket {
    writer: OwnedWriteHalf,
    reader: AbortHandle,
    /// A Close frame was sent: nothing may follow it.
    closed: bool,
}

impl Drop for SuiteSocket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl SuiteSocket {
    /// Starts reading.
    pub(crate) fn new(stream: TcpStream, number: usize, tasks: &mut JoinSet<()>, seen: &Sender<Observation>) -> Self {
        let (reader, writer) = stream.into_split();
        Self { writer, reader: tasks.spawn(read(reader, number, seen.clone())), closed: false }
    }

    /// Writes bytes. A disconnected client is not an error here.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        let _ = timeout(WRITE_TIMEOUT, self.writer.write_all(bytes)).await;
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.frame(Opcode::Text, text.as_bytes()).await;
    }

    /// Writes a text that may not be accepted; false if it was not within this time. Nothing may be written after that.
    pub(crate) async fn takes(&mut self, text: &str, patience: Duration) -> bool {
        let mut out = BytesMut::new();
        websocket::put_head(&mut out, Opcode::Text, text.len());
        out.extend_from_slice(text.as_bytes());
        matches!(timeout(patience, self.writer.write_all(&out)).await, Ok(Ok(())))
    }

    pub(crate) async fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut out = BytesMut::new();
        websocket::put_head(&mut out, opcode, payload.len());
        out.extend_from_slice(payload);
        self.bytes(&out).await;
    }

    /// A text in fragments, with a ping after each but the last.
    pub(crate) async fn fragments(&mut self, text: &str, count: usize) {
        let parts: Vec<_> = text.as_bytes().chunks(text.len().div_ceil(count)).collect();
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let mut out = BytesMut::new();
            let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
            websocket::put_head(&mut out, opcode, part.len());
            if !last {
                out[0] &= !FIN;
            }
            out.extend_from_slice(part);
            if !last {
                websocket::ping(&mut out, b"between");
            }
            self.bytes(&out).await;
        }
    }

    pub(crate) async fn ping(&mut self, payload: &[u8]) {
        self.frame(Opcode::Ping, payload).await;
    }

    pub(crate) async fn pong(&mut self, payload: &[u8]) {
        self.frame(Opcode::Pong, payload).await;
    }

    /// A Close frame, unless one was sent before; the TCP connection stays.
    pub(crate) async fn close(&mut self, code: Option<u16>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let mut out = BytesMut::new();
        websocket::close(&mut out, code, "");
        self.bytes(&out).await;
    }
}

/// The bit of a frame's first byte that marks the last frame of a message.
const FIN: u8 = 0x80;

async fn read(mut stream: OwnedReadHalf, number: usize, seen: Sender<Observation>) {
    let mut reader = FrameReader::new(Peer::Client, false, MESSAGE_BYTES_MAX);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = stream.read(&mut buffer).await.unwrap_or(0);
        let mut frames = Vec::new();
        let mut feed = reader.feed(&mut buffer[..len]);
        while let Some(event) = feed.next() {
            frames.push(match event {
                Ok(WebSocketEvent::Text(text)) => SocketInput::Text(text.to_owned()),
                Ok(WebSocketEvent::Binary(_)) => SocketInput::Violation("a binary message".into()),
                Ok(WebSocketEvent::Ping(payload)) => SocketInput::Ping(payload.to_vec()),
                Ok(WebSocketEvent::Pong(payload)) => SocketInput::Pong(payload.to_vec()),
                Ok(WebSocketEvent::Close(code, _)) => SocketInput::Close(code),
                Err(violation) => SocketInput::Violation(violation.to_string()),
            });
        }
        if len == 0 {
            frames.push(SocketInput::End);
        }
        for frame in frames {
            if seen.send(Observation::now(What::Frame(number, frame))).await.is_err() {
                return;
            }
        }
        if len == 0 {
            return;
        }
    }
}
