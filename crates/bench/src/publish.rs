//! Pipelined publishing: many publications in flight on one connection.

use std::io::{self, Read, Write};

use mio::{Interest, Registry, Token, net::TcpStream};
use tickgate_wire::websocket::{self, Opcode};

use crate::{
    BenchFailure,
    stamp::{PayloadStamp, find},
    target::{PublishCall, PublishKind, TargetServer},
};

/// Number of response bytes to keep for an error message.
const ANSWER_BYTES_MAX: usize = 2048;

/// One publishing connection.
#[derive(Debug)]
pub(crate) struct PublishConnection {
    socket: TcpStream,
    kind: PublishKind,
    host: String,
    headers: String,
    payload_bytes: usize,
    /// Publications that are not framed for the wire yet.
    lines: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    answers: PublishAnswers,
}

/// The server's responses.
#[derive(Debug, Default)]
struct PublishAnswers {
    /// The end of the last response.
    last: Vec<u8>,
    refused: bool,
}

impl PublishAnswers {
    fn look(&mut self, bytes: &[u8]) {
        let refusals: [&[u8]; 3] = [b"HTTP/1.1 4", b"HTTP/1.1 5", b"\"error\":"];
        self.refused |= refusals.iter().any(|text| find(bytes, text).is_some());
        self.last.extend_from_slice(bytes);
        let surplus = self.last.len().saturating_sub(ANSWER_BYTES_MAX);
        self.last.drain(..surplus);
    }

    fn check(&self) -> Result<(), BenchFailure> {
        if self.refused { Err(self.failure("a publication was refused")) } else { Ok(()) }
    }

    fn failure(&self, what: &str) -> BenchFailure {
        BenchFailure::Said(format!("{what}; the server responded: {}", String::from_utf8_lossy(&self.last)))
    }
}

impl PublishConnection {
    /// Opens the connection and, if one request carries everything, starts it.
    pub(crate) fn open(
        address: &str,
        target: &TargetServer,
        key: &str,
        payload_bytes: usize,
    ) -> Result<Self, BenchFailure> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let fill = |line: &String| format!("{}\r\n", line.replace("{key}", key));
        let headers: String = target.publish.headers.iter().map(fill).collect();
        let path = &target.publish.path;
        match target.publish.kind {
            PublishKind::Lines => write!(
                stream,
                "POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
            )?,
            PublishKind::Http => {}
            PublishKind::Websocket => upgrade(&mut stream, address, path, &headers)?,
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            socket: TcpStream::from_std(stream),
            kind: target.publish.kind,
            host: address.into(),
            headers,
            payload_bytes,
            lines: Vec::new(),
            out: Vec::new(),
            written: 0,
            answers: PublishAnswers::default(),
        })
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Adds a publication; [`PublishConnection::flush`] sends it.
    pub(crate) fn publish(&mut self, call: &PublishCall, stamp: &PayloadStamp) {
        let start = self.lines.len();
        self.lines.extend_from_slice(&call.before);
        stamp.put_payload(&mut self.lines, self.payload_bytes);
        self.lines.extend_from_slice(&call.after);
        match self.kind {
            PublishKind::Lines => self.lines.push(b'\n'),
            PublishKind::Http => {
                let (path, host, headers, len) = (&call.path, &self.host, &self.headers, self.lines.len() - start);
                let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {len}\r\n\r\n");
                self.out.extend_from_slice(head.as_bytes());
                self.out.append(&mut self.lines);
            }
            PublishKind::Websocket => {
                websocket::put_masked(&mut self.out, Opcode::Text, &self.lines, stamp.seq.to_ne_bytes());
                self.lines.clear();
            }
        }
    }

    /// Writes what the socket accepts; the rest is sent when it is writable again.
    pub(crate) fn flush(&mut self) -> Result<(), BenchFailure> {
        if !self.lines.is_empty() {
            let head = format!("{:x}\r\n", self.lines.len());
            self.out.extend_from_slice(head.as_bytes());
            self.out.append(&mut self.lines);
            self.out.extend_from_slice(b"\r\n");
        }
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.answers.failure(&format!("publishing: {error}"))),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Whether the send buffer is full enough that further publications would only wait in it.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() - self.written > 1 << 20
    }

    /// Whether anything waits for the socket.
    pub(crate) fn is_behind(&self) -> bool {
        self.out.len() > self.written
    }

    /// Reads and discards the responses; a refusal is an error.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<(), BenchFailure> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(self.answers.failure("the server closed the publishing connection")),
                Ok(len) => self.answers.look(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.answers.failure(&format!("publishing: {error}"))),
            }
        }
        self.answers.check()
    }

    /// Ends the request and waits for its response: then everything flushed so far has been accepted.
    pub(crate) fn finish(mut self) -> Result<(), BenchFailure> {
        let mut stream = std::net::TcpStream::from(self.socket);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        if self.kind != PublishKind::Lines {
            return Ok(());
        }
        stream.write_all(b"0\r\n\r\n")?;
        let mut buffer = [0; 16 * 1024];
        // The end of a chunked response, or the head of one without a body.
        let ends: [&[u8]; 2] = [b"\r\n0\r\n\r\n", b"Content-Length: 0\r\n\r\n"];
        while !ends.iter().any(|end| self.answers.last.ends_with(end)) {
            match stream.read(&mut buffer)? {
                0 => break,
                len => self.answers.look(&buffer[..len]),
            }
        }
        self.answers.check()
    }
}

fn upgrade(stream: &mut std::net::TcpStream, host: &str, path: &str, headers: &str) -> Result<(), BenchFailure> {
    stream.write_all(upgrade_request(host, path, headers).as_bytes())?;
    let mut answer = Vec::new();
    while find(&answer, b"\r\n\r\n").is_none() {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    if answer.starts_with(b"HTTP/1.1 101") {
        return Ok(());
    }
    Err(BenchFailure::Said(format!("the publishing connection was refused: {}", String::from_utf8_lossy(&answer))))
}

/// A WebSocket handshake; each of `headers` ends with a line break.
pub(crate) fn upgrade_request(host: &str, path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
}
