//! A client that may do everything wrong: bytes on a socket, frames put together by hand.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;

/// The head of a proper upgrade, but for its last, empty line.
pub fn upgrade_head(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
}

pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    /// A connection on which nothing was said yet.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("to be accepted"), read: Vec::new() }
    }

    /// A WebSocket.
    pub async fn upgraded(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self::connect(address).await;
        raw.send(format!("{}\r\n", upgrade_head(path)).as_bytes()).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    /// Sends bytes; a server that has gone is seen by whoever reads.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends a whole, masked frame.
    pub async fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.send(&frame(0x80 | opcode, true, payload)).await;
    }

    /// The head of an HTTP answer.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(head).expect("text");
            }
            assert!(self.fill().await, "the server left before it answered: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// The next frame: opcode and payload; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((length, header)) = self.frame_size()
                && self.read.len() >= header + length
            {
                let rest = self.read.split_off(header + length);
                let frame = std::mem::replace(&mut self.read, rest);
                assert_eq!(frame[1] & 0x80, 0, "a server never masks");
                return Some((frame[0] & 0x0f, frame[header..].to_vec()));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    fn frame_size(&self) -> Option<(usize, usize)> {
        match *self.read.get(1)? & 0x7f {
            126 => Some((usize::from(u16::from_be_bytes(self.read.get(2..4)?.try_into().ok()?)), 4)),
            127 => Some((usize::try_from(u64::from_be_bytes(self.read.get(2..10)?.try_into().ok()?)).ok()?, 10)),
            short => Some((usize::from(short), 2)),
        }
    }

    /// The next text message.
    pub async fn text(&mut self) -> Value {
        loop {
            match self.frame().await.expect("a message") {
                (TEXT, payload) => return serde_json::from_slice(&payload).expect("json"),
                (CLOSE, payload) => panic!("closed: {payload:?}"),
                _ => {}
            }
        }
    }

    /// Reads to the Close frame, which has to have this code, and to the end of the connection.
    pub async fn expect_close(&mut self, code: u16) {
        loop {
            match self.frame().await {
                Some((CLOSE, payload)) => {
                    assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), code, "{payload:?}");
                    break;
                }
                Some(_) => {}
                None => panic!("the connection ended without a Close frame; expected {code}"),
            }
        }
        self.send_frame(CLOSE, &code.to_be_bytes()).await;
        self.expect_end().await;
    }

    /// Reads to the end of the connection; what came is returned.
    pub async fn expect_end(&mut self) -> String {
        while self.fill().await {}
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Reads more. False at the end.
    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server to say something");
        let count = read.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Sends one byte of the text after another, until the server ends it.
    pub async fn trickle(&mut self, text: &str, pause: Duration) {
        for byte in text.bytes() {
            if self.stream.write_all(&[byte]).await.is_err() {
                return;
            }
            let mut buffer = [0; 1024];
            // What the server says meanwhile is an end, or an answer before it.
            if let Ok(Ok(count)) = timeout(pause, self.stream.read(&mut buffer)).await {
                self.read.extend_from_slice(&buffer[..count]);
                return;
            }
        }
        panic!("the server took all of it");
    }
}

/// A frame with any first byte.
pub fn frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(mask_bit | length as u8),
        length @ 126..=0xffff => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if masked {
        let mask = [0x12, 0x34, 0x56, 0x78];
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}
