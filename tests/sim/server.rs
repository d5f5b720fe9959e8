//! The simulated server and the link of each replica to it: delays, loses, repeats, swaps, breaks off, goes deaf,
//! restarts with or without its data. Never reorders a link's messages but by the fault of that name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tickgate::backplane::{
    Event, Newest, Page, ReadLimits, Receiver, SimulatedAnswer, SimulatedBackplane, Unavailable,
};
use tickgate_wire::model::{Content, Loss, Message, StreamId, Topic};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    dice::Dice,
    stream::{Stream, numbered},
};

/// Epochs begin here, so that no id looks like a time of the simulation.
const EPOCH: u64 = 1_000_000;

/// How often a link errs, in a thousand messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise {
    pub lose: u64,
    pub repeat: u64,
    pub swap: u64,
    /// Reads that fail.
    pub refuse: u64,
}

/// How a server comes back.
#[derive(Clone, Copy, Debug)]
pub enum Restart {
    /// With everything.
    Whole,
    /// Without the last entries of each topic.
    Forked,
    /// With nothing.
    Empty,
}

/// A publication that was taken, whatever became of it.
#[derive(Clone, Debug)]
pub struct Taken {
    pub number: u64,
    pub id: StreamId,
    pub channel: Option<&'static str>,
    pub acknowledged: bool,
}

/// What a topic keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub entries: usize,
}

/// A marker in a topic's stream: acknowledged publications between two ids were lost.
#[derive(Clone, Copy, Debug)]
pub struct Marker {
    pub id: StreamId,
    pub after: StreamId,
    pub before: StreamId,
}

/// Everything that ever was in one topic.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub taken: Vec<Taken>,
    pub markers: Vec<Marker>,
}

#[derive(Debug)]
pub struct Server {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    noise: Noise,
    streams: BTreeMap<Topic, Option<Stream>>,
    retention: BTreeMap<Topic, Retention>,
    generation: u64,
    /// A defect: another server is not told from the one before.
    blind: bool,
    down: bool,
    links: Vec<Arc<Link>>,
    truth: BTreeMap<Topic, Truth>,
    acknowledged: BTreeMap<Topic, StreamId>,
    /// To be verified after a change of server: the last of each epoch, since each may have lost its end.
    claims: BTreeMap<(Topic, u64), StreamId>,
    /// Claims whose loss was told by a marker, which the next server may lose in its turn.
    told: BTreeMap<(Topic, u64), StreamId>,
    /// Generation of the last server that had what was claimed.
    found: BTreeMap<(Topic, StreamId), u64>,
}

