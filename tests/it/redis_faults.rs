//! Faults of Redis and of the network to it: results for publishers, events for followers, and times. Each test ends
//! with a publication that arrives, and checks what was lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tickgate::{
    backplane::{Backplane, LeaseTurn, PublishAck, PublishError, PublishRefusal, ReadLimits},
    config,
    history::Missing,
    metrics::Metrics,
    redis_link::RedisLink,
    tasks::Tasks,
};
use tickgate_wire::model::{Content, Message, Publication, StreamId, Topic, TopicRule};
use tokio::time::{sleep, timeout};

use crate::support::{
    PATIENCE, eventually,
    follower::{
        OwnedEvent, RecordingFollower, backplane_over, ids, impatient_redis_config, member, named, number,
        redis_config, retain, text, topic,
    },
    proxy::{Proxy, Weather},
    redis::RedisServer,
};

/// A replica's backplane, its link and its follower.
pub struct FaultyReplica {
    pub link: RedisLink,
    pub backplane: Backplane,
    pub follower: RecordingFollower,
    rule: Arc<TopicRule>,
    _tasks: Tasks,
}

impl FaultyReplica {
    fn start(url: &str) -> Self {
        Self::start_with(&redis_config(url))
    }

    pub fn start_with(config: &config::Redis) -> Self {
        let tasks = Tasks::new();
        let link = RedisLink::start(config, &tasks, Metrics::new());
        let backplane = backplane_over(&link, &tasks);
        let follower = RecordingFollower::follow(&backplane);
        Self { link, backplane, follower, rule: retain(10_000), _tasks: tasks }
    }

    async fn following(url: &str, topic: &Topic) -> Self {
        Self::following_with(&redis_config(url), topic).await
    }

    /// A replica that treats silence as a fault.
    async fn impatient(url: &str, topic: &Topic) -> Self {
        Self::following_with(&impatient_redis_config(url), topic).await
    }

    pub async fn following_with(config: &config::Redis, topic: &Topic) -> Self {
        let replica = Self::start_with(config);
        replica.follower.begin(&replica.backplane, topic).await;
        replica.healthy().await;
        replica
    }

    /// Waits until both links are verified.
    pub async fn healthy(&self) {
        let healthy = || {
            let health = self.backplane.health();
            health.commands_down.is_zero() && health.pubsub_down.is_zero() && health.acknowledges
        };
        eventually("both links work", async || healthy().then_some(())).await;
    }

    pub async fn publish(&self, topic: &Topic, n: usize) -> Result<PublishAck, PublishError> {
        self.backplane.publish(number(topic, &self.rule, n)).await
    }

    pub async fn accepted(&self, topic: &Topic, n: usize) -> StreamId {
        self.publish(topic, n).await.expect("accepted").id.expect("an id")
    }

    /// Publishes until it is accepted; counts refused and unknown attempts before.
    pub async fn insist(&self, topic: &Topic, n: usize) -> StreamId {
        eventually("a publication is accepted", async || self.publish(topic, n).await.ok()).await.id.expect("an id")
    }

    /// What follows, and what is missing before it.
    pub async fn page(&self, topic: &Topic, after: StreamId) -> (Vec<Arc<Message>>, Option<Missing>) {
        let page = eventually("a page", async || {
            self.backplane.read_on(topic, after, None, ReadLimits::new(1000, usize::MAX)).await.ok()
        })
        .await;
        (page.messages, page.lack.map(|lack| lack.missing))
    }
}

/// What a follower of `orders` receives when its link is lost.
fn lost() -> OwnedEvent {
    OwnedEvent::Lost("orders".to_owned())
}

fn refused(result: &Result<PublishAck, PublishError>) -> Option<PublishRefusal> {
    match result {
        Err(PublishError::Refused(refusal)) => Some(*refusal),
        _ => None,
    }
}

fn text_of(publication: &Publication) -> String {
    String::from_utf8_lossy(&publication.payload).into_owned()
}

fn unknown(result: &Result<PublishAck, PublishError>) -> bool {
    matches!(result, Err(PublishError::Unknown(_)))
}

