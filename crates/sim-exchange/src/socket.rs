//! One stream connection: subscriptions, events with faults applied, pings, and the various ways to end it.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tungstenite::handshake::derive_accept_key;

use crate::{
    control::{ConnectionLimits, ConnectionStreams, ControlEffect},
    event::StreamEvent,
    faults::{Sent, apply, matches},
    frames,
    http::ExchangeRequest,
    world::{Connected, Exchange, SocketCommand},
};

/// Maximum number of queued commands for one connection.
const COMMANDS_MAX: usize = 64;
/// Maximum number of queued frames from a client.
const FRAMES_MAX: usize = 64;

/// Why a connection ends, and how.
enum SocketEnd {
    /// In the way that the switch selects.
    Cut,
    Close(u16, &'static str),
    /// The client closed: the end comes later, without a response.
    ByClient,
    Gone,
}

struct ExchangeSocket {
    world: Exchange,
    id: u64,
    writer: OwnedWriteHalf,
    subscriptions: ConnectionStreams,
    /// Streams of which an event was sent.
    delivered: HashSet<String>,
    received: VecDeque<u64>,
    ping: Option<(u64, Vec<u8>)>,
    /// Delayed events and responses: when, and the bytes.
    later: VecDeque<(Instant, Vec<u8>)>,
}

/// Answers the upgrade and serves the connection until its end.
pub(crate) async fn serve(world: Exchange, mut stream: TcpStream, request: &ExchangeRequest) -> io::Result<()> {
    let now_ms = world.now_ms();
    let admitted = world.lock().admit(now_ms);
    let id = match admitted {
        Ok(id) => id,
        Err(status) => return crate::refuse(&mut stream, status).await,
    };
    if request.header("sec-websocket-extensions").is_some() {
        world.lock().violate(now_ms, "protocol", "compression was offered");
    }
    let key = request.header("sec-websocket-key").unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let extension =
        if world.lock().switches.deflate_header { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{extension}\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let names = request.path().strip_prefix("/ws/").map(str::to_owned).or_else(|| request.parameter("streams"));
    let streams: HashSet<String> = names.iter().flat_map(|names| names.split('/')).map(str::to_owned).collect();
    let (commands, commanded) = mpsc::channel(COMMANDS_MAX);
    let events = world.events.subscribe();
    world.lock().connected.push(Connected { id, opened_ms: now_ms, streams: streams.clone(), commands, sent: 0 });
    let (reader, writer) = stream.into_split();
    let combined = request.path() == "/stream";
    let mut socket = ExchangeSocket {
        world: world.clone(),
        id,
        writer,
        subscriptions: ConnectionStreams { streams, combined },
        delivered: HashSet::new(),
        received: VecDeque::new(),
        ping: None,
        later: VecDeque::new(),
    };
    let (sender, received) = mpsc::channel(FRAMES_MAX);
    let end = tokio::select! {
        end = socket.run(received, commanded, events) => end.unwrap_or(SocketEnd::Gone),
        _ = listen(world.clone(), id, BufReader::new(reader), sender) => SocketEnd::Gone,
    };
    world.lock().connected.retain(|connected| connected.id != id);
    socket.end(end).await
}

/// Passes on the client's frames; ends only with the connection.
async fn listen(
    world: Exchange,
    id: u64,
    mut reader: BufReader<OwnedReadHalf>,
    sender: mpsc::Sender<frames::Frame>,
) -> io::Result<()> {
    loop {
        while world.lock().suffers("half-open", id) {
            sleep(Duration::from_millis(50)).await;
        }
        let frame = frames::read(&mut reader).await?;
        let is_close = frame.opcode == frames::CLOSE;
        if sender.send(frame).await.is_err() || is_close {
            // Regardless of what follows; the peer decides when it ends.
            let mut rest = [0; 1024];
            while reader.read(&mut rest).await? > 0 {}
            std::future::pending::<()>().await;
        }
    }
}

impl ExchangeSocket {
    async fn run(
        &mut self,
        mut received: mpsc::Receiver<frames::Frame>,
        mut commanded: mpsc::Receiver<SocketCommand>,
        mut events: broadcast::Receiver<Arc<Vec<StreamEvent>>>,
    ) -> io::Result<SocketEnd> {
        let opened = Instant::now();
        let mut shutdown: Option<Instant> = None;
        let mut next_ping = opened + Duration::from_millis(self.world.lock().switches.ping_interval);
        loop {
            let day = opened + Duration::from_millis(self.world.lock().switches.day);
            let ends = shutdown.map_or(day, |shutdown| shutdown.min(day));
            let later = self.later.front().map(|(due, _)| *due);
            tokio::select! {
                () = sleep_until(ends) => return Ok(SocketEnd::Cut),
                () = sleep_until(next_ping) => {
                    let interval = Duration::from_millis(self.world.lock().switches.ping_interval);
                    next_ping = Instant::now() + interval;
                    if let Some(end) = self.ping().await? {
                        return Ok(end);
                    }
                }
                () = sleep_until(later.unwrap_or(day)), if later.is_some() => {
                    if let Some((_, bytes)) = self.later.pop_front() {
                        self.write(&bytes).await?;
                    }
                }
                frame = received.recv() => {
                    let Some(frame) = frame else { return Ok(SocketEnd::Gone) };
                    if let Some(end) = self.frame(frame).await? {
                        return Ok(end);
                    }
                }
                command = commanded.recv() => match command {
                    Some(SocketCommand::Cut) => return Ok(SocketEnd::Cut),
                    Some(SocketCommand::ReservedBit) => self.write(&frames::whole(frames::TEXT | frames::RSV1, b"{}")).await?,
                    Some(SocketCommand::Shutdown(after)) => {
                        shutdown = Some(Instant::now() + Duration::from_millis(after));
                        let now = self.world.lock().market.now_ms;
                        let text = format!(r#"{{"stream":"!serverShutdown","data":{{"e":"serverShutdown","E":{now}}}}}"#);
                        self.write(&frames::whole(frames::TEXT, text.as_bytes())).await?;
                    }
                    None => return Ok(SocketEnd::Gone),
                },
                step = events.recv() => match step {
                    Ok(step) => self.deliver(&step).await?,
                    // As the exchange does with a client that does not read.
                    Err(_) => return Ok(SocketEnd::Cut),
                },
            }
        }
    }

    async fn ping(&mut self) -> io::Result<Option<SocketEnd>> {
        let now_ms = self.world.now_ms();
        let (deadline, kind, withheld) = {
            let state = self.world.lock();
            (state.switches.pong_deadline, state.switches.ping_payload.clone(), state.withholds_pings())
        };
        if let Some((sent_ms, _)) = &self.ping
            && now_ms > sent_ms + deadline
        {
            self.world.lock().violate(now_ms, "pong", "no pong in time");
            return Ok(Some(SocketEnd::Close(1008, "Pong timeout")));
        }
        if withheld {
            return Ok(None);
        }
        let payload = match &*kind {
            "empty" => Vec::new(),
            "125-bytes" => vec![b'x'; 125],
            _ => self.world.lock().market.now_ms.to_string().into_bytes(),
        };
        if self.ping.is_none() {
            self.ping = Some((now_ms, payload.clone()));
        }
        self.write(&frames::whole(frames::PING, &payload)).await?;
        Ok(None)
    }

    async fn frame(&mut self, frame: frames::Frame) -> io::Result<Option<SocketEnd>> {
        let now_ms = self.world.now_ms();
        if !frame.masked {
            self.world.lock().violate(now_ms, "protocol", "an unmasked frame");
        }
        if frame.opcode == frames::CLOSE {
            return Ok(Some(SocketEnd::ByClient));
        }
        // Forced by the simulator itself: the exchange sends no pings there.
        if frame.opcode == frames::PONG && frame.payload == frames::BETWEEN {
            return Ok(None);
        }
        if self.is_too_fast(now_ms) {
            let delay = self.world.lock().switches.rate_close_delay;
            sleep(Duration::from_millis(delay)).await;
            return Ok(Some(SocketEnd::Close(1008, "Too many requests")));
        }
        match frame.opcode {
            frames::PONG => self.ponged(now_ms, &frame.payload),
            frames::PING => {
                let answers = self.world.lock().switches.answer_pings;
                if answers {
                    self.write(&frames::whole(frames::PONG, &frame.payload)).await?;
                }
            }
            frames::TEXT => return self.asked(now_ms, &frame).await,
            _ => self.world.lock().violate(now_ms, "protocol", "a frame of an unsupported kind"),
        }
        Ok(None)
    }

    fn is_too_fast(&mut self, now_ms: u64) -> bool {
        self.received.retain(|at| now_ms < at + 1_000);
        self.received.push_back(now_ms);
        let mut state = self.world.lock();
        if self.received.len() <= state.switches.rate {
            return false;
        }
        state.violate(now_ms, "pace", &format!("{} messages in a second", self.received.len()));
        true
    }

    fn ponged(&mut self, now_ms: u64, payload: &[u8]) {
        let mut state = self.world.lock();
        match self.ping.take() {
            Some((_, expected)) if expected == payload => {}
            Some(_) => state.violate(now_ms, "pong", "a pong with another payload"),
            None => {}
        }
        state.write(now_ms, "pong", &json!({"connection": self.id}));
    }

    async fn asked(&mut self, now_ms: u64, frame: &frames::Frame) -> io::Result<Option<SocketEnd>> {
        let Ok(text) = std::str::from_utf8(&frame.payload) else {
            self.world.lock().violate(now_ms, "protocol", "a text frame that is not UTF-8");
            return Ok(Some(SocketEnd::Close(1007, "")));
        };
        let (outcome, new, acks, delay) = self.judged(now_ms, frame, text);
        let (answer, closes) = match outcome {
            ControlEffect::Silence => return Ok(None),
            ControlEffect::Answer(answer) => (answer, false),
            ControlEffect::AnswerAndClose(answer) => (answer, true),
        };
        self.repeat(&new);
        let answer = if acks == "wrong-id" { answer.replace("\"id\":", "\"id\":1000") } else { answer };
        let bytes = frames::whole(frames::TEXT, answer.as_bytes());
        match &*acks {
            "drop" => {}
            "late" => self.later.push_back((Instant::now() + Duration::from_millis(delay), bytes)),
            _ => self.write(&bytes).await?,
        }
        Ok(closes.then_some(SocketEnd::Close(1008, "Invalid request")))
    }

    /// The result of a message: the outcome, the new names, and how responses are sent now.
    fn judged(&mut self, now_ms: u64, frame: &frames::Frame, text: &str) -> (ControlEffect, Vec<String>, String, u64) {
        let mut state = self.world.lock();
        let switches = state.switches.clone();
        let summary = text.chars().take(200).collect::<String>();
        state.write(now_ms, "message", &json!({"connection": self.id, "bytes": frame.bytes, "text": summary}));
        if frame.bytes > switches.subscribe_bytes_max {
            state.violate(now_ms, "size", &format!("a message of {} bytes", frame.bytes));
            return (ControlEffect::Silence, Vec::new(), switches.acks, 0);
        }
        let has_data = |symbol: &str| {
            let known = state.market.instruments.iter().find(|i| i.symbol.to_ascii_lowercase() == symbol);
            state.replay.is_some() || known.is_some_and(crate::market::SimulatedInstrument::has_data)
        };
        let flat_errors = switches.acks == "flat-errors";
        let limits = ConnectionLimits { streams_max: switches.streams_max, flat_errors, has_data: &has_data };
        let (outcome, new, misdeeds) = self.subscriptions.take(text, &limits);
        for (kind, detail) in misdeeds {
            state.violate(now_ms, kind, &detail);
        }
        if let Some(connected) = state.connected.iter_mut().find(|connected| connected.id == self.id) {
            connected.streams.clone_from(&self.subscriptions.streams);
        }
        (outcome, new, switches.acks, switches.ack_delay)
    }

    /// Repeats the last trades of new streams, if requested.
    fn repeat(&mut self, new: &[String]) {
        let state = self.world.lock();
        let Some(amount) = state.fault("overlap").map(|fault| fault.amount as usize) else { return };
        for name in new.iter().filter(|name| name.ends_with("@aggTrade")) {
            let symbol = name.split('@').next().unwrap_or_default().to_ascii_uppercase();
            let Some(instrument) = state.market.find(&symbol) else { continue };
            let from = instrument.trades.len().saturating_sub(amount);
            for trade in instrument.trades.iter().skip(from) {
                let payload = trade.json(&symbol, state.market.now_ms);
                let text = format!(r#"{{"stream":"{name}","data":{payload}}}"#);
                self.later.push_back((Instant::now(), frames::whole(frames::TEXT, text.as_bytes())));
            }
        }
    }

    async fn deliver(&mut self, step: &[StreamEvent]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let lag = {
            let mut guard = self.world.lock();
            let state = &mut *guard;
            let mut sent = 0;
            for event in step.iter().filter(|event| self.subscriptions.streams.contains(&*event.stream)) {
                if event.repeated && self.delivered.contains(&*event.stream) {
                    continue;
                }
                if !state.switches.ack_only.is_empty() && matches(&state.switches.ack_only, &event.stream) {
                    continue;
                }
                let forms = apply(&mut state.faults, &event.stream, &event.payload, &mut state.random);
                if !forms.is_empty() && !self.delivered.contains(&*event.stream) {
                    self.delivered.insert(event.stream.to_string());
                }
                sent += forms.len() as u64;
                for form in forms {
                    bytes.extend(match form {
                        Sent::Text(text) if self.subscriptions.combined => frames::whole(frames::TEXT, text.as_bytes()),
                        Sent::Text(_) => frames::whole(frames::TEXT, event.payload.as_bytes()),
                        Sent::Binary(bytes) => frames::whole(frames::BINARY, &bytes),
                        Sent::Fragments(text) => frames::fragments(&text),
                    });
                }
            }
            if let Some(connected) = state.connected.iter_mut().find(|connected| connected.id == self.id) {
                connected.sent += sent;
            }
            state.fault("lag").map(|fault| fault.amount)
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if lag.is_none() && self.later.is_empty() {
            return self.write(&bytes).await;
        }
        self.later.push_back((Instant::now() + lag.map_or(Duration::ZERO, Duration::from_millis), bytes));
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.world.lock().suffers("half-open", self.id) {
            sleep(Duration::from_millis(50)).await;
        }
        let mut rest = bytes;
        while let Some((first, tail)) = rest.split_first()
            && self.world.lock().suffers("slow-drip", self.id)
        {
            self.writer.write_all(&[*first]).await?;
            rest = tail;
            sleep(Duration::from_millis(100)).await;
        }
        self.writer.write_all(rest).await
    }

    async fn end(mut self, end: SocketEnd) -> io::Result<()> {
        let (form, ignore) = {
            let state = self.world.lock();
            (state.switches.cut_form.clone(), state.switches.ignore_close)
        };
        match end {
            SocketEnd::Gone => {}
            SocketEnd::Close(code, reason) => self.writer.write_all(&frames::close(code, reason)).await?,
            SocketEnd::ByClient => sleep(Duration::from_millis(ignore)).await,
            SocketEnd::Cut => match &*form {
                "close-1001" => self.writer.write_all(&frames::close(1001, "")).await?,
                "close-1008" => self.writer.write_all(&frames::close(1008, "Invalid request")).await?,
                "close-none" => self.writer.write_all(&frames::whole(frames::CLOSE, b"")).await?,
                "half-frame" => self.writer.write_all(&[0x81, 126, 1, 0, b'{']).await?,
                "rst" => self.writer.as_ref().set_zero_linger()?,
                _ => {}
            },
        }
        Ok(())
    }
}
