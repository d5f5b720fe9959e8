use std::{future::poll_fn, time::Duration};

use tickgate_wire::{
    model::{Publication, Topic},
    protocol::Protocol,
};

use super::*;
use crate::{
    backplane::{Backplane, Memory},
    config::{Config, Rate},
    hub::{Form, Hub, HubSettings, MemorySocket, ReaderAddress, RingLimits, Subscriber, TopicHandle, TurnLimits},
    tasks::Tasks,
};

/// One client of one topic, whose socket accepts nothing at first.
struct StalledClient {
    backplane: Backplane,
    metrics: Arc<Metrics>,
    topic: Topic,
    rule: Arc<tickgate_wire::model::TopicRule>,
    outbox: Arc<Outbox>,
    slot: SlotId,
    _interest: TopicHandle,
    /// Stopped with the hub.
    _tasks: Tasks,
}

impl StalledClient {
    async fn of(topic: &str) -> Self {
        let (metrics, backplane, tasks) = (Metrics::new(), Backplane::Memory(Memory::new()), Tasks::new());
        let settings = HubSettings {
            shards: 1,
            topics_max: 9,
            unpublished_topics_max: 1_000,
            unpublished_per_address_max: 1_000,
            ring: RingLimits { messages_max: 100, bytes_max: 1 << 20 },
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
        let hub = Hub::start(backplane.clone(), settings, metrics.clone(), &tasks);
        let topic = Topic::public(topic).unwrap();
        let rule = Config::development().topics.of_topic(&topic).clone();
        let limits = QueueLimits { messages_max: 10, bytes_max: 1 << 20 };
        let socket = OutboxSocket::Memory(Box::new(Mutex::new(MemorySocket::default())));
        let outbox = Outbox::new(socket, EndpointOutboxes::new(limits, metrics.clone(), "trading"));
        let form = Form::of_topic(Protocol::default(), topic.as_str().into());
        let interest = hub.interest(&topic, &rule, ReaderAddress::default()).unwrap();
        interest.ready(Duration::from_secs(5)).await.unwrap();
        let slot = interest.open(&outbox, interest.head(), interest.head());
        let subscriber = Subscriber { outbox: outbox.clone(), slot, pacer: None };
        interest.catch_up(&subscriber, &form, true, None, ReaderAddress::default()).await.unwrap();
        Self { backplane, metrics, topic, rule, outbox, slot, _interest: interest, _tasks: tasks }
    }

    /// Publishes one by one, waiting for the hub each time.
    async fn publish(&self, count: u64) {
        for _ in 0..count {
            let goal = self.metrics.deliveries_total.total() + 1;
            let (topic, rule) = (self.topic.clone(), self.rule.clone());
            let payload = Bytes::from_static(br#"{"price":"1"}"#);
            self.backplane.publish(Publication { topic, channel: None, payload, once: None, rule }).await.unwrap();
            while self.metrics.deliveries_total.total() < goal {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets the socket accept everything from now on, and flushes the outbox.
    async fn read_on(&self) {
        let OutboxSocket::Memory(socket) = self.outbox.socket() else { panic!("not in memory") };
        socket.lock().room = usize::MAX;
        poll_fn(|cx| self.outbox.poll_flush(cx)).await;
    }
}

#[tokio::test]
async fn a_client_is_slow_from_its_first_loss_until_its_queue_is_empty() {
    for topic in ["trades:BTCUSDT", "ticker:BTCUSDT"] {
        let client = StalledClient::of(topic).await;
        client.publish(1).await;
        assert_eq!(client.outbox.shared.figures.slow_consumers.get(), 0, "{topic}: nothing is lost yet");
        client.publish(30).await;
        assert_eq!(client.outbox.shared.figures.slow_consumers.get(), 1, "{topic}: counted once per client");
        client.read_on().await;
        assert_eq!(client.outbox.shared.figures.slow_consumers.get(), 0, "{topic}");
    }
}

#[tokio::test]
async fn a_slow_client_that_leaves_is_no_longer_counted() {
    let client = StalledClient::of("trades:BTCUSDT").await;
    client.publish(30).await;
    assert_eq!(client.outbox.shared.figures.slow_consumers.get(), 1);
    client.outbox.shut(None, false);
    let figures = client.outbox.shared.figures.clone();
    drop(client);
    while figures.slow_consumers.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_of_a_subscription_is_sent_after_a_close_is_requested() {
    let client = StalledClient::of("trades:BTCUSDT").await;
    client.publish(2).await;
    let close = Close::new(4002, "", metrics::DisconnectReason::Revoked);
    client.outbox.ask_close(close);
    let before = client.outbox.state.lock().queue.bytes();
    client.publish(3).await;
    assert_eq!(client.outbox.state.lock().queue.bytes(), before, "only what was queued before");
    let slot = client.slot;
    client.outbox.pause(slot);
    assert_eq!(client.outbox.lagging(), None, "it does not catch up either");
    for urgent in [true, false] {
        client.outbox.send_end(Bytes::from_static(b"the backlog is complete"), urgent);
    }
    assert_eq!(client.outbox.state.lock().queue.bytes(), before, "its cursor would pass unsent messages");
    client.outbox.send(Bytes::from_static(b"last words"));
    assert!(client.outbox.state.lock().queue.bytes() > before);
}
