//! One run of the client against the scripted gateway: collects everything that happens for the script, issues tokens,
//! answers pings and Close frames, and detects what no scenario allows. Never decides what happens next.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver, Sender},
    task::JoinSet,
    time::timeout_at,
};

use crate::{
    http::RequestHead,
    program::Program,
    requests,
    seen::{Observation, SocketInput, What},
    socket::SuiteSocket,
    trace::{EventLog, ScenarioFailure, StepResult},
};

/// How long the script waits for something that must happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Maximum number of pending observations.
const SEEN_MAX: usize = 1024;

/// How the client gets tokens.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Number of tokens issued; the last one is `token-<given>`.
    pub given: usize,
    /// How often the client asked.
    pub asked: usize,
    /// How many of the next requests for a token fail.
    pub failures: usize,
}

/// A request for a connection that has not been answered.
#[derive(Debug)]
pub(crate) struct OfferedConnection {
    pub request: RequestHead,
    pub at: Instant,
    pub stream: TcpStream,
}

/// A request of the client.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    pub body: Value,
    pub at: Instant,
}

/// One WebSocket connection.
#[derive(Debug)]
pub(crate) struct SocketLine {
    pub socket: Option<SuiteSocket>,
    pub requests: VecDeque<ReceivedRequest>,
    pub pongs: Vec<Vec<u8>>,
    /// The client's Close frame; its code.
    pub closed: Option<Option<u16>>,
    pub ended: Option<Instant>,
    /// Pings and Close frames of the client are answered.
    pub answers: bool,
    open_ids: BTreeSet<String>,
}

/// One run.
#[derive(Debug)]
pub(crate) struct SuiteRun {
    pub program: Program,
    pub tokens: Tokens,
    pub trace: EventLog,
    pub arrivals: VecDeque<OfferedConnection>,
    pub lines: Vec<SocketLine>,
    /// Messages and gaps, in the order in which the client reported them.
    pub data: VecDeque<Value>,
    /// Refused channels, outcomes, cursors, in their order.
    pub reports: VecDeque<Value>,
    pub states: VecDeque<(Instant, Value)>,
    seen: Receiver<Observation>,
    sender: Sender<Observation>,
    tasks: JoinSet<()>,
    fault: Option<ScenarioFailure>,
}

impl SuiteRun {
    /// Listens, and starts the command.
    pub(crate) async fn start(command: &str, channels: &Value, auth: &str, trace: EventLog) -> StepResult<Self> {
        let failed =
            |error: std::io::Error| ScenarioFailure::new(format!("the command starts: {command}"), error.to_string());
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (sender, seen) = mpsc::channel(SEEN_MAX);
        let mut tasks = JoinSet::new();
        let environment = [
            ("TICKGATE_URL", format!("ws://{address}/ws/trading")),
            ("TICKGATE_CHANNELS", channels.to_string()),
            ("TICKGATE_AUTH", auth.to_owned()),
        ];
        let program = Program::start(command, &environment, &mut tasks, &sender).map_err(failed)?;
        tasks.spawn(accept(listener, sender.clone()));
        Ok(Self {
            program,
            tokens: Tokens::default(),
            trace,
            arrivals: VecDeque::new(),
            lines: Vec::new(),
            data: VecDeque::new(),
            reports: VecDeque::new(),
            states: VecDeque::new(),
            seen,
            sender,
            tasks,
            fault: None,
        })
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, line: &str) {
        self.trace.note(Instant::now(), line);
    }

    /// Adds an accepted TCP connection. Returns the number of its line.
    pub(crate) fn add_line(&mut self, stream: TcpStream) -> usize {
        let number = self.lines.len();
        let socket = Some(SuiteSocket::new(stream, number, &mut self.tasks, &self.sender));
        self.lines.push(SocketLine {
            socket,
            requests: VecDeque::new(),
            pongs: Vec::new(),
            closed: None,
            ended: None,
            answers: true,
            open_ids: BTreeSet::new(),
        });
        number
    }

    /// Sends a message of the gateway.
    pub(crate) async fn send_text(&mut self, line: usize, text: &str) {
        self.note(&format!("#{line} gateway: {text}"));
        if let Ok(message) = serde_json::from_str::<Value>(text)
            && message["_meta"].is_null()
        {
            self.lines[line].open_ids.remove(&message["id"].to_string());
        }
        if let Some(socket) = &mut self.lines[line].socket {
            socket.text(text).await;
        }
    }

    pub(crate) async fn send(&mut self, line: usize, message: &Value) {
        self.send_text(line, &message.to_string()).await;
    }

    /// Sends a command to the client.
    pub(crate) async fn command(&mut self, command: &Value) -> StepResult {
        self.note(&format!("suite: {command}"));
        self.program.command(command).await
    }

