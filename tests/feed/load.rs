//! The load test: many symbols, through Redis, to many subscribers. No subscriber misses a trade, memory is bounded,
//! and the processor time of the feed is printed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::json;
use tickgate_wire::time::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    audience::{FeedClient, channels_of},
    exchange::ExchangeProcess,
    nothing,
    stage::{MANY_CLIENTS, either, settings, unless},
    support::{
        redis::RedisServer,
        replica::TestReplica,
        wire::{PING, PONG, RawConnection, ServerEvent, TEXT, frame},
    },
};

/// Maximum delay from the exchange's own time of a trade to its arrival at a subscriber, in milliseconds.
const LATE_MAX_MS: u64 = 3_000;
/// A step of the simulator's market, in milliseconds.
const STEP_MS: u64 = 100;
/// Maximum growth of one replica's memory during the load, in bytes.
const GROWTH_MAX: f64 = 200e6;

pub async fn many_symbols_reach_many_subscribers() {
    let (count, listeners, seconds) = either((30, 30, 5), (300, 1_000, 60));
    // A symbol has a ticker, 1.8 trades and almost 5 books per second.
    let (symbols, least) = ((count + 8).to_string(), either(100.0, 2_000.0));
    let exchange = ExchangeProcess::start(&["--symbols", &symbols, "--rate", "1.8"]);
    let redis = RedisServer::start();
    let names: Vec<_> = (8..8 + count).map(|number| format!("SIM{number}USDT")).collect();
    let lines = settings(&exchange, &format!("symbols = {names:?}\nsymbols_max = {count}\nstale_after = \"5s\""));
    // One replica publishes, another one serves the subscribers.
    let feeding = TestReplica::process(&redis, &lines).await;
    let serving = TestReplica::process(&redis, MANY_CLIENTS).await;
    let mut audience = FeedClient::of(&serving, &[&names[0], &names[1]]).await;
    let is_live = |seen: &FeedClient| seen.state() == "live" && seen.named("symbols_stale").is_empty();
    let mut wrong = audience.until("every symbol is live", 60, is_live).await;

    let mut others = Subscribers::of(&serving, &names, listeners).await;
    let before = [ReplicaLoad::of(&feeding).await, ReplicaLoad::of(&serving).await];
    let (frames, began) = (feeding.metric("tickgate_feed_frames_total").await, Instant::now());
    audience.watch(f64::from(seconds)).await;
    let rate = (feeding.metric("tickgate_feed_frames_total").await - frames) / began.elapsed().as_secs_f64();
    let after = [ReplicaLoad::of(&feeding).await, ReplicaLoad::of(&serving).await];
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{rate:.0} frames a second; load of the machine: {}", load.trim());
    for (name, (before, after)) in ["feed", "subscribers"].iter().zip(before.iter().zip(&after)) {
        println!("replica of the {name}: {}", after.since(before, began.elapsed()));
        let growth = after.memory - before.memory;
        wrong.extend(unless(growth < GROWTH_MAX, format!("the replica of the {name} grew by {growth} bytes")));
    }
    wrong.extend(unless(rate >= least, format!("only {rate:.0} frames a second")));
    let dropped = feeding.metric("tickgate_feed_frames_dropped_total").await;
    let missing = feeding.metric("tickgate_feed_missing_trades_total").await;
    wrong.extend(unless(dropped == 0.0, format!("{dropped} frames were dropped")));
    wrong.extend(unless(missing == 0.0, format!("{missing} trades are missing")));
    wrong.extend(others.judged(&exchange, seconds).await);
    wrong.extend(audience.judged(&exchange).await);
    wrong.extend(exchange.violations().await);
    nothing(wrong);
}

/// The resource usage of a replica.
struct ReplicaLoad {
    cpu_seconds: f64,
    memory: f64,
}

impl ReplicaLoad {
    async fn of(replica: &TestReplica) -> Self {
        Self {
            cpu_seconds: replica.metric("process_cpu_seconds_total").await,
            memory: replica.metric("process_resident_memory_bytes").await,
        }
    }

    fn since(&self, before: &Self, time: Duration) -> String {
        let cores = (self.cpu_seconds - before.cpu_seconds) / time.as_secs_f64();
        let (from, to) = (before.memory / 1e6, self.memory / 1e6);
        format!("{cores:.3} cores, {from:.1} MB at the start, {to:.1} MB at the end")
    }
}

/// Clients that follow one symbol each.
struct Subscribers {
    tasks: JoinSet<ReceivedFeed>,
    stop: watch::Sender<bool>,
}

/// What one of them received.
#[derive(Default)]
struct ReceivedFeed {
    symbol: String,
    first: Option<u64>,
    next: u64,
    tickers: u32,
    books: u32,
    /// Time from the exchange's timestamp of a ticker to its arrival, in milliseconds.
    delays: Vec<u64>,
    wrong: Vec<String>,
}

#[derive(Deserialize)]
struct FeedMessage {
    #[serde(rename = "type")]
    kind: String,
    trade_id: Option<u64>,
    timestamp: Option<Timestamp>,
}

