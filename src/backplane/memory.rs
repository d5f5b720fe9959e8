//! The backplane of a single process, for trials and for tests of everything above it. Does no I/O; its content ends
//! with the process.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tickgate_wire::model::{Content, Message, Publication, StreamId, Topic, TopicRule};
use tokio::time::Instant;

use super::{
    BackplaneEvent, HeadError, Health, LeaseTurn, Newest, PendingPublish, PublishAck, PublishError, PublishRefusal,
    ReadLimits, Receiver, StreamPage, StreamUnavailable,
};
use crate::{clock, history::Generations};

/// Maximum number of results of publications with `msg_id`: beyond it, those that expire first are removed.
const DEDUPE_MAX: usize = 100_000;
const TOPICS_MAX: usize = 100_000;
/// Maximum size of all retained payloads, in bytes.
const BYTES_MAX: usize = 256 << 20;
/// Maximum number of events queued while another publication's are being delivered.
const EVENTS_MAX: usize = 65_536;

/// Streams, positions and delivery of one process.
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<MemoryShared>,
}

struct MemoryShared {
    receiver: OnceLock<Receiver>,
    state: Mutex<MemoryState>,
    history: Arc<Generations>,
    /// Whether a caller is delivering events.
    delivering: AtomicBool,
}

#[derive(Default)]
struct MemoryState {
    streams: HashMap<Topic, MemoryStream>,
    followed: HashSet<Topic>,
    results: Results,
    /// In stream order; delivered by one caller at a time, outside the lock.
    events: VecDeque<QueuedEvent>,
    bytes: usize,
    /// The greatest epoch given.
    alloc: u64,
}

struct MemoryStream {
    entries: VecDeque<Arc<Message>>,
    /// The last id given; it outlives the entries.
    last: StreamId,
    used: Instant,
    ttl: Duration,
}

enum QueuedEvent {
    Arrived(Topic, Message),
    Confirmed(Topic),
}

/// Results of publications with `msg_id`.
#[derive(Default)]
struct Results {
    /// By topic and digest of the `msg_id`: the id, and the digest of the content.
    ids: HashMap<(Topic, u128), (Option<StreamId>, u64)>,
    /// By expiry and a unique number.
    ends: BTreeMap<(Instant, u64), (Topic, u128)>,
    number: u64,
}

impl std::fmt::Debug for MemoryShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("streams", &self.state.lock().streams.len()).finish_non_exhaustive()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty back end: no streams, nothing followed.
    #[must_use]
    pub fn new() -> Self {
        // Only this process gives epochs, so the time makes them increase over restarts: a client with a cursor of an
        // earlier process receives a gap that ends before the first publication of this one.
        let generation = (clock::unix_ms() << 21) / 1_000 + 1;
        Self {
            inner: Arc::new(MemoryShared {
                receiver: OnceLock::new(),
                state: Mutex::new(MemoryState { alloc: generation, ..MemoryState::default() }),
                history: Arc::new(Generations::single(generation)),
                delivering: AtomicBool::new(false),
            }),
        }
    }

    pub(super) fn start(&self, receiver: Receiver) {
        let _ = self.inner.receiver.set(receiver);
    }

    pub(super) fn publish(&self, publication: Publication, turn: Option<LeaseTurn>) -> PendingPublish {
        if turn.is_some_and(|turn| !turn.lasts(Instant::now().into_std())) {
            return PendingPublish::Ready(Err(PublishError::Refused(PublishRefusal::Expired)));
        }
        let result = self.inner.state.lock().append(publication);
        self.inner.deliver();
        PendingPublish::Ready(result)
    }

    pub(super) fn follow(&self, topic: &Topic, _: Option<u64>) {
        {
            let mut state = self.inner.state.lock();
            state.followed.insert(topic.clone());
            state.events.push_back(QueuedEvent::Confirmed(topic.clone()));
        }
        self.inner.deliver();
    }

    pub(super) fn unfollow(&self, topic: &Topic) {
        self.inner.state.lock().followed.remove(topic);
    }

    #[expect(clippy::unused_async, reason = "the contract's form")]
    pub(super) async fn read(
        &self,
        topic: &Topic,
        after: StreamId,
        limits: ReadLimits,
    ) -> Result<StreamPage, StreamUnavailable> {
        Ok(self.inner.state.lock().read(topic, after, limits))
    }

    #[expect(clippy::unused_async, reason = "the contract's form")]
    pub(super) async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, StreamUnavailable> {
        let mut state = self.inner.state.lock();
        let Some(stream) = state.live(topic) else { return Ok(Newest { messages: Vec::new(), whole: true }) };
        let count = limits.room(0, 0, stream.entries.iter().rev());
        let whole = count == stream.entries.len().min(limits.messages_max);
        Ok(Newest { messages: stream.entries.iter().skip(stream.entries.len() - count).cloned().collect(), whole })
    }

    pub(super) fn history(&self, _: &Topic) -> Arc<Generations> {
        Arc::clone(&self.inner.history)
    }

    #[expect(clippy::unused_self, reason = "the contract's form")]
    pub(super) const fn doubt(&self, _: &Topic) {}

    #[expect(clippy::unused_async, reason = "the contract's form")]
    pub(super) async fn anchors(&self, topics: &[Topic]) -> Vec<Result<StreamId, StreamUnavailable>> {
        let mut state = self.inner.state.lock();
        topics.iter().map(|topic| Ok(state.anchor(topic))).collect()
    }

    #[expect(clippy::unused_async, reason = "the contract's form")]
    pub(super) async fn forget(&self, topics: &[Topic]) -> Result<(), StreamUnavailable> {
        let mut state = self.inner.state.lock();
        for topic in topics {
            if state.streams.get(topic).is_some_and(|stream| stream.entries.is_empty() && stream.ttl.is_zero()) {
                state.streams.remove(topic);
            }
        }
        Ok(())
    }

    #[expect(clippy::unused_async, reason = "the contract's form")]
    pub(super) async fn heads(&self, topics: &[Topic]) -> Vec<Result<Option<StreamId>, HeadError>> {
        let mut state = self.inner.state.lock();
        topics.iter().map(|topic| Ok(state.live(topic).map(|stream| stream.last))).collect()
    }

    #[expect(clippy::unused_async, reason = "the contract's form")]
    pub(super) async fn leave(&self) {}

    #[expect(clippy::unused_self, reason = "the contract's form")]
    pub(super) fn health(&self) -> Health {
        let down = Duration::ZERO;
        Health {
            kind: "memory",
            reached: true,
            commands_down: down,
            commands_obstacle: None,
            pubsub_down: down,
            obstacle: None,
            acknowledges: true,
        }
    }
}

