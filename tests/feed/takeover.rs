//! One publisher at a time (A10): the publishing replica is killed, drained, suspended and resumed, or disconnected
//! from Redis; clients of another replica miss nothing and receive nothing twice.

use std::time::{Duration, Instant};

use crate::{
    audience::FeedClient,
    exchange::ExchangeProcess,
    nothing,
    stage::{SYMBOLS, either, settings, unless},
    support::{
        eventually,
        proxy::{Proxy, Weather},
        redis::RedisServer,
        replica::TestReplica,
    },
};

/// Maximum time from a kill to the next trade.
const TAKEOVER_MAX: Duration = Duration::from_secs(9);

/// Replicas that may publish the feed, and one that only serves clients.
struct FeedReplicas {
    exchange: ExchangeProcess,
    redis: RedisServer,
    lines: String,
    replicas: Vec<TestReplica>,
    audience: FeedClient,
    /// Serves the audience.
    _viewer: TestReplica,
}

impl FeedReplicas {
    async fn empty() -> Self {
        let (exchange, redis) = (ExchangeProcess::start(&[]), RedisServer::start());
        let lines = settings(&exchange, &format!("symbols = {SYMBOLS:?}"));
        let viewer = TestReplica::process(&redis, "").await;
        let audience = FeedClient::of(&viewer, SYMBOLS).await;
        Self { exchange, redis, lines, replicas: Vec::new(), audience, _viewer: viewer }
    }

    async fn of(count: usize, defect: Option<&str>) -> Self {
        let mut group = Self::empty().await;
        for _ in 0..count {
            group.join(defect).await;
        }
        group
    }

    async fn join(&mut self, defect: Option<&str>) {
        self.replicas.push(TestReplica::process_with(&self.redis, &self.lines, defect, &[]).await);
    }

    /// The index of the publishing replica.
    async fn holder(&self) -> usize {
        eventually("a replica that publishes", async || {
            for (place, replica) in self.replicas.iter().enumerate() {
                if replica.metric("tickgate_feed_holder").await == 1.0 {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// Only the replica with this index publishes.
    async fn holds(&self, place: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        for (at, replica) in self.replicas.iter().enumerate() {
            let holder = replica.metric("tickgate_feed_holder").await;
            let is_right = (holder == 1.0) == (at == place);
            wrong.extend(unless(is_right, format!("tickgate_feed_holder is {holder} on replica {at}")));
        }
        wrong
    }

    async fn live(&mut self) -> Vec<String> {
        self.audience.until("data flows", 25, |seen| SYMBOLS.iter().all(|symbol| seen.is_live(symbol))).await
    }

    /// Waits for the next trade after the publisher changes.
    async fn next_trade(&mut self, since: Instant, within: Duration) -> Vec<String> {
        // Trades in flight come first.
        self.audience.watch(1.0).await;
        let count = self.audience.count("BTCUSDT");
        let mut wrong = self.audience.until("more trades", 25, |seen| seen.count("BTCUSDT") > count).await;
        wrong.extend(unless(since.elapsed() <= within, format!("the next trade came after {:?}", since.elapsed())));
        self.audience.watch(2.0).await;
        wrong
    }
}

pub async fn a10_another_replica_takes_over_from_a_killed_one() {
    let mut group = FeedReplicas::of(3, None).await;
    let mut wrong = group.live().await;
    for _ in 0..either(2, 20) {
        let holder = group.holder().await;
        group.replicas.remove(holder).kill();
        wrong.extend(group.next_trade(Instant::now(), TAKEOVER_MAX).await);
        group.join(None).await;
    }
    wrong.extend(group.audience.judged(&group.exchange).await);
    wrong.extend(unless(group.audience.gaps("BTCUSDT").is_empty(), "a gap was reported"));
    wrong.extend(group.exchange.violations().await);
    nothing(wrong);
}

pub async fn a10_another_replica_takes_over_from_a_drained_one() {
    let mut group = FeedReplicas::of(2, None).await;
    let mut wrong = group.live().await;
    let holder = group.holder().await;
    let mut leaving = group.replicas.remove(holder);
    leaving.drain();
    leaving.ended().await;
    wrong.extend(group.next_trade(Instant::now(), Duration::from_secs(4)).await);
    wrong.extend(group.audience.judged(&group.exchange).await);
    wrong.extend(group.exchange.violations().await);
    nothing(wrong);
}

/// The publishing replica is suspended for longer than its lease, then resumed: it must not publish anything more.
pub async fn stopped(defect: Option<&str>) -> Vec<String> {
    let mut group = FeedReplicas::of(2, defect).await;
    let mut wrong = group.live().await;
    let holder = group.holder().await;
    group.replicas[holder].freeze();
    wrong.extend(group.next_trade(Instant::now(), TAKEOVER_MAX).await);
    group.audience.watch(either(0.5, 12.0)).await;
    group.replicas[holder].thaw();
    group.audience.watch(4.0).await;
    wrong.extend(group.holds(1 - holder).await);
    wrong.extend(group.audience.judged(&group.exchange).await);
    wrong
}

pub async fn a10_a_replica_that_slept_through_its_lease_publishes_nothing() {
    nothing(stopped(None).await);
}

/// The publishing replica is disconnected from Redis but not from the exchange, and its connections to Redis return
/// with the data in flight.
pub async fn a10_a_replica_cut_off_from_redis_stops_with_its_lease() {
    let mut group = FeedReplicas::empty().await;
    let proxy = Proxy::start(group.redis.port()).await;
    group.replicas.push(TestReplica::unready_process(&proxy.url(), &group.lines).await);
    assert_eq!(group.holder().await, 0);
    group.join(None).await;
    let mut wrong = group.live().await;
    proxy.set(Weather::BlackHole);
    wrong.extend(group.next_trade(Instant::now(), TAKEOVER_MAX).await);
    wrong.extend(group.holds(1).await);
    group.audience.watch(either(1.0, 20.0)).await;
    proxy.set(Weather::CLEAR);
    group.audience.watch(4.0).await;
    wrong.extend(group.holds(1).await);
    wrong.extend(group.audience.judged_trades(&group.exchange, true).await);
    wrong.extend(unless(group.audience.gaps("BTCUSDT").is_empty(), "a gap was reported"));
    // What was sent before the lease ended, and arrived late, was not stored.
    for symbol in SYMBOLS {
        let back = group.audience.books_back(symbol);
        wrong.extend(unless(back == 0, format!("{symbol}: {back} books older than the one before")));
    }
    wrong.extend(group.exchange.violations().await);
    nothing(wrong);
}
