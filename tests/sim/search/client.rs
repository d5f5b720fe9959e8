//! One client over all its connections: subscribes to every topic, keeps the cursors that it is sent, and comes back with
//! them. What it was told is its story.

use std::{future::poll_fn, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tickgate::{
    hub::{
        CaughtUp, Form, Hub, Interest, Member, MemorySocket, Outbox, Past, QueueLimits, Reader, ReplayLimits, Shared,
        Socket, caught_up,
    },
    metrics::Metrics,
};
use tickgate_wire::{
    model::{Class, Start, StreamId, TopicRules},
    protocol::Protocol,
};
use tokio::{task::JoinHandle, time::sleep};

use crate::gateway::{Home, Publications, TOPICS, home};

/// A cursor that nobody was ever given.
pub const MADE_UP: StreamId = StreamId::new(1, 5);

/// What the client was told of one topic, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The answer to a subscribe: the position, and how many publications had begun.
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

/// What one topic is to the client.
#[derive(Clone, Debug, Default)]
pub struct Story {
    pub seen: Vec<Seen>,
    pub cursor: Option<StreamId>,
}

/// A subscription that has started: told by the connection's task.
#[derive(Clone, Copy, Debug)]
struct Started {
    topic: usize,
    cursor: StreamId,
    begun: usize,
    /// Bytes that were written before it.
    at: usize,
}

/// The connection that stands.
struct Connection {
    gateway: usize,
    outbox: Arc<Outbox>,
    started: Arc<Mutex<Vec<Started>>>,
    task: JoinHandle<()>,
    /// Bytes that were read.
    read: usize,
}

#[derive(Default)]
pub struct Client {
    pub stories: [Story; TOPICS.len()],
    connection: Option<Connection>,
}

/// Ends with the connection's task.
struct Subscription {
    interest: Interest,
    member: Member,
    form: Form,
    past: Option<Past>,
    fresh: bool,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.interest.leave(&self.member.outbox, self.member.slot);
    }
}

/// How a connection begins on one topic.
#[derive(Clone, Copy, Debug)]
struct Wish {
    topic: usize,
    start: Start,
}

impl Client {
    pub fn gateway(&self) -> Option<usize> {
        self.connection.as_ref().map(|connection| connection.gateway)
    }

    /// Whether every topic's subscription has started.
    pub fn is_subscribed(&self) -> bool {
        self.connection.as_ref().is_some_and(|own| own.started.lock().len() == TOPICS.len())
    }

    /// Connects, and takes its place wherever it was before.
    pub fn connect(
        &mut self,
        gateway: usize,
        (hub, rules): (&Arc<Hub>, &Arc<TopicRules>),
        metrics: &Arc<Metrics>,
        publications: &Publications,
    ) {
        self.leave();
        let memory = MemorySocket { written: Vec::new(), room: usize::MAX / 2, keep: true };
        let limits = QueueLimits { messages_max: 64, bytes_max: 1 << 16 };
        let shared = Shared::new(limits, metrics.clone(), "trading");
        let outbox = Outbox::new(Socket::Memory(Box::new(Mutex::new(memory))), shared);
        let started = Arc::<Mutex<Vec<Started>>>::default();
        let wishes = std::array::from_fn(|topic| {
            let class = home(rules, topic).rule.class;
            let start = match (class, self.stories[topic].cursor) {
                (Class::State, cursor) => Start::Snapshot { least: cursor.unwrap_or_default() },
                (_, Some(cursor)) => Start::Since(cursor),
                (_, None) => Start::Live,
            };
            Wish { topic, start }
        });
        let task = tokio::spawn(serve(
            (hub.clone(), rules.clone()),
            outbox.clone(),
            wishes,
            (started.clone(), publications.clone()),
        ));
        self.connection = Some(Connection { gateway, outbox, started, task, read: 0 });
    }

    /// Forgets what it had, and makes a cursor up. Only a client that never had one.
    pub fn make_up(&mut self) -> bool {
        let is_new = self.stories[0].seen.is_empty();
        if is_new {
            self.stories[0].cursor = Some(MADE_UP);
        }
        is_new
    }

    /// Ends the connection; what reached the client before counts.
    pub fn leave(&mut self) {
        self.read();
        if let Some(connection) = self.connection.take() {
            connection.task.abort();
        }
    }

    /// Takes in what was written to the client.
    pub fn read(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let Socket::Memory(memory) = connection.outbox.socket() else { unreachable!("made of memory") };
        let written = memory.lock().written.clone();
        let mut starts: Vec<_> = connection.started.lock().clone();
        starts.retain(|started| started.at != usize::MAX);
        for started in connection.started.lock().iter_mut() {
            started.at = usize::MAX;
        }
        let gateway = connection.gateway;
        for started in starts {
            let story = &mut self.stories[started.topic];
            story.seen.push(Seen::Subscribed { cursor: started.cursor, begun: started.begun, gateway });
            story.cursor = Some(started.cursor);
        }
        let mut at = connection.read;
        while let Some((text, rest)) = frame(&written[at..]) {
            let value: Value = serde_json::from_slice(text).expect("every frame is JSON");
            at = written.len() - rest.len();
            note(&mut self.stories, &value);
        }
        connection.read = at;
    }
}

fn place(name: &str) -> usize {
    TOPICS.iter().position(|(own, _)| *own == name).expect("a topic that was subscribed")
}