impl MemoryShared {
    /// Delivers queued events, unless another caller is doing so: then that one delivers these too, which preserves the
    /// order.
    fn deliver(&self) {
        loop {
            if self.delivering.swap(true, Ordering::SeqCst) {
                return;
            }
            while let Some(event) = self.next_event() {
                let Some(receiver) = self.receiver.get() else { continue };
                match event {
                    QueuedEvent::Arrived(topic, message) => {
                        receiver(BackplaneEvent::Arrived { topic: topic.as_str(), message });
                    }
                    QueuedEvent::Confirmed(topic) => receiver(BackplaneEvent::Confirmed { topic: topic.as_str() }),
                }
            }
            self.delivering.store(false, Ordering::SeqCst);
            // A caller may have queued events after the last check, relying on this one.
            if self.state.lock().events.is_empty() {
                return;
            }
        }
    }

    fn next_event(&self) -> Option<QueuedEvent> {
        self.state.lock().events.pop_front()
    }
}

impl MemoryState {
    fn append(&mut self, publication: Publication) -> Result<PublishAck, PublishError> {
        let now = Instant::now();
        let Publication { topic, channel, payload, once, rule } = publication;
        let named = once.map(|once| ((topic.clone(), once.name), once.content));
        self.results.expire(now);
        if let Some((key, content)) = &named
            && let Some((id, known)) = self.results.ids.get(key)
        {
            return if known == content {
                Ok(PublishAck { id: *id, duplicate: true })
            } else {
                Err(PublishError::Reused)
            };
        }
        if self.events.len() >= EVENTS_MAX {
            return Err(PublishError::Refused(PublishRefusal::Overloaded));
        }
        let mut message =
            Message { id: None, prev: None, published_ms: clock::unix_ms(), channel, content: Content::Data(payload) };
        if rule.retain_max > 0 {
            self.retain(&topic, &rule, &mut message, now)?;
        }
        let id = message.id;
        if self.followed.contains(&topic) {
            self.events.push_back(QueuedEvent::Arrived(topic, message));
        }
        if let Some((key, content)) = named {
            self.results.remember(key, (id, content), now + rule.dedupe_ttl);
        }
        Ok(PublishAck { id, duplicate: false })
    }

