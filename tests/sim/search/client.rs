//! One client over all its connections: subscribes to every channel, stores the cursors that it receives, and resumes
//! with them. What it received is its story. Of the channels that share a stream, the first client moves the cursors
//! together, as the wire contract allows, and subscribes them together; the second one moves each only by its own
//! pushes, and adds one to the other.

use std::{future::poll_fn, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tickgate::hub::{
    BacklogProgress, CatchUpStep, EndpointOutboxes, Form, Hub, MemorySocket, Outbox, OutboxSocket, QueueLimits,
    ReaderAddress, ReplayLimits, Subscriber, TopicHandle, caught_up,
};
use tickgate_wire::{
    model::{Class, Message, SessionId, StartAt, StreamId, TopicRules},
    protocol::Protocol,
};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    gateway::{Home, Publications, SimGateway, TOPICS, home, is_plain, stream_of},
    places::ClientPlace,
};

/// Bytes that a reading client accepts.
const ROOM: usize = usize::MAX / 2;
/// Maximum number of publications queued for a client that does not read.
const QUEUE_MAX: usize = 4;
/// Pause after a failed read.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// One event that the client received about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenEvent {
    /// The reply to a subscribe: the position, and how many publications had started.
    Subscribed {
        cursor: StreamId,
        begun: usize,
        gateway: usize,
    },
    Message {
        id: StreamId,
        number: usize,
        snapshot: bool,
        replayed: bool,
        /// The number of values that were left out before it.
        conflated: u64,
    },
    Gap {
        after: StreamId,
        before: Option<StreamId>,
        count: Option<u64>,
        reason: String,
        cursor: Option<StreamId>,
    },
    CaughtUp {
        cursor: Option<StreamId>,
        complete: bool,
    },
}

/// The client's history of one topic.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub seen: Vec<SeenEvent>,
    pub cursor: Option<StreamId>,
    /// Its backlog was sent completely.
    live: bool,
}

/// By channel.
pub type Stories = [Story; TOPICS.len()];

/// A subscription that has started, reported by the connection's task.
#[derive(Clone, Copy, Debug)]
struct StartedSubscription {
    topic: usize,
    cursor: StreamId,
    live: bool,
    begun: usize,
}

/// The current connection.
struct SimConnection {
    gateway: usize,
    outbox: Arc<Outbox>,
    started: Arc<Mutex<Vec<StartedSubscription>>>,
    task: JoinHandle<()>,
    /// Bytes of an incomplete frame.
    rest: Vec<u8>,
    /// Number of subscriptions whose start is known.
    begun: usize,
    seat: Arc<ClientPlace>,
}

#[derive(Default)]
pub struct SimClient {
    pub stories: Stories,
    /// Number of gaps received.
    pub gaps: u64,
    /// Whether a push of one channel moves the others of its stream.
    together: bool,
    connection: Option<SimConnection>,
    /// The session that it was told last.
    session: Option<SessionId>,
    /// Connections whose place it took while they stood.
    former: Vec<SimConnection>,
    /// How often a gateway closed the connection that it had.
    pub displaced: usize,
}

/// Ends with the connection's task.
struct SubscriptionTask {
    interest: TopicHandle,
    subscriber: Subscriber,
    channels: Vec<Arc<str>>,
    in_user_stream: bool,
    past: Option<BacklogProgress>,
    fresh: bool,
}

impl SubscriptionTask {
    fn form(&self) -> Form {
        form(self.in_user_stream, &self.channels)
    }
}

fn form(in_user_stream: bool, channels: &[Arc<str>]) -> Form {
    match channels {
        [channel] if !in_user_stream => Form::of_topic(Protocol::default(), channel.clone()),
        channels => Form::of_user(Protocol::default(), channels.into()),
    }
}

impl Drop for SubscriptionTask {
    fn drop(&mut self) {
        self.interest.leave(&self.subscriber.outbox, self.subscriber.slot);
    }
}

