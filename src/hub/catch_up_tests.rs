use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tickgate_wire::{
    model::{Publication, StartAt, Topic},
    protocol::Protocol,
};

use super::*;
use crate::{
    hub::{EndpointOutboxes, Hub, MemorySocket, OutboxSocket, QueueLimits, ReplayLimits, for_tests::hub},
    metrics::Metrics,
    tasks::Tasks,
};

/// Capacity of an outbox.
const OUTBOX_BYTES: usize = 100_000;
const CHANNEL: &str = "trades:X";

/// A topic with ten publications that are not in memory, and a client whose socket accepts nothing yet.
struct CatchUpScene {
    hub: Arc<Hub>,
    interest: TopicHandle,
    outbox: Arc<Outbox>,
    form: Form,
    ids: Vec<StreamId>,
    /// Stopped with the hub.
    _tasks: Tasks,
}

impl CatchUpScene {
    async fn of(payload_bytes: usize) -> Self {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let topic = Topic::public(CHANNEL).unwrap();
        let interest = hub.interest(&topic, &rule, ReaderAddress::default()).unwrap();
        interest.ready(Duration::from_secs(5)).await.unwrap();
        let payload = Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(payload_bytes)));
        let mut ids = Vec::new();
        for _ in 0..10 {
            let (topic, rule, payload) = (topic.clone(), rule.clone(), payload.clone());
            let publication = Publication { topic, channel: None, payload, once: None, rule };
            ids.extend(hub.backplane.publish(publication).await.unwrap().id);
        }
        // The hub knows the topic's position, but has no message in memory: each is larger than the ring.
        while interest.head() < ids[9] {
            tokio::task::yield_now().await;
        }
        let limits = QueueLimits { messages_max: 100, bytes_max: OUTBOX_BYTES };
        let memory = Mutex::new(MemorySocket { keep: true, ..MemorySocket::default() });
        let socket = OutboxSocket::Memory(Box::new(memory));
        let outbox = Outbox::new(socket, EndpointOutboxes::new(limits, Metrics::new(), "trading"));
        let form = Form::of_topic(Protocol::default(), CHANNEL.into());
        Self { hub, interest, outbox, form, ids, _tasks: tasks }
    }

    /// The backlog of a subscription after the first publication.
    async fn backlog(&self, limits: ReplayLimits) -> Backlog {
        self.interest.backlog(StartAt::Since(self.ids[0]), limits).await.unwrap()
    }

    fn open(&self, backlog: &Backlog, limits: ReplayLimits) -> (Subscriber, BacklogProgress) {
        let slot = self.interest.open(&self.outbox, backlog.cursor, self.ids[0]);
        let mut past = BacklogProgress::new(true, limits);
        past.add(CHANNEL.into(), self.ids[0], true);
        (Subscriber { outbox: self.outbox.clone(), slot, pacer: None }, past)
    }

    /// Lets the socket accept everything from now on.
    async fn drain(&self) {
        let OutboxSocket::Memory(memory) = self.outbox.socket() else { panic!("not in memory") };
        memory.lock().room = usize::MAX;
        poll_fn(|cx| self.outbox.poll_flush(cx)).await;
    }

    /// Everything that the client receives until its backlog ends.
    async fn read_all(&self, subscriber: &Subscriber, past: &mut BacklogProgress) -> String {
        self.drain().await;
        while self.interest.catch_up(subscriber, &self.form, true, Some(past), ReaderAddress::default()).await.unwrap()
            == CatchUpStep::More
        {}
        let OutboxSocket::Memory(memory) = self.outbox.socket() else { panic!("not in memory") };
        let told = || memory.lock().written.windows(11).any(|bytes| bytes == b"\"caught_up\"");
        while self.outbox.known(subscriber.slot) < self.ids.last().copied() || !told() {
            tokio::task::yield_now().await;
        }
        String::from_utf8_lossy(&std::mem::take(&mut memory.lock().written)).into_owned()
    }

    /// How often the client received each publication.
    fn counts(&self, text: &str) -> Vec<usize> {
        self.ids.iter().map(|id| text.matches(&format!("\"id\":\"{id}\"")).count()).collect()
    }
}

fn limits(bytes_max: usize) -> ReplayLimits {
    ReplayLimits::new(1_000, bytes_max, ReaderAddress::default())
}