impl Server {
    pub fn new(dice: Dice, noise: Noise, retention: BTreeMap<Topic, Retention>, blind: bool) -> Arc<Self> {
        let streams = retention.keys().map(|topic| (topic.clone(), None)).collect();
        let state = State {
            dice,
            noise,
            streams,
            retention,
            generation: EPOCH,
            blind,
            down: false,
            links: Vec::new(),
            truth: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            claims: BTreeMap::new(),
            told: BTreeMap::new(),
            found: BTreeMap::new(),
        };
        Arc::new(Self { begun: Instant::now(), state: Mutex::new(state) })
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// A replica's link, up from the start.
    pub fn link(self: &Arc<Self>) -> Arc<Link> {
        let mut state = self.state.lock();
        let link = Arc::new(Link {
            server: self.clone(),
            receiver: OnceLock::new(),
            inner: Mutex::new(LinkState { up: true, ..LinkState::default() }),
            wake: Notify::new(),
        });
        state.links.push(link.clone());
        link
    }

    /// Publishes, as the script does it. False when nobody takes it now.
    pub fn publish(&self, topic: &Topic, number: u64, channel: Option<&'static str>) -> bool {
        let state = &mut *self.state.lock();
        if state.down {
            return false;
        }
        let id = self.append(state, topic, channel, numbered(number));
        // An answer can be lost: then the publisher does not know, and nothing was promised.
        let acknowledged = !state.dice.chance(30);
        if acknowledged {
            state.acknowledged.insert(topic.clone(), id);
        }
        state.truth.entry(topic.clone()).or_default().taken.push(Taken { number, id, channel, acknowledged });
        true
    }

    fn append(&self, state: &mut State, topic: &Topic, channel: Option<&str>, content: Content) -> StreamId {
        let now = self.now_ms();
        let stream = state.streams.get_mut(topic).expect("a topic of this world");
        let message = Stream::append(stream, state.generation, EPOCH + now, channel, content);
        let keep = state.retention[topic].entries + state.dice.below(3) as usize;
        if let Some(stream) = stream {
            stream.trim(keep);
        }
        for link in &state.links {
            link.bring(topic, &message, now, &mut state.dice, state.noise);
        }
        message.id.unwrap_or_default()
    }

    /// Everything that was taken so far, and what was told of its loss.
    pub fn truth(&self) -> BTreeMap<Topic, Truth> {
        self.state.lock().truth.clone()
    }

    /// From now on the links are as good as links can be.
    pub fn calm(&self) {
        self.state.lock().noise = Noise::default();
    }

    /// Forgets the older half of a topic and more.
    pub fn trim(&self) {
        let state = &mut *self.state.lock();
        for stream in state.streams.values_mut().flatten() {
            stream.trim(state.dice.between(1, 4) as usize);
        }
    }

    /// Goes away for `pause_ms`, and another server comes in its place.
    pub async fn restart(&self, restart: Restart, pause_ms: u64) {
        {
            let state = &mut *self.state.lock();
            state.down = true;
            for topic in state.streams.values_mut() {
                match restart {
                    Restart::Whole => {}
                    Restart::Forked => {
                        let count = state.dice.below(6) as usize;
                        if let Some(stream) = topic {
                            stream.lose_end(count.min(stream.entries.len() - 1));
                        }
                    }
                    Restart::Empty => *topic = None,
                }
            }
            for link in state.links.clone() {
                let (notice, absence) = (state.dice.between(0, 40), pause_ms + state.dice.between(1, 60));
                link.cut(self.now_ms(), notice, absence);
            }
        }
        sleep(Duration::from_millis(pause_ms)).await;
        let state = &mut *self.state.lock();
        state.down = false;
        if !state.blind {
            state.generation = (state.generation + 1).max(EPOCH + self.now_ms());
            let claims = state.acknowledged.iter().map(|(topic, id)| ((topic.clone(), id.epoch), *id));
            state.claims.extend(claims.chain(state.told.clone()).collect::<Vec<_>>());
        }
    }

    /// Breaks off one replica's link.
    pub fn cut(&self, link: &Link, notice_ms: u64, absence_ms: u64) {
        let _order = self.state.lock();
        link.cut(self.now_ms(), notice_ms, absence_ms);
    }

    /// One replica hears nothing for a while, and is not told.
    pub fn deafen(&self, link: &Link, for_ms: u64) {
        let _order = self.state.lock();
        link.inner.lock().deaf_until = self.now_ms() + for_ms;
    }

    /// Verifies one claim, as the replica that acknowledged it does after a change of server.
    pub fn verify(&self) {
        let state = &mut *self.state.lock();
        if state.down {
            return;
        }
        let Some(((topic, _), claim)) = state.claims.pop_first() else { return };
        let stream = state.streams[&topic].as_ref();
        // Of a value only the newest is owed.
        let is_value = state.retention[&topic].entries == 1;
        let found = state.found.get(&(topic.clone(), claim)).copied().unwrap_or(claim.epoch);
        let proven = if is_value { u64::MAX } else { found };
        let Some((after, before)) = Stream::lost(stream, claim, proven) else {
            state.found.insert((topic, claim), state.generation);
            return;
        };
        state.told.insert((topic.clone(), claim.epoch), claim);
        // The marker opens an epoch above all that was lost.
        let last = stream.map_or(0, |stream| stream.last.epoch);
        let generation = state.generation;
        state.generation = generation.max(claim.epoch + 1).max(last);
        let stream = state.streams.get_mut(&topic).expect("a topic of this world");
        let placeholder = Content::Lost { after, before: before.unwrap_or_default(), loss: Loss::Failover };
        let message = Stream::append(stream, state.generation, EPOCH + self.now_ms(), None, placeholder);
        state.generation = generation;
        let id = message.id.unwrap_or_default();
        let content = Content::Lost { after, before: before.unwrap_or(id), loss: Loss::Failover };
        let message = Message { content, ..message };
        if let Some(stream) = stream {
            stream.entries.pop_back();
            stream.entries.push_back(Arc::new(Message { prev: None, ..message.clone() }));
        }
        state.acknowledged.insert(topic.clone(), id);
        let marker = Marker { id, after, before: before.unwrap_or(id) };
        state.truth.entry(topic.clone()).or_default().markers.push(marker);
        let now = self.now_ms();
        for link in &state.links {
            link.bring(&topic, &message, now, &mut state.dice, state.noise);
        }
    }

    /// Whether losses are still to be looked for.
    pub fn is_verifying(&self) -> bool {
        !self.state.lock().claims.is_empty()
    }

    /// An answer that is made at some moment between the question and its arrival.
    fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> SimulatedAnswer<T> {
        let server = self.clone();
        let (there, back, refused) = {
            let state = &mut *self.state.lock();
            (state.dice.between(0, 15), state.dice.between(0, 15), state.dice.chance(state.noise.refuse))
        };
        Box::pin(async move {
            sleep(Duration::from_millis(there)).await;
            let made = {
                let state = &mut *server.state.lock();
                (!state.down && !refused).then(|| make(state))
            };
            sleep(Duration::from_millis(back)).await;
            made.ok_or_else(|| Unavailable("the simulation says no".into()))
        })
    }
}

/// One replica's link: what is on its way, in the order of its arrival.
pub struct Link {
    server: Arc<Server>,
    receiver: OnceLock<Receiver>,
    inner: Mutex<LinkState>,
    wake: Notify,
}

#[derive(Default)]
struct LinkState {
    up: bool,
    deaf_until: u64,
    followed: BTreeSet<Topic>,
    /// What the server knows of it.
    subscribed: BTreeSet<Topic>,
    on_its_way: BTreeMap<(u64, u64), Delivery>,
    sent: u64,
    /// When the last thing sent arrives: what is sent later does not arrive before.
    last_ms: u64,
}

enum Delivery {
    Arrived(Topic, Message),
    Confirmed(Topic),
    Lost,
    Up,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl LinkState {
    fn send(&mut self, at_ms: u64, delivery: Delivery) {
        self.last_ms = self.last_ms.max(at_ms);
        self.send_out_of_order(self.last_ms, delivery);
    }

    fn send_out_of_order(&mut self, at_ms: u64, delivery: Delivery) {
        self.sent += 1;
        self.on_its_way.insert((at_ms, self.sent), delivery);
    }

    fn subscribe(&mut self, topic: &Topic, at_ms: u64) {
        self.subscribed.insert(topic.clone());
        self.send(at_ms, Delivery::Confirmed(topic.clone()));
    }
}

impl Link {
    fn bring(&self, topic: &Topic, message: &Message, now: u64, dice: &mut Dice, noise: Noise) {
        let mut inner = self.inner.lock();
        let (lost, repeated, swapped) = (dice.chance(noise.lose), dice.chance(noise.repeat), dice.chance(noise.swap));
        let (delay, later) = (dice.between(0, 8), dice.between(0, 60));
        if lost || now < inner.deaf_until || !inner.subscribed.contains(topic) {
            return;
        }
        let delivery = || Delivery::Arrived(topic.clone(), message.clone());
        if swapped {
            inner.send_out_of_order(now + delay + later, delivery());
        } else {
            inner.send(now + delay, delivery());
        }
        if repeated {
            inner.send_out_of_order(now + delay + later, delivery());
        }
        self.wake.notify_one();
    }

