//! A client that never gives up: it subscribes to its channels, reconnects to any replica by the rule of the close
//! codes, and records what it receives. Implements only what the documents require of a client. Shares the connection
//! with the client library, but none of its rules: otherwise the judged and the shipped client could have the same
//! mistake.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tickgate::tasks::Stop;
use tickgate_client::{ClientSocket, Error, Opening};
use tickgate_wire::model::StreamId;
use tokio::{
    net::TcpSocket,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    dice::Dice,
    record::{ClientStream, ConnectionEnd, HeardEvent, SharedDiary, TestedChannel},
    support::replica::token,
};

/// Heartbeats arrive after three seconds of silence: a connection that is silent for longer is lost.
const SILENCE_MAX: Duration = Duration::from_millis(4_500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An order to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOrder {
    /// No order yet.
    Live,
    /// Its process is killed; it reconnects elsewhere.
    Vanish(u64),
    /// It closes regularly, and reconnects elsewhere.
    Leave(u64),
    /// It reads nothing for a while.
    Sleep(u64, Duration),
    /// It stays away for a while, and reconnects elsewhere.
    StayAway(u64, Duration),
    /// It ends.
    End,
}

/// The parameters of one client.
pub struct ClientParameters {
    pub name: String,
    pub user: Arc<str>,
    /// It takes over its session, so that its previous connection releases its place.
    pub takes_over: bool,
    pub channels: Vec<TestedChannel>,
    /// The address of each replica's proxy.
    pub replicas: Vec<SocketAddr>,
    pub diary: SharedDiary,
    pub orders: watch::Receiver<ClientOrder>,
    pub dice: Dice,
    /// Uses the smallest buffers that the kernel allows, so that the gateway notices a client that does not read.
    pub small_buffers: bool,
    pub session: Option<String>,
    /// The cursor of each channel.
    pub cursors: HashMap<String, StreamId>,
    /// The stream with which each channel shares its position.
    pub shared: HashMap<String, String>,
    /// Channels whose backlog is being delivered.
    pub replaying: HashSet<String>,
    /// The replica that it tries first.
    pub prefers: Option<usize>,
}

/// The result of a connection.
enum ConnectionOutcome {
    Closed {
        code: u16,
        reason: String,
    },
    /// Lost without a Close frame.
    Gone,
    Ordered(ClientOrder),
}

impl ConnectionOutcome {
    fn of(error: Error) -> Self {
        match error {
            Error::Closed(closed) => Self::Closed { code: closed.code.unwrap_or(1005), reason: closed.reason },
            _ => Self::Gone,
        }
    }
}

impl ClientParameters {
    /// Runs until it is ordered to end.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let outcome = tokio::select! {
                outcome = self.connect_and_follow() => outcome,
                () = stop.wait() => return,
            };
            self.diary.lock().connected = false;
            match outcome {
                ConnectionOutcome::Ordered(ClientOrder::End) => return,
                // Any other order calls it back.
                ConnectionOutcome::Ordered(ClientOrder::StayAway(_, pause)) => {
                    drop(timeout(pause, self.orders.changed()).await);
                }
                // The rule of the close codes: 4500 and above never reconnect.
                ConnectionOutcome::Closed { code, reason }
                    if code >= 4500 || (1000..1011).contains(&code) && code != 1001 =>
                {
                    self.malformed(&format!("closed for good: {code} {reason}"));
                    return;
                }
                _ => {}
            }
            let pause = self.dice.between(10, 120);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn connect_and_follow(&mut self) -> ConnectionOutcome {
        self.orders.borrow_and_update();
        let Some(mut socket) = self.connect().await else {
            sleep(Duration::from_millis(self.dice.between(50, 200))).await;
            return if *self.orders.borrow() == ClientOrder::End {
                ConnectionOutcome::Ordered(ClientOrder::End)
            } else {
                ConnectionOutcome::Gone
            };
        };
        let mut hinted = false;
        let outcome = match self.begin(&mut socket).await {
            Ok(()) => {
                self.diary.lock().connected = true;
                self.follow(&mut socket, &mut hinted).await
            }
            Err(outcome) => outcome,
        };
        let (code, reason) = match &outcome {
            ConnectionOutcome::Closed { code, reason } => (*code, reason.clone()),
            ConnectionOutcome::Gone => (1006, String::new()),
            ConnectionOutcome::Ordered(ClientOrder::Leave(_) | ClientOrder::End) => {
                let _ = timeout(Duration::from_millis(300), socket.close()).await;
                return outcome;
            }
            ConnectionOutcome::Ordered(_) => return outcome,
        };
        self.diary.lock().ended.push(ConnectionEnd { code, reason, hinted, at: std::time::Instant::now() });
        outcome
    }

    async fn connect(&mut self) -> Option<ClientSocket> {
        let number = self.prefers.take().unwrap_or_else(|| self.dice.index(self.replicas.len()));
        let address = self.replicas[number];
        let mut path = format!("ws://{address}/ws/chaos?token={}", token(&self.user));
        if let Some(session) = self.session.as_ref().filter(|_| self.takes_over) {
            path = format!("{path}&session={session}");
        }
        let opening = Opening::to(path).silence_max(SILENCE_MAX);
        let small_buffers = self.small_buffers;
        let connecting = async move {
            let socket = TcpSocket::new_v4().ok()?;
            if small_buffers {
                let _ = socket.set_recv_buffer_size(4096);
            }
            let stream = socket.connect(address).await.ok()?;
            let _ = stream.set_nodelay(true);
            Some(opening.open_over(stream).await)
        };
        match timeout(ANSWER_TIMEOUT, connecting).await.ok()?? {
            Ok(socket) => Some(socket),
            Err(Error::Refused(refusal)) => {
                *self.diary.lock().refused.entry(refusal.status.as_u16()).or_default() += 1;
                None
            }
            Err(_) => None,
        }
    }

    /// Reads the welcome and subscribes.
    async fn begin(&mut self, socket: &mut ClientSocket) -> Result<(), ConnectionOutcome> {
        let welcome = self.expect(socket).await?;
        if welcome["type"] != "connection_established" {
            self.malformed(&format!("greeted with {welcome}"));
            return Err(ConnectionOutcome::Gone);
        }
        self.diary.lock().connections += 1;
        self.each_stream(|_| HeardEvent::Connected);
        self.session = welcome["session"].as_str().map(str::to_owned);
        // Incomplete replays are requested again.
        self.replaying.clear();
        let names: Vec<_> = self.channels.iter().map(|channel| channel.name).collect();
        self.subscribe(socket, &names).await
    }

    async fn subscribe(&mut self, socket: &mut ClientSocket, names: &[&str]) -> Result<(), ConnectionOutcome> {
        let element = |name: &&str| match self.cursors.get(*name) {
            Some(cursor) => json!({ "channel": name, "since": cursor.to_string() }),
            None => json!(name),
        };
        let elements: Vec<_> = names.iter().map(element).collect();
        let request = json!({ "type": "subscribe", "id": "begin", "channels": elements });
        socket.send(request.to_string()).await.map_err(|_| ConnectionOutcome::Gone)
    }

    /// Stores the last cursor that the server sent for a channel; channels of one stream move together once their
    /// backlog was sent.
    fn store(&mut self, channel: &str, cursor: &Value) {
        let Some(cursor) = id_of(cursor) else { return };
        self.cursors.insert(channel.to_owned(), cursor);
        if let Some(stream) = self.shared.get(channel).filter(|_| !self.replaying.contains(channel)) {
            for (other, _) in
                self.shared.iter().filter(|(other, own)| *own == stream && !self.replaying.contains(*other))
            {
                self.cursors.insert(other.clone(), cursor);
            }
        }
    }

    /// The next message, within the response timeout.
    async fn expect(&mut self, socket: &mut ClientSocket) -> Result<Value, ConnectionOutcome> {
        match timeout(ANSWER_TIMEOUT, socket.next()).await {
            Ok(Ok(text)) => serde_json::from_str(&text).map_err(|_| ConnectionOutcome::Gone),
            Ok(Err(error)) => Err(ConnectionOutcome::of(error)),
            Err(_) => Err(ConnectionOutcome::Gone),
        }
    }

    async fn follow(&mut self, socket: &mut ClientSocket, hinted: &mut bool) -> ConnectionOutcome {
        loop {
            let next = tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    let order = *self.orders.borrow();
                    match (changed, order) {
                        (Err(_), _) => return ConnectionOutcome::Ordered(ClientOrder::End),
                        (Ok(()), ClientOrder::Live) => continue,
                        (Ok(()), ClientOrder::Sleep(_, pause)) => {
                            // Any other order wakes it.
                            if timeout(pause, self.orders.changed()).await.is_ok() {
                                self.orders.mark_changed();
                            }
                            continue;
                        }
                        (Ok(()), order) => return ConnectionOutcome::Ordered(order),
                    }
                }
                next = socket.next() => next,
            };
            let text = match next {
                Ok(text) => text,
                Err(error) => return ConnectionOutcome::of(error),
            };
            match serde_json::from_str::<Value>(&text) {
                Ok(message) => {
                    *hinted |= message["type"] == "closing";
                    if let Err(outcome) = self.take(socket, &message).await {
                        return outcome;
                    }
                }
                Err(error) => self.malformed(&format!("{error} in {text}")),
            }
        }
    }

    async fn take(&mut self, socket: &mut ClientSocket, message: &Value) -> Result<(), ConnectionOutcome> {
        if message["_meta"].is_object() {
            self.take_push(message);
            return Ok(());
        }
        match message["type"].as_str().unwrap_or_default() {
            "gap" => self.take_gap(message),
            "subscribed" => return self.take_subscribed(socket, message).await,
            "caught_up" => {
                for end in message["channels"].as_array().into_iter().flatten() {
                    let channel = end["channel"].as_str().unwrap_or_default();
                    self.replaying.remove(channel);
                    self.store(channel, &end["cursor"]);
                }
            }
            "heartbeat" => {
                for (stream, cursor) in message["cursors"].as_object().into_iter().flatten() {
                    let of = self.shared.iter().find(|(name, own)| *own == stream && !self.replaying.contains(*name));
                    if let Some(channel) = of.map(|(channel, _)| channel.clone()) {
                        self.store(&channel, cursor);
                    }
                }
            }
            "closing" => {}
            _ => self.malformed(&format!("unexpected: {message}")),
        }
        Ok(())
    }

    async fn take_subscribed(&mut self, socket: &mut ClientSocket, message: &Value) -> Result<(), ConnectionOutcome> {
        for begun in message["channels"].as_array().into_iter().flatten() {
            let Some(stream) = self.stream_of(&begun["channel"]) else { continue };
            let channel = begun["channel"].as_str().unwrap_or_default().to_owned();
            if let Some(shared) = begun["stream"].as_str() {
                self.shared.insert(channel.clone(), shared.to_owned());
            }
            if begun["live"] == false {
                self.replaying.insert(channel.clone());
            } else {
                self.replaying.remove(&channel);
            }
            self.store(&channel, &begun["cursor"]);
            let at = id_of(&begun["cursor"]).unwrap_or_default();
            let mut diary = self.diary.lock();
            let known = diary.streams.get(&stream).into_iter().flatten();
            // With a cursor it continues where it was; otherwise it starts here.
            if known.filter(|(_, heard)| matches!(heard, HeardEvent::Began(_))).count() == 0 {
                diary.hear(&stream, HeardEvent::Began(at));
            }
        }
        let refused: Vec<_> = message["errors"].as_array().into_iter().flatten().cloned().collect();
        if refused.is_empty() {
            return Ok(());
        }
        self.diary.lock().postponed += refused.len() as u64;
        sleep(Duration::from_millis(100)).await;
        let wanted = |channel: &&TestedChannel| refused.iter().any(|refused| refused["channel"] == channel.name);
        let names: Vec<_> = self.channels.iter().filter(wanted).map(|channel| channel.name).collect();
        if names.len() < refused.len() {
            self.malformed(&format!("refused: {message}"));
        }
        self.subscribe(socket, &names).await
    }

    fn take_push(&mut self, message: &Value) {
        let meta = &message["_meta"];
        let Some(channel) = self.channels.iter().find(|channel| meta["channel"] == channel.name).cloned() else {
            return self.malformed(&format!("a push of a channel that is not subscribed: {message}"));
        };
        let foreign = message["user"] != json!(channel.user.as_deref()) || message["stream"] != *channel.stream.0;
        let id = id_of(&meta["id"]);
        let heard = match (id, message["number"].as_u64()) {
            (Some(id), Some(number)) if !foreign => {
                HeardEvent::Push { id, number, replayed: meta["replayed"] == true, snapshot: meta["snapshot"] == true }
            }
            _ => HeardEvent::Malformed(format!("{} got {message}", self.name)),
        };
        self.diary.lock().hear(&channel.stream, heard);
        self.store(channel.name, &meta["id"]);
    }

    fn take_gap(&mut self, message: &Value) {
        let Some(stream) = self.stream_of(&message["channels"][0]) else {
            return self.malformed(&format!("a gap of a channel that is not subscribed: {message}"));
        };
        let heard = HeardEvent::Gap {
            after: id_of(&message["after"]).unwrap_or_default(),
            before: id_of(&message["before"]),
            reason: message["reason"].as_str().unwrap_or_default().to_owned(),
            is_counted: !message["count"].is_null(),
        };
        self.diary.lock().hear(&stream, heard);
        for channel in message["channels"].as_array().into_iter().flatten() {
            self.store(channel.as_str().unwrap_or_default(), &message["cursor"]);
        }
    }

    fn stream_of(&self, channel: &Value) -> Option<ClientStream> {
        self.channels.iter().find(|known| *channel == known.name).map(|known| known.stream.clone())
    }

    fn each_stream(&self, heard: impl Fn(&ClientStream) -> HeardEvent) {
        let mut streams: Vec<_> = self.channels.iter().map(|channel| channel.stream.clone()).collect();
        streams.dedup();
        let mut diary = self.diary.lock();
        for stream in streams {
            let heard = heard(&stream);
            diary.hear(&stream, heard);
        }
    }

    fn malformed(&self, text: &str) {
        let stream = self.channels[0].stream.clone();
        self.diary.lock().hear(&stream, HeardEvent::Malformed(format!("{}: {text}", self.name)));
    }
}

fn id_of(value: &Value) -> Option<StreamId> {
    value.as_str()?.parse().ok()
}
