//! Readers that accept less than is published: the prices that they read are recent, whatever buffers lie in between,
//! and only one that stops is closed.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use rustix::io::ioctl_fionread;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{
    PATIENCE, eventually,
    replica::{API_KEY, TestReplica},
    wire::{PING, PONG, TEXT, frame, upgrade_request},
};

const SYMBOLS: usize = 50;
/// Time between two updates of every symbol: more than half a megabyte per second.
const INTERVAL: Duration = Duration::from_millis(20);
/// Number of a reader's last values that must be recent.
const LAST: usize = 200;
/// Number of them that may be older for a reader of events, which confirms nothing: those in the gateway's kernel while
/// the reader's has no room.
const HELD: usize = LAST / 20;
/// Maximum age of a value when it reaches a reader's kernel, however slow the reader is.
const GATEWAY_AGE_MAX_MS: u64 = 500;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn symbols() -> Vec<String> {
    (0..SYMBOLS).map(|symbol| format!("ticker:S{symbol}")).collect()
}

/// Publishes all symbols repeatedly.
async fn publish_prices(replica: &TestReplica) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let price = |channel: &String| {
            let data = json!({"type": "ticker", "at": now_ms(), "pad": "x".repeat(120)});
            json!({"channel": channel, "data": data}).to_string() + "\n"
        };
        let lines = symbols().iter().map(price).collect();
        let headers = [("x-api-key", API_KEY), ("content-type", "application/x-ndjson")];
        let answer = replica.api("POST", "/api/v1/publish", &headers, Some(lines)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReaderTransport {
    WebSocket,
    EventStream,
}

/// Reads this many bytes per second, like a busy application.
struct SlowReader {
    socket: Socket,
    transport: ReaderTransport,
    bytes_per_s: usize,
    /// What it subscribes to.
    channels: Value,
    unread: Vec<u8>,
    taken: usize,
    /// Positions of the bytes that had arrived at each check, oldest first, with its time in milliseconds.
    arrived: VecDeque<(usize, u64)>,
    /// Age of the last values when they reached this side's kernel and when they were read, in milliseconds.
    ages_ms: VecDeque<[u64; 2]>,
}

impl SlowReader {
    /// `receive_buffer`: size of the reader's kernel buffer, if not the default.
    fn connect(
        address: SocketAddr,
        transport: ReaderTransport,
        kib_per_s: usize,
        receive_buffer: Option<usize>,
    ) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        // As over Ethernet. A segment of loopback has up to 64 KiB, and a kernel frees room for whole segments.
        socket.set_tcp_mss(1_448).unwrap();
        receive_buffer.into_iter().for_each(|bytes| socket.set_recv_buffer_size(bytes).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(&address.into()).unwrap();
        let request = match transport {
            ReaderTransport::WebSocket => upgrade_request("/ws/market", ""),
            ReaderTransport::EventStream => {
                format!("GET /sse?channels={} HTTP/1.1\r\nHost: localhost\r\n\r\n", symbols().join(","))
            }
        };
        (&socket).write_all(request.as_bytes()).unwrap();
        let bytes_per_s = kib_per_s * 1024;
        let channels = json!(symbols());
        Self {
            socket,
            transport,
            bytes_per_s,
            channels,
            unread: Vec::new(),
            taken: 0,
            arrived: VecDeque::new(),
            ages_ms: VecDeque::new(),
        }
    }

    /// Reads as fast as possible until the backlog has ended and this many messages arrived; returns their numbers.
    fn read_past(&mut self, count: usize) -> Vec<u64> {
        let (mut numbers, mut ended, mut buffer) = (Vec::new(), false, vec![0; 64 << 10]);
        while !ended || numbers.len() < count {
            let length = self.socket.read(&mut buffer).expect("the past goes on");
            assert!(length > 0, "the connection ended");
            self.unread.extend_from_slice(&buffer[..length]);
            if self.unread.starts_with(b"HTTP") {
                self.take_frames();
                // Nothing was subscribed so far: from here on more arrives than it accepts.
                self.pause();
            }
            while let Some((first, payload)) = self.take_frame() {
                if first == PING {
                    self.socket.write_all(&frame(PONG, &payload)).unwrap();
                    continue;
                }
                let message: Value = serde_json::from_slice(&payload).unwrap();
                numbers.extend(message["number"].as_u64());
                ended |= message["type"] == "caught_up" && message["channels"][0]["channel"] == "trades:S0";
            }
        }
        numbers
    }

    #[expect(clippy::disallowed_methods, reason = "a client that reads late is what is tested")]
    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Reads until the last values were recent enough, and arrived as the gateway promises.
    #[expect(clippy::disallowed_methods, reason = "the pace of the reader is what is tested")]
    fn read_until_recent(&mut self, age_max_ms: u64) {
        const STEP: Duration = Duration::from_millis(20);
        let bounds = [GATEWAY_AGE_MAX_MS, age_max_ms];
        let allowed = match self.transport {
            ReaderTransport::WebSocket => 0,
            ReaderTransport::EventStream => HELD,
        };
        let started = Instant::now();
        let mut buffer = vec![0; self.bytes_per_s / 10];
        let is_old = |ages_ms: &&[u64; 2]| ages_ms[0] > bounds[0] || ages_ms[1] > bounds[1];
        while self.ages_ms.len() < LAST || self.ages_ms.iter().filter(is_old).count() > allowed {
            let slow = format!("{:?} of {} B/s", self.transport, self.bytes_per_s);
            assert!(
                started.elapsed() < PATIENCE,
                "{slow}: its values are {:?} ms old when they come and {:?} when they are read",
                self.quantiles_ms(0),
                self.quantiles_ms(1)
            );
            // The test depends on the reader's speed, and thus on time.
            std::thread::sleep(STEP);
            self.look();
            let due = (started.elapsed().as_secs_f64() * self.bytes_per_s as f64) as usize;
            let want = due.saturating_sub(self.taken).min(buffer.len());
            match self.socket.read(&mut buffer[..want]) {
                Ok(0) if want > 0 => panic!("{slow}: the connection ended"),
                Ok(count) => {
                    self.taken += count;
                    self.unread.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("{slow}: nothing came"),
                Err(error) => panic!("{slow}: {error}"),
            }
            match self.transport {
                ReaderTransport::WebSocket => self.take_frames(),
                ReaderTransport::EventStream => self.take_events(),
            }
        }
    }

    /// Records how much has arrived by now.
    fn look(&mut self) {
        let position = self.taken + ioctl_fionread(&self.socket).expect("a live socket") as usize;
        if self.arrived.back().is_none_or(|(last, _)| *last < position) {
            self.arrived.push_back((position, now_ms()));
        }
    }

    /// The median and the 90th percentile of the ages.
    fn quantiles_ms(&self, which: usize) -> Option<[u64; 2]> {
        let mut sorted: Vec<_> = self.ages_ms.iter().map(|ages_ms| ages_ms[which]).collect();
        sorted.sort_unstable();
        let quantile = |share: usize| sorted.get(sorted.len() * share / 100).copied();
        Some([quantile(50)?, quantile(90)?])
    }

    fn value(&mut self, value: &Value) {
        if let Some(at) = value["at"].as_u64() {
            // Its last byte precedes what is still unread.
            let (end, now_ms) = (self.taken - self.unread.len(), now_ms());
            while self.arrived.front().is_some_and(|(position, _)| *position < end) {
                self.arrived.pop_front();
            }
            let arrived_ms = self.arrived.front().map_or(now_ms, |(_, at_ms)| *at_ms);
            self.ages_ms.push_back([arrived_ms, now_ms].map(|ms| ms.saturating_sub(at)));
            if self.ages_ms.len() > LAST {
                self.ages_ms.pop_front();
            }
        }
    }

    fn take_frames(&mut self) {
        if self.unread.starts_with(b"HTTP") {
            let Some(end) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return };
            assert!(self.unread.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&self.unread));
            self.unread.drain(..end + 4);
            let request = json!({"type": "subscribe", "channels": self.channels}).to_string();
            self.socket.write_all(&frame(TEXT, request.as_bytes())).unwrap();
        }
        while let Some((first, payload)) = self.take_frame() {
            match first {
                TEXT => self.value(&serde_json::from_slice(&payload).unwrap()),
                PING => self.socket.write_all(&frame(PONG, &payload)).unwrap(),
                _ => panic!("{first:#x} {}", String::from_utf8_lossy(&payload)),
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.unread.first()?, *self.unread.get(1)?);
        let (start, len) = match second {
            126 => (4, u16::from_be_bytes(self.unread.get(2..4)?.try_into().ok()?).into()),
            127 => (10, u64::from_be_bytes(self.unread.get(2..10)?.try_into().ok()?) as usize),
            len => (2, usize::from(len)),
        };
        let payload = self.unread.get(start..start + len)?.to_vec();
        self.unread.drain(..start + len);
        Some((first, payload))
    }

    fn take_events(&mut self) {
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            // A line that is split by the end of a chunk is not JSON.
            if let Some(data) = line.strip_prefix(b"data: ")
                && let Ok(value) = serde_json::from_slice(data)
            {
                self.value(&value);
            }
        }
    }
}