/// Where a connection starts on one channel.
#[derive(Clone, Copy, Debug)]
struct StartPosition {
    topic: usize,
    start: StartAt,
}

/// The earlier of two starting positions of one stream.
fn earlier(one: StartAt, other: StartAt) -> StartAt {
    match (one, other) {
        (StartAt::Since(one), StartAt::Since(other)) => StartAt::Since(one.min(other)),
        (StartAt::Live, other) => other,
        (one, _) => one,
    }
}

/// Whether a push of one channel moves the others of its stream for this client.
pub const fn moves_together(client: usize) -> bool {
    client.is_multiple_of(2)
}

impl SimClient {
    pub fn new(number: usize) -> Self {
        Self { together: moves_together(number), ..Self::default() }
    }

    pub fn gateway(&self) -> Option<usize> {
        self.connection.as_ref().map(|connection| connection.gateway)
    }

    /// Whether every channel's subscription has started.
    pub fn is_subscribed(&self) -> bool {
        self.connection.as_ref().is_some_and(|own| own.begun == TOPICS.len())
    }

    /// Connects, replacing its previous connection.
    pub fn connect(&mut self, gateway: usize, own: &SimGateway, publications: &Publications) {
        self.leave();
        self.open(gateway, own, publications);
    }

    /// Connects while the connection before stands, and takes its place: whatever reaches that one is not read any more.
    pub fn take_over(&mut self, gateway: usize, own: &SimGateway, publications: &Publications) {
        if let Some(connection) = self.connection.take() {
            self.session = connection.seat.session().or(self.session);
            connection.seat.leave();
            self.former.push(connection);
        }
        self.open(gateway, own, publications);
    }

    fn open(&mut self, gateway: usize, own: &SimGateway, publications: &Publications) {
        let SimGateway { hub, rules, metrics, frost, places, .. } = own;
        let memory = MemorySocket { written: Vec::new(), room: ROOM, keep: true };
        let limits = QueueLimits { messages_max: QUEUE_MAX, bytes_max: 1 << 16 };
        let shared = EndpointOutboxes::new(limits, metrics.clone(), "trading");
        let outbox = Outbox::new(OutboxSocket::Memory(Box::new(Mutex::new(memory))), shared);
        let started = Arc::<Mutex<Vec<StartedSubscription>>>::default();
        let wish = |topic: usize| {
            let class = home(rules, topic).rule.class;
            let start = match (class, self.stories[topic].cursor) {
                _ if is_plain(topic) => StartAt::Live,
                (Class::State, cursor) => StartAt::Snapshot { least: cursor.unwrap_or_default() },
                (_, Some(cursor)) => StartAt::Since(cursor),
                (_, None) => StartAt::Live,
            };
            StartPosition { topic, start }
        };
        let mut wishes: Vec<Vec<StartPosition>> = Vec::new();
        for wish in (0..TOPICS.len()).map(wish) {
            let shares =
                |own: &&mut Vec<StartPosition>| self.together && stream_of(own[0].topic) == stream_of(wish.topic);
            match wishes.iter_mut().find(shares) {
                Some(own) => own.push(wish),
                None => wishes.push(vec![wish]),
            }
        }
        let parts = ((hub.clone(), rules.clone()), (started.clone(), publications.clone()));
        let (seat, serving) = (Arc::<ClientPlace>::default(), serve(parts.0, outbox.clone(), wishes, parts.1));
        let place = places.clone().map(|places| places.enter(seat.clone(), self.session));
        let whole = async {
            let entered = match place {
                Some(place) => Some(place.await),
                None => None,
            };
            // Whoever is refused is not served.
            if !matches!(entered, Some(None)) {
                serving.await;
            }
        };
        let task = tokio::spawn(frost.over(whole));
        seat.task.set(task.abort_handle()).expect("a new one");
        self.connection = Some(SimConnection { gateway, outbox, started, task, rest: Vec::new(), begun: 0, seat });
        self.stories.iter_mut().for_each(|story| story.live = false);
    }