#[tokio::test]
async fn a_replica_starts_without_redis_and_reports_it() {
    let (mut server, orders) = (RedisServer::absent(), topic("orders"));
    let replica = FaultyReplica::start(&server.url());
    replica.backplane.follow(&orders, None);
    assert_eq!(refused(&replica.publish(&orders, 1).await), Some(PublishRefusal::Disconnected));
    assert!(replica.backplane.read(&orders, StreamId::ZERO, ReadLimits::ONE).await.is_err());
    let health = replica.backplane.health();
    assert!(!health.commands_down.is_zero() && !health.pubsub_down.is_zero());
    server.restart();
    replica.follower.told_after(0, &OwnedEvent::Confirmed("orders".to_owned())).await;
    replica.insist(&orders, 2).await;
    assert_eq!(text(&replica.follower.has_arrived(&orders, 1).await[0]), r#"{"n":2}"#);
}

#[tokio::test]
async fn a_killed_pubsub_link_reconnects_and_everything_is_confirmed_again() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let others: Vec<_> = (0..2500).map(|n| topic(&format!("other{n}"))).collect();
    for other in &others {
        replica.backplane.follow(other, None);
    }
    for round in 0..5 {
        let before = replica.follower.count();
        server.client_kill("pubsub").await;
        replica.follower.told_after(before, &lost()).await;
        replica.follower.told_after(before, &OwnedEvent::Confirmed("orders".to_owned())).await;
        replica.accepted(&orders, round).await;
        replica.follower.has_arrived(&orders, round + 1).await;
    }
    let confirmed = |told: &[OwnedEvent]| {
        let lost = told.iter().rposition(|told| matches!(told, OwnedEvent::Lost(_))).expect("a loss");
        told[lost..].iter().filter(|told| matches!(told, OwnedEvent::Confirmed(_))).count()
    };
    replica.follower.until("all topics are confirmed anew", |told| confirmed(told) == others.len() + 1).await;
    assert!(!replica.follower.told().contains(&OwnedEvent::GenerationChanged), "the server is the same");
}

#[tokio::test]
async fn a_killed_command_link_refuses_or_leaves_unknown_and_reconnects_at_once() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    server.client_kill("normal").await;
    let killed = Instant::now();
    replica.insist(&orders, 1).await;
    // Milliseconds, apart from other work of the machine.
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    replica.follower.has_arrived(&orders, 1).await;
}

#[tokio::test]
async fn a_restart_without_losses_is_a_new_epoch_without_a_gap() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let before = replica.accepted(&orders, 1).await;
    server.kill();
    eventually("the end is noticed", async || replica.link.command().is_err().then_some(())).await;
    assert_eq!(refused(&replica.publish(&orders, 2).await), Some(PublishRefusal::Disconnected));
    server.restart();
    let back = Instant::now();
    let after = replica.insist(&orders, 3).await;
    assert!(back.elapsed() < Duration::from_secs(10), "back after {:?}", back.elapsed());
    assert!(after.epoch > before.epoch && after.seq == 0, "{after} after {before}");
    replica.follower.told_after(0, &OwnedEvent::GenerationChanged).await;
    let (messages, missing) = replica.page(&orders, before).await;
    assert_eq!(missing, None, "nothing was lost, and the stream proves it");
    assert_eq!(messages.iter().map(|message| text(message)).collect::<Vec<_>>(), [r#"{"n":3}"#]);
}

#[tokio::test]
async fn losses_of_a_server_are_reported_by_the_replica_that_acknowledged_them() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let kept = replica.accepted(&orders, 1).await;
    let snapshot = server.snapshot();
    let mut last = kept;
    for n in 2..=5 {
        last = replica.accepted(&orders, n).await;
    }
    server.restart_from(&snapshot);
    let told = async || (replica.page(&orders, kept).await.1 == Some(Missing::Lost(Some(4)))).then_some(());
    eventually("the loss is told", told).await;
    assert_eq!(replica.page(&orders, last).await.1, None, "who has all of it is told nothing");
    let counted = async || (replica.link.metrics().lost_publications_total.get() == 4).then_some(());
    eventually("the four are counted", counted).await;
    // Later readers receive the same report, even after newer publications.
    let second = FaultyReplica::following(&server.url(), &orders).await;
    second.insist(&orders, 6).await;
    assert_eq!(second.page(&orders, kept).await.1, Some(Missing::Lost(Some(4))));
    assert_eq!(second.page(&orders, last).await.1, None);
}

