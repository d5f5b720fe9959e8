//! One small scenario for each safeguard, and the proof that it fails without the safeguard: a suite that cannot fail
//! proves nothing.
//!
//! `cargo test --test chaos -- --ignored` runs them, as does the whole gate; the replicas' deliberate defects exist
//! only with the feature `simulation`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::Class;
use tokio::{sync::watch, time::sleep};

use crate::{
    cast::{self, Casting},
    dice::Dice,
    faults::roll_back,
    follower::ClientOrder,
    record::{HeardEvent, SharedDiary, TestedChannel},
    redis_line::{say, told},
    sight::{connected, counts_are},
    stage::ChaosStage,
    standby::Standby,
    support::proxy::Weather,
};

/// Maximum time until every client has everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// One client that subscribes to one reliable topic on one replica.
struct ReliableClient {
    stage: Arc<ChaosStage>,
    channel: TestedChannel,
    diary: SharedDiary,
    orders: watch::Sender<ClientOrder>,
    dice: Dice,
}

impl ReliableClient {
    /// Quiet topics are not compared, so that this alone cannot heal a loss.
    async fn set(defect: Option<&str>) -> Self {
        let stage = ChaosStage::set(cast::durable(), defect, &[("TICKGATE__REDIS__COMPARE_INTERVAL", "10m")]).await;
        let (mut dice, channel) = (Dice::new(1), TestedChannel::public("position_update", Class::Reliable));
        let (diary, orders) = stage.seat(Casting { only: Some(0), ..casting(&channel, "listener") }, &mut dice);
        connected(&stage).await;
        let mut scene = Self { stage, channel, diary, orders, dice };
        scene.publish(10).await;
        scene.arrived().await.expect("the first publications");
        scene
    }

    /// Publishes on the replicas that are not manipulated.
    async fn publish(&mut self, count: usize) {
        let untouched = self.stage.operations.read()[1..].to_vec();
        for _ in 0..count {
            self.stage.traffic.publish_by(&untouched, &self.channel, 100, &mut self.dice).await;
        }
    }

    /// Publishes on the replica that may be manipulated.
    async fn publish_here(&mut self, count: usize) {
        let own = self.stage.operations.read()[..1].to_vec();
        for _ in 0..count {
            self.stage.traffic.publish_by(&own, &self.channel, 100, &mut self.dice).await;
        }
    }

    async fn arrived(&self) -> Result<Instant, String> {
        self.stage.converged(Instant::now() - Duration::from_secs(600), PATIENCE).await
    }

    /// The violations at the end.
    async fn judged(&self) -> Vec<String> {
        let mut wrong: Vec<_> = self.arrived().await.err().into_iter().collect();
        // Losses may still be about to be reported.
        let deadline = Instant::now() + Duration::from_secs(5);
        while wrong.is_empty() && !self.stage.judge().is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(100)).await;
        }
        wrong.extend(self.stage.judge());
        wrong
    }
}

fn casting<'a>(channel: &TestedChannel, name: &'a str) -> Casting<'a> {
    Casting::usual(name, "user0", vec![channel.clone()])
}

/// The link for messages becomes deaf without an error: the canary must detect it.
async fn deaf_link(defect: Option<&str>) -> Vec<String> {
    let mut scene = ReliableClient::set(defect).await;
    scene.stage.places[0].to_redis.change_old(Weather::Deaf);
    scene.publish(10).await;
    scene.judged().await
}

/// Messages are published while the link is down, and none afterwards: the position must be compared.
async fn cut_link(defect: Option<&str>) -> Vec<String> {
    let mut scene = ReliableClient::set(defect).await;
    scene.stage.places[0].to_redis.set(Weather::Refuse);
    scene.publish(10).await;
    scene.stage.places[0].to_redis.set(Weather::CLEAR);
    scene.judged().await
}

/// The server returns with older data: the replica that had acknowledged the lost publications must report them to a
/// client that was away.
async fn rolled_back(defect: Option<&str>) -> Vec<String> {
    let mut scene = ReliableClient::set(defect).await;
    let stage = Arc::clone(&scene.stage);
    {
        let mut redis = stage.redis.lock().await;
        say(redis.port(), "SAVE").await;
        scene.orders.send_replace(ClientOrder::StayAway(stage.next_order(), Duration::from_secs(60)));
        scene.publish_here(20).await;
        roll_back(&mut redis).await;
    }
    // Longer than a replica keeps a topic without subscribers: its messages in memory are lost too.
    sleep(Duration::from_millis(2_500)).await;
    scene.publish(30).await;
    scene.orders.send_replace(ClientOrder::Live);
    scene.judged().await
}

