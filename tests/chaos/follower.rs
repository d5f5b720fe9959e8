//! A client that never gives up: it follows its channels, comes back on any replica by the rule of the close codes, and
//! writes down what it hears. Never more clever than the documents ask of a client; shares the connection with the client
//! library, and none of its rules: what is judged here must not be right for the same reason as what is shipped.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tickgate::tasks::Stop;
use tickgate_client::{Error, Opening, Socket};
use tickgate_wire::model::StreamId;
use tokio::{
    net::TcpSocket,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    dice::Dice,
    judge::Mode,
    record::{Channel, Ended, Heard, SharedDiary, Stream},
    support::replica::token,
};

/// Heartbeats come after three seconds of silence: a connection that is silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_millis(4_500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is done to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing yet.
    Live,
    /// Its process is killed; it comes back elsewhere.
    Vanish(u64),
    /// It closes as the protocol says, and comes back elsewhere.
    Leave(u64),
    /// It reads nothing for a while.
    Sleep(u64, Duration),
    /// It stays away for a while, and comes back elsewhere.
    StayAway(u64, Duration),
    /// The end.
    End,
}

/// One client, before it runs.
pub struct Follower {
    pub name: String,
    pub user: Arc<str>,
    pub mode: Mode,
    pub channels: Vec<Channel>,
    /// The way to each replica.
    pub replicas: Vec<SocketAddr>,
    pub diary: SharedDiary,
    pub orders: watch::Receiver<Order>,
    pub dice: Dice,
    /// Takes as little from the network as the kernel lets it, so that not reading is noticed.
    pub small_buffers: bool,
    pub session: Option<String>,
    /// The channels that were told of the last gap.
    pub told: HashSet<String>,
    /// The replica that it tries first.
    pub prefers: Option<usize>,
}

/// How a connection went.
enum Outcome {
    Closed {
        code: u16,
        reason: String,
    },
    /// Gone without a Close frame.
    Gone,
    Ordered(Order),
}

impl Outcome {
    fn of(error: Error) -> Self {
        match error {
            Error::Closed(closed) => Self::Closed { code: closed.code.unwrap_or(1005), reason: closed.reason },
            _ => Self::Gone,
        }
    }
}

