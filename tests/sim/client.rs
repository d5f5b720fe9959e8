//! A client and its session: connects to any replica, reads fast or slowly, loses the connection at any moment, and comes
//! back with the last id it saw. Never keeps what had not reached it.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tickgate::{
    hub::{
        CaughtUp, Form, Hub, Interest, Member, MemorySocket, Outbox, Past, QueueLimits, Reader, ReplayLimits, Shared,
        SlotId, Socket, caught_up,
    },
    metrics::Metrics,
};
use tickgate_wire::{
    model::{Class, Start, StreamId, Topic},
    protocol::Protocol,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    dice::Dice,
    world::{Subject, subjects},
};

const ROOM: usize = usize::MAX / 2;
const MESSAGES_MAX: usize = 12;

/// What reached the client, in its order.
#[derive(Clone, Debug)]
pub enum Seen {
    /// `snapshot`: the current value at the beginning of a subscription, whatever was seen before.
    Message {
        id: StreamId,
        number: u64,
        channel: String,
        snapshot: bool,
    },
    /// A connection begins.
    Connected,
    /// The end of the past of one channel.
    CaughtUp {
        channel: String,
        replayed: u64,
        complete: bool,
    },
    Gap {
        after: Option<StreamId>,
        before: Option<StreamId>,
        channels: Vec<String>,
        reason: String,
    },
}

/// What a client knows of one topic.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Where its first subscription began.
    pub begun: Option<StreamId>,
    /// The last id it saw.
    pub cursor: Option<StreamId>,
    pub seen: Vec<Seen>,
}

/// One client over all its connections.
#[derive(Debug)]
pub struct Client {
    pub stories: BTreeMap<Topic, Story>,
    pub subjects: Vec<Subject>,
    pub connections: u64,
    /// Reads slowly until the world calms down.
    slow: bool,
    /// May be sent all that it missed, however much.
    patient: bool,
    shared: Arc<Shared>,
    dice: Dice,
}

/// One subscription of the connection that stands.
struct Subscription {
    interest: Interest,
    member: Member,
    form: Form,
    past: Option<Past>,
    fresh: bool,
}

/// The connection that stands.
struct Connection {
    outbox: Arc<Outbox>,
    subscriptions: Vec<Subscription>,
    /// Entries that one resume may bring.
    replay_max: usize,
}

impl Client {
    pub fn new(mut dice: Dice, slow: bool, patient: bool, metrics: Arc<Metrics>) -> Self {
        let mut subjects: Vec<_> = subjects().into_iter().filter(|_| dice.chance(850)).collect();
        for subject in &mut subjects {
            // Of a user's stream, one channel may do.
            if subject.channels.len() > 1 && dice.chance(500) {
                subject.channels.truncate(1);
            }
        }
        // Less than a replay takes, for some: then the stream has to bring it in pieces.
        let limits = QueueLimits { messages_max: MESSAGES_MAX, bytes_max: *dice.choose(&[200, 4_096]) };
        let shared = Arc::new(Shared { limits, metrics });
        Self { stories: BTreeMap::new(), subjects, connections: 0, slow, patient, shared, dice }
    }

    /// Connects, and comes back whenever the connection is lost, until `calm`; then stays until `end`.
    pub async fn live(mut self, hubs: Vec<Arc<Hub>>, calm: Instant, end: Instant) -> Self {
        sleep(Duration::from_millis(self.dice.between(0, 200))).await;
        while Instant::now() < end {
            let now = Instant::now();
            let stay = Duration::from_millis(self.dice.between(20, 700));
            let until = if now + stay < calm { now + stay } else { end };
            let hub = self.dice.choose(&hubs).clone();
            self.connect(&hub, until, until == end).await;
            sleep(Duration::from_millis(self.dice.between(0, 80))).await;
        }
        self
    }

