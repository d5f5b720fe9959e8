//! One subscribing connection: handshake, opening messages, then frames that are counted and dropped.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
};

use mio::{Registry, Token, net::TcpStream};
use socket2::{Domain, Socket, Type};
use tickgate_wire::websocket::{self, FrameReader, Opcode, Peer, WebSocketEvent};

use crate::{
    BenchFailure,
    arrival::Arrivals,
    clock::RunClock,
    line::{ByteStream, TlsTrust},
    plan::ClientReading,
    stamp::{Finder, find},
    tally::ThreadCounts,
    target::TargetServer,
};

/// Connections per source address: below the number of ephemeral ports.
const CONNECTIONS_PER_ADDRESS: usize = 24_000;
const MESSAGE_BYTES_MAX: u32 = 16 << 20;
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// State shared by all connections of a thread.
#[derive(Debug)]
pub(crate) struct ThreadShared<'a> {
    pub(crate) target: &'a TargetServer,
    pub(crate) clock: RunClock,
    pub(crate) tally: ThreadCounts,
    pub(crate) finder: Finder,
    /// Whether streams may be conflated, by number.
    pub(crate) conflated: Vec<bool>,
    /// Whether to look for cursors.
    pub(crate) keep_cursor: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientPhase {
    Connecting,
    Upgrading,
    Opening,
    Ready,
    Closed,
}

/// A connection and what it has received.
#[derive(Debug)]
pub(crate) struct BenchClient {
    line: ByteStream,
    phase: ClientPhase,
    reader: FrameReader,
    /// Bytes to write: the upgrade, then the opening messages.
    out: Vec<u8>,
    /// Opening messages until the upgrade is complete; until then also the response's head.
    opening: Vec<String>,
    head: Vec<u8>,
    answers_left: usize,
    /// Streams and the last received sequence of each.
    seen: Box<[(u32, u32)]>,
    pub(crate) received: u32,
    /// The last received cursor.
    pub(crate) cursor: Option<String>,
    reading: ClientReading,
    /// For a steady reader: when it started to read, and the bytes read since.
    steady: (u64, u64),
    /// For a steady reader: when the data it reads arrived in its kernel.
    arrivals: Option<Box<Arrivals>>,
    /// When the last of the bytes being read arrived.
    arrived_ns: Option<u64>,
}

/// The settings of a connection.
#[derive(Debug)]
pub(crate) struct ConnectionSettings {
    pub(crate) upgrade: String,
    pub(crate) opening: Vec<String>,
    pub(crate) answers: usize,
    pub(crate) streams: Vec<u32>,
    pub(crate) reading: ClientReading,
    /// `None` if the server has no TLS.
    pub(crate) trust: Option<TlsTrust>,
}