impl Follower {
    /// Follows until the end is ordered.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            let outcome = tokio::select! {
                outcome = self.connect_and_follow() => outcome,
                () = stop.wait() => return,
            };
            self.diary.lock().connected = false;
            match outcome {
                Outcome::Ordered(Order::End) => return,
                // Any other order calls it back.
                Outcome::Ordered(Order::StayAway(_, pause)) => drop(timeout(pause, self.orders.changed()).await),
                // The rule of the close codes: 4500 and above never reconnect.
                Outcome::Closed { code, reason } if code >= 4500 || (1000..1011).contains(&code) && code != 1001 => {
                    self.malformed(&format!("closed for good: {code} {reason}"));
                    return;
                }
                _ => {}
            }
            let pause = self.dice.between(10, 120);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn connect_and_follow(&mut self) -> Outcome {
        self.orders.borrow_and_update();
        let Some(mut socket) = self.connect().await else {
            sleep(Duration::from_millis(self.dice.between(50, 200))).await;
            return if *self.orders.borrow() == Order::End { Outcome::Ordered(Order::End) } else { Outcome::Gone };
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
            Outcome::Closed { code, reason } => (*code, reason.clone()),
            Outcome::Gone => (1006, String::new()),
            Outcome::Ordered(Order::Leave(_) | Order::End) => {
                let _ = timeout(Duration::from_millis(300), socket.close()).await;
                return outcome;
            }
            Outcome::Ordered(_) => return outcome,
        };
        self.diary.lock().ended.push(Ended { code, reason, hinted, at: std::time::Instant::now() });
        outcome
    }

    async fn connect(&mut self) -> Option<Socket> {
        let number = self.prefers.take().unwrap_or_else(|| self.dice.index(self.replicas.len()));
        let address = self.replicas[number];
        let mut path = format!("ws://{address}/ws/chaos?token={}", token(&self.user));
        if let (Mode::Session, Some(session)) = (self.mode, &self.session) {
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

    /// Reads the welcome and subscribes, or has the session's subscriptions restored.
    async fn begin(&mut self, socket: &mut Socket) -> Result<(), Outcome> {
        let welcome = self.expect(socket).await?;
        if welcome["type"] != "connection_established" {
            self.malformed(&format!("greeted with {welcome}"));
            return Err(Outcome::Gone);
        }
        self.diary.lock().connections += 1;
        self.each_stream(|_| Heard::Connected);
        let before = self.session.replace(welcome["session"].as_str().unwrap_or_default().to_owned());
        if self.mode == Mode::Session && welcome["resumed"] == true {
            return Ok(());
        }
        if self.mode == Mode::Session && before.is_some() {
            self.diary.lock().sessions_lost += 1;
        }
        let names: Vec<_> = self.channels.iter().map(|channel| channel.name).collect();
        self.subscribe(socket, &names).await
    }

    async fn subscribe(&mut self, socket: &mut Socket, names: &[&str]) -> Result<(), Outcome> {
        let mut request = json!({ "type": "subscribe", "id": "begin", "channels": names });
        if self.mode == Mode::Cursor {
            let diary = self.diary.lock();
            let cursor = |channel: &&Channel| {
                let known = diary.streams.get(&channel.stream)?.iter().rev().find_map(|(_, heard)| match heard {
                    Heard::Push { id, .. } | Heard::Began(id) => Some(*id),
                    _ => None,
                });
                known.map(|id| (channel.name.to_owned(), json!(id.to_string())))
            };
            let since: Map<_, _> = self.channels.iter().filter_map(|channel| cursor(&channel)).collect();
            if !since.is_empty() {
                request["since"] = Value::Object(since);
            }
        }
        socket.send(request.to_string()).await.map_err(|_| Outcome::Gone)
    }

    /// The next message, within the time of an answer.
    async fn expect(&mut self, socket: &mut Socket) -> Result<Value, Outcome> {
        match timeout(ANSWER_TIMEOUT, socket.next()).await {
            Ok(Ok(text)) => serde_json::from_str(&text).map_err(|_| Outcome::Gone),
            Ok(Err(error)) => Err(Outcome::of(error)),
            Err(_) => Err(Outcome::Gone),
        }
    }

    async fn follow(&mut self, socket: &mut Socket, hinted: &mut bool) -> Outcome {
        loop {
            let next = tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    let order = *self.orders.borrow();
                    match (changed, order) {
                        (Err(_), _) => return Outcome::Ordered(Order::End),
                        (Ok(()), Order::Live) => continue,
                        (Ok(()), Order::Sleep(_, pause)) => {
                            // Any other order wakes it.
                            if timeout(pause, self.orders.changed()).await.is_ok() {
                                self.orders.mark_changed();
                            }
                            continue;
                        }
                        (Ok(()), order) => return Outcome::Ordered(order),
                    }
                }
                next = socket.next() => next,
            };
            let text = match next {
                Ok(text) => text,
                Err(error) => return Outcome::of(error),
            };
            match serde_json::from_str::<Value>(&text) {
                Ok(message) => {
                    *hinted |= message["type"] == "reconnect";
                    if let Err(outcome) = self.take(socket, &message).await {
                        return outcome;
                    }
                }
                Err(error) => self.malformed(&format!("{error} in {text}")),
            }
        }
    }

    async fn take(&mut self, socket: &mut Socket, message: &Value) -> Result<(), Outcome> {
        if message["_meta"].is_object() {
            self.take_push(message);
            return Ok(());
        }
        match message["type"].as_str().unwrap_or_default() {
            "gap" => self.take_gap(message),
            "subscribed" => return self.take_subscribed(socket, message).await,
            "heartbeat" | "reconnect" => {}
            _ => self.malformed(&format!("unexpected: {message}")),
        }
        Ok(())
    }

    async fn take_subscribed(&mut self, socket: &mut Socket, message: &Value) -> Result<(), Outcome> {
        for begun in message["channels"].as_array().into_iter().flatten() {
            let Some(stream) = self.stream_of(&begun["channel"]) else { continue };
            let at = id_of(&begun["cursor"]).unwrap_or_default();
            let mut diary = self.diary.lock();
            let known = diary.streams.get(&stream).into_iter().flatten();
            let begun_before = known.filter(|(_, heard)| matches!(heard, Heard::Began(_))).count();
            // With a cursor or a resumed session it goes on where it was; otherwise it begins here.
            let lost = self.mode == Mode::Session && message["id"] == "begin";
            if begun_before == 0 || lost {
                diary.hear(&stream, Heard::Began(at));
            }
        }
        let refused: Vec<_> = message["errors"].as_array().into_iter().flatten().cloned().collect();
        if refused.is_empty() {
            return Ok(());
        }
        self.diary.lock().postponed += refused.len() as u64;
        if message["id"] != "begin" {
            // A resume that could not be completed: come back with the session.
            return Err(Outcome::Gone);
        }
        sleep(Duration::from_millis(100)).await;
        let wanted = |channel: &&Channel| refused.iter().any(|refused| refused["channel"] == channel.name);
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
                Heard::Push { id, number, replayed: meta["replayed"] == true, snapshot: meta["snapshot"] == true }
            }
            _ => Heard::Malformed(format!("{} got {message}", self.name)),
        };
        self.diary.lock().hear(&channel.stream, heard);
    }

    fn take_gap(&mut self, message: &Value) {
        let Some(stream) = self.stream_of(&message["channel"]) else {
            return self.malformed(&format!("a gap of a channel that is not subscribed: {message}"));
        };
        let heard = Heard::Gap {
            after: id_of(&message["after"]).unwrap_or_default(),
            before: id_of(&message["before"]),
            reason: message["reason"].as_str().unwrap_or_default().to_owned(),
        };
        // The channels of one stream are told one after the other; one channel is told of each loss.
        let mut diary = self.diary.lock();
        let is_last = diary.streams.get(&stream).and_then(|heard| heard.last()).is_some_and(|(_, last)| *last == heard);
        let channel = message["channel"].to_string();
        if is_last && self.told.insert(channel.clone()) {
            return;
        }
        self.told = HashSet::from([channel]);
        diary.hear(&stream, heard);
    }

    fn stream_of(&self, channel: &Value) -> Option<Stream> {
        self.channels.iter().find(|known| *channel == known.name).map(|known| known.stream.clone())
    }

    fn each_stream(&self, heard: impl Fn(&Stream) -> Heard) {
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
        self.diary.lock().hear(&stream, Heard::Malformed(format!("{}: {text}", self.name)));
    }
}

fn id_of(value: &Value) -> Option<StreamId> {
    value.as_str()?.parse().ok()
}