#[tokio::test]
async fn a_key_of_another_type_does_not_affect_the_verification_of_other_topics() {
    let (mut server, orders, harmed) = (RedisServer::durable(), topic("orders"), topic("harmed"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let kept = replica.accepted(&orders, 1).await;
    let key = replica.link.keys().stream(&harmed);
    server.run::<()>(&["SET", &key, "something else"]).await;
    let snapshot = server.snapshot();
    server.run::<()>(&["DEL", &key]).await;
    let first = replica.accepted(&harmed, 1).await;
    replica.accepted(&orders, 2).await;
    server.restart_from(&snapshot);
    let told = async || (replica.page(&orders, kept).await.1 == Some(Missing::Lost(Some(1)))).then_some(());
    eventually("the loss in the other topic is told", told).await;
    // Once the key is removed, the loss in its topic can be reported too.
    server.run::<()>(&["DEL", &key]).await;
    replica.insist(&harmed, 3).await;
    let told = async || replica.page(&harmed, first.previous()).await.1.is_some().then_some(());
    eventually("the loss in the harmed topic is told", told).await;
}

#[tokio::test]
async fn a_replica_that_acknowledges_a_duplicate_is_responsible_for_it() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let one = FaultyReplica::following(&server.url(), &orders).await;
    let kept = one.accepted(&orders, 1).await;
    let snapshot = server.snapshot();
    let first = one.backplane.publish(named(&orders, &one.rule, 2, "m-2")).await.expect("accepted");
    let two = FaultyReplica::following(&server.url(), &orders).await;
    let again = two.backplane.publish(named(&orders, &two.rule, 2, "m-2")).await.expect("accepted");
    assert_eq!((again.id, again.duplicate), (first.id, true));
    // The replica that stored it has ended before Redis loses it.
    drop(one);
    server.restart_from(&snapshot);
    let told = async || matches!(two.page(&orders, kept).await.1, Some(Missing::Lost(_))).then_some(());
    eventually("the loss of what was only acknowledged is told", told).await;
}

#[tokio::test]
async fn what_a_leaving_replica_had_acknowledged_is_reported_by_the_others() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let one = FaultyReplica::following(&server.url(), &orders).await;
    let two = FaultyReplica::following(&server.url(), &orders).await;
    let kept = one.accepted(&orders, 1).await;
    let snapshot = server.snapshot();
    one.accepted(&orders, 2).await;
    one.backplane.leave().await;
    assert_eq!(refused(&one.publish(&orders, 3).await), Some(PublishRefusal::Disconnected));
    drop(one);
    server.restart_from(&snapshot);
    let told = async || (two.page(&orders, kept).await.1 == Some(Missing::Lost(Some(1)))).then_some(());
    eventually("the loss is told", told).await;
}

#[tokio::test]
async fn what_an_ended_replica_had_acknowledged_leaves_doubt_at_the_boundary() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let one = FaultyReplica::following(&server.url(), &orders).await;
    let two = FaultyReplica::following(&server.url(), &orders).await;
    let kept = one.accepted(&orders, 1).await;
    let snapshot = server.snapshot();
    one.accepted(&orders, 2).await;
    drop(one);
    server.restart_from(&snapshot);
    let next = two.insist(&orders, 3).await;
    let told = async || (two.page(&orders, kept).await.1 == Some(Missing::Doubt)).then_some(());
    eventually("the doubt is told", told).await;
    assert_eq!(two.page(&orders, next).await.1, None, "nobody else is");
}