    /// Waits until `take` finds something.
    pub(crate) async fn until<T>(
        &mut self,
        expected: &str,
        patience: Duration,
        mut take: impl FnMut(&mut Self) -> Option<T>,
    ) -> StepResult<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(fault) = self.fault.take() {
                self.trace.fail();
                return Err(fault);
            }
            if let Some(found) = take(self) {
                return Ok(found);
            }
            if !self.step(deadline).await? {
                return self.fail(expected, &format!("nothing of the kind within {patience:?}"));
            }
        }
    }

    /// Waits for a time during which `wrong` must find nothing.
    pub(crate) async fn nothing(
        &mut self,
        expected: &str,
        patience: Duration,
        mut wrong: impl FnMut(&mut Self) -> Option<String>,
    ) -> StepResult {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(fault) = self.fault.take() {
                self.trace.fail();
                return Err(fault);
            }
            if let Some(got) = wrong(self) {
                return self.fail(expected, &got);
            }
            if !self.step(deadline).await? {
                return Ok(());
            }
        }
    }

    /// Waits until `holds` is true or the time has passed.
    pub(crate) async fn watch(&mut self, patience: Duration, mut holds: impl FnMut(&Self) -> bool) -> StepResult {
        let deadline = Instant::now() + patience;
        while !holds(self) && self.step(deadline).await? {}
        Ok(())
    }

    /// Fails the scenario.
    pub(crate) fn fail<T>(&self, expected: &str, got: &str) -> StepResult<T> {
        self.trace.fail();
        Err(ScenarioFailure::new(expected, got))
    }

    pub(crate) fn check(&self, holds: bool, expected: &str, got: &str) -> StepResult {
        if holds { Ok(()) } else { self.fail(expected, got) }
    }

    /// Handles the next observation; false if there was none before the deadline.
    async fn step(&mut self, deadline: Instant) -> StepResult<bool> {
        let Ok(Some(seen)) = timeout_at(deadline.into(), self.seen.recv()).await else { return Ok(false) };
        self.observe(seen).await?;
        Ok(true)
    }

    async fn observe(&mut self, Observation { at, what }: Observation) -> StepResult {
        match what {
            What::Request(request, stream) => {
                self.trace.note(at, &format!("client: {}", request.shown()));
                if request.query.keys().any(|name| name != "session") {
                    self.wrong("no token and nothing but `session` in the URL", &request.shown());
                }
                self.arrivals.push_back(OfferedConnection { request, at, stream });
            }
            What::NoRequest(why) => self.trace.note(at, &format!("client: a connection without a request: {why}")),
            What::Frame(line, frame) => self.frame(at, line, frame).await,
            What::Event(event) => return self.event(at, event).await,
            What::NoEvent(line) => {
                self.trace.note(at, &format!("client writes: {line}"));
                self.wrong("lines of JSON with an `event` on standard output", &line);
            }
            What::Diagnostic(line) => self.trace.note(at, &format!("client's standard error: {line}")),
        }
        Ok(())
    }

    async fn frame(&mut self, at: Instant, number: usize, frame: SocketInput) {
        if !matches!(frame, SocketInput::Pong(_)) {
            self.trace.note(at, &format!("#{number} client: {frame:?}"));
        }
        match frame {
            SocketInput::Text(text) => self.asked(at, number, &text).await,
            SocketInput::Ping(payload) => {
                if let SocketLine { socket: Some(socket), answers: true, .. } = &mut self.lines[number] {
                    socket.pong(&payload).await;
                }
            }
            SocketInput::Pong(payload) => self.lines[number].pongs.push(payload),
            SocketInput::Close(code) => {
                let line = &mut self.lines[number];
                let answered = line.closed.replace(code).is_none() && line.answers;
                if let Some(mut socket) = line.socket.take_if(|_| answered) {
                    socket.close(code).await;
                }
            }
            SocketInput::Violation(what) => self.wrong("text frames by RFC 6455", &what),
            SocketInput::End => self.lines[number].ended = Some(at),
        }
    }

    async fn asked(&mut self, at: Instant, number: usize, text: &str) {
        let body = match requests::read(text) {
            Ok(body) => body,
            Err(wrong) => return self.wrong(&wrong, text),
        };
        if body["type"] == "ping" {
            if self.lines[number].answers {
                let answer = json!({ "type": "pong", "id": body["id"], "timestamp": body["timestamp"] });
                self.send(number, &answer).await;
            }
            return;
        }
        if !self.lines[number].open_ids.insert(body["id"].to_string()) {
            return self.wrong("an `id` that no other open request has", text);
        }
        self.lines[number].requests.push_back(ReceivedRequest { body, at });
    }

    async fn event(&mut self, at: Instant, event: Value) -> StepResult {
        self.trace.note(at, &format!("client reports: {event}"));
        match event["event"].as_str().unwrap_or_default() {
            "token" => return self.give_token().await,
            "message" | "gap" => self.data.push_back(event),
            "refused" | "outcome" | "cursors" => self.reports.push_back(event),
            "state" => self.states.push_back((at, event)),
            "log" => {}
            _ => self.wrong("an event of docs/client-suite.md", &event.to_string()),
        }
        Ok(())
    }

    async fn give_token(&mut self) -> StepResult {
        self.tokens.asked += 1;
        if self.tokens.failures > 0 {
            self.tokens.failures -= 1;
            return self.command(&json!({ "command": "token", "error": "the login does not answer" })).await;
        }
        self.tokens.given += 1;
        let token = format!("token-{}", self.tokens.given);
        self.command(&json!({ "command": "token", "token": token })).await
    }

    /// Lets the next check of the scenario fail with this.
    fn wrong(&mut self, expected: &str, got: &str) {
        self.fault.get_or_insert_with(|| ScenarioFailure::new(expected, got));
    }
}

/// Accepts connections and reads the request of each.
async fn accept(listener: TcpListener, seen: Sender<Observation>) {
    let mut reading = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let (at, seen) = (Instant::now(), seen.clone());
        // Each write is a whole message.
        let _ = stream.set_nodelay(true);
        reading.spawn(async move {
            let what = match RequestHead::read(&mut stream).await {
                Ok(request) => What::Request(request, stream),
                Err(error) => What::NoRequest(error.to_string()),
            };
            // The stage may have been dropped.
            let _ = seen.send(Observation { at, what }).await;
        });
        while reading.try_join_next().is_some() {}
    }
}