/// The client has more than the server that takes over: its cursor is ahead of the stream, and must not hide what is
/// published from then on. It has everything that was lost, so no report is required.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ahead_of_a_failover_misses_nothing() {
    let mut scene = ReliableClient::set(None).await;
    let stage = Arc::clone(&scene.stage);
    {
        let mut redis = stage.redis.lock().await;
        let standby = Standby::of(&redis).await;
        standby.fall_behind();
        scene.publish(20).await;
        scene.arrived().await.expect("the publications that will be lost");
        scene.orders.send_replace(ClientOrder::StayAway(stage.next_order(), Duration::from_secs(60)));
        standby.take_over_from_the_dead(&stage, &mut redis).await;
    }
    scene.publish(30).await;
    scene.orders.send_replace(ClientOrder::Live);
    assert_eq!(scene.judged().await, Vec::<String>::new());
    let diary = scene.diary.lock();
    let heard: Vec<_> = diary.streams[&scene.channel.stream].iter().map(|(_, heard)| heard).collect();
    let all = heard.iter().filter(|heard| matches!(heard, HeardEvent::Push { .. })).count();
    assert_eq!(all, 10 + 20 + 30, "what the client had is not revoked, and nothing later is missing: {heard:?}");
}

/// A client resumes with its cursor: history and live messages must join without a repetition.
async fn joined(defect: Option<&str>) -> Vec<String> {
    let mut scene = ReliableClient::set(defect).await;
    let number = scene.stage.next_order();
    scene.orders.send_replace(ClientOrder::StayAway(number, Duration::from_millis(300)));
    scene.publish(10).await;
    sleep(Duration::from_millis(400)).await;
    scene.publish(5).await;
    assert!(scene.diary.lock().connections > 0);
    scene.judged().await
}

/// Waits until this many connections are in the indexes that a sweep uses. Only those need it: connections admitted
/// within the last milliseconds have short leases.
async fn indexed(stage: &ChaosStage, connections: usize) {
    let port = stage.redis.lock().await.port();
    let count = "EVAL \"local n = 0 for _, key in ipairs(redis.call('KEYS', '*{r:*}:x')) do \
                 n = n + redis.call('HLEN', key) end return n\" 0";
    told(port, count, |said| said.trim() == format!(":{connections}")).await;
}

/// A replica is killed while a user has the maximum number of connections on it: their places must be released in time.
async fn slots_freed(defect: Option<&str>) -> Vec<String> {
    let stage = ChaosStage::set(cast::durable(), defect, &[("TICKGATE__LIMITS__CONNECTIONS_PER_USER_MAX", "3")]).await;
    let (mut dice, channel) = (Dice::new(1), TestedChannel::public("position_update", Class::Reliable));
    let mut seats = Vec::new();
    for name in ["one", "two", "three"] {
        seats.push(stage.seat(Casting { prefers: Some(0), ..casting(&channel, name) }, &mut dice));
    }
    connected(&stage).await;
    if defect.is_some() {
        indexed(&stage, seats.len()).await;
    }
    stage.places[0].process.lock().await.kill();
    let killed = Instant::now();
    sleep(Duration::from_millis(300)).await;
    let back = || seats.iter().all(|(diary, _)| diary.lock().connected);
    while !back() && killed.elapsed() < Duration::from_secs(20) {
        sleep(Duration::from_millis(50)).await;
    }
    if !back() {
        return vec!["slots are still taken by a replica that is gone".into()];
    }
    counts_are(&stage, seats.len(), PATIENCE).await.err().into_iter().collect()
}

macro_rules! shown {
    ($($name:ident without $defect:literal;)+) => {
        /// Each scenario passes, and detects its defect.
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        #[ignore = "takes a minute, and tests the suite rather than the gateway: cargo test --test chaos -- --ignored"]
        async fn the_suite_can_fail() {
            $(
                let wrong = $name(None).await;
                assert!(wrong.is_empty(), "{}: {wrong:#?}", stringify!($name));
                let wrong = $name(Some($defect)).await;
                assert!(!wrong.is_empty(), "{} does not notice {}", stringify!($name), $defect);
                eprintln!("{:<12} without {:<16} {}", stringify!($name), $defect, wrong[0]);
            )+
        }
    };
}

shown! {
    deaf_link without "NoCanary";
    cut_link without "NoCompare";
    rolled_back without "NoReport";
    joined without "NoRepeatFilter";
    joined without "NoReplayIds";
    slots_freed without "NoSweep";
}