impl BenchClient {
    /// Starts to connect; `number` selects the source address.
    pub(crate) fn connect(address: SocketAddr, number: usize, start: ConnectionSettings) -> Result<Self, BenchFailure> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if start.reading == ClientReading::Nothing {
            socket.set_recv_buffer_size(4096)?;
        }
        // The kernel takes long to find a port for a bound address, so an address is bound only for many connections.
        if number >= CONNECTIONS_PER_ADDRESS && address.ip().is_loopback() && address.is_ipv4() {
            let source = Ipv4Addr::new(127, 0, 0, 1 + (number / CONNECTIONS_PER_ADDRESS) as u8);
            // Ports of earlier runs may still be in TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            line: ByteStream::new(TcpStream::from_std(socket.into()), start.trust.as_ref())?,
            phase: ClientPhase::Connecting,
            reader: FrameReader::new(Peer::Server, true, MESSAGE_BYTES_MAX),
            out: start.upgrade.into_bytes(),
            opening: start.opening,
            head: Vec::new(),
            answers_left: start.answers,
            seen: start.streams.into_iter().map(|stream| (stream, 0)).collect(),
            received: 0,
            cursor: None,
            reading: start.reading,
            steady: (0, 0),
            arrivals: None,
            arrived_ns: None,
        })
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.line.register(registry, token)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == ClientPhase::Closed
    }

    /// Handles an event of the socket.
    pub(crate) fn wake(&mut self, event: &mio::event::Event, buffer: &mut [u8], shared: &mut ThreadShared<'_>) {
        let result = self.try_wake(event, buffer, shared);
        if let Err(error) = result {
            self.close(shared, &error.to_string());
        }
    }

    fn try_wake(
        &mut self,
        event: &mio::event::Event,
        buffer: &mut [u8],
        shared: &mut ThreadShared<'_>,
    ) -> Result<(), BenchFailure> {
        if event.is_writable() && self.phase != ClientPhase::Closed {
            if self.phase == ClientPhase::Connecting {
                if let Some(error) = self.line.socket().take_error()? {
                    return Err(error.into());
                }
                self.phase = ClientPhase::Upgrading;
            }
            self.flush()?;
        }
        if !event.is_readable() || (self.reading != ClientReading::All && self.phase == ClientPhase::Ready) {
            return Ok(());
        }
        while self.phase != ClientPhase::Closed {
            match self.line.read(buffer) {
                Ok(0) => return Err(BenchFailure::Said("the server closed the connection".into())),
                Ok(len) => {
                    self.take(&mut buffer[..len], shared)?;
                    // A short read has emptied the socket; more data causes a new event.
                    if len < buffer.len() && !event.is_read_closed() && self.line.is_emptied_by_a_short_read() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Data that waited for the end of a handshake.
        if self.out.is_empty() || self.phase == ClientPhase::Closed { Ok(()) } else { self.flush() }
    }

    /// Reads the share of a steady reader that is due.
    pub(crate) fn read_steadily(&mut self, buffer: &mut [u8], shared: &mut ThreadShared<'_>) {
        let ClientReading::Steady(bytes_per_s) = self.reading else { return };
        if self.phase != ClientPhase::Ready {
            return;
        }
        let now_ns = shared.clock.now_ns();
        if self.steady.0 == 0 {
            self.steady.0 = now_ns;
        }
        let arrivals = self.arrivals.get_or_insert_default();
        if let Some(waiting) = self.line.waiting() {
            arrivals.waiting(waiting, now_ns);
        }
        let due = ((now_ns - self.steady.0) as f64 / 1e9 * f64::from(bytes_per_s)) as u64 - self.steady.1;
        let due = buffer.len().min(due as usize);
        match self.line.read(&mut buffer[..due]) {
            Ok(0) if due > 0 => self.close(shared, "the server closed the connection"),
            Ok(len) => {
                self.steady.1 += len as u64;
                self.arrived_ns = Some(arrivals.read(len as u64).unwrap_or(now_ns));
                if let Err(error) = self.take(&mut buffer[..len], shared) {
                    self.close(shared, &error.to_string());
                }
            }
            // What it could not read now is not read later: then the line is slow.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.steady.1 += due as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => self.close(shared, &error.to_string()),
        }
    }

    fn take(&mut self, bytes: &mut [u8], shared: &mut ThreadShared<'_>) -> Result<(), BenchFailure> {
        if self.phase != ClientPhase::Upgrading {
            return self.take_frames(bytes, shared);
        }
        self.head.extend_from_slice(bytes);
        let Some(end) = find(&self.head, b"\r\n\r\n") else {
            return if self.head.len() < HEAD_BYTES_MAX {
                Ok(())
            } else {
                Err(BenchFailure::Said("the upgrade response is too long".into()))
            };
        };
        let mut rest = self.head.split_off(end + 4);
        let head = std::mem::take(&mut self.head);
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(BenchFailure::Said(format!(
                "the upgrade was refused: {}",
                String::from_utf8_lossy(&[head, rest].concat())
            )));
        }
        for message in std::mem::take(&mut self.opening) {
            websocket::put_masked(&mut self.out, Opcode::Text, message.as_bytes(), [0x5a; 4]);
        }
        self.flush()?;
        self.phase = ClientPhase::Opening;
        self.answered(shared);
        self.take_frames(&mut rest, shared)
    }

    /// Counts the connection as ready when all its subscriptions are active.
    fn answered(&mut self, shared: &mut ThreadShared<'_>) {
        if self.phase == ClientPhase::Opening && self.answers_left == 0 {
            self.phase = ClientPhase::Ready;
            shared.tally.ready += 1;
        }
    }

    fn take_frames(&mut self, bytes: &mut [u8], shared: &mut ThreadShared<'_>) -> Result<(), BenchFailure> {
        let now_ns = shared.clock.now_ns();
        let mut pongs = Vec::new();
        let mut answers = 0;
        let mut feed = self.reader.feed(bytes);
        while let Some(event) = feed.next() {
            match event
                .map_err(|violation| BenchFailure::Said(format!("the server violated the protocol: {violation}")))?
            {
                WebSocketEvent::Text(text) => {
                    let text = text.as_bytes();
                    let Some(stamp) = shared.finder.find(text) else {
                        answers += shared.handle_message(text);
                        continue;
                    };
                    self.received += 1;
                    let conflated = shared.conflated.get(stamp.stream as usize).copied().unwrap_or(false);
                    shared.tally.delivered(now_ns, &stamp, conflated, &mut self.seen);
                    if let Some(arrived_ns) = self.arrived_ns {
                        shared.tally.arrival.record(arrived_ns.saturating_sub(stamp.sent_ns));
                    }
                    if shared.keep_cursor {
                        self.cursor = shared.target.cursor.as_deref().and_then(|before| quoted(text, before));
                    }
                }
                WebSocketEvent::Binary(_) | WebSocketEvent::Pong(_) => {}
                WebSocketEvent::Ping(payload) => websocket::put_masked(&mut pongs, Opcode::Pong, payload, [0x5a; 4]),
                WebSocketEvent::Close(code, reason) => {
                    return Err(BenchFailure::Said(format!("the server closed with {code:?} {reason}")));
                }
            }
        }
        if !pongs.is_empty() {
            self.out.append(&mut pongs);
            self.flush()?;
        }
        if answers > 0 {
            self.answers_left = self.answers_left.saturating_sub(answers);
            self.answered(shared);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BenchFailure> {
        while !self.out.is_empty() {
            match self.line.write(&self.out) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.out = Vec::new();
        match self.line.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Sends a Close frame; the server closes.
    pub(crate) fn leave(&mut self) {
        if self.phase != ClientPhase::Closed {
            websocket::put_masked(&mut self.out, Opcode::Close, &1000_u16.to_be_bytes(), [0x5a; 4]);
            // An error means that the server was faster.
            let _ = self.flush();
        }
    }

    fn close(&mut self, shared: &mut ThreadShared<'_>, why: &str) {
        if self.phase != ClientPhase::Closed {
            self.phase = ClientPhase::Closed;
            shared.tally.closed += 1;
            shared.tally.trouble.get_or_insert_with(|| why.into());
            self.line.shutdown();
        }
    }
}

/// A non-blocking `connect`.
const EINPROGRESS: i32 = 115;

impl ThreadShared<'_> {
    /// Handles a message that is not a delivery; returns how many subscriptions it confirms.
    fn handle_message(&mut self, text: &[u8]) -> usize {
        let holds =
            |needle: &Option<String>| needle.as_ref().is_some_and(|needle| find(text, needle.as_bytes()).is_some());
        if holds(&self.target.gap) {
            self.tally.gaps += 1;
        }
        if find(text, b"\"error\":").is_some() || find(text, b"\"errors\":[{").is_some() {
            self.tally.refusal.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
        }
        let Some(ready) = &self.target.ready else { return 0 };
        text.windows(ready.len()).filter(|window| *window == ready.as_bytes()).count()
    }
}

/// The text between `before` and the next quotation mark.
fn quoted(text: &[u8], before: &str) -> Option<String> {
    let rest = &text[find(text, before.as_bytes())? + before.len()..];
    let end = rest.iter().position(|byte| *byte == b'"')?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}
