//! A TCP connection that can violate every rule of the protocol: it sends given bytes, and frames bit by bit. Has its
//! own simple framing, so that a bug in the gateway's encoder cannot hide itself.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::PATIENCE;

/// An arbitrary mask.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The `Sec-WebSocket-Key` of every handshake.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Opcodes with the final bit set.
pub const TEXT: u8 = 0x81;
/// A complete binary message.
pub const BINARY: u8 = 0x82;
/// A Close frame.
pub const CLOSE: u8 = 0x88;
/// A ping.
pub const PING: u8 = 0x89;
/// A pong.
pub const PONG: u8 = 0x8a;

/// A client's frame: the first byte is given, the payload is masked, the length has its shortest form.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = head(first, payload.len() as u64);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// Only the head of a client's frame that declares this many bytes.
pub fn head(first: u8, len: u64) -> Vec<u8> {
    let mut out = vec![first];
    match len {
        0..126 => out.push(0x80 | len as u8),
        126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend(MASK);
    out
}

/// A frame without a mask.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first, u8::try_from(payload.len()).expect("a short payload")];
    out.extend(payload);
    out
}

/// The head of a request that becomes a WebSocket, with additional header lines (each with its line end).
pub fn upgrade_request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// First byte and payload of a data frame, a ping or a pong.
    Frame(u8, Vec<u8>),
    /// A Close frame; 1005 if it had no code.
    Close(u16, String),
    /// The server closed the connection in an orderly way.
    End,
    /// The server reset the connection.
    Reset,
}

/// A TCP connection to a replica.
pub struct RawConnection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl RawConnection {
    /// Connects, without a handshake.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server to accept");
        stream.set_nodelay(true).expect("a live socket");
        Self { stream, unread: Vec::new() }
    }

    /// Connects and becomes a WebSocket.
    pub async fn upgraded(address: SocketAddr, path: &str) -> Self {
        Self::upgraded_with(address, path, &[]).await
    }

    /// The same, with bytes sent together with the request, before its response can arrive.
    pub async fn upgraded_with(address: SocketAddr, path: &str, early: &[u8]) -> Self {
        let mut wire = Self::connect(address).await;
        let mut bytes = upgrade_request(path, "").into_bytes();
        bytes.extend(early);
        wire.send(&bytes).await;
        let (status, head) = wire.answer_head().await.expect("an answer to the upgrade");
        assert_eq!(status, 101, "{head}");
        wire
    }

    /// Sends bytes. A server that closed first is detected by the next read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server to read");
    }

    /// Sends as much as the server and the kernel accept without waiting.
    pub fn send_some(&mut self, bytes: &[u8]) -> usize {
        self.stream.try_write(bytes).unwrap_or(0)
    }

    /// Status and head of an HTTP response; `None` if the connection ended before it.
    pub async fn answer_head(&mut self) -> Option<(u16, String)> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..at + 4).collect();
                let head = String::from_utf8(head).expect("a head of text");
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
                return Some((status, head));
            }
            if !matches!(self.read().await, Ok(count) if count > 0) {
                return None;
            }
        }
    }

    /// Reads once more; 0 at the end.
    async fn read(&mut self) -> std::io::Result<usize> {
        let reading = self.stream.read_buf(&mut self.unread);
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("the server sent nothing for {PATIENCE:?}"))
    }

    /// The next frame, or the end.
    pub async fn hear(&mut self) -> ServerEvent {
        loop {
            if let Some(heard) = self.take_frame() {
                return heard;
            }
            match self.read().await {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "the connection ended inside of a frame: {:?}", self.unread);
                    return ServerEvent::End;
                }
                Ok(_) => {}
                Err(_) => return ServerEvent::Reset,
            }
        }
    }

    fn take_frame(&mut self) -> Option<ServerEvent> {
        let (first, second) = (*self.unread.first()?, *self.unread.get(1)?);
        assert_eq!(second & 0x80, 0, "a server does not mask frames");
        let (start, len) = match second {
            126 => (4, u16::from_be_bytes(self.unread.get(2..4)?.try_into().ok()?).into()),
            127 => (10, u64::from_be_bytes(self.unread.get(2..10)?.try_into().ok()?) as usize),
            len => (2, usize::from(len)),
        };
        let payload = self.unread.get(start..start + len)?.to_vec();
        self.unread.drain(..start + len);
        Some(match (first, payload.as_slice()) {
            (CLOSE, []) => ServerEvent::Close(1005, String::new()),
            (CLOSE, [a, b, reason @ ..]) => {
                let reason = String::from_utf8(reason.to_vec()).expect("a reason of text");
                ServerEvent::Close(u16::from_be_bytes([*a, *b]), reason)
            }
            _ => ServerEvent::Frame(first, payload),
        })
    }

    /// The next text message, as JSON. Pings, which may arrive at any time, are answered.
    pub async fn hear_json(&mut self) -> serde_json::Value {
        loop {
            match self.hear().await {
                ServerEvent::Frame(TEXT, payload) => return serde_json::from_slice(&payload).expect("json"),
                ServerEvent::Frame(PING, payload) => self.send(&frame(PONG, &payload)).await,
                other => panic!("{other:?}; expected a text"),
            }
        }
    }

    /// The server may send texts, then closes with this code as its last frame, and closes the connection in an orderly
    /// way: a reset could have destroyed the code. Returns the texts.
    pub async fn expect_close(&mut self, code: u16, what: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.hear().await {
                ServerEvent::Frame(TEXT, payload) => said.push(String::from_utf8(payload).expect("text")),
                ServerEvent::Frame(..) => {}
                ServerEvent::Close(with, reason) => {
                    assert_eq!(with, code, "{what}: closed with {with} ({reason})");
                    assert_eq!(self.hear().await, ServerEvent::End, "{what}: after the close");
                    return said;
                }
                ended => panic!("{what}: {ended:?} instead of a close with {code}"),
            }
        }
    }

    /// The server closes the connection within this time, whether or not it responds first.
    pub async fn expect_end_within(&mut self, time: Duration, what: &str) {
        let ended = async {
            let mut buffer = [0; 4_096];
            while matches!(self.stream.read(&mut buffer).await, Ok(count) if count > 0) {}
        };
        assert!(timeout(time, ended).await.is_ok(), "{what}: still open after {time:?}");
    }

    /// This side sends nothing more; the server may still send.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Ends with a reset instead of a Close frame.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Makes the kernel buffer as little as possible for this side.
    pub fn set_receive_buffer(&self, bytes: usize) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(bytes).expect("a smaller buffer");
    }
}