    /// One connection, cut off at `until` wherever it is.
    async fn connect(&mut self, hub: &Arc<Hub>, until: Instant, for_good: bool) {
        self.connections += 1;
        let slow = self.slow && !for_good;
        let room = if slow { self.dice.below(400) as usize } else { ROOM };
        let memory = MemorySocket { written: Vec::new(), room, keep: true };
        let outbox = Outbox::new(Socket::Memory(Box::new(Mutex::new(memory))), self.shared.clone());
        let replay_max = if self.patient { 10_000 } else { self.dice.between(3, 40) as usize };
        let mut connection = Connection { outbox: outbox.clone(), subscriptions: Vec::new(), replay_max };
        let mut dice = self.dice.fork();
        tokio::select! {
            biased;
            () = sleep_until(until) => {}
            () = connection.serve(hub, &self.subjects, &mut self.stories, &mut self.dice) => {}
            () = read_slowly(&outbox, slow, &mut dice) => {}
        }
        for ended in &connection.subscriptions {
            ended.interest.leave(&outbox, ended.member.slot);
        }
        let Socket::Memory(memory) = outbox.socket() else { unreachable!("made of memory") };
        let mut written = std::mem::take(&mut memory.lock().written);
        if !for_good {
            // What was on its way is gone with the connection.
            let lost = self.dice.below(600) as usize;
            written.truncate(written.len().saturating_sub(lost));
        }
        self.take_in(&written);
    }

    fn take_in(&mut self, mut bytes: &[u8]) {
        self.stories.values_mut().for_each(|story| story.seen.push(Seen::Connected));
        while let Some((text, rest)) = frame(bytes) {
            bytes = rest;
            let value: Value = serde_json::from_slice(text).expect("every frame is JSON");
            self.note(&value);
        }
    }

    fn note(&mut self, frame: &Value) {
        let meta = &frame["_meta"];
        if frame["type"] == "caught_up" {
            return self.caught_up(frame);
        }
        let gap = frame["type"] == "gap";
        let channels: Vec<_> =
            if gap { frame["channels"].as_array().expect("channels").iter().collect() } else { vec![&meta["channel"]] };
        let channels: Vec<_> =
            channels.into_iter().map(|channel| channel.as_str().expect("a channel").to_owned()).collect();
        let channel = channels[0].clone();
        let subject = self.subjects.iter().find(|s| s.owns(&channel)).expect("a channel that was subscribed");
        let story = self.stories.entry(subject.topic.clone()).or_default();
        if gap {
            let (after, before) = (id(&frame["after"]), id(&frame["before"]));
            let reason = frame["reason"].as_str().expect("a reason").to_owned();
            story.seen.push(Seen::Gap { after, before, channels, reason });
            story.cursor = id(&frame["cursor"]).or(story.cursor);
            return;
        }
        let id = id(&meta["id"]).expect("every topic here is retained");
        story.cursor = Some(id);
        let number = frame["n"].as_u64().expect("a number");
        let snapshot = meta["snapshot"] == true;
        story.seen.push(Seen::Message { id, number, channel, snapshot });
    }
}

impl Client {
    /// The past was sent: as much as came, and without a gap where it says so.
    fn caught_up(&mut self, frame: &Value) {
        for end in frame["channels"].as_array().expect("channels") {
            let channel = end["channel"].as_str().expect("a channel");
            let subject = self.subjects.iter().find(|s| s.owns(channel)).expect("a channel that was subscribed");
            let story = self.stories.entry(subject.topic.clone()).or_default();
            let (replayed, complete) = (end["replayed"].as_u64().expect("a number"), end["complete"] == true);
            story.seen.push(Seen::CaughtUp { channel: channel.to_owned(), replayed, complete });
            story.cursor = id(&end["cursor"]).or(story.cursor);
        }
    }
}