fn note(stories: &mut [Story; TOPICS.len()], frame: &Value) {
    if frame["type"] == "caught_up" {
        for end in frame["channels"].as_array().expect("channels") {
            let story = &mut stories[place(end["channel"].as_str().expect("a channel"))];
            let cursor = id(&end["cursor"]);
            story.seen.push(Seen::CaughtUp { cursor, complete: end["complete"] == true });
            story.cursor = cursor.or(story.cursor);
        }
        return;
    }
    if frame["type"] == "gap" {
        for channel in frame["channels"].as_array().expect("channels") {
            let story = &mut stories[place(channel.as_str().expect("a channel"))];
            let cursor = id(&frame["cursor"]);
            story.seen.push(Seen::Gap {
                after: id(&frame["after"]).unwrap_or_default(),
                before: id(&frame["before"]),
                count: frame["count"].as_u64(),
                reason: frame["reason"].as_str().expect("a reason").to_owned(),
                cursor,
            });
            story.cursor = cursor.or(story.cursor);
        }
        return;
    }
    let meta = &frame["_meta"];
    let Some(channel) = meta["channel"].as_str() else { return };
    let story = &mut stories[place(channel)];
    let id = id(&meta["id"]).expect("every topic here is retained");
    // What no engine of ours wrote has no number of ours.
    let number = frame["n"].as_u64().map_or(usize::MAX, |number| number as usize);
    let (snapshot, replayed) = (meta["snapshot"] == true, meta["replayed"] == true);
    story.seen.push(Seen::Message { id, number, snapshot, replayed });
    story.cursor = Some(id);
}

/// The task of a connection: subscribes, then catches up whatever lags.
async fn serve(
    (hub, rules): (Arc<Hub>, Arc<TopicRules>),
    outbox: Arc<Outbox>,
    wishes: [Wish; TOPICS.len()],
    (started, publications): (Arc<Mutex<Vec<Started>>>, Publications),
) {
    let mut all = Vec::new();
    for wish in wishes {
        loop {
            if let Some(begun) = subscribe(&hub, &rules, &outbox, wish, (&started, &publications)).await {
                all.push(begun);
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    loop {
        while let Some((slot, _)) = outbox.lagging() {
            let Some(own) = all.iter_mut().find(|own| own.member.slot == slot) else { break };
            match own.interest.catch_up(&own.member, &own.form, own.fresh, own.past.as_mut(), Reader::default()).await {
                Ok(CaughtUp::Live) => (own.fresh, own.past) = (false, None),
                Ok(CaughtUp::More) => {}
                Ok(CaughtUp::Withdrawn) => unreachable!("few topics"),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
        poll_fn(|cx| {
            outbox.register(cx);
            let _ = outbox.poll_flush(cx);
            if outbox.look().lagging { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// As a connection does it; `None` when it can't be done now.
async fn subscribe(
    hub: &Arc<Hub>,
    rules: &TopicRules,
    outbox: &Arc<Outbox>,
    wish: Wish,
    (started, publications): (&Mutex<Vec<Started>>, &Publications),
) -> Option<Subscription> {
    let name = TOPICS[wish.topic].0;
    let Home { topic, rule, in_user_stream } = home(rules, wish.topic);
    let interest = hub.interest(&topic, &rule, Reader::default()).expect("few topics");
    interest.ready(Duration::from_secs(3)).await.ok()?;
    let limits = ReplayLimits::new(1_000, 1 << 20, Reader::default());
    let mut backlog = interest.backlog(wish.start, limits).await.ok()?;
    let before_first = || match backlog.messages.first().and_then(|message| message.id) {
        Some(first) => first.previous(),
        None => backlog.cursor,
    };
    let (has, begins) = match wish.start {
        Start::Since(cursor) => (cursor, cursor),
        Start::Snapshot { least } => (backlog.cursor.max(least), before_first().max(least)),
        _ => (backlog.cursor, backlog.cursor),
    };
    let end = backlog.cut.map_or(backlog.cursor, |cut| cut.cursor);
    let live = wish.start == Start::Live || backlog.is_empty();
    let told = if live && backlog.is_empty() && end != StreamId::ZERO { end } else { begins };
    let mut past = Past::new(true, limits);
    past.add(name.into(), begins, !live);
    if in_user_stream {
        backlog.messages.retain(|message| past.wants(message));
    }
    let begun = publications.lock().len();
    started.lock().push(Started { topic: wish.topic, cursor: told, begun, at: 0 });
    let form = if in_user_stream {
        Form::of_user(Protocol::default(), [name.into()].into())
    } else {
        Form::of_topic(Protocol::default(), name.into())
    };
    let slot = interest.open(outbox, backlog.cursor, has);
    let member = Member { outbox: outbox.clone(), slot, pacer: None };
    let mut own = Subscription { interest, member, form, past: None, fresh: true };
    let room = || poll_fn(|cx| outbox.poll_room(cx));
    if own.interest.push_backlog((&own.member, &own.form), &mut past, &backlog, room).await {
        outbox.pass(slot, end);
        let notice = caught_up(own.form.protocol, past.ended(end).collect());
        let urgent = outbox.is_urgent(slot);
        notice.into_iter().for_each(|notice| outbox.send_end(notice, urgent));
    } else {
        own.past = Some(past);
    }
    Some(own)
}

/// The text of the first whole frame, and what follows it.
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