    /// Invents a cursor. Only for a client that never had one.
    pub fn make_up(&mut self, cursor: StreamId) -> bool {
        let is_new = self.stories.iter().all(|story| story.seen.is_empty());
        if is_new {
            // For a value, a position that was never reached hides what arrives until then, from this client only.
            for (topic, story) in self.stories.iter_mut().enumerate() {
                story.cursor = (TOPICS[topic].1 != Class::State && !is_plain(topic)).then_some(cursor);
            }
        }
        is_new
    }

    /// Ends the connection; what reached the client before counts.
    pub fn leave(&mut self) {
        self.read();
        if let Some(connection) = self.connection.take() {
            self.session = connection.seat.session().or(self.session);
            connection.task.abort();
        }
    }

    /// A gateway ends, and with it all connections to it.
    pub fn lose(&mut self, gateway: usize) {
        if self.gateway() == Some(gateway) {
            self.leave();
        }
        self.former.extract_if(.., |own| own.gateway == gateway).for_each(|own| own.task.abort());
    }

    /// Whether it waits for its welcome.
    pub fn awaits_welcome(&self) -> bool {
        self.connection.as_ref().is_some_and(|own| own.seat.session().is_none())
    }

    /// Whether a connection still stands whose place the present one took.
    pub fn lingers(&self) -> bool {
        let replaced = |own: &&SimConnection| self.connection.as_ref().is_some_and(|by| by.seat.replaces(&own.seat));
        self.former.iter().filter(replaced).any(|own| !own.seat.is_closed())
    }

    /// From now on the client takes nothing from its connection, or everything again.
    pub fn take(&self, takes: bool) {
        let Some(connection) = &self.connection else { return };
        if let OutboxSocket::Memory(memory) = connection.outbox.socket() {
            memory.lock().room = if takes { ROOM } else { 0 };
        }
        connection.outbox.wake();
    }

    /// Reads what was written to the client.
    pub fn read(&mut self) {
        if self.connection.as_ref().is_some_and(|own| own.seat.is_closed()) {
            self.displaced += 1;
            self.session = self.connection.take().and_then(|own| own.seat.session());
        }
        let Some(connection) = &mut self.connection else { return };
        let OutboxSocket::Memory(memory) = connection.outbox.socket() else { unreachable!("made of memory") };
        let written = std::mem::take(&mut memory.lock().written);
        let starts = connection.started.lock()[connection.begun..].to_vec();
        connection.begun += starts.len();
        for StartedSubscription { topic, cursor, live, begun } in starts {
            let story = &mut self.stories[topic];
            story.seen.push(SeenEvent::Subscribed { cursor, begun, gateway: connection.gateway });
            (story.cursor, story.live) = (Some(cursor).filter(|_| !is_plain(topic)), live);
        }
        if written.is_empty() {
            return;
        }
        connection.rest.extend(written);
        let bytes = std::mem::take(&mut connection.rest);
        let mut rest = &bytes[..];
        while let Some((text, behind)) = frame(rest) {
            let value: Value = serde_json::from_slice(text).expect("every frame is JSON");
            self.note(&value);
            rest = behind;
        }
        let rest = rest.to_vec();
        self.connection.iter_mut().for_each(|own| own.rest.clone_from(&rest));
    }