#[tokio::test]
async fn a_replica_that_leaves_while_redis_restarts_waits_for_it() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let one = FaultyReplica::following(&server.url(), &orders).await;
    let two = FaultyReplica::following(&server.url(), &orders).await;
    let kept = one.accepted(&orders, 1).await;
    server.kill();
    eventually("the end is noticed", async || one.link.command().is_err().then_some(())).await;
    server.restart();
    // Its links are not there yet.
    one.backplane.leave().await;
    drop(one);
    two.insist(&orders, 2).await;
    let (messages, missing) = two.page(&orders, kept).await;
    assert_eq!(missing, None, "it reported, so nobody is in doubt");
    assert_eq!(messages.iter().map(|message| text(message)).collect::<Vec<_>>(), [r#"{"n":2}"#]);
}

#[tokio::test]
async fn an_emptied_server_is_reported_to_readers_without_messages() {
    let (mut server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let before = replica.accepted(&orders, 1).await;
    server.restart_empty();
    replica.healthy().await;
    let told = async || {
        matches!(replica.page(&orders, before.previous()).await.1, Some(Missing::Lost(_) | Missing::Retention))
    };
    eventually("the loss is told", async || told().await.then_some(())).await;
    let next = replica.insist(&orders, 2).await;
    assert!(next.epoch > before.epoch);
    assert!(replica.page(&orders, before).await.1.is_some(), "what was behind it is not known");
}

#[tokio::test]
async fn a_flushed_server_never_gives_an_id_twice() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let mut last = StreamId::ZERO;
    for n in 0..20 {
        let id = replica.accepted(&orders, n).await;
        assert!(id > last, "{id} after {last}");
        last = id;
        server.run::<()>(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn a_flushed_server_is_detected_although_every_link_stays_up() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let before = replica.accepted(&orders, 1).await;
    let told = replica.follower.count();
    server.run::<()>(&["FLUSHALL"]).await;
    // Without publications: the comparison finds the loss.
    replica.follower.told_after(told, &OwnedEvent::GenerationChanged).await;
    let told = async || {
        matches!(replica.page(&orders, before.previous()).await.1, Some(Missing::Lost(_) | Missing::Retention))
    };
    eventually("the loss is told", async || told().await.then_some(())).await;
}

#[tokio::test]
async fn a_half_open_link_is_detected_and_replaced() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let proxy = Proxy::start(server.port()).await;
    let replica = FaultyReplica::impatient(&proxy.url(), &orders).await;
    let before = replica.follower.count();
    proxy.change_old(Weather::BlackHole);
    replica.follower.told_after(before, &lost()).await;
    replica.follower.told_after(before, &OwnedEvent::Confirmed("orders".to_owned())).await;
    replica.insist(&orders, 1).await;
    replica.follower.has_arrived(&orders, 1).await;
}

/// A feed's turn with this number, which ends after this time.
fn turn(number: u64, lasts: Duration) -> Option<LeaseTurn> {
    Some(LeaseTurn { of: "feed:a", number, until: Instant::now() + lasts })
}

#[tokio::test]
async fn publications_in_flight_at_the_end_of_a_turn_are_not_stored_after_a_later_one() {
    let (server, ticker) = (RedisServer::start(), topic("ticker:A"));
    let proxy = Proxy::start(server.port()).await;
    let (old, new) = (FaultyReplica::start(&proxy.url()), FaultyReplica::following(&server.url(), &ticker).await);
    old.healthy().await;
    let kept = |n| number(&ticker, &old.rule, n);
    let sent = |n| Publication { rule: retain(0), ..kept(n) };
    let publish = |replica: &FaultyReplica, publication, number| {
        replica.backplane.publish_in_turn(publication, turn(number, PATIENCE))
    };
    publish(&old, kept(0), 5).await.expect("stored in its turn");
    // None of it arrives before the later turn's first publication.
    proxy.set(Weather::BlackHole);
    let late = [publish(&old, kept(1), 5), publish(&old, sent(2), 5)];
    publish(&new, kept(3), 6).await.expect("stored in its turn");
    proxy.set(Weather::CLEAR);
    for late in late {
        let answer = late.await;
        let is_late = unknown(&answer) || refused(&answer) == Some(PublishRefusal::Superseded { by: 6 });
        assert!(is_late, "{answer:?}");
    }
    let superseded = async || refused(&publish(&old, kept(4), 5).await) == Some(PublishRefusal::Superseded { by: 6 });
    eventually("the earlier turn is refused", async || superseded().await.then_some(())).await;
    publish(&old, kept(5), 7).await.expect("stored, once it is its turn again");
    old.accepted(&ticker, 6).await;
    let arrived: Vec<_> = new.follower.has_arrived(&ticker, 4).await.iter().map(|m| text(m).to_owned()).collect();
    assert_eq!(arrived, [0, 3, 5, 6].map(|n| text_of(&number(&ticker, &old.rule, n))));
}

#[tokio::test]
async fn an_expired_turn_stores_nothing() {
    let (server, ticker) = (RedisServer::start(), topic("ticker:A"));
    let replica = FaultyReplica::following(&server.url(), &ticker).await;
    let publish = |n, lasts| replica.backplane.publish_in_turn(number(&ticker, &replica.rule, n), turn(1, lasts));
    assert_eq!(refused(&publish(1, Duration::ZERO).await), Some(PublishRefusal::Expired));
    publish(2, PATIENCE).await.expect("stored");
    let arrived = replica.follower.has_arrived(&ticker, 1).await;
    assert_eq!(text(&arrived[0]), text_of(&number(&ticker, &replica.rule, 2)));
}

#[tokio::test]
async fn a_slow_network_is_not_a_fault() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let proxy = Proxy::start(server.port()).await;
    proxy.set(Weather::Pass { delay: Duration::from_millis(40) });
    let replica = FaultyReplica::following(&proxy.url(), &orders).await;
    for n in 0..10 {
        replica.accepted(&orders, n).await;
    }
    replica.follower.has_arrived(&orders, 10).await;
    assert!(!replica.follower.told().contains(&lost()));
}

#[tokio::test]
async fn a_refused_connection_is_retried_until_it_is_accepted() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let proxy = Proxy::start(server.port()).await;
    let replica = FaultyReplica::following(&proxy.url(), &orders).await;
    proxy.set(Weather::Refuse);
    eventually("commands are down", async || replica.link.command().is_err().then_some(())).await;
    assert_eq!(refused(&replica.publish(&orders, 1).await), Some(PublishRefusal::Disconnected));
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    replica.insist(&orders, 2).await;
    replica.healthy().await;
}

