//! The queue of publications. Trades of a symbol keep their order and are retried until they are stored; of tickers and
//! books only the newest waits. Nothing is published without the lease, and a publication is valid only in its turn.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};

use super::{super::lease::FeedLease, payload};
use crate::{
    backplane::{LeaseTurn, PublishRefusal},
    metrics::{Metrics, PublicationSource},
    publisher::{MsgName, PublishFailure, PublishRequest, Publisher, PublisherName},
};

/// Maximum number of concurrent publications of one symbol's trades.
const BATCH_MAX: usize = 64;
/// Maximum number of waiting trades of one symbol.
const QUEUE_MAX: usize = 10_000;
/// Maximum number of waiting trades of all symbols.
const WAITING_MAX: usize = 100_000;
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// The publisher identity of all replicas.
const FEED: &str = "binance";

/// A publication of a stream of trades: a trade, or a gap over a range of ids.
#[derive(Clone, Debug)]
struct TradeItem {
    msg_id: String,
    payload: Bytes,
}

#[derive(Debug, Default)]
struct Trades {
    queue: VecDeque<TradeItem>,
    under_way: bool,
    /// After a failure one at a time, to keep the order even if a later one fails.
    careful: bool,
    ready: Option<Instant>,
    /// Ids that did not fit.
    lost: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct QueuedValue {
    next: Option<Bytes>,
    under_way: bool,
    ready: Option<Instant>,
}

/// The result of a publication.
enum Done {
    /// How many of the symbol's first items are complete (stored, or permanently refused), and whether one failed.
    Trades {
        symbol: String,
        settled: usize,
        failed: bool,
    },
    Value {
        topic: String,
        payload: Bytes,
        failed: bool,
    },
}

/// Everything that waits.
pub(super) struct FeedQueue {
    door: FeedDoor,
    metrics: Arc<Metrics>,
    trades: HashMap<String, Trades>,
    values: HashMap<String, QueuedValue>,
    waiting: usize,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Symbols and topics that may have something to publish now; the next sweep finds those that failed.
    touched_trades: Vec<String>,
    touched_values: Vec<String>,
}

impl FeedQueue {
    pub(super) fn new(publisher: Publisher, held: FeedLease, metrics: Arc<Metrics>) -> Self {
        Self {
            door: FeedDoor { publisher, held, turn: None },
            metrics,
            trades: HashMap::new(),
            values: HashMap::new(),
            waiting: 0,
            under_way: FuturesUnordered::new(),
            touched_trades: Vec::new(),
            touched_values: Vec::new(),
        }
    }

    /// Queues a trade. One that does not fit is reported as missing.
    pub(super) fn trade(&mut self, symbol: &str, id: u64, payload: Bytes) {
        self.push(symbol, (id, id), TradeItem { msg_id: format!("a{id}"), payload });
    }

    /// Queues the report of a gap, inclusive.
    pub(super) fn gap(&mut self, symbol: &str, from: u64, to: u64) {
        self.count_gap(symbol, from, to);
        self.push(symbol, (from, to), gap(symbol, from, to));
    }

    fn push(&mut self, symbol: &str, (from, to): (u64, u64), item: TradeItem) {
        let is_full = self.waiting >= WAITING_MAX;
        let lane = self.trades.entry(symbol.to_owned()).or_default();
        if is_full || lane.queue.len() >= QUEUE_MAX {
            lane.lost = Some(lane.lost.map_or((from, to), |(first, _)| (first, to)));
            return;
        }
        let lost = lane.lost.take();
        if let Some((from, to)) = lost {
            lane.queue.push_back(gap(symbol, from, to));
            self.waiting += 1;
        }
        lane.queue.push_back(item);
        self.waiting += 1;
        if !lane.under_way && lane.ready.is_none() {
            self.touched_trades.push(symbol.to_owned());
        }
        if let Some((from, to)) = lost {
            self.count_gap(symbol, from, to);
        }
    }

    fn count_gap(&self, symbol: &str, from: u64, to: u64) {
        tracing::warn!(symbol, from, to, "trades are missing");
        self.metrics.feed_gaps_total.inc();
        self.metrics.feed_missing_trades_total.inc_by(to - from + 1);
    }

    /// Replaces the waiting value of a topic of which only the newest value matters.
    pub(super) fn value(&mut self, topic: &str, payload: Bytes) {
        let value = self.values.entry(topic.to_owned()).or_default();
        value.next = Some(payload);
        if !value.under_way && value.ready.is_none() {
            self.touched_values.push(topic.to_owned());
        }
    }

    /// Makes the next [`FeedQueue::hand_over`] check everything, because failed publications may be retried.
    pub(super) fn sweep(&mut self) {
        self.touched_trades = self.trades.keys().cloned().collect();
        self.touched_values = self.values.keys().cloned().collect();
    }

