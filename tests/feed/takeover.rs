//! One publisher at a time (A10): the replica that publishes is killed, drained, or stopped and continued, and clients of
//! another replica miss nothing and get nothing twice.

use std::time::{Duration, Instant};

use crate::{
    audience::Audience,
    exchange::Exchange,
    nothing,
    stage::{SYMBOLS, either, settings, unless},
    support::{eventually, redis::RedisServer, replica::Replica},
};

/// From a kill to the next trade.
const TAKEOVER_MAX: Duration = Duration::from_secs(9);

/// Replicas that may publish the feed, and one that only serves clients.
struct Group {
    exchange: Exchange,
    redis: RedisServer,
    lines: String,
    replicas: Vec<Replica>,
    audience: Audience,
    /// Serves the audience.
    _viewer: Replica,
}

impl Group {
    async fn of(count: usize, defect: Option<&str>) -> Self {
        let (exchange, redis) = (Exchange::start(&[]), RedisServer::start());
        let lines = settings(&exchange, &format!("symbols = {SYMBOLS:?}"));
        let viewer = Replica::process(&redis, "").await;
        let audience = Audience::of(&viewer, SYMBOLS).await;
        let mut group = Self { exchange, redis, lines, replicas: Vec::new(), audience, _viewer: viewer };
        for _ in 0..count {
            group.join(defect).await;
        }
        group
    }

    async fn join(&mut self, defect: Option<&str>) {
        self.replicas.push(Replica::process_with(&self.redis, &self.lines, defect, &[]).await);
    }

    /// The place of the replica that publishes.
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

    async fn live(&mut self) -> Vec<String> {
        self.audience.until("data flows", 25, |seen| SYMBOLS.iter().all(|symbol| seen.is_live(symbol))).await
    }

    /// Waits for the next trade after a change of hands.
    async fn next_trade(&mut self, since: Instant, within: Duration) -> Vec<String> {
        // What was on its way comes first.
        self.audience.watch(1.0).await;
        let count = self.audience.count("BTCUSDT");
        let mut wrong = self.audience.until("more trades", 25, |seen| seen.count("BTCUSDT") > count).await;
        wrong.extend(unless(since.elapsed() <= within, format!("the next trade came after {:?}", since.elapsed())));
        self.audience.watch(2.0).await;
        wrong
    }
}

#[tokio::test]
async fn a10_another_replica_takes_over_from_one_that_is_killed() {
    let mut group = Group::of(3, None).await;
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

#[tokio::test]
async fn a10_another_replica_takes_over_at_once_from_one_that_is_drained() {
    let mut group = Group::of(2, None).await;
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

/// The replica that publishes is stopped for longer than its lease, and goes on: it must publish nothing more.
pub async fn stopped(defect: Option<&str>) -> Vec<String> {
    let mut group = Group::of(2, defect).await;
    let mut wrong = group.live().await;
    let holder = group.holder().await;
    group.replicas[holder].freeze();
    wrong.extend(group.next_trade(Instant::now(), TAKEOVER_MAX).await);
    group.audience.watch(either(0.5, 12.0)).await;
    group.replicas[holder].thaw();
    group.audience.watch(4.0).await;
    let other = group.replicas[1 - holder].metric("tickgate_feed_holder").await;
    let own = group.replicas[holder].metric("tickgate_feed_holder").await;
    wrong.extend(unless((other, own) == (1.0, 0.0), format!("the leases say {other} and {own}")));
    wrong.extend(group.audience.judged(&group.exchange).await);
    wrong
}

#[tokio::test]
async fn a10_a_replica_that_slept_through_its_lease_publishes_nothing() {
    nothing(stopped(None).await);
}
