//! The cost of fan-out without the kernel: hole check, encoding into sinks, the outbox, and the token of a new
//! connection.

use std::{
    hint::black_box,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use tickgate::{
    auth::{NewToken, Rights, Verifier, mint},
    backplane::{Backplane, Memory},
    config::{Auth, Config, ConfigSources, Rate, Secret},
    history::Generations,
    hub::{
        EndpointOutboxes, Form, Hub, HubSettings, MemorySocket, Outbox, OutboxSocket, Position, PushBatch, PushFlags,
        QueueLimits, ReaderAddress, RingLimits, Step, StepJudge, Subscriber, TopicHandle, TurnLimits,
    },
    metrics::{EndpointFigures, Metrics, TopicClass},
    tasks::Tasks,
};
use tickgate_wire::{
    model::{Content, Message, Publication, StreamId, Topic, TopicRule, UserId},
    protocol::Protocol,
};
use tokio::runtime::{Builder, Runtime};

const RING: RingLimits = RingLimits { messages_max: 256, bytes_max: 131_072 };
const PAYLOAD: &[u8] = &[b'x'; 200];

fn hole_check(criterion: &mut Criterion) {
    let mut position = Position::new(false, RING);
    let history = Generations::single(1);
    let judge = StepJudge { topic: "bench", history: &history };
    position.compare(Some(StreamId::new(1, 0)), None, judge, &mut Vec::new());
    let mut seq = 0;
    criterion.bench_function("hole check", |b| {
        b.iter_batched(
            || {
                seq += 1;
                Arc::new(Message {
                    id: Some(StreamId::new(1, seq)),
                    prev: None,
                    published_ms: 0,
                    channel: None,
                    content: Content::Data(Bytes::from_static(PAYLOAD)),
                })
            },
            |message| position.arrive(black_box(&message), judge),
            criterion::BatchSize::SmallInput,
        );
    });
}

/// A replica's hub over memory, with subscribers whose sockets accept everything.
struct BenchHub {
    hub: Arc<Hub>,
    backplane: Backplane,
    figures: Arc<EndpointFigures>,
    topic: Topic,
    rule: Arc<TopicRule>,
    _subscribers: Vec<(TopicHandle, Arc<Outbox>)>,
    /// Dropping them stops them.
    _tasks: Tasks,
}

impl BenchHub {
    async fn set(subscribers: usize) -> Self {
        let metrics = Metrics::new();
        let backplane = Backplane::Memory(Memory::new());
        let settings = HubSettings {
            shards: 1,
            topics_max: 9,
            unpublished_topics_max: 1_000,
            unpublished_per_address_max: 1_000,
            ring: RING,
            linger: Duration::from_secs(9),
            compare_interval: Duration::from_secs(99),
            queue_grace: Duration::from_secs(99),
            reads: TurnLimits {
                at_once: 4,
                bytes_max: 1 << 30,
                reader_bytes_max: 1 << 30,
                reader_rate: Rate { per_second: 0, burst: 0 },
                timeout: Duration::from_secs(10),
            },
        };
        let tasks = Tasks::new();
        let hub = Hub::start(backplane.clone(), settings, metrics.clone(), &tasks);
        let (config, _) = Config::load(&ConfigSources::default()).expect("valid defaults");
        let topic = Topic::public("trades:BTCUSDT").expect("a topic");
        let rule = config.topics.of_topic(&topic).clone();
        let limits = QueueLimits { messages_max: 100, bytes_max: 1 << 20 };
        let shared = EndpointOutboxes::new(limits, metrics, "trading");
        let figures = shared.figures.clone();
        let form = Form::of_topic(Protocol::default(), topic.as_str().into());
        let mut all = Vec::new();
        for _ in 0..subscribers {
            let interest = hub.interest(&topic, &rule, ReaderAddress::default()).expect("one topic");
            interest.ready(Duration::from_secs(5)).await.expect("memory is always in sync");
            let sink = MemorySocket { room: usize::MAX, ..MemorySocket::default() };
            let outbox = Outbox::new(OutboxSocket::Memory(Box::new(Mutex::new(sink))), shared.clone());
            let slot = interest.open(&outbox, interest.head(), interest.head());
            let subscriber = Subscriber { outbox: outbox.clone(), slot, pacer: None };
            interest
                .catch_up(&subscriber, &form, true, None, ReaderAddress::default())
                .await
                .expect("nothing to catch up");
            all.push((interest, outbox));
        }
        Self { hub, backplane, figures, topic, rule, _subscribers: all, _tasks: tasks }
    }

    /// Publishes `count` messages together and waits until every subscriber has them.
    async fn publish(&self, count: u64) {
        let deliveries = count * self.hub.subscribers(&self.topic) as u64;
        let goal = self.figures.deliveries.of(TopicClass::Event).get() + deliveries;
        for _ in 0..count {
            let publication = Publication {
                topic: self.topic.clone(),
                channel: None,
                payload: Bytes::from_static(PAYLOAD),
                once: None,
                rule: self.rule.clone(),
            };
            let _ = self.backplane.publish(publication).await;
        }
        while self.figures.deliveries.of(TopicClass::Event).get() < goal {
            tokio::task::yield_now().await;
        }
    }
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode a batch");
    let form = Form::of_topic(Protocol::default(), "trades:BTCUSDT".into());
    for count in [1_u64, 32] {
        let message = |seq| {
            let content = Content::Data(Bytes::from_static(PAYLOAD));
            let id = Some(StreamId::new(1_763_700_000_000, seq));
            Step::Message(Arc::new(Message { id, prev: None, published_ms: 0, channel: None, content }))
        };
        let steps: Vec<_> = (0..count).map(message).collect();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| PushBatch::encode(&form, StreamId::ZERO, black_box(&steps), PushFlags::default()));
        });
    }
    group.finish();
}