    fn note(&mut self, frame: &Value) {
        if frame["type"] == "caught_up" {
            for end in frame["channels"].as_array().expect("channels") {
                let topic = place(end["channel"].as_str().expect("a channel"));
                let cursor = id(&end["cursor"]);
                self.stories[topic].seen.push(SeenEvent::CaughtUp { cursor, complete: end["complete"] == true });
                self.stories[topic].live = true;
                self.move_to(topic, cursor);
            }
            return;
        }
        if frame["type"] == "gap" {
            self.gaps += 1;
            for channel in frame["channels"].as_array().expect("channels") {
                let topic = place(channel.as_str().expect("a channel"));
                let cursor = id(&frame["cursor"]);
                self.stories[topic].seen.push(SeenEvent::Gap {
                    after: id(&frame["after"]).unwrap_or_default(),
                    before: id(&frame["before"]),
                    count: frame["count"].as_u64(),
                    reason: frame["reason"].as_str().expect("a reason").to_owned(),
                    cursor,
                });
                self.move_to(topic, cursor);
            }
            return;
        }
        let meta = &frame["_meta"];
        let Some(channel) = meta["channel"].as_str() else { return };
        let topic = place(channel);
        let id = id(&meta["id"]);
        assert!(id.is_some() != is_plain(topic), "what is kept has an id: {frame}");
        // What the engine of this run did not write has no number.
        let number = frame["n"].as_u64().map_or(usize::MAX, |number| number as usize);
        let (snapshot, replayed) = (meta["snapshot"] == true, meta["replayed"] == true);
        let conflated = meta["conflated"].as_u64().unwrap_or(0);
        let seen = SeenEvent::Message { id: id.unwrap_or_default(), number, snapshot, replayed, conflated };
        self.stories[topic].seen.push(seen);
        self.move_to(topic, id);
    }

    /// Moves the cursor of a channel, and of those that move with it.
    fn move_to(&mut self, topic: usize, cursor: Option<StreamId>) {
        let Some(cursor) = cursor else { return };
        let is_live = self.together && self.stories[topic].live;
        for (at, story) in self.stories.iter_mut().enumerate() {
            if at == topic || is_live && story.live && stream_of(at) == stream_of(topic) {
                story.cursor = Some(cursor);
            }
        }
    }
}

fn place(name: &str) -> usize {
    TOPICS.iter().position(|(own, _)| *own == name).expect("a channel that was subscribed")
}

