//! Runs `docs/publishing-from-redis.md`: every example publishes to a real server, and arrives at a follower.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tickgate::{
    backplane::{Backplane, Redis, ReplicaIdentity},
    config,
    metrics::Metrics,
    redis_link::{RedisLink, Topology},
    tasks::Tasks,
};
use tickgate_wire::model::{Message, Pattern, ReplicaId, StreamId, Topic, TopicRule, TopicRules, UserId};

use crate::support::{
    eventually,
    follower::{RecordingFollower, acknowledging, ids, number, redis_config, retain, text, topic},
    redis::{RedisServer, url_of},
};

const DOCUMENT: &str = include_str!("../../docs/publishing-from-redis.md");
const PUBLISH: &str = include_str!("../../src/backplane/redis/scripts/publish.lua");

/// The example in a language, from the document.
fn example(language: &str) -> &'static str {
    let start = format!("```{language}\n");
    let (_, rest) = DOCUMENT.split_once(&start).expect("an example");
    rest.split_once("```").expect("its end").0
}

/// How long the `msg_id` of an order is remembered.
const ORDERS_KNOWN: Duration = Duration::from_secs(1_234);

/// A replica with rules for orders and one ticker; other topics are not retained, so an engine that did not find the
/// rule of the ticker would get no id.
fn replica(link: &RedisLink, dedupe_ttl: Duration, tasks: &Tasks) -> Backplane {
    let ticker = TopicRule { pattern: Pattern::new("tick*:BTC*").expect("a pattern"), ..(*retain(1000)).clone() };
    let user_stream = TopicRule { dedupe_ttl, ..(*retain(1000)).clone() };
    let rules = Arc::new(TopicRules::new(vec![ticker], user_stream, (*retain(0)).clone()));
    let identity = ReplicaIdentity { replica: ReplicaId::random(), rules };
    Backplane::Redis(Redis::start_on(&Topology::one(link.clone()), &identity, tasks))
}

/// A server with the documented users, and a follower with only the gateway's rights.
struct DocumentedServer {
    server: RedisServer,
    backplane: Backplane,
    follower: RecordingFollower,
    directory: TempDir,
    _tasks: Tasks,
}

impl DocumentedServer {
    async fn set() -> Self {
        let server = RedisServer::shipped(&[]);
        let tasks = Tasks::new();
        let url = url_of("tickgate", format!("127.0.0.1:{}", server.port()));
        let config = config::Redis { engines: true, ..redis_config(&url) };
        let link = RedisLink::start(&config, &tasks, Metrics::new());
        let backplane = replica(&link, ORDERS_KNOWN, &tasks);
        let follower = RecordingFollower::follow(&backplane);
        let directory = TempDir::with_prefix("tickgate-example-").expect("a temporary directory");
        fs::write(directory.path().join("publish.lua"), PUBLISH).expect("written");
        Self { server, backplane, follower, directory, _tasks: tasks }
    }

    /// Runs the example as the documented engine user.
    async fn run(&self, program: &Path, arguments: &[&str], language: &str) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).arg(example(language)).current_dir(self.directory.path());
        let url = url_of("engine", format!("127.0.0.1:{}", self.server.port()));
        command.env("REDIS_URL", url.trim_end_matches('/'));
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.expect("the thread").expect("the program can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
        output
    }

    async fn one_ticker(&self, price: &str) -> Vec<Message> {
        let ticker = topic("ticker:BTCUSDT");
        let arrived = self.follower.has_arrived(&ticker, 1).await;
        assert!(text(&arrived[0]).contains(price), "{}", text(&arrived[0]));
        // The gateway continues in the same epoch, without a hole.
        let published = self.backplane.publish(number(&ticker, &retain(1000), 1)).await.expect("accepted");
        assert_eq!(published.id, Some(ids(&arrived)[0].next()));
        arrived
    }

    /// A ticker, and an order that was published twice with the same `msg_id`.
    async fn ticker_and_one_order(&self, price: &str, order: &str) {
        self.one_ticker(price).await;
        let alice = Topic::user_stream(&UserId::new("alice").expect("a user"));
        self.backplane.publish(number(&alice, &retain(1000), 1)).await.expect("accepted");
        let arrived = self.follower.has_arrived(&alice, 2).await;
        assert_eq!((arrived.len(), arrived[0].channel.as_deref()), (2, Some("orders")));
        let known = format!("tg2:{{t:@@alice}}:i:orders:{order}");
        let left: u64 = self.server.run(&["PTTL", &known]).await;
        let wanted = ORDERS_KNOWN.as_millis();
        assert!((wanted / 2..=wanted).contains(&u128::from(left)), "as the rule of the user's stream says: {left} ms");
    }

    /// The topic rules, as engines find them.
    async fn rules(&self) -> String {
        self.server.run(&["HGET", "tg2:{gen}", "rules"]).await
    }

    async fn follow_examples(&self) {
        let alice = Topic::user_stream(&UserId::new("alice").expect("a user"));
        self.follower.begin(&self.backplane, &topic("ticker:BTCUSDT")).await;
        self.follower.begin(&self.backplane, &alice).await;
        acknowledging(&self.backplane).await;
    }
}