#[tokio::test]
async fn a_demoted_server_is_not_used_until_it_is_a_master_again() {
    let (server, master, orders) = (RedisServer::start(), RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    replica.accepted(&orders, 1).await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    let refusal = eventually("a refusal", async || refused(&replica.publish(&orders, 2).await)).await;
    assert!(matches!(refusal, PublishRefusal::ReadOnly | PublishRefusal::Disconnected), "{refusal:?}");
    eventually("the link is given up", async || replica.link.command().is_err().then_some(())).await;
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    replica.insist(&orders, 3).await;
    replica.healthy().await;
}

#[tokio::test]
async fn a_full_server_refuses_and_stores_nothing() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let before = replica.accepted(&orders, 1).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1000000"]).await;
    for n in 2..5 {
        assert_eq!(refused(&replica.publish(&orders, n).await), Some(PublishRefusal::OutOfMemory));
    }
    let fresh = topic("fresh");
    assert_eq!(refused(&replica.publish(&fresh, 1).await), Some(PublishRefusal::OutOfMemory));
    // Links can still reconnect: existing data can be read, and readiness reports the state.
    server.client_kill("pubsub").await;
    server.client_kill("normal").await;
    replica.follower.told_after(1, &lost()).await;
    replica.healthy().await;
    assert_eq!(replica.page(&orders, StreamId::ZERO).await.0.len(), 1);
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(replica.insist(&orders, 5).await, before.next(), "no number was used up");
    assert_eq!(replica.follower.has_arrived(&orders, 2).await.len(), 2);
}