    /// Publishes what may be published in this turn. Call it only with the lease.
    pub(super) fn hand_over(&mut self, now: Instant, turn: Option<LeaseTurn>) {
        self.door.turn = turn;
        let is_ready = |ready: Option<Instant>| ready.is_none_or(|ready| ready <= now);
        for symbol in std::mem::take(&mut self.touched_trades) {
            let Some(lane) = self.trades.get_mut(&symbol) else { continue };
            if !lane.under_way && !lane.queue.is_empty() && is_ready(lane.ready) {
                lane.under_way = true;
                let count = if lane.careful { 1 } else { BATCH_MAX };
                let items: Vec<_> = lane.queue.iter().take(count).cloned().collect();
                self.under_way.push(Box::pin(publish_trades(self.door.clone(), symbol, items)));
            }
        }
        for topic in std::mem::take(&mut self.touched_values) {
            let Some(value) = self.values.get_mut(&topic) else { continue };
            if !value.under_way
                && is_ready(value.ready)
                && let Some(payload) = value.next.take()
            {
                value.under_way = true;
                self.under_way.push(Box::pin(publish_value(self.door.clone(), topic, payload)));
            }
        }
    }

    /// Waits for the next result and handles it. Pending while nothing is in progress.
    pub(super) async fn settled(&mut self) {
        match self.under_way.next().await {
            Some(done) => self.take(done, Instant::now()),
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, done: Done, now: Instant) {
        match done {
            Done::Trades { symbol, settled, failed } => {
                let Some(lane) = self.trades.get_mut(&symbol) else { return };
                lane.queue.drain(..settled);
                self.waiting -= settled;
                (lane.under_way, lane.careful) = (false, failed);
                lane.ready = failed.then(|| now + RETRY_INTERVAL);
                if lane.queue.is_empty() {
                    let Some((from, to)) = lane.lost.take() else {
                        self.trades.remove(&symbol);
                        return;
                    };
                    lane.queue.push_back(gap(&symbol, from, to));
                    self.waiting += 1;
                    self.count_gap(&symbol, from, to);
                }
                if !failed {
                    self.touched_trades.push(symbol);
                }
            }
            Done::Value { topic, payload, failed } => {
                let Some(value) = self.values.get_mut(&topic) else { return };
                (value.under_way, value.ready) = (false, failed.then(|| now + RETRY_INTERVAL));
                if failed {
                    value.next.get_or_insert(payload);
                } else if value.next.is_some() {
                    self.touched_values.push(topic);
                } else {
                    self.values.remove(&topic);
                }
            }
        }
    }
}

/// The report of a gap, inclusive.
fn gap(symbol: &str, from: u64, to: u64) -> TradeItem {
    TradeItem { msg_id: format!("g{from}-{to}"), payload: payload::gap(symbol, from, to) }
}

async fn publish_trades(door: FeedDoor, symbol: String, items: Vec<TradeItem>) -> Done {
    let topic = format!("trades:{symbol}");
    let all: Vec<_> = items.into_iter().map(|item| door.publish(&topic, Some(&item.msg_id), item.payload)).collect();
    let results = join_all(all).await;
    let settled = results.iter().take_while(|failed| !**failed).count();
    let failed = settled < results.len();
    Done::Trades { symbol, settled, failed }
}

async fn publish_value(door: FeedDoor, topic: String, payload: Bytes) -> Done {
    let failed = door.publish(&topic, None, payload.clone()).await;
    Done::Value { topic, payload, failed }
}

/// Publishes for the feed. Cheap to clone.
#[derive(Clone)]
struct FeedDoor {
    publisher: Publisher,
    held: FeedLease,
    turn: Option<LeaseTurn>,
}

impl FeedDoor {
    /// Publishes; true if it should be retried. An invalid publication is not retried.
    fn publish(
        &self,
        channel: &str,
        msg_id: Option<&str>,
        payload: Bytes,
    ) -> impl Future<Output = bool> + Send + use<> {
        // The exchange's id identifies the trade: one that was fetched later has a different payload.
        let name = |msg_id| MsgName { content: Some(b""), ..MsgName::new(msg_id, PublisherName::Feed(FEED)) };
        let request =
            PublishRequest { channel, user: None, payload, msg: msg_id.map(name), door: PublicationSource::Feed };
        let answer = self.publisher.publish_in_turn(request, self.turn);
        let held = self.held.clone();
        async move {
            match answer.await {
                Ok(_) => false,
                Err(
                    error @ (PublishFailure::Invalid(_) | PublishFailure::TooLarge { .. } | PublishFailure::Reused),
                ) => {
                    tracing::error!(%error, "the feed's own message was refused");
                    false
                }
                Err(PublishFailure::Refused(PublishRefusal::Superseded { by })) => {
                    held.superseded(by);
                    true
                }
                Err(PublishFailure::Refused(_) | PublishFailure::Unknown(_)) => true,
            }
        }
    }
}