#[tokio::test]
async fn the_backlog_of_a_stuck_client_is_not_kept_and_arrives_when_it_reads() {
    let scene = CatchUpScene::of(30_000).await;
    let (limits, ids) = (limits(1 << 20), &scene.ids);
    let CatchUpScene { interest, outbox, form, .. } = &scene;
    let mut backlog = scene.backlog(limits).await;
    assert_eq!((backlog.messages.len(), backlog.cursor, backlog.goes_on), (9, ids[9], false));
    let (subscriber, mut past) = scene.open(&backlog, limits);
    let slot = subscriber.slot;
    let room = || poll_fn(|cx| outbox.poll_room(cx));
    let push = interest.push_backlog((&subscriber, form), &mut past, &backlog, room);
    let whole = tokio::time::timeout(Duration::from_secs(5), push).await.expect("no wait for the socket");
    assert!(!whole, "it exceeds the outbox");
    let queued = outbox.queued(slot).unwrap();
    assert!(queued >= ids[1] && queued < ids[5], "up to the capacity of the outbox: {queued} of {ids:?}");

    // A deferred backlog keeps only its first message.
    backlog.put_off();
    assert_eq!((backlog.messages.len(), backlog.cursor, backlog.goes_on), (1, ids[1], true));

    let text = scene.read_all(&subscriber, &mut past).await;
    assert_eq!(scene.counts(&text), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    let end = format!(r#"{{"channel":"trades:X","cursor":"{}","replayed":9,"complete":true}}"#, ids[9]);
    assert!(text.ends_with(&format!(r#"{{"type":"caught_up","channels":[{end}]}}"#)), "{text:.200}");
}

#[tokio::test]
async fn a_resume_never_fetches_more_than_its_limit() {
    let scene = CatchUpScene::of(300_000).await;
    // All long turns are taken, so the catch-up delivers what follows the first page.
    let others: Vec<_> = (0..8).filter_map(|n| scene.hub.long_turns.try_take(ReaderAddress(9 + n), 0)).collect();
    let limits = limits(2_000_000);
    let backlog = scene.backlog(limits).await;
    assert!(backlog.goes_on && backlog.messages.len() < 6, "{} messages", backlog.messages.len());
    let (subscriber, mut past) = scene.open(&backlog, limits);
    scene.drain().await;
    let room = || poll_fn(|cx| scene.outbox.poll_room(cx));
    assert!(!scene.interest.push_backlog((&subscriber, &scene.form), &mut past, &backlog, room).await);
    let text = scene.read_all(&subscriber, &mut past).await;
    let counts = scene.counts(&text);
    let got = counts.iter().filter(|count| **count == 1).count();
    assert!((6..=7).contains(&got), "two megabytes of 300 KB each, and at most one more: {counts:?}");
    assert!(counts[1..=got].iter().all(|count| *count == 1), "in order: {counts:?}");
    let (cursor, last) = (scene.ids[got], scene.ids[9]);
    assert!(text.contains(&format!(r#""after":"{cursor}""#)) && text.contains(r#""reason":"retention""#), "{text:.0}");
    let end = format!(r#"{{"channel":"{CHANNEL}","cursor":"{last}","replayed":{got},"complete":false}}"#);
    assert!(text.ends_with(&format!(r#"{{"type":"caught_up","channels":[{end}]}}"#)));
    drop(others);
}

#[tokio::test]
async fn a_backlog_beside_a_subscription_also_waits_for_the_socket() {
    let scene = CatchUpScene::of(30_000).await;
    let limits = limits(1 << 20);
    let backlog = scene.backlog(limits).await;
    let (subscriber, mut past) = scene.open(&backlog, limits);
    let room = || poll_fn(|cx| scene.outbox.poll_room(cx));
    let mut push = Box::pin(scene.interest.push_beside((&subscriber, &scene.form), &mut past, &backlog, room));
    assert!(futures_util::poll!(push.as_mut()).is_pending(), "the socket accepts nothing");
    let OutboxSocket::Memory(memory) = scene.outbox.socket() else { panic!("not in memory") };
    memory.lock().room = usize::MAX;
    let mut bytes_max = 0;
    while futures_util::poll!(push.as_mut()).is_pending() {
        bytes_max = bytes_max.max(scene.outbox.waiting_bytes());
        tokio::task::yield_now().await;
    }
    assert!(bytes_max <= OUTBOX_BYTES, "{bytes_max} bytes were queued");
    let text = String::from_utf8_lossy(&memory.lock().written).into_owned();
    assert_eq!(scene.counts(&text), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
}

#[tokio::test]
async fn what_was_read_takes_memory_until_the_client_has_it() {
    let scene = CatchUpScene::of(30_000).await;
    let limits = limits(1 << 20);
    assert_eq!(scene.hub.turns.bytes(), 0);
    let mut backlog = scene.backlog(limits).await;
    assert_eq!(scene.hub.turns.bytes(), backlog.bytes());
    let (subscriber, mut past) = scene.open(&backlog, limits);
    let room = || poll_fn(|cx| scene.outbox.poll_room(cx));
    assert!(!scene.interest.push_backlog((&subscriber, &scene.form), &mut past, &backlog, room).await);
    backlog.take_hold().into_iter().for_each(|hold| scene.outbox.keep(hold));
    drop(backlog);
    assert!(scene.hub.turns.bytes() > 0, "it is queued in the outbox");
    scene.drain().await;
    assert_eq!(scene.hub.turns.bytes(), 0);
    backlog = scene.backlog(limits).await;
    backlog.put_off();
    assert_eq!(scene.hub.turns.bytes(), backlog.bytes(), "a deferred backlog takes none");
}