#[tokio::test]
async fn a_loading_server_is_waited_for() {
    let (mut server, orders) = (RedisServer::durable(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let before = replica.accepted(&orders, 1).await;
    server.run::<()>(&["DEBUG", "POPULATE", "20000"]).await;
    server.run::<()>(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]).await;
    server.run::<String>(&["BGREWRITEAOF"]).await;
    eventually("the file is rewritten", async || {
        let info: String = server.run(&["INFO", "persistence"]).await;
        let done = info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0");
        done.then_some(())
    })
    .await;
    server.kill();
    server.restart_with(&["--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"]);
    eventually("the end is noticed", async || replica.link.command().is_err().then_some(())).await;
    let began = Instant::now();
    let mut refusals = 0;
    let after = loop {
        match replica.publish(&orders, 2).await {
            Ok(published) => break published.id.expect("an id"),
            result => {
                assert!(
                    matches!(refused(&result), Some(PublishRefusal::Disconnected | PublishRefusal::Loading)),
                    "{result:?}"
                );
                refusals += 1;
            }
        }
        assert!(began.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    };
    assert!(refusals > 0, "the server was loading for some time");
    assert!(after.epoch > before.epoch);
    assert_eq!(replica.page(&orders, before).await.1, None, "nothing was lost");
}

#[tokio::test]
async fn a_lost_script_is_loaded_again_in_order() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let mut count = 0;
    for _ in 0..5 {
        server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        let tickets: Vec<_> =
            (count..count + 300).map(|n| replica.backplane.publish(number(&orders, &replica.rule, n))).collect();
        for ticket in tickets {
            ticket.await.expect("accepted");
        }
        count += 300;
    }
    let arrived = replica.follower.has_arrived(&orders, count).await;
    for (n, message) in arrived.iter().enumerate() {
        assert_eq!(text(message), format!("{{\"n\":{n}}}"));
    }
}

#[tokio::test]
async fn read_scripts_are_called_by_digest_and_loaded_again_if_lost() {
    let (server, orders, new) = (RedisServer::start(), topic("orders"), topic("new"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let (first, backplane) = (replica.accepted(&orders, 0).await, &replica.backplane);
    let forgotten = async || server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    forgotten().await;
    let heads = backplane.heads(&[orders.clone(), new.clone()]).await;
    assert_eq!(heads.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [Some(first), None]);
    forgotten().await;
    assert_eq!(replica.page(&orders, StreamId::ZERO).await.0.len(), 1);
    forgotten().await;
    let anchor = backplane.anchors(std::slice::from_ref(&new)).await.remove(0).expect("a position");
    assert_eq!(backplane.heads(std::slice::from_ref(&new)).await.remove(0).unwrap(), Some(anchor));
    forgotten().await;
    backplane.forget(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(backplane.heads(std::slice::from_ref(&new)).await.remove(0).unwrap(), None);
    // The text of a script is sent only after it was lost, and never with a call.
    let calls: String = server.run(&["INFO", "commandstats"]).await;
    assert!(calls.contains("cmdstat_evalsha:") && !calls.contains("cmdstat_eval:"), "{calls}");
}

/// Publishes while the server is silent: unknown; the retry publishes once. The server may become silent a moment
/// later.
async fn silence_is_unknown_and_a_retry_is_safe(replica: &FaultyReplica, orders: &Topic, wake: impl AsyncFnOnce()) {
    let publish =
        async |n: usize| replica.backplane.publish(named(orders, &replica.rule, n, &format!("retried {n}"))).await;
    let mut n = 1;
    eventually("silence", async || {
        n += 1;
        let result = publish(n).await;
        assert!(result.is_ok() || unknown(&result), "{result:?}");
        result.is_err().then_some(())
    })
    .await;
    wake().await;
    let id = eventually("the retry is accepted", async || publish(n).await.ok()).await.id.expect("an id");
    replica.insist(orders, 1).await;
    let (messages, _) = replica.page(orders, StreamId::ZERO).await;
    let found: Vec<_> = messages.iter().filter(|message| text(message) == format!("{{\"n\":{n}}}")).collect();
    assert_eq!((found.len(), found[0].id), (1, Some(id)), "published once, under the id that was told");
    replica.healthy().await;
}

#[tokio::test]
async fn a_paused_server_leaves_an_unknown_outcome_that_a_retry_decides() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::impatient(&server.url(), &orders).await;
    server.run::<()>(&["CLIENT", "PAUSE", "3600000", "WRITE"]).await;
    let wake = async || server.run::<()>(&["CLIENT", "UNPAUSE"]).await;
    silence_is_unknown_and_a_retry_is_safe(&replica, &orders, wake).await;
}

#[tokio::test]
async fn a_sleeping_server_leaves_an_unknown_outcome_that_a_retry_decides() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::impatient(&server.url(), &orders).await;
    let mut sleeper = server.connect().await;
    let tasks = Tasks::new();
    tasks.spawn("sleeper", async move {
        let _ = redis::cmd("DEBUG").arg("SLEEP").arg("4").query_async::<()>(&mut sleeper).await;
    });
    silence_is_unknown_and_a_retry_is_safe(&replica, &orders, async || {}).await;
}

#[tokio::test]
async fn a_frozen_server_leaves_an_unknown_outcome_that_a_retry_decides() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::impatient(&server.url(), &orders).await;
    server.freeze();
    silence_is_unknown_and_a_retry_is_safe(&replica, &orders, async || {
        eventually("the silence is noticed", async || {
            let health = replica.backplane.health();
            (!health.commands_down.is_zero() && !health.pubsub_down.is_zero()).then_some(())
        })
        .await;
        server.thaw();
    })
    .await;
}

#[tokio::test]
async fn a_busy_server_refuses_with_that_reason() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    server.run::<()>(&["CONFIG", "SET", "busy-reply-threshold", "50"]).await;
    let mut looping: MultiplexedConnection = server.connect().await;
    let tasks = Tasks::new();
    tasks.spawn("loop", async move {
        let _ = redis::cmd("EVAL").arg("while true do end").arg(0).query_async::<()>(&mut looping).await;
    });
    eventually("it is busy", async || {
        let mut connection = server.connect().await;
        redis::cmd("GET").arg("x").query_async::<()>(&mut connection).await.err()
    })
    .await;
    let result = replica.publish(&orders, 1).await;
    assert!(matches!(refused(&result), Some(PublishRefusal::Busy | PublishRefusal::Disconnected)), "{result:?}");
    eventually("the script is killed", async || {
        let mut connection = server.connect().await;
        redis::cmd("SCRIPT").arg("KILL").query_async::<()>(&mut connection).await.ok()
    })
    .await;
    replica.insist(&orders, 2).await;
}

#[tokio::test]
async fn a_disconnected_follower_is_confirmed_again_instead_of_silently_missing_messages() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let proxy = Proxy::start(server.port()).await;
    let follower = FaultyReplica::impatient(&proxy.url(), &orders).await;
    let publisher = FaultyReplica::following(&server.url(), &topic("other")).await;
    server.run::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1"]).await;
    let before = follower.follower.count();
    proxy.change_old(Weather::BlackHole);
    let big = Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(50_000)));
    for _ in 0..200 {
        let publication = Publication { payload: big.clone(), ..number(&orders, &publisher.rule, 0) };
        publisher.backplane.publish(publication).await.expect("accepted");
    }
    follower.follower.told_after(before, &lost()).await;
    follower.follower.told_after(before, &OwnedEvent::Confirmed("orders".to_owned())).await;
    assert_eq!(follower.page(&orders, StreamId::ZERO).await.0.len(), 200);
}