    fn cut(&self, now: u64, notice_ms: u64, absence_ms: u64) {
        let mut inner = self.inner.lock();
        inner.up = false;
        inner.subscribed.clear();
        inner.on_its_way.clear();
        inner.deaf_until = 0;
        inner.last_ms = now;
        inner.send(now + notice_ms, Delivery::Lost);
        inner.send(now + notice_ms + absence_ms, Delivery::Up);
        self.wake.notify_one();
    }

    /// Brings what is on its way when its time has come.
    pub async fn run(self: Arc<Self>) {
        loop {
            let next = self.inner.lock().on_its_way.first_key_value().map(|(key, _)| *key);
            let Some((at_ms, _)) = next else {
                self.wake.notified().await;
                continue;
            };
            let due = self.server.begun + Duration::from_millis(at_ms);
            if Instant::now() < due {
                tokio::select! {
                    biased;
                    () = self.wake.notified() => {}
                    () = sleep_until(due) => {}
                }
                continue;
            }
            let Some((_, delivery)) = self.inner.lock().on_its_way.pop_first() else { continue };
            self.deliver(delivery);
        }
    }

    fn deliver(&self, delivery: Delivery) {
        let Some(receiver) = self.receiver.get() else { return };
        match delivery {
            Delivery::Arrived(topic, message) => receiver(Event::Arrived { topic: topic.as_str(), message }),
            Delivery::Confirmed(topic) => receiver(Event::Confirmed { topic: topic.as_str() }),
            Delivery::Lost => {
                let followed = self.inner.lock().followed.clone();
                followed.iter().for_each(|topic| receiver(Event::Lost { topic: topic.as_str() }));
            }
            Delivery::Up => {
                let mut state = self.server.state.lock();
                let now = self.server.now_ms();
                let mut inner = self.inner.lock();
                inner.up = true;
                for topic in inner.followed.clone() {
                    inner.subscribe(&topic, now + state.dice.between(0, 20));
                }
            }
        }
    }
}

impl SimulatedBackplane for Link {
    fn start(&self, receiver: Receiver) {
        let _ = self.receiver.set(receiver);
    }