fn fan_out(criterion: &mut Criterion) {
    let runtime = runtime();
    let _inside = runtime.enter();
    for together in [1_u64, 32] {
        let mut group = criterion.benchmark_group(format!("fan-out to sinks, {together} at once"));
        for subscribers in [1_u64, 100, 1_000, 10_000] {
            let stage = runtime.block_on(BenchHub::set(subscribers as usize));
            group.throughput(Throughput::Elements(subscribers * together));
            group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
                b.iter_custom(|rounds| {
                    runtime.block_on(async {
                        let start = Instant::now();
                        for _ in 0..rounds {
                            stage.publish(together).await;
                        }
                        start.elapsed()
                    })
                });
            });
        }
        group.finish();
    }
}

/// Frames into an outbox and out of it: at once, and after the socket accepted nothing for a while.
fn outbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox, push and drain");
    let limits = QueueLimits { messages_max: 1_000, bytes_max: 1 << 20 };
    let shared = EndpointOutboxes::new(limits, Metrics::new(), "trading");
    let frame = Bytes::from_static(PAYLOAD);
    let mut cx = Context::from_waker(Waker::noop());
    for waiting in [1_usize, 64] {
        let outbox = Outbox::new(OutboxSocket::Memory(Box::new(Mutex::new(MemorySocket::default()))), shared.clone());
        let set_room = |room| {
            if let OutboxSocket::Memory(memory) = outbox.socket() {
                memory.lock().room = room;
            }
        };
        group.throughput(Throughput::Elements(waiting as u64));
        group.bench_function(BenchmarkId::from_parameter(waiting), |b| {
            b.iter(|| {
                set_room(if waiting == 1 { usize::MAX } else { 0 });
                for _ in 0..waiting {
                    outbox.send(black_box(&frame).clone());
                }
                set_room(usize::MAX);
                assert!(outbox.poll_flush(&mut cx).is_ready());
            });
        });
    }
    group.finish();
}

fn token(criterion: &mut Criterion) {
    let (config, _) = Config::load(&ConfigSources::default()).expect("valid defaults");
    let secret = Secret::new("a secret for this measurement only");
    let auth = Auth { hs256_secrets: vec![secret.clone()], ..config.auth };
    let verifier = Verifier::new(&auth).expect("a usable secret");
    let user = UserId::new("alice").expect("a user");
    let now = SystemTime::now();
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let rights = Rights::default();
    let claims = NewToken {
        user: &user,
        issued_at: tickgate_wire::model::IssuedAt::in_second(now_s),
        expires_at: now_s + 3600,
        issuer: None,
        audience: None,
        user_claim: None,
        rights: &rights,
    };
    let token = mint(&secret, &claims).expect("a token");
    assert!(matches!(verifier.verify_now(&token, now), Some(Ok(_))));
    criterion.bench_function("verify a token", |b| b.iter(|| verifier.verify_now(black_box(&token), now)));
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

criterion_group!(benches, hole_check, encoding, fan_out, outbox, token);
criterion_main!(benches);
