//! Two replicas publish while their Redis is repeatedly killed, rolled back, emptied and disconnected. Afterwards every
//! acknowledged publication is in its stream under its id, or readers that pass that id receive a report.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate::{
    backplane::{Backplane, ReadLimits},
    history::Missing,
    metrics::Metrics,
    redis_link::RedisLink,
    tasks::Tasks,
};
use tickgate_wire::model::{Content, Message, StreamId, Topic, TopicRule};
use tokio::time::sleep;

use crate::support::{
    eventually,
    follower::{RecordingFollower, backplane_over, impatient_redis_config, named, number, retain, topic},
    proxy::{Proxy, Weather},
    redis::RedisServer,
};

const TOPICS: usize = 4;
const ROUNDS: usize = 9;

type AcknowledgedIds = Arc<Mutex<HashMap<(Topic, StreamId), String>>>;

struct RedisReplica {
    link: RedisLink,
    backplane: Backplane,
    follower: RecordingFollower,
}

impl RedisReplica {
    fn start(url: &str, tasks: &Tasks) -> Self {
        let link = RedisLink::start(&impatient_redis_config(url), tasks, Metrics::new());
        let backplane = backplane_over(&link, tasks);
        let follower = RecordingFollower::follow(&backplane);
        for topic in topics() {
            backplane.follow(&topic, None);
        }
        Self { link, backplane, follower }
    }

    async fn healthy(&self) {
        eventually("both links work", async || {
            let health = self.backplane.health();
            let stands = health.commands_down.is_zero() && health.pubsub_down.is_zero() && health.acknowledges;
            stands.then_some(())
        })
        .await;
    }
}

fn topics() -> Vec<Topic> {
    (0..TOPICS).map(|n| topic(&format!("losses:{n}"))).collect()
}

