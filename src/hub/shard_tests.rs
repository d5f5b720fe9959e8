use std::task::{Context, Wake};

use bytes::Bytes;
use parking_lot::Mutex;
use tickgate_wire::{
    model::{Class, Content, Message, Pattern, TopicRule, UserId},
    protocol::Protocol,
};

use super::*;
use crate::history::Generations;
use crate::{
    backplane::StreamPage,
    hub::{
        Cursor, EndpointOutboxes, MemorySocket, OutboxSocket, Pacer, QueueLimits, RingLimits, SlotId, SubscriptionSlot,
        queue::SubscriptionStage, step::FillAction, topic::JoiningSubscription,
    },
};

const RING: RingLimits = RingLimits { messages_max: 256, bytes_max: 1 << 20 };

fn id(seq: u64) -> StreamId {
    StreamId::new(1, seq)
}

fn message(seq: u64, channel: Option<&str>) -> Message {
    let content = Content::Data(Bytes::from_static(b"{}"));
    Message { id: Some(id(seq)), prev: None, published_ms: 0, channel: channel.map(Into::into), content }
}

fn user_form(channels: &[&str]) -> Form {
    Form::of_user(Protocol::default(), channels.iter().map(|channel| Arc::from(*channel)).collect())
}

/// One topic on one shard without a backplane: tests pass arrivals directly.
struct ShardScene {
    topic: Arc<TopicState>,
    shards: [Arc<Shard>; 1],
    round: ShardRound,
    form: Form,
    shared: Arc<EndpointOutboxes>,
}

/// A dataset that has never moved to another server.
fn history() -> Generations {
    Generations { alloc: u64::MAX, ..Generations::single(1) }
}

impl ShardScene {
    /// At position 0.
    fn new(class: Class) -> Self {
        Self::with_room(class, 1 << 20)
    }

    /// With a shard whose queue holds at most this many bytes.
    fn with_room(class: Class, bytes: usize) -> Self {
        let metrics = Metrics::new();
        let rule = TopicRule {
            pattern: Pattern::new("*").unwrap(),
            class,
            retain_max: 100,
            retain_ttl: Duration::ZERO,
            wait_replicas: 0,
            wait_aof: false,
            dedupe_ttl: Duration::from_secs(300),
            level_min: None,
        };
        let private = class == Class::Reliable;
        let name =
            if private { Topic::user_stream(&UserId::new("alice").unwrap()) } else { Topic::public("a").unwrap() };
        let topic = Arc::new(TopicState::new(name, Arc::new(rule), 1, RING));
        let shards = [Shard::new(0, bytes, (metrics.clone(), <_>::default()))];
        assert_eq!(topic.compared((Some(id(0)), None), &history(), &shards), FillAction::Nothing);
        let protocol = Protocol::default();
        let form = if private { user_form(&["orders", "alerts"]) } else { Form::of_topic(protocol, "a".into()) };
        let limits = QueueLimits { messages_max: 1_000, bytes_max: 1 << 20 };
        Self {
            topic,
            shards,
            round: ShardRound::new(<_>::default()),
            form,
            shared: EndpointOutboxes::new(limits, metrics, "trading"),
        }
    }

    fn client(&self, room: usize) -> Arc<Outbox> {
        let memory = MemorySocket { room, keep: true, ..MemorySocket::default() };
        Outbox::new(OutboxSocket::Memory(Box::new(Mutex::new(memory))), self.shared.clone())
    }

    fn open(&self, outbox: &Outbox) -> SlotId {
        let (class, stage) = (self.topic.rule.class, SubscriptionStage::Lagging);
        let (queued, written) = (id(0), id(0));
        outbox.open(SubscriptionSlot { class, urgent: false, cursor: Cursor::Known, stage, ticket: 0, queued, written })
    }

    /// A subscribed client whose socket accepts everything.
    fn subscriber(&self, pacer: Option<Arc<Pacer>>) -> Subscriber {
        self.subscriber_of(&self.form, pacer)
    }