#[tokio::test]
async fn a_read_fetches_no_more_than_its_limits() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let rule = Arc::new(TopicRule { retain_max: 1_000, ..(*replica.rule).clone() });
    let big = Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(60_000)));
    for _ in 0..400 {
        let publication = Publication { payload: big.clone(), ..number(&orders, &rule, 0) };
        replica.backplane.publish(publication).await.expect("accepted");
    }
    let sent = async || {
        let stats: String = server.run(&["INFO", "stats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).expect("a counter");
        line.trim().parse::<usize>().expect("a number")
    };
    let (limits, backplane) = (ReadLimits::new(1_000, 1 << 20), &replica.backplane);
    let before = sent().await;
    let page = backplane.read(&orders, StreamId::ZERO, limits).await.expect("a page");
    let newest = backplane.newest(&orders, limits).await.expect("the newest");
    assert_eq!((page.messages.len(), newest.messages.len()), (17, 17));
    let fetched = sent().await - before;
    assert!(fetched < 10 << 20, "{fetched} bytes of 24 MB, for two megabytes");
}

#[tokio::test]
async fn a_publication_that_replicas_must_have_is_unknown_until_they_do() {
    let (server, copy, orders) = (RedisServer::start(), RedisServer::start(), topic("orders"));
    let config = config::Redis { response_timeout: Duration::from_secs(3), ..redis_config(&server.url()) };
    let replica = FaultyReplica::following_with(&config, &orders).await;
    let rule = Arc::new(TopicRule { wait_replicas: 1, ..(*replica.rule).clone() });
    let publish = |n| replica.backplane.publish(number(&orders, &rule, n));
    let mut alone = std::pin::pin!(publish(1));
    // Other topics do not wait for it.
    let other = topic("plain");
    let plain = tokio::select! {
        biased;
        alone = &mut alone => panic!("nobody confirms yet: {alone:?}"),
        plain = replica.publish(&other, 3) => plain,
    };
    assert!(plain.is_ok(), "{plain:?}");
    let alone = alone.await;
    assert!(unknown(&alone), "{alone:?}");
    copy.run::<()>(&["REPLICAOF", "127.0.0.1", &server.port().to_string()]).await;
    eventually("a replica confirms", async || publish(2).await.ok()).await;
}

#[tokio::test]
async fn durability_on_disk_is_confirmed_by_servers_that_support_it() {
    let (lasting, forgetful, orders) = (RedisServer::durable(), RedisServer::start(), topic("orders"));
    for (server, keeps) in [(&lasting, true), (&forgetful, false)] {
        let replica = FaultyReplica::following(&server.url(), &orders).await;
        let rule = Arc::new(TopicRule { wait_aof: true, ..(*replica.rule).clone() });
        // Redis 7.0 does not have the command yet.
        let known: Vec<Option<redis::Value>> = server.run(&["COMMAND", "INFO", "waitaof"]).await;
        let can_tell = keeps && known[0].is_some();
        let result = replica.backplane.publish(number(&orders, &rule, 1)).await;
        assert!(if can_tell { result.is_ok() } else { unknown(&result) }, "{result:?} of {known:?}");
        assert_eq!(replica.page(&orders, StreamId::ZERO).await.0.len(), 1, "stored all the same");
    }
}

#[tokio::test]
async fn an_engines_publications_arrive_and_its_mistakes_are_reported() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let replica = FaultyReplica::following(&server.url(), &orders).await;
    let script = redis::Script::new(include_str!("../../src/backplane/redis/scripts/publish.lua"));
    let mut engine = server.connect().await;
    let keys = replica.link.keys();
    let stream = keys.stream(&orders);
    let generation = replica.backplane.history(&orders).generation;
    let mut publish = async |payload: &str| -> StreamId {
        let mut call = script.key(keys.generation());
        call.key(&stream).arg(generation).arg(payload).arg(1000).arg(0).arg(0).arg("-").arg(1);
        call.invoke_async::<String>(&mut engine).await.expect("an id").parse().expect("an id")
    };
    let good = publish(r#"{"price":"1.10"}"#).await;
    let bad = publish(r#"{"price": 1.1"#).await;
    let next = publish(r#"{"price":"1.11"}"#).await;
    assert_eq!((bad, next), (good.next(), good.next().next()));
    let arrived = replica.follower.has_arrived(&orders, 3).await;
    assert_eq!(ids(&arrived), [good, bad, next]);
    assert_eq!(arrived[1].content, Content::Unreadable);
    assert_eq!(replica.page(&orders, StreamId::ZERO).await.0[1].content, Content::Unreadable);
    // Noise on the channel takes no place in the stream, and has no effect.
    server.run::<i64>(&["PUBLISH", &stream, "hello"]).await;
    let ours = replica.accepted(&orders, 1).await;
    assert_eq!(ours, next.next());
    assert_eq!(replica.follower.has_arrived(&orders, 4).await.len(), 4);
}

#[tokio::test]
async fn a_missing_right_stores_nothing() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let keys = ["~tg2:{gen}", "~tg2:{t:good*", "%R~tg?:{replicas}:l"];
    server
        .run::<()>(&[&["ACL", "SETUSER", "gate", "on", ">secret", "+@all", "resetchannels", "&*"][..], &keys].concat())
        .await;
    let url = format!("redis://gate:secret@127.0.0.1:{}/", server.port());
    let replica = FaultyReplica::start(&url);
    replica.healthy().await;
    assert_eq!(refused(&replica.publish(&orders, 1).await), Some(PublishRefusal::Denied));
    let length: usize = server.run(&["XLEN", &replica.link.keys().stream(&orders)]).await;
    assert_eq!(length, 0);
    replica.accepted(&topic("good"), 1).await;
}

#[tokio::test]
async fn control_messages_reach_their_callback_on_a_new_link_too() {
    let server = RedisServer::start();
    let replica = FaultyReplica::start(&server.url());
    let (sender, mut received) = tokio::sync::mpsc::channel(10);
    replica.link.subscribe_control(
        "tg2:ctl:me",
        Arc::new(move |message| {
            let _ = sender.try_send(message.to_vec());
        }),
    );
    for round in 0..2 {
        replica.healthy().await;
        eventually("it is subscribed", async || {
            let told: i64 = server.run(&["PUBLISH", "tg2:ctl:me", &format!("message {round}")]).await;
            (told == 1).then_some(())
        })
        .await;
        let message = timeout(PATIENCE, received.recv()).await.expect("in time").expect("a message");
        assert_eq!(message, format!("message {round}").into_bytes());
        let mut links = replica.link.pubsub_links();
        links.borrow_and_update();
        server.client_kill("pubsub").await;
        timeout(PATIENCE, links.changed()).await.expect("a new link").expect("a live link");
    }
}

/// Two servers that share the topics; one of them is killed and returns empty.
#[tokio::test]
async fn a_dead_server_affects_only_its_own_topics() {
    use tickgate::{
        backplane::Redis,
        redis_link::{Placement, Topology},
    };
    let (kept, mut killed, tasks, rule) = (RedisServer::start(), RedisServer::start(), Tasks::new(), retain(1_000));
    let links = [&kept, &killed].map(|server| RedisLink::start(&redis_config(&server.url()), &tasks, Metrics::new()));
    let backplane = Backplane::Redis(Redis::start_on(&Topology::fixed(links.to_vec()), &member(&[]), &tasks));
    let follower = RecordingFollower::follow(&backplane);
    let on = |shard| {
        let mut names = (0..).map(|n| format!("topic:{n}"));
        topic(&names.find(|name| Placement::over(2).shard(name) == shard).expect("a name"))
    };
    let (unharmed, harmed) = (on(0), on(1));
    let publish = async |topic: &Topic, n| backplane.publish(number(topic, &rule, n)).await;
    let insist = async |topic: &Topic, n| {
        eventually("a publication is accepted", async || publish(topic, n).await.ok()).await.id.expect("an id")
    };
    for topic in [&unharmed, &harmed] {
        follower.begin(&backplane, topic).await;
        insist(topic, 1).await;
    }
    let generations = || [&unharmed, &harmed].map(|topic| backplane.history(topic).generation);
    let before = (generations(), follower.count());

    killed.kill();
    follower.told_after(before.1, &OwnedEvent::Lost(harmed.to_string())).await;
    eventually("it is noticed", async || links[1].command().is_err().then_some(())).await;
    assert_eq!(refused(&publish(&harmed, 2).await), Some(PublishRefusal::Disconnected));
    let id = publish(&unharmed, 2).await.expect("accepted").id;
    assert_eq!(follower.has_arrived(&unharmed, 2).await[1].id, id);
    let heads = backplane.heads(&[harmed.clone(), unharmed.clone()]).await;
    assert!(heads[0].is_err() && heads[1].as_ref().ok() == Some(&id), "{heads:?}");
    assert!(backplane.health().commands_down.is_zero(), "the other one serves");

    killed.restart();
    follower.told_after(before.1, &OwnedEvent::Confirmed(harmed.to_string())).await;
    insist(&harmed, 3).await;
    assert_eq!(generations()[0], before.0[0]);
    assert!(generations()[1] > before.0[1]);
    assert!(!follower.told()[before.1..].contains(&OwnedEvent::Lost(unharmed.to_string())));
    let page = backplane.read(&unharmed, StreamId::ZERO, ReadLimits::new(9, usize::MAX)).await.expect("a page");
    assert_eq!(page.messages.iter().map(|message| text(message)).collect::<Vec<_>>(), [r#"{"n":1}"#, r#"{"n":2}"#]);
    assert_eq!(links.map(|link| link.metrics().lost_publications_total.get()), [0, 1]);
}