/// An interpreter that has the example's package, named in a variable.
fn interpreter(variable: &str, default: &str) -> std::path::PathBuf {
    std::env::var_os(variable).map_or_else(|| default.into(), Into::into)
}

#[tokio::test]
async fn the_redis_cli_example_publishes() {
    let stage = DocumentedServer::set().await;
    stage.follow_examples().await;
    stage.run(Path::new("sh"), &["-ec"], "sh").await;
    stage.one_ticker("50000.10").await;
}

#[tokio::test]
#[ignore = "needs the Python package redis (pip install redis); TICKGATE_TEST_PYTHON names the interpreter"]
async fn the_python_example_publishes() {
    let stage = DocumentedServer::set().await;
    stage.follow_examples().await;
    let output = stage.run(&interpreter("TICKGATE_TEST_PYTHON", "python3"), &["-c"], "python").await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.lines().nth(2).is_some_and(|line| line.contains("True")), "{said}");
    stage.ticker_and_one_order("50000.20", "order-7").await;
}

#[tokio::test]
#[ignore = "needs the Node package redis (npm install redis); NODE_PATH names its folder"]
async fn the_node_example_publishes() {
    let stage = DocumentedServer::set().await;
    stage.follow_examples().await;
    let output = stage.run(&interpreter("TICKGATE_TEST_NODE", "node"), &["-e"], "javascript").await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.lines().nth(2).is_some_and(|line| line.contains("duplicate: true")), "{said}");
    stage.ticker_and_one_order("50000.30", "order-8").await;
}

#[tokio::test]
async fn the_documented_rights_suffice_for_a_replica() {
    let stage = DocumentedServer::set().await;
    stage.follow_examples().await;
    let (orders, rule) = (topic("orders"), retain(100));
    stage.follower.begin(&stage.backplane, &orders).await;
    let first = stage.backplane.publish(number(&orders, &rule, 1)).await.expect("accepted").id.expect("an id");
    let page = async || {
        stage
            .backplane
            .read(&orders, StreamId::ZERO, tickgate::backplane::ReadLimits::new(10, usize::MAX))
            .await
            .expect("a page")
    };
    assert_eq!(page().await.messages.len(), 1);
    let connections = async || {
        let info: String = stage.server.run(&["INFO", "stats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.expect("a count").trim().parse::<u64>().expect("a number")
    };
    let before = connections().await;
    for _ in 0..10 {
        page().await;
        stage.backplane.heads(std::slice::from_ref(&orders)).await[0].as_ref().expect("a head");
    }
    assert_eq!(connections().await - before, 1, "the pool keeps its connections; one is the test's own");
    assert_eq!(stage.follower.has_arrived(&orders, 1).await[0].id, Some(first));
}

#[tokio::test]
async fn engines_find_the_rules_of_the_replica_that_started_last() {
    let stage = DocumentedServer::set().await;
    acknowledging(&stage.backplane).await;
    assert!(stage.rules().await.contains(r#""dedupe_ttl":1234}}"#), "{}", stage.rules().await);
    let tasks = Tasks::new();
    let url = url_of("tickgate", format!("127.0.0.1:{}", stage.server.port()));
    let link = RedisLink::start(&config::Redis { engines: true, ..redis_config(&url) }, &tasks, Metrics::new());
    let newer = replica(&link, Duration::from_secs(4_321), &tasks);
    acknowledging(&newer).await;
    let is_new = |rules: &str| rules.contains(r#""dedupe_ttl":4321}}"#);
    eventually("its rules are there", async || is_new(&stage.rules().await).then_some(())).await;
    // A replica that leaves, as in a rolling update, writes to the roster once more.
    stage.backplane.leave().await;
    assert!(is_new(&stage.rules().await), "{}", stage.rules().await);
}