    fn subscriber_of(&self, form: &Form, pacer: Option<Arc<Pacer>>) -> Subscriber {
        let outbox = self.client(usize::MAX);
        let subscriber = Subscriber { slot: self.open(&outbox), outbox, pacer };
        let joining = JoiningSubscription { subscriber: &subscriber, form, shard: 0, fresh: true, past: None };
        assert!(self.topic.join(joining, id(0), false, &self.shards));
        subscriber
    }

    fn arrive(&self, seq: u64, channel: Option<&str>) -> FillAction {
        self.topic.arrived(message(seq, channel), &history(), &self.shards)
    }

    async fn fan_out(&mut self) {
        let shard = self.shards[0].clone();
        shard.fan_out(&mut self.round).await;
    }
}

/// What a client saw: ids, `<after>..<before>` for gaps, and `+n` for a value that replaces n others.
fn seen(outbox: &Outbox) -> Vec<String> {
    let OutboxSocket::Memory(memory) = outbox.socket() else { panic!("not in memory") };
    let text = String::from_utf8_lossy(&memory.lock().written).into_owned();
    let seq = |id: &str| id.trim_start_matches("1-").to_owned();
    let field = |frame: &str, name: &str| {
        frame
            .split(&format!("\"{name}\":"))
            .nth(1)
            .map(|rest| rest.split([',', '}']).next().unwrap().trim_matches('"').to_owned())
    };
    let one = |frame: &str| {
        if let Some(after) = field(frame, "after") {
            return format!("{}..{}", seq(&after), seq(&field(frame, "before").unwrap()));
        }
        let conflated = field(frame, "conflated").map_or(String::new(), |count| format!("+{count}"));
        format!("{}{conflated}", seq(&field(frame, "id").unwrap()))
    };
    text.split('{').filter(|part| part.contains("\"channel")).map(one).collect()
}

#[tokio::test]
async fn every_subscriber_receives_every_message_once() {
    let mut stage = ShardScene::new(Class::Event);
    let clients: Vec<_> = (0..3).map(|_| stage.subscriber(None)).collect();
    for seq in 1..=200 {
        assert_eq!(stage.arrive(seq, None), FillAction::Nothing);
    }
    stage.fan_out().await;
    let expected: Vec<_> = (1..=200).map(|seq| seq.to_string()).collect();
    for client in &clients {
        assert_eq!(seen(&client.outbox), expected);
    }
}