    fn follow(&self, topic: &Topic) {
        let mut state = self.server.state.lock();
        let now = self.server.now_ms();
        let mut inner = self.inner.lock();
        inner.followed.insert(topic.clone());
        if inner.up {
            inner.subscribe(topic, now + state.dice.between(0, 20));
            self.wake.notify_one();
        }
    }

    fn unfollow(&self, topic: &Topic) {
        let _order = self.server.state.lock();
        let mut inner = self.inner.lock();
        inner.followed.remove(topic);
        inner.subscribed.remove(topic);
    }

    fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> SimulatedAnswer<Page> {
        let topic = topic.clone();
        self.server.answer(move |state| {
            // Short pages, so that there are several.
            let limit = limits.messages_max.min(state.dice.between(1, 12) as usize);
            match &state.streams[&topic] {
                Some(stream) => stream.read(after, limit),
                None => Page { messages: Vec::new(), contiguous: after == StreamId::ZERO, more: false },
            }
        })
    }

    fn newest(&self, topic: &Topic, limits: ReadLimits) -> SimulatedAnswer<Newest> {
        let topic = topic.clone();
        self.server.answer(move |state| {
            let Some(stream) = &state.streams[&topic] else { return Newest { messages: Vec::new(), whole: true } };
            let skipped = stream.entries.len().saturating_sub(limits.messages_max);
            Newest { messages: stream.entries.iter().skip(skipped).cloned().collect(), whole: true }
        })
    }

    fn generation(&self, _: &Topic) -> u64 {
        self.server.state.lock().generation
    }

    fn heads(&self, topics: &[Topic]) -> SimulatedAnswer<Vec<StreamId>> {
        let topics = topics.to_vec();
        self.server.answer(move |state| {
            topics.iter().map(|topic| state.streams[topic].as_ref().map_or(StreamId::ZERO, Stream::head)).collect()
        })
    }
}
