//! Two replicas publish while their Redis is killed, rolled back, emptied and cut off, over and over. Afterwards every
//! publication that was acknowledged is in its stream under the id that was told, or a marker covers that id.

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
    metrics::Metrics,
    redis_link::RedisLink,
    tasks::Tasks,
};
use tickgate_wire::model::{Content, Message, StreamId, Topic, TopicRule};
use tokio::time::sleep;

use crate::support::{
    eventually,
    follower::{Follower, backplane_over, named, number, redis_config, retain, topic},
    proxy::{Proxy, Weather},
    redis::RedisServer,
};

const TOPICS: usize = 4;
const ROUNDS: usize = 9;

type Acknowledged = Arc<Mutex<HashMap<(Topic, StreamId), String>>>;

struct Replica {
    link: RedisLink,
    backplane: Backplane,
    follower: Follower,
}

impl Replica {
    fn start(url: &str, tasks: &Tasks) -> Self {
        let link = RedisLink::start(&redis_config(url), tasks, Metrics::new());
        let backplane = backplane_over(&link, tasks);
        let follower = Follower::follow(&backplane);
        for topic in topics() {
            backplane.follow(&topic);
        }
        Self { link, backplane, follower }
    }

    async fn healthy(&self) {
        eventually("both links work", async || {
            let health = self.link.health();
            (health.commands_down.is_zero() && health.pubsub_down.is_zero()).then_some(())
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
    acknowledged: Acknowledged,
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

/// The whole stream, page by page; every page joins the one before.
async fn whole(backplane: &Backplane, topic: &Topic) -> Vec<Arc<Message>> {
    let mut messages = Vec::<Arc<Message>>::new();
    loop {
        let after = messages.last().map_or(StreamId::ZERO, |message| message.id.expect("an id"));
        let page =
            eventually("a page", async || backplane.read(topic, after, ReadLimits::new(500, usize::MAX)).await.ok())
                .await;
        assert!(page.contiguous, "{topic} after {after}");
        messages.extend(page.messages);
        if !page.more {
            return messages;
        }
    }
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
async fn whatever_redis_loses_is_told() {
    let (mut server, tasks) = (RedisServer::durable(), Tasks::new());
    let replicas = [Replica::start(&server.url(), &tasks), Replica::start(&server.url(), &tasks)];
    let (acknowledged, end) = (Acknowledged::default(), Arc::new(AtomicBool::new(false)));
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
        // Publications go on before the next fault.
        let count = acknowledged.lock().len();
        eventually("publications go on", async || (acknowledged.lock().len() > count + 20).then_some(())).await;
    }
    end.store(true, Ordering::Relaxed);

    let acknowledged = acknowledged.lock().clone();
    for topic in topics() {
        let stands = async || {
            let stream = whole(&replicas[0].backplane, &topic).await;
            let missing = missing(&stream, &topic, &acknowledged);
            missing.is_empty().then_some(stream)
        };
        let stream = eventually("every acknowledged publication stands or is marked", stands).await;
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

/// Acknowledged ids that are neither in the stream with their payload nor covered by a marker.
fn missing(stream: &[Arc<Message>], topic: &Topic, acknowledged: &HashMap<(Topic, StreamId), String>) -> Vec<StreamId> {
    let held: HashMap<_, _> = stream.iter().map(|message| (message.id.expect("an id"), &message.content)).collect();
    let covered = |id: StreamId| {
        held.values()
            .any(|content| matches!(content, Content::Lost { after, before, .. } if *after < id && id < *before))
    };
    let stands = |id: &StreamId, payload: &String| match held.get(id) {
        Some(Content::Data(found)) => found == payload.as_bytes(),
        Some(Content::Lost { .. }) | None => covered(*id),
    };
    let of_topic = acknowledged.iter().filter(|((name, _), _)| name == topic);
    of_topic.filter(|((_, id), payload)| !stands(id, payload)).map(|((_, id), _)| *id).collect()
}

/// Two replicas that take turns at one topic; the first reaches Redis only as the weather allows.
#[tokio::test]
async fn a_marker_that_is_lost_in_the_next_failover_is_told_again() {
    let (mut server, tasks, orders, rule) = (RedisServer::durable(), Tasks::new(), topic("orders"), retain(1000));
    let proxy = Proxy::start(server.port()).await;
    let (one, two) = (Replica::start(&proxy.url(), &tasks), Replica::start(&server.url(), &tasks));
    let insist = async |replica: &Replica, n| {
        let publish = async || replica.backplane.publish(number(&orders, &rule, n)).await.ok();
        eventually("a publication is accepted", publish).await.id.expect("an id")
    };
    let kept = insist(&one, 1).await;
    let before = server.snapshot();
    let lost = [insist(&one, 2).await, insist(&one, 3).await];
    // The first server is rolled back, and another replica publishes before the loss is told.
    proxy.set(Weather::Refuse);
    server.restart_from(&before);
    let later = insist(&two, 4).await;
    let unmarked = server.snapshot();
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    let covers = |message: &Message, id| match message.content {
        Content::Lost { after, before, .. } => after < id && id < before,
        Content::Data(_) => false,
    };
    let marked = async || {
        let stream = whole(&two.backplane, &orders).await;
        lost.iter().all(|id| stream.iter().any(|message| covers(message, *id))).then_some(stream)
    };
    let stream = eventually("the loss is told", &marked).await;
    assert_eq!(stream[..2].iter().map(|message| message.id).collect::<Vec<_>>(), [Some(kept), Some(later)]);
    one.healthy().await;
    // The second one loses nothing but the marker.
    server.restart_from(&unmarked);
    let stream = eventually("the loss is told again", &marked).await;
    assert!(!stream.iter().any(|message| covers(message, later)), "what is there is not told as lost");
    // The third loses nothing, and nothing is told.
    one.healthy().await;
    server.kill();
    server.restart();
    one.healthy().await;
    insist(&one, 5).await;
    assert_eq!(whole(&two.backplane, &orders).await.len(), stream.len() + 1);
    assert_eq!(one.link.metrics().lost_publications_total.get(), 2, "each loss is counted once");
}

/// Another replica publishes so much to the server that lost something that nothing is left of what it had: who then looks
/// for what was acknowledged can't know, and those who followed all along saw no hole.
#[tokio::test]
async fn a_loss_is_told_though_the_stream_was_trimmed_before_anybody_looked() {
    let (mut server, tasks, orders, rule) = (RedisServer::durable(), Tasks::new(), topic("orders"), retain(10));
    let proxy = Proxy::start(server.port()).await;
    let (one, two) = (Replica::start(&proxy.url(), &tasks), Replica::start(&server.url(), &tasks));
    let insist = async |replica: &Replica, n| {
        let publish = async || replica.backplane.publish(number(&orders, &rule, n)).await.ok();
        eventually("a publication is accepted", publish).await.id.expect("an id")
    };
    let markers = async || {
        let all = ReadLimits::new(5_000, usize::MAX);
        let page = eventually("a page", async || two.backplane.read(&orders, StreamId::ZERO, all).await.ok()).await;
        let ranges = page.messages.iter().filter_map(|message| match message.content {
            Content::Lost { after, before, .. } => Some((after, before)),
            Content::Data(_) => None,
        });
        ranges.collect::<Vec<_>>()
    };
    insist(&one, 1).await;
    let before = server.snapshot();
    let lost = insist(&one, 2).await;
    proxy.set(Weather::Refuse);
    server.restart_from(&before);
    two.healthy().await;
    let flood = async |from: usize| {
        for n in from..from + 500 {
            insist(&two, n).await;
        }
    };
    flood(10).await;
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    let told = eventually("the loss is told", async || Some(markers().await).filter(|all| !all.is_empty())).await;
    assert!(told.iter().any(|(after, before)| *after < lost && lost < *before), "{told:?}");
    one.healthy().await;

    // What was found by a server's successor, and trimmed there, was never lost.
    insist(&one, 3).await;
    for round in 0..2 {
        server.kill();
        server.restart();
        for replica in [&one, &two] {
            replica.healthy().await;
        }
        insist(&two, 4).await;
        // Nothing shows that it was looked for and found.
        sleep(Duration::from_millis(300)).await;
        flood(1_000 * (round + 1)).await;
    }
    assert_eq!(markers().await, [], "and the marker of before was trimmed");
    assert_eq!(one.link.metrics().lost_publications_total.get(), 0, "what nobody knows is not counted");
}

/// What the verification of an acknowledged id says of a stream with these entries.
async fn verdict(server: &RedisServer, entries: &[&str], trim: Option<&str>, claim: [&str; 3]) -> String {
    let mut connection = server.connect().await;
    redis::cmd("DEL").arg("s").exec_async(&mut connection).await.expect("deleted");
    for id in entries {
        redis::cmd("XADD").arg(&["s", id, "d", "{}"]).exec_async(&mut connection).await.expect("added");
    }
    if let Some(least) = trim {
        redis::cmd("XTRIM").arg(&["s", "MINID", "=", least]).exec_async(&mut connection).await.expect("trimmed");
    }
    let script = redis::Script::new(include_str!("../../src/backplane/redis/scripts/lost.lua"));
    let [acknowledged, marker, proven] = claim;
    let mut call = script.key("s");
    call.arg(acknowledged).arg(9).arg(1000).arg(0).arg("0!").arg(marker).arg(proven);
    call.invoke_async(&mut connection).await.expect("a verdict")
}

#[tokio::test]
async fn what_was_there_is_told_from_what_was_lost_or_nobody_knows() {
    let server = RedisServer::start();
    let entries = ["5-0", "5-1", "6-0", "6-1"];
    for (trim, claim, expected) in [
        (None, ["5-1", "-", "5"], "-"),
        (None, ["5-2", "-", "5"], "9-0 5-1"),
        (None, ["4-7", "-", "4"], "9-0 0-0"),
        // Trimmed within the epoch, or within one whose server had it: it was there.
        (Some("5-1"), ["5-0", "-", "5"], "-"),
        (Some("6-1"), ["6-0", "-", "6"], "-"),
        (Some("6-0"), ["5-1", "-", "6"], "-"),
        // Trimmed to behind the end of its epoch, which nobody knows then.
        (Some("6-0"), ["5-1", "-", "5"], "9-0 0-0 doubted"),
        (Some("6-1"), ["5-1", "-", "5"], "9-0 0-0 doubted"),
        (Some("6-0"), ["6-2", "-", "6"], "9-0 6-1"),
        // Told by a marker that is there, by one that is not, and by one that was trimmed.
        (None, ["5-7", "6-1", "6"], "-"),
        (None, ["5-7", "6-2", "6"], "9-0 5-1"),
        (Some("6-1"), ["5-7", "6-0", "6"], "-"),
    ] {
        assert_eq!(verdict(&server, &entries, trim, claim).await, expected, "{trim:?} {claim:?}");
    }
    assert_eq!(verdict(&server, &[], None, ["5-1", "-", "5"]).await.split(' ').next_back(), Some("0-0"));
}

#[tokio::test]
async fn a_loss_is_told_once_also_by_who_finds_it_late() {
    let server = RedisServer::start();
    let script = include_str!("../../src/backplane/redis/scripts/lost.lua");
    let verify = async |acknowledged: &str| -> String {
        let keys = ["EVAL", script, "1", "tg1:{t:orders}:s"];
        let arguments = [acknowledged, "7", "1000", "0", "0!", "-", "5"];
        server.run(&[&keys[..], &arguments[..]].concat()).await
    };
    // What a new server was told before anybody looked for what the one before had acknowledged.
    for n in 0..50 {
        server.run::<String>(&["XADD", "tg1:{t:orders}:s", "7-*", "d", &format!("{{\"n\":{n}}}")]).await;
    }
    assert_eq!(verify("5-3").await, "7-50 0-0");
    assert_eq!(verify("5-4").await, "7-50 0-0 told", "the marker is there already");
}