/// A steady reader of each kind on one replica, concurrently; each reads recent prices after a while.
#[tokio::test]
async fn steady_readers_receive_recent_prices() {
    let replica = TestReplica::alone_with("[session]\nwrite_timeout = \"5s\"").await;
    let address = replica.address();
    let read = |transport, kib_per_s, receive_buffer, age_max_ms| {
        tokio::task::spawn_blocking(move || {
            SlowReader::connect(address, transport, kib_per_s, receive_buffer).read_until_recent(age_max_ms);
        })
    };
    let readers = futures_util::future::try_join_all([
        // The buffers of these count too: they confirm what they read.
        read(ReaderTransport::WebSocket, 64, None, 2_000),
        read(ReaderTransport::WebSocket, 16, None, 2_000),
        read(ReaderTransport::WebSocket, 8, None, 4_000),
        // A reader of events confirms nothing: only what the gateway holds.
        read(ReaderTransport::EventStream, 64, Some(4_096), 1_000),
        read(ReaderTransport::EventStream, 32, Some(4_096), 1_000),
        read(ReaderTransport::EventStream, 16, Some(4_096), 1_500),
        read(ReaderTransport::EventStream, 8, Some(4_096), 2_500),
    ]);
    tokio::select! {
        read = readers => drop(read.unwrap()),
        () = publish_prices(&replica) => {}
    }
}