/// The task of a connection: subscribes, then catches up whatever lags.
async fn serve(
    (hub, rules): (Arc<Hub>, Arc<TopicRules>),
    outbox: Arc<Outbox>,
    wishes: Vec<Vec<StartPosition>>,
    (started, publications): (Arc<Mutex<Vec<StartedSubscription>>>, Publications),
) {
    let mut all = Vec::new();
    for wishes in wishes {
        while subscribe((&hub, &rules), &outbox, &wishes, (&started, &publications), &mut all).await.is_none() {
            // Continues subscriptions that were paused for it.
            catch_up(&outbox, &mut all).await;
            sleep(RETRY_AFTER).await;
        }
    }
    loop {
        catch_up(&outbox, &mut all).await;
        poll_fn(|cx| {
            outbox.register(cx);
            let _ = outbox.poll_flush(cx);
            if outbox.status().lagging { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

async fn catch_up(outbox: &Outbox, all: &mut [SubscriptionTask]) {
    while let Some((slot, _)) = outbox.lagging() {
        let Some(own) = all.iter_mut().find(|own| own.subscriber.slot == slot) else { return };
        let form = own.form();
        match own
            .interest
            .catch_up(&own.subscriber, &form, own.fresh, own.past.as_mut(), ReaderAddress::default())
            .await
        {
            Ok(CatchUpStep::Live) => (own.fresh, own.past) = (false, None),
            Ok(CatchUpStep::More) => {}
            Ok(CatchUpStep::Withdrawn) => unreachable!("few topics"),
            Err(_) => {
                sleep(RETRY_AFTER).await;
                return;
            }
        }
    }
}

/// Subscribes channels of one stream like a connection does; `None` if that fails now.
async fn subscribe(
    (hub, rules): (&Arc<Hub>, &TopicRules),
    outbox: &Arc<Outbox>,
    wishes: &[StartPosition],
    (started, publications): (&Mutex<Vec<StartedSubscription>>, &Publications),
    all: &mut Vec<SubscriptionTask>,
) -> Option<()> {
    let Home { topic, rule, in_user_stream } = home(rules, wishes[0].topic);
    let interest = hub.interest(&topic, &rule, ReaderAddress::default()).expect("few topics");
    interest.ready(Duration::from_secs(3)).await.ok()?;
    let extended = all.iter_mut().find(|own| in_user_stream && own.in_user_stream);
    let paused = extended.as_ref().and_then(|own| outbox.pause(own.subscriber.slot));
    let head = paused.unwrap_or_else(|| interest.head());
    let start = wishes.iter().map(|wish| wish.start).reduce(earlier).expect("a channel");
    let limits = ReplayLimits::new(1_000, 1 << 20, ReaderAddress::default()).of_beginning(false, extended.is_some());
    let mut backlog = interest.backlog(start, limits).await.ok()?;
    let has = match start {
        StartAt::Since(cursor) => cursor,
        StartAt::Snapshot { least } => backlog.cursor.max(least),
        _ => backlog.cursor,
    };
    let begins: Vec<_> = wishes.iter().map(|wish| backlog.begins(wish.start, start, head)).collect();
    paused.into_iter().for_each(|position| backlog.end_at(position));
    let end = paused.or(backlog.cut.map(|cut| cut.cursor)).unwrap_or(backlog.cursor);
    let told = backlog.gap.is_some() || backlog.cut.is_some() || backlog.goes_on;
    let channels: Vec<Arc<str>> = wishes.iter().map(|wish| TOPICS[wish.topic].0.into()).collect();
    let is_live = |at: usize| {
        let own = |m: &Arc<Message>| m.channel.as_ref() == Some(&channels[at]) && m.id > Some(begins[at]);
        let has_own = if in_user_stream { backlog.messages.iter().any(own) } else { !backlog.messages.is_empty() };
        wishes[at].start == StartAt::Live || !told && !has_own
    };
    let lives: Vec<_> = (0..wishes.len()).map(is_live).collect();
    let mut past = BacklogProgress::new(interest.is_retained(), limits);
    for at in 0..wishes.len() {
        past.add(channels[at].clone(), begins[at], !lives[at]);
    }
    if in_user_stream {
        backlog.messages.retain(|message| past.wants(message));
    }
    let begun = publications.lock().len();
    for ((wish, live), begins) in wishes.iter().zip(&lives).zip(&begins) {
        let moves = *live && backlog.is_empty() && end != StreamId::ZERO;
        let cursor = if moves { end } else { *begins };
        started.lock().push(StartedSubscription { topic: wish.topic, cursor, live: *live, begun });
    }
    let room = || poll_fn(|cx| outbox.poll_room(cx));
    if let Some(own) = extended {
        let form = form(true, &channels);
        interest.push_beside((&own.subscriber, &form), &mut past, &backlog, room).await;
        let notice = caught_up(form.protocol, past.ended(end).collect());
        notice.into_iter().for_each(|notice| outbox.send_end(notice, true));
        if let Some(past) = &mut own.past {
            channels.iter().for_each(|channel| past.add(channel.clone(), end, false));
        }
        own.channels.extend(channels);
        own.interest.change(own.subscriber.clone(), own.form());
        return Some(());
    }
    let slot = interest.open(outbox, backlog.cursor, has);
    let subscriber = Subscriber { outbox: outbox.clone(), slot, pacer: None };
    let mut own = SubscriptionTask { interest, subscriber, channels, in_user_stream, past: None, fresh: true };
    let form = own.form();
    if own.interest.push_backlog((&own.subscriber, &form), &mut past, &backlog, room).await {
        outbox.pass(slot, end);
        let notice = caught_up(form.protocol, past.ended(end).collect());
        let urgent = outbox.is_urgent(slot);
        notice.into_iter().for_each(|notice| outbox.send_end(notice, urgent));
    } else {
        own.past = Some(past);
    }
    all.push(own);
    Some(())
}

/// The text of the first complete frame, and the rest.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, header) = match *bytes.get(1)? {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        127 => return None,
        short => (usize::from(short), 2),
    };
    Some((bytes.get(header..header + len)?, &bytes[header + len..]))
}

fn id(value: &Value) -> Option<StreamId> {
    value.as_str()?.parse().ok()
}