impl Connection {
    /// Subscribes to everything, then catches up whatever lags, as a connection's task does.
    async fn serve(
        &mut self,
        hub: &Arc<Hub>,
        subjects: &[Subject],
        stories: &mut BTreeMap<Topic, Story>,
        dice: &mut Dice,
    ) {
        for subject in subjects {
            let story = stories.entry(subject.topic.clone()).or_default();
            while !self.subscribe(hub, subject, story, dice).await {
                sleep(Duration::from_millis(50)).await;
            }
        }
        loop {
            self.catch_up().await;
            poll_fn(|cx| {
                self.outbox.register(cx);
                let _ = self.outbox.poll_flush(cx);
                if self.outbox.look().lagging { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
    }

    /// False when it can't be done now.
    async fn subscribe(&mut self, hub: &Arc<Hub>, subject: &Subject, story: &mut Story, dice: &mut Dice) -> bool {
        let interest = hub.interest(&subject.topic, &subject.rule, Reader::default()).expect("few topics");
        if interest.ready(Duration::from_secs(3)).await.is_err() {
            return false;
        }
        let start = match (subject.rule.class, story.cursor) {
            (Class::State, cursor) => Start::Snapshot { least: cursor.unwrap_or_default() },
            (_, Some(cursor)) => Start::Since(cursor),
            (Class::Event, None) if dice.chance(300) => Start::Last(3),
            (_, None) => Start::Live,
        };
        let limits = ReplayLimits::new(self.replay_max, 1 << 20, Reader::default());
        let Ok(mut backlog) = interest.backlog(start, limits).await else { return false };
        let before_first = backlog.messages.first().and_then(|m| m.id).map(StreamId::previous);
        let first_cursor = match start {
            Start::Since(cursor) => cursor,
            Start::Snapshot { least } => before_first.unwrap_or(backlog.cursor).max(least),
            _ => before_first.unwrap_or(backlog.cursor),
        };
        if story.begun.is_none() {
            // The answer to the command names it.
            story.begun = Some(backlog.cursor);
            story.cursor = Some(first_cursor);
        }
        if dice.chance(200) {
            backlog.put_off();
        }
        let private = subject.topic.owner().is_some();
        let form = if private {
            Form::of_user(Protocol::default(), subject.channels.iter().map(|channel| Arc::from(*channel)).collect())
        } else {
            Form::of_topic(Protocol::default(), subject.channels[0].into())
        };
        let begins = match start {
            Start::Since(cursor) => cursor,
            Start::Snapshot { least } => backlog.cursor.max(least),
            _ => backlog.cursor,
        };
        let slot = interest.open(&self.outbox, backlog.cursor, begins);
        let member = Member { outbox: self.outbox.clone(), slot, pacer: None };
        let live = start == Start::Live || backlog.is_empty();
        let mut past = Past::new(true, limits);
        subject.channels.iter().for_each(|channel| past.add((*channel).into(), first_cursor, !live));
        backlog.messages.retain(|message| past.wants(message));
        self.subscriptions.push(Subscription { interest, member, form, past: None, fresh: true });
        let Some(Subscription { interest, member, form, past: kept, .. }) = self.subscriptions.last_mut() else {
            return false;
        };
        let outbox = self.outbox.clone();
        let room = || poll_fn(|cx| outbox.poll_room(cx));
        if interest.push_backlog((member, form), &mut past, &backlog, room).await {
            let end = backlog.cut.map_or(backlog.cursor, |cut| cut.cursor);
            outbox.pass(slot, end);
            let notice = caught_up(form.protocol, past.ended(end).collect());
            let urgent = outbox.is_urgent(slot);
            notice.into_iter().for_each(|notice| outbox.send_end(notice, urgent));
        } else {
            *kept = Some(past);
        }
        true
    }

    async fn catch_up(&mut self) {
        while let Some((slot, _)) = self.outbox.lagging() {
            let Some(Subscription { interest, member, form, past, fresh }) = self.of(slot) else { return };
            match interest.catch_up(member, form, *fresh, past.as_mut(), Reader::default()).await {
                Ok(CaughtUp::Live) => (*fresh, *past) = (false, None),
                Ok(CaughtUp::More) => {}
                Ok(CaughtUp::Withdrawn) => unreachable!("few topics"),
                Err(_) => return sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn of(&mut self, slot: SlotId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|s| s.member.slot == slot)
    }
}

/// Makes room in the socket now and then, sometimes for less than a frame.
async fn read_slowly(outbox: &Outbox, slow: bool, dice: &mut Dice) {
    if !slow {
        return std::future::pending().await;
    }
    loop {
        sleep(Duration::from_millis(dice.between(5, 60))).await;
        if let Socket::Memory(memory) = outbox.socket() {
            memory.lock().room += dice.between(1, 900) as usize;
        }
        outbox.wake();
    }
}

/// The text of the first whole frame, and what follows it.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, header) = match *bytes.get(1)? {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        short => (usize::from(short), 2),
    };
    Some((bytes.get(header..header + len)?, &bytes[header + len..]))
}

fn id(value: &Value) -> Option<StreamId> {
    Some(value.as_str()?.parse().expect("an id"))
}
