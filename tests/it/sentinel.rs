//! Redis behind sentinels: failovers by accident and on purpose, and sentinels that are away, disagree, or know nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::json;
use tickgate::{
    config::{Access, Sentinels, ServerAddress},
    metrics::Metrics,
    redis_link::RedisLink,
    tasks::Tasks,
};
use tickgate_wire::model::{StreamId, Topic};
use tokio::task::JoinHandle;

use crate::{
    redis_faults::FaultyReplica,
    support::{
        eventually,
        follower::{text, topic},
        redis::RedisServer,
        replica::TestReplica,
        sentinels::{Deployment, NAME, SentinelServer, settings},
    },
};

/// How long publications may fail after the primary was killed, with the settings of docs/sentinel.md.
const FAILOVER_MAX: Duration = Duration::from_secs(4);

/// A publisher that never stops, and what was acknowledged to it.
struct EndlessPublisher {
    acknowledged: Arc<Mutex<BTreeMap<usize, (StreamId, Instant)>>>,
    task: JoinHandle<()>,
}

impl EndlessPublisher {
    fn start(replica: &Arc<FaultyReplica>, topic: &Topic) -> Self {
        let acknowledged = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let (replica, topic, list) = (Arc::clone(replica), topic.clone(), Arc::clone(&acknowledged));
        #[expect(clippy::disallowed_methods, reason = "a task of the test's own")]
        let task = tokio::spawn(async move {
            for n in 1.. {
                if let Ok(published) = replica.publish(&topic, n).await {
                    list.lock().insert(n, (published.id.expect("an id"), Instant::now()));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { acknowledged, task }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().len()
    }

    /// Waits for this many more.
    async fn more(&self, count: usize) {
        let before = self.count();
        eventually("publications are acknowledged", async || (self.count() >= before + count).then_some(())).await;
    }

    /// The longest time between two acknowledgements.
    fn pause(&self) -> Duration {
        let acknowledged = self.acknowledged.lock();
        let times: Vec<_> = acknowledged.values().map(|(_, at)| *at).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Stops, and returns how many acknowledged publications the topic does not have; each loss must be reported.
    async fn lost(self, replica: &FaultyReplica, topic: &Topic) -> usize {
        self.task.abort();
        let acknowledged = self.acknowledged.lock().clone();
        let (first, _) = acknowledged[acknowledged.keys().next().expect("a publication")];
        let mut stored = std::collections::BTreeSet::new();
        let (mut after, mut reported) = (first.previous(), false);
        loop {
            let (messages, missing) = replica.page(topic, after).await;
            reported |= missing.is_some();
            let Some(last) = messages.last() else { break };
            after = last.id.expect("an id");
            stored.extend(messages.iter().map(|message| text(message).to_owned()));
        }
        let lost = acknowledged.keys().filter(|n| !stored.contains(&format!("{{\"n\":{n}}}"))).count();
        if lost > 0 && !reported {
            let told = async || replica.page(topic, first.previous()).await.1.map(drop);
            eventually(&format!("{lost} lost publications are reported"), told).await;
        }
        lost
    }
}

/// A gateway's links behind this deployment, and a publisher with some acknowledged publications.
async fn publishing(deployment: &Deployment) -> (Arc<FaultyReplica>, EndlessPublisher) {
    let orders = topic("orders");
    let replica = Arc::new(FaultyReplica::following_with(&deployment.settings(), &orders).await);
    let publisher = EndlessPublisher::start(&replica, &orders);
    publisher.more(100).await;
    (replica, publisher)
}

async fn moved(replica: &FaultyReplica, times: u64) {
    let moves = async || (replica.link.metrics().redis_primary_moves_total.get() >= times).then_some(());
    eventually("the sentinels name another primary", moves).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_and_nothing_is_missing_unreported() {
    let mut deployment = Deployment::start().await;
    let (replica, publisher) = publishing(&deployment).await;
    deployment.servers[0].kill();
    moved(&replica, 1).await;
    publisher.more(100).await;
    replica.healthy().await;
    let pause = publisher.pause();
    let lost = publisher.lost(&replica, &topic("orders")).await;
    eprintln!("publishing again after {pause:?}, {lost} lost and reported");
    assert!(pause <= FAILOVER_MAX, "publishing again after {pause:?}");
    assert_ne!(deployment.primary().await.port(), deployment.servers[0].port());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_planned_failover_loses_is_little_and_reported() {
    let deployment = Deployment::start().await;
    let (replica, publisher) = publishing(&deployment).await;
    deployment.sentinels[0].run::<()>(&["SENTINEL", "FAILOVER", NAME]).await.expect("a failover");
    moved(&replica, 1).await;
    publisher.more(100).await;
    let (pause, acknowledged) = (publisher.pause(), publisher.count());
    let lost = publisher.lost(&replica, &topic("orders")).await;
    eprintln!("publishing again after {pause:?}, {lost} of {acknowledged} lost and reported");
}

/// The procedure of docs/sentinel.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_after_a_pause_of_writes_loses_nothing() {
    let deployment = Deployment::start().await;
    let (replica, publisher) = publishing(&deployment).await;
    let primary = &deployment.servers[0];
    primary.run::<()>(&["CLIENT", "PAUSE", "30000", "WRITE"]).await;
    eventually("the replicas have everything", async || {
        let info: String = primary.run(&["INFO", "replication"]).await;
        let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"))?.trim().to_owned();
        (info.matches(&format!("offset={offset},")).count() == 2).then_some(())
    })
    .await;
    deployment.sentinels[0].run::<()>(&["SENTINEL", "FAILOVER", NAME]).await.expect("a failover");
    moved(&replica, 1).await;
    publisher.more(100).await;
    let pause = publisher.pause();
    let lost = publisher.lost(&replica, &topic("orders")).await;
    eprintln!("publishing again after {pause:?}");
    assert_eq!(lost, 0);
    assert_eq!(replica.link.metrics().lost_publications_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_sentinels_the_links_stay_and_come_back_to_the_same_server() {
    let (server, orders) = (RedisServer::start(), topic("orders"));
    let mut sentinel = SentinelServer::monitoring(server.port(), 1, "").await;
    let settings = settings(&[sentinel.address()]);
    let replica = FaultyReplica::following_with(&settings, &orders).await;
    sentinel.kill();
    let answering = async |count: i64| (replica.link.metrics().redis_sentinels.get() == count).then_some(());
    eventually("the sentinel is missed", async || answering(0).await).await;
    replica.accepted(&orders, 1).await;
    server.client_kill("normal").await;
    server.client_kill("pubsub").await;
    replica.insist(&orders, 2).await;
    replica.healthy().await;
    // A new one can't know where the primary is.
    let other = FaultyReplica::start_with(&settings);
    let told = async || other.link.obstacle().filter(|why| why.contains("no sentinel answers"));
    eventually("the reason", told).await;
    sentinel.restart().await;
    other.healthy().await;
    eventually("the sentinel answers", async || answering(1).await).await;
    assert_eq!(replica.link.metrics().redis_primary_moves_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_of_another_deployment_moves_nobody_and_is_named() {
    let (server, stranger, orders) = (RedisServer::start(), RedisServer::start(), topic("orders"));
    let ours = [
        SentinelServer::monitoring(server.port(), 2, "").await,
        SentinelServer::monitoring(server.port(), 2, "").await,
    ];
    let newer = format!("sentinel config-epoch {NAME} 7");
    let theirs = SentinelServer::monitoring(stranger.port(), 1, &newer).await;
    let addresses = [theirs.address(), ours[0].address(), ours[1].address()];
    let replica = FaultyReplica::following_with(&settings(&addresses), &orders).await;
    replica.accepted(&orders, 1).await;
    assert_eq!(stranger.run::<u64>(&["DBSIZE"]).await, 0, "the majority is followed");
    // One against one: nobody is right.
    let torn = FaultyReplica::start_with(&settings(&addresses[..2]));
    let why = eventually("the doubt", async || {
        let doubt = torn.link.metrics().redis_sentinels_doubt.get() == 1;
        torn.link.obstacle().filter(|why| doubt && why.contains("disagree"))
    })
    .await;
    let ports = [server.port(), stranger.port()].map(|port| port.to_string());
    assert!(ports.iter().all(|port| why.contains(port)), "{why}");
    assert!(torn.link.command().is_err() && torn.publish(&orders, 2).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_no_sentinel_knows_and_a_server_that_is_none_are_told() {
    let server = RedisServer::start();
    let sentinel = SentinelServer::monitoring(server.port(), 1, "").await;
    let at = |port| ServerAddress { host: "127.0.0.1".into(), port };
    for (name, address, cause) in [
        ("another", sentinel.address(), "does not know the name \"another\""),
        (NAME, at(server.port()), "names a server that is not a sentinel"),
    ] {
        let settings = settings(std::slice::from_ref(&address));
        let sentinels = Sentinels { name: name.into(), addresses: vec![address], ..Sentinels::default() };
        settings.access.store(Access { sentinels: Some(sentinels), ..Access::default() }.into());
        let probe = tickgate::redis_link::probe(&settings).await.expect_err("no primary");
        assert!(probe.to_string().contains(cause), "{probe}");
        let tasks = Tasks::new();
        let link = RedisLink::start(&settings, &tasks, Metrics::new());
        let told = async || link.obstacle().filter(|why| why.contains(cause));
        eventually(cause, told).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_primary_is_not_used_whatever_the_sentinels_say() {
    let (server, other, orders) = (RedisServer::start(), RedisServer::start(), topic("orders"));
    let sentinel = SentinelServer::monitoring(server.port(), 1, "").await;
    let replica = FaultyReplica::following_with(&settings(&[sentinel.address()]), &orders).await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]).await;
    eventually("the link is given up", async || replica.link.command().is_err().then_some(())).await;
    assert_eq!(sentinel.primary().await, server.port());
    assert!(replica.publish(&orders, 1).await.is_err());
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    replica.insist(&orders, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_logs_in_to_sentinels_and_servers_by_its_settings() {
    let server = RedisServer::start();
    server.run::<()>(&["CONFIG", "SET", "requirepass", "of the server"]).await;
    let login = format!("requirepass \"of the sentinel\"\nsentinel auth-pass {NAME} \"of the server\"");
    let sentinel = SentinelServer::monitoring(server.port(), 1, &login).await;
    let files = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(files.path().join(name), text).unwrap();
        files.path().join(name).display().to_string()
    };
    let (of_server, of_sentinel) = (file("server", "of the server\n"), file("sentinel", "of the sentinel\n"));
    let settings = format!(
        "[redis]\nmode = \"sentinel\"\naddresses = [\"{}\"]\npassword_file = \"{of_server}\"\n[redis.sentinel]\n\
         name = \"{NAME}\"\npassword_file = \"{of_sentinel}\"\n",
        sentinel.address()
    );
    let gateway = TestReplica::unready_process("", &settings).await;
    let publish = async || {
        let answer = gateway.api_post("/api/v1/publish", json!({"channel": "logs", "data": {"n": 1}})).await;
        (answer.status == 200).then_some(())
    };
    eventually("a publication", publish).await;
    assert_eq!(gateway.metric("tickgate_redis_sentinels").await, 1.0);
    assert!(!gateway.log().contains("of the se"), "{}", gateway.log());
}