impl Subscribers {
    /// Connects them, and waits until all are subscribed.
    async fn of(replica: &TestReplica, names: &[String], count: usize) -> Self {
        let (stop, mut tasks) = (watch::Sender::new(false), JoinSet::new());
        let (ready, mut subscribed) = mpsc::channel(count);
        for number in 0..count {
            let symbol = names[number % names.len()].clone();
            tasks.spawn(receive(replica.address(), symbol, ready.clone(), stop.subscribe()));
        }
        for _ in 0..count {
            subscribed.recv().await.unwrap();
        }
        Self { tasks, stop }
    }

    /// The errors in what they received in this many seconds.
    async fn judged(&mut self, exchange: &ExchangeProcess, seconds: u32) -> Vec<String> {
        let ended = now_ms();
        self.stop.send_replace(true);
        let (mut wrong, mut delays, mut trades) = (Vec::new(), Vec::new(), 0);
        let mut due_of = BTreeMap::new();
        while let Some(received) = self.tasks.join_next().await {
            let received = received.unwrap();
            let symbol = &received.symbol;
            let (first, next) = (received.first.unwrap_or(0), received.next);
            if !due_of.contains_key(symbol) {
                due_of.insert(symbol.clone(), last_trade(exchange, symbol, ended - LATE_MAX_MS).await);
            }
            let due = due_of[symbol];
            wrong.extend(received.wrong);
            wrong.extend(unless(next > due, format!("{symbol}: trade {due} did not arrive, the last one is {next}")));
            let (tickers, books) = (received.tickers, received.books);
            let is_enough = tickers + 3 >= seconds && books >= seconds;
            wrong.extend(unless(is_enough, format!("{symbol}: {tickers} tickers and {books} books")));
            trades += next - first;
            delays.extend(received.delays);
        }
        delays.sort_unstable();
        let at = |percent: usize| delays.get(delays.len() * percent / 100).copied().unwrap_or(0);
        println!(
            "subscribers received {trades} trades; tickers after {} ms (p50), {} ms (p99), {} ms at most",
            at(50),
            at(99),
            delays.last().copied().unwrap_or(0)
        );
        wrong.truncate(20);
        wrong
    }
}

/// The id of the last trade of a symbol up to a time.
async fn last_trade(exchange: &ExchangeProcess, symbol: &str, until_ms: u64) -> u64 {
    let truth = exchange.get(&format!("/sim/truth/trades?symbol={symbol}")).await;
    let trades = truth.as_array().unwrap().iter().rev();
    let last = trades.map(|trade| [&trade["T"], &trade["a"]].map(|field| field.as_u64().unwrap()));
    last.into_iter().find(|[time, _]| *time <= until_ms).map_or(0, |[_, id]| id)
}

async fn receive(
    address: SocketAddr,
    symbol: String,
    ready: mpsc::Sender<()>,
    mut stop: watch::Receiver<bool>,
) -> ReceivedFeed {
    let mut received = ReceivedFeed { symbol, ..ReceivedFeed::default() };
    let mut wire = RawConnection::upgraded(address, "/ws/market").await;
    let subscribe = json!({"type": "subscribe", "channels": channels_of(&received.symbol)}).to_string();
    wire.send(&frame(TEXT, subscribe.as_bytes())).await;
    loop {
        let heard = tokio::select! {
            heard = wire.hear() => heard,
            _ = stop.changed() => return received,
        };
        match heard {
            ServerEvent::Frame(TEXT, text) => {
                if received.take(&text) {
                    ready.send(()).await.unwrap();
                }
            }
            ServerEvent::Frame(PING, payload) => wire.send(&frame(PONG, &payload)).await,
            other => {
                received.wrong.push(format!("{}: a subscriber lost its connection: {other:?}", received.symbol));
                return received;
            }
        }
    }
}

impl ReceivedFeed {
    /// Handles a message; true if it is the reply to the subscription.
    fn take(&mut self, text: &[u8]) -> bool {
        // Most are books, which `FeedClient` compares with the truth.
        if text.starts_with(br#"{"type":"orderbook""#) {
            self.books += 1;
            return false;
        }
        let message: FeedMessage = serde_json::from_slice(text).unwrap();
        match &*message.kind {
            "subscribed" => return true,
            "trade" => {
                let id = message.trade_id.unwrap();
                if self.first.is_some() && id != self.next {
                    self.wrong.push(format!(
                        "{}: trade {} is followed by {id}",
                        self.symbol,
                        self.next.wrapping_sub(1)
                    ));
                }
                self.first.get_or_insert(id);
                self.next = id + 1;
            }
            "ticker" => {
                self.tickers += 1;
                let sent = message.timestamp.map_or(0, Timestamp::ms);
                // The value from before the subscription may be older. The simulator's time is that of the end of its
                // step.
                if self.tickers > 1 {
                    self.delays.push((now_ms() + STEP_MS).saturating_sub(sent));
                }
            }
            "trades_gap" | "gap" | "error" => {
                self.wrong.push(format!("{}: {}", self.symbol, String::from_utf8_lossy(text)));
            }
            _ => {}
        }
        false
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