#[tokio::test]
async fn what_a_shard_has_no_room_for_becomes_a_gap() {
    let mut stage = ShardScene::with_room(Class::Event, 500);
    let client = stage.subscriber(None);
    for seq in 1..=20 {
        stage.arrive(seq, None);
    }
    assert_eq!(stage.shards[0].waiting.load(Ordering::Relaxed), 520, "one post may exceed the limit");
    let late = stage.subscriber(None);
    stage.fan_out().await;
    stage.arrive(21, None);
    stage.fan_out().await;
    assert_eq!(seen(&client.outbox), ["1", "2", "3", "4", "4..21", "21"]);
    assert_eq!(seen(&late.outbox).last().map(String::as_str), Some("21"), "a later join misses nothing");
    assert_eq!(stage.shards[0].waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn reliable_subscribers_catch_up_when_a_shard_has_no_room() {
    let mut stage = ShardScene::with_room(Class::Reliable, 500);
    let client = stage.subscriber(None);
    for seq in 1..=20 {
        stage.arrive(seq, Some("orders"));
    }
    stage.fan_out().await;
    assert_eq!(seen(&client.outbox), ["1", "2", "3", "4"]);
    assert_eq!(client.outbox.lagging(), Some((client.slot, id(4))), "its connection catches up from this id");
    let joining = JoiningSubscription { subscriber: &client, form: &stage.form, shard: 0, fresh: false, past: None };
    assert!(stage.topic.join(joining, id(4), false, &stage.shards));
    stage.arrive(21, Some("orders"));
    stage.fan_out().await;
    assert_eq!(seen(&client.outbox), (1..=21).map(|seq: u32| seq.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_gap_is_sent_wherever_a_batch_ends() {
    for before in BATCH_MAX as u64 - 2..=BATCH_MAX as u64 + 2 {
        let mut stage = ShardScene::new(Class::Event);
        let client = stage.subscriber(None);
        for seq in 1..=before {
            stage.arrive(seq, None);
        }
        assert_eq!(stage.arrive(before + 9, None), FillAction::Read);
        let asked = stage.topic.ask();
        let page =
            StreamPage { messages: vec![Arc::new(message(before + 9, None))], more: false, end: Some(id(before + 9)) };
        stage.topic.filled(asked, &page, &history(), &stage.shards);
        stage.fan_out().await;
        let all = seen(&client.outbox);
        assert_eq!(all[before as usize..], [format!("{before}..{}", before + 9), (before + 9).to_string()]);
    }
}

#[tokio::test]
async fn a_join_delivers_exactly_what_arrived_since() {
    let mut stage = ShardScene::new(Class::Event);
    let early = stage.subscriber(None);
    stage.arrive(1, None);
    stage.arrive(2, None);
    let late = stage.subscriber(None);
    stage.arrive(3, None);
    stage.fan_out().await;
    assert_eq!(seen(&early.outbox), ["1", "2", "3"]);
    assert_eq!(seen(&late.outbox), ["1", "2", "3"], "the ring delivers what is missing after its cursor");
}

#[tokio::test]
async fn a_subscriber_that_leaves_before_joining_is_never_counted() {
    let mut stage = ShardScene::new(Class::Event);
    let gone = stage.subscriber(None);
    gone.outbox.close_slot(gone.slot);
    stage.topic.leave(&gone.outbox, gone.slot, 0);
    stage.arrive(1, None);
    stage.fan_out().await;
    assert_eq!(seen(&gone.outbox), Vec::<String>::new());
    assert_eq!(stage.topic.lane(0).count(), 0);
}

#[tokio::test]
async fn a_user_receives_the_subscribed_channels() {
    let mut stage = ShardScene::new(Class::Reliable);
    let orders = stage.subscriber_of(&user_form(&["orders"]), None);
    let both = stage.subscriber_of(&user_form(&["orders", "alerts"]), None);
    stage.arrive(1, Some("orders"));
    stage.arrive(2, Some("alerts"));
    stage.arrive(3, Some("orders"));
    stage.fan_out().await;
    assert_eq!(seen(&orders.outbox), ["1", "3"]);
    assert_eq!(seen(&both.outbox), ["1", "2", "3"]);
    assert_eq!(orders.outbox.queued(orders.slot), Some(id(3)), "filtered-out messages move the position too");
}

#[tokio::test]
async fn equal_forms_are_encoded_once_and_a_change_moves_the_subscriber_to_its_equals() {
    let mut stage = ShardScene::new(Class::Reliable);
    let (orders, both) = (user_form(&["orders"]), user_form(&["orders", "alerts"]));
    let [one, other] = [&orders, &orders].map(|form| stage.subscriber_of(form, None));
    let third = stage.subscriber_of(&both, None);
    stage.fan_out().await;
    let groups = |stage: &ShardScene| -> Vec<_> {
        let groups = stage.topic.lane(0).subscribers.lock();
        groups.iter().map(|group| (group.form.clone(), group.subscribers().count())).collect()
    };
    assert_eq!(groups(&stage), [(orders.clone(), 2), (both.clone(), 1)]);
    stage.topic.change(one.clone(), both.clone(), 0, &stage.shards);
    stage.topic.change(other.clone(), both.clone(), 0, &stage.shards);
    stage.arrive(1, Some("alerts"));
    stage.fan_out().await;
    assert_eq!(groups(&stage), [(both, 3)]);
    for subscriber in [one, other, third] {
        assert_eq!(seen(&subscriber.outbox), ["1"]);
    }
}

#[test]
fn a_rate_limit_sends_one_value_and_holds_the_newest_of_the_rest() {
    let form = Form::of_topic(Protocol::default(), "a".into());
    let value = |seq: u64| {
        let step = Step::Message(Arc::new(message(seq, None)));
        Arc::new(PushBatch::encode(&form, id(seq - 1), &[step], PushFlags::default()))
    };
    let pacer = Pacer::new(Duration::from_millis(100));
    let begun = Instant::now();
    let at = |ms| begun + Duration::from_millis(ms);
    assert_eq!(pacer.admit(value(1), at(1_000)).map(|b| b.last), Some(id(1)));
    assert!(pacer.admit(value(2), at(1_001)).is_none());
    assert!(pacer.admit(value(3), at(1_099)).is_none());
    assert!(pacer.release(at(1_099)).is_none());
    let released = pacer.release(at(1_100)).unwrap();
    assert_eq!((released.last, released.count, released.skipped), (id(3), 1, 1));
    assert!(!pacer.is_holding());
    assert!(pacer.release(at(9_999)).is_none());
    assert_eq!(pacer.admit(value(4), at(1_200)).map(|b| b.last), Some(id(4)));
}

#[tokio::test]
async fn a_held_value_survives_a_change_of_rate() {
    let mut stage = ShardScene::new(Class::State);
    let slow = |millis| Some(Pacer::new(Duration::from_millis(millis)));
    let subscriber = stage.subscriber(slow(1 << 40));
    for seq in 1..=3 {
        stage.arrive(seq, None);
        stage.fan_out().await;
    }
    assert_eq!(seen(&subscriber.outbox), ["1"]);
    stage.topic.change(Subscriber { pacer: None, ..subscriber.clone() }, stage.form.clone(), 0, &stage.shards);
    stage.fan_out().await;
    assert_eq!(seen(&subscriber.outbox), ["1", "3+1"]);
}

#[tokio::test]
async fn a_loss_is_sent_after_the_value_that_was_held() {
    let mut stage = ShardScene::new(Class::State);
    let subscriber = stage.subscriber(Some(Pacer::new(Duration::from_secs(1 << 40))));
    stage.arrive(1, None);
    stage.arrive(2, None);
    stage.fan_out().await;
    stage.arrive(3, None);
    let marker = Message { content: Content::Unreadable, ..message(9, None) };
    stage.topic.arrived(marker, &history(), &stage.shards);
    stage.fan_out().await;
    let all = seen(&subscriber.outbox);
    assert_eq!(all.last().map(String::as_str), Some("8..10"), "{all:?}");
    assert!(all[all.len() - 2].starts_with('3'), "{all:?}");
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_lagging_subscriber_with_a_free_socket_is_woken_to_catch_up() {
    let stage = ShardScene::new(Class::Reliable);
    let outbox = stage.client(usize::MAX);
    let slot = stage.open(&outbox);
    let ticket = outbox.joining(slot, None).unwrap();
    outbox.join(slot, ticket, None);
    let woken = Arc::new(Woken::default());
    let waker = woken.clone().into();
    outbox.register(&Context::from_waker(&waker));
    let steps = [Step::Message(Arc::new(message(7, Some("orders"))))];
    let hole = Arc::new(PushBatch::encode(&stage.form, id(6), &steps, PushFlags::default()));
    assert!(!outbox.offer(slot, &hole));
    assert!(woken.0.load(Ordering::SeqCst));
    assert_eq!(outbox.lagging(), Some((slot, id(0))));
}

#[tokio::test]
async fn a_socket_that_breaks_within_a_frame_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (near, _) = listener.accept().await.unwrap();
    let outbox = Outbox::new(OutboxSocket::Tcp(near), ShardScene::new(Class::Event).shared);
    // More than any buffer accepts, so that a frame is partially written.
    outbox.send(Bytes::from(vec![b'x'; 64 << 20]));
    assert!(outbox.progress().blocked, "the socket is behind");
    socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    std::future::poll_fn(|cx| outbox.poll_flush(cx)).await;
    assert!(outbox.status().shut);
}