#[tokio::test]
async fn a_slow_reader_that_stops_is_closed() {
    let replica = TestReplica::alone_with("[session]\nwrite_timeout = \"2s\"").await;
    let address = replica.address();
    let closed = "tickgate_disconnects_total{reason=\"slow_consumer\"}";
    let reader = async {
        let read = move || {
            let mut reader = SlowReader::connect(address, ReaderTransport::WebSocket, 64, Some(4_096));
            reader.read_until_recent(2_000);
            reader
        };
        let reader = tokio::task::spawn_blocking(read).await.unwrap();
        assert_eq!(replica.metric(closed).await, 0.0, "it was steady");
        eventually("the close", async || (replica.metric(closed).await == 1.0).then_some(())).await;
        drop(reader);
    };
    tokio::select! {
        () = reader => {}
        () = publish_prices(&replica) => {}
    }
}

/// A client has missed more than may be unconfirmed, and waits a moment before it reads.
#[tokio::test]
async fn a_reader_that_was_away_and_reads_late_gets_its_backlog() {
    const MISSED: u64 = 400;
    let replica = TestReplica::alone().await;
    let trade = |number| {
        let data = json!({"type": "trade", "number": number, "pad": "x".repeat(1_000)});
        json!({"channel": "trades:S0", "data": data}).to_string() + "\n"
    };
    let headers = [("x-api-key", API_KEY), ("content-type", "application/x-ndjson")];
    for page in (0..MISSED).collect::<Vec<_>>().chunks(100) {
        let lines = page.iter().map(trade).collect();
        assert_eq!(replica.api("POST", "/api/v1/publish", &headers, Some(lines)).await.status, 200);
    }
    let address = replica.address();
    for trades in
        [json!({"channel": "trades:S0", "last": MISSED}), json!({"channel": "trades:S0", "since": "earliest"})]
    {
        let read = move || {
            let mut reader = SlowReader::connect(address, ReaderTransport::WebSocket, 64, Some(4_096));
            // For values, unconfirmed bytes are limited.
            reader.channels = json!(["ticker:S0", trades]);
            reader.read_past(MISSED as usize)
        };
        let read = tokio::task::spawn_blocking(read).await.unwrap();
        assert_eq!(read, (0..MISSED).collect::<Vec<_>>());
    }
}