    /// Assigns the message's id and stores it.
    fn retain(
        &mut self,
        topic: &Topic,
        rule: &TopicRule,
        message: &mut Message,
        now: Instant,
    ) -> Result<(), PublishError> {
        let size = message_bytes(message);
        if self.bytes + size > BYTES_MAX || self.streams.len() >= TOPICS_MAX {
            self.sweep(now);
        }
        let begun = self.live(topic).is_some();
        if self.bytes + size > BYTES_MAX || (!begun && self.streams.len() >= TOPICS_MAX) {
            return Err(PublishError::Refused(PublishRefusal::OutOfMemory));
        }
        let alloc = &mut self.alloc;
        let stream = self.streams.entry(topic.clone()).or_insert_with(|| {
            // A stream that starts again must never repeat an id.
            *alloc += 1;
            MemoryStream::new(StreamId::new(*alloc, 0).previous(), now)
        });
        let id = stream.last.next();
        message.id = Some(id);
        message.prev = match (id.seq, begun) {
            (0, true) => Some(stream.last),
            (0, false) => Some(StreamId::ZERO),
            _ => None,
        };
        stream.last = id;
        stream.used = now;
        stream.ttl = rule.retain_ttl;
        stream.entries.push_back(Arc::new(kept(message)));
        self.bytes += size;
        while stream.entries.len() > rule.retain_max as usize {
            self.bytes -= stream.entries.pop_front().map_or(0, |gone| message_bytes(&gone));
        }
        Ok(())
    }

    /// The stream of a topic, without expired entries.
    fn live(&mut self, topic: &Topic) -> Option<&mut MemoryStream> {
        let stream = self.streams.get_mut(topic)?;
        if stream.expired(Instant::now()) {
            self.bytes -= stream.bytes();
            stream.entries.clear();
        }
        Some(stream)
    }

    /// A unique position for a topic without a stream.
    fn anchor(&mut self, topic: &Topic) -> StreamId {
        if let Some(stream) = self.live(topic) {
            return stream.last;
        }
        if self.streams.len() >= TOPICS_MAX {
            self.sweep(Instant::now());
        }
        self.alloc += 1;
        let last = StreamId::new(self.alloc, 0).previous();
        if self.streams.len() < TOPICS_MAX {
            self.streams.insert(topic.clone(), MemoryStream::new(last, Instant::now()));
        }
        last
    }

    /// Removes streams that are empty or expired.
    fn sweep(&mut self, now: Instant) {
        self.streams.retain(|_, stream| !stream.entries.is_empty() && !stream.expired(now));
        self.bytes = self.streams.values().map(MemoryStream::bytes).sum();
    }

    fn read(&mut self, topic: &Topic, after: StreamId, limits: ReadLimits) -> StreamPage {
        let Some(stream) = self.live(topic) else { return StreamPage { messages: Vec::new(), more: false, end: None } };
        let from = stream.entries.partition_point(|message| message.id <= Some(after));
        let count = limits.room(0, 0, stream.entries.iter().skip(from));
        let messages: Vec<_> = stream.entries.iter().skip(from).take(count).cloned().collect();
        let more = stream.entries.len() - from > messages.len();
        StreamPage { messages, more, end: Some(stream.last) }
    }
}

impl MemoryStream {
    const fn new(last: StreamId, now: Instant) -> Self {
        Self { entries: VecDeque::new(), last, used: now, ttl: Duration::ZERO }
    }

    fn expired(&self, now: Instant) -> bool {
        !self.ttl.is_zero() && now.duration_since(self.used) > self.ttl
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|message| message_bytes(message)).sum()
    }
}

impl Results {
    fn expire(&mut self, now: Instant) {
        while let Some((&(end, _), _)) = self.ends.first_key_value()
            && (end <= now || self.ends.len() > DEDUPE_MAX)
        {
            if let Some((_, key)) = self.ends.pop_first() {
                self.ids.remove(&key);
            }
        }
    }

    fn remember(&mut self, key: (Topic, u128), result: (Option<StreamId>, u64), end: Instant) {
        self.number += 1;
        self.ids.insert(key.clone(), result);
        self.ends.insert((end, self.number), key);
    }
}

/// The form in which a message is read back. The payload is copied, because it may be a small part of a large request.
fn kept(message: &Message) -> Message {
    let content = match &message.content {
        Content::Data(payload) => Content::Data(Bytes::copy_from_slice(payload)),
        Content::Unreadable => Content::Unreadable,
    };
    Message { published_ms: 0, content, ..message.clone() }
}

fn message_bytes(message: &Message) -> usize {
    match &message.content {
        Content::Data(payload) => payload.len() + size_of::<Message>(),
        Content::Unreadable => size_of::<Message>(),
    }
}