/// Publishes numbers, each until it is accepted, always with the same `msg_id`.
async fn publish(
    backplane: Backplane,
    name: &'static str,
    rule: Arc<TopicRule>,
    acknowledged: AcknowledgedIds,
    end: Arc<AtomicBool>,
) {
    let mut n = 0;
    while !end.load(Ordering::Relaxed) {
        let topic = &topics()[n % TOPICS];
        let msg_id = format!("{name}-{n}");
        let publication = named(topic, &rule, n, &msg_id);
        let payload = format!("{{\"n\":{n}}}");
        if let Ok(published) = backplane.publish(publication).await {
            let id = published.id.expect("an id");
            let before = acknowledged.lock().insert((topic.clone(), id), payload.clone());
            assert!(before.is_none_or(|before| before == payload), "the id {id} of {topic} was given twice");
            n += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The whole stream, page by page.
async fn whole(backplane: &Backplane, topic: &Topic) -> Vec<Arc<Message>> {
    let mut messages = Vec::<Arc<Message>>::new();
    loop {
        let after = messages.last().map_or(StreamId::ZERO, |message| message.id.expect("an id"));
        let page =
            eventually("a page", async || backplane.read(topic, after, ReadLimits::new(500, usize::MAX)).await.ok())
                .await;
        messages.extend(page.messages);
        if !page.more {
            return messages;
        }
    }
}

/// What a reader receives as missing from that position.
async fn lack(backplane: &Backplane, topic: &Topic, after: StreamId) -> Option<Missing> {
    let read = async || backplane.read_on(topic, after, None, ReadLimits::ONE).await.ok();
    eventually("a page", read).await.lack.map(|lack| lack.missing)
}

async fn fault(server: &mut RedisServer, round: usize) {
    match round % 5 {
        0 => {
            let older = server.snapshot();
            sleep(Duration::from_millis(150)).await;
            server.restart_from(&older);
        }
        1 => {
            server.kill();
            sleep(Duration::from_millis(100)).await;
            server.restart();
        }
        2 => {
            server.client_kill("pubsub").await;
            server.client_kill("normal").await;
        }
        3 => server.restart_empty(),
        _ => {
            server.freeze();
            sleep(Duration::from_millis(700)).await;
            server.thaw();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loss_of_redis_is_reported() {
    let (mut server, tasks) = (RedisServer::durable(), Tasks::new());
    let replicas = [RedisReplica::start(&server.url(), &tasks), RedisReplica::start(&server.url(), &tasks)];
    let (acknowledged, end) = (AcknowledgedIds::default(), Arc::new(AtomicBool::new(false)));
    let rule = retain(1_000_000);
    for (replica, name) in replicas.iter().zip(["one", "two"]) {
        replica.healthy().await;
        let (backplane, rule) = (replica.backplane.clone(), Arc::clone(&rule));
        tasks.spawn("publisher", publish(backplane, name, rule, Arc::clone(&acknowledged), Arc::clone(&end)));
    }
    for round in 0..ROUNDS {
        sleep(Duration::from_millis(200)).await;
        fault(&mut server, round).await;
        for replica in &replicas {
            replica.healthy().await;
        }
        // Publications continue before the next fault.
        let count = acknowledged.lock().len();
        eventually("publications go on", async || (acknowledged.lock().len() > count + 20).then_some(())).await;
    }
    end.store(true, Ordering::Relaxed);

    let acknowledged = acknowledged.lock().clone();
    for topic in topics() {
        let stream = whole(&replicas[0].backplane, &topic).await;
        let held: HashMap<_, _> = stream.iter().map(|message| (message.id.expect("an id"), &message.content)).collect();
        for ((_, id), payload) in acknowledged.iter().filter(|((name, _), _)| *name == topic) {
            match held.get(id) {
                Some(Content::Data(found)) => assert_eq!(found, payload.as_bytes(), "{id}"),
                _ => {
                    let told = lack(&replicas[1].backplane, &topic, id.previous()).await;
                    assert!(matches!(told, Some(Missing::Lost(_))), "{id} is missing, and told is {told:?}");
                }
            }
        }
        let ids: Vec<_> = stream.iter().map(|message| message.id.expect("an id")).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids only grow");
        let unexplained = ids.windows(2).filter(|pair| !pair[1].directly_after(pair[0]) && pair[1].seq != 0).count();
        assert_eq!(unexplained, 0, "no hole within an epoch");
        for replica in &replicas {
            let epochs = replica.follower.arrived(&topic).into_iter().filter_map(|message| message.id);
            assert!(epochs.clone().is_sorted(), "arrivals never go back");
        }
    }
}

/// Two replicas publish alternately to one topic; the first reaches Redis only when the proxy allows.
#[tokio::test]
async fn a_loss_is_reported_even_if_its_record_is_lost_in_the_next_failover() {
    let (mut server, tasks, orders, rule) = (RedisServer::durable(), Tasks::new(), topic("orders"), retain(1000));
    let proxy = Proxy::start(server.port()).await;
    let (one, two) = (RedisReplica::start(&proxy.url(), &tasks), RedisReplica::start(&server.url(), &tasks));
    one.healthy().await;
    two.healthy().await;
    let insist = async |replica: &RedisReplica, n| {
        let publish = async || replica.backplane.publish(number(&orders, &rule, n)).await.ok();
        eventually("a publication is accepted", publish).await.id.expect("an id")
    };
    let kept = insist(&one, 1).await;
    let before = server.snapshot();
    let lost = [insist(&one, 2).await, insist(&one, 3).await];
    // The first server is rolled back, and another replica publishes before the loss is reported.
    proxy.set(Weather::Refuse);
    server.restart_from(&before);
    let later = insist(&two, 4).await;
    let untold = server.snapshot();
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    let told = async || (lack(&two.backplane, &orders, kept).await == Some(Missing::Lost(Some(2)))).then_some(());
    eventually("the loss is told", &told).await;
    assert_eq!(lack(&two.backplane, &orders, lost[0]).await, Some(Missing::Lost(Some(1))));
    assert_eq!(lack(&two.backplane, &orders, lost[1]).await, None, "who has it is told nothing");
    assert_eq!(lack(&two.backplane, &orders, later).await, None);
    one.healthy().await;
    // The second one loses only the record of it.
    server.restart_from(&untold);
    one.healthy().await;
    two.healthy().await;
    eventually("the loss is told again", &told).await;
    assert_eq!(lack(&two.backplane, &orders, later).await, None, "what is there is not told as lost");
    // The third loses nothing, and nothing more is reported.
    server.kill();
    server.restart();
    one.healthy().await;
    insist(&one, 5).await;
    assert_eq!(lack(&two.backplane, &orders, later).await, None);
    assert_eq!(lack(&two.backplane, &orders, kept).await, Some(Missing::Lost(Some(2))));
    assert_eq!(one.link.metrics().lost_publications_total.get(), 2, "each loss is counted once");
}
