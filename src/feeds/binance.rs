//! The spot market of Binance: live tickers, trades and order books of every followed symbol, published by one replica
//! at a time.
//!
//! `frame`, `payload`, `value`, `tape`, `market`, `control`, `ladder`, `budget`, `listing`, `demand` and `status`
//! decide without I/O and take the time as an argument; `socket`, `connections`, `rest`, `recording`, `lookups`,
//! `outgoing`, `following` and `holder` do the I/O around them. Subscribing never depends on the feed: a symbol that
//! the exchange does not have simply has no value.

mod budget;
mod connections;
mod control;
mod decimal;
mod demand;
mod following;
mod frame;
mod holder;
mod ladder;
mod listing;
mod lookups;
mod market;
mod outgoing;
mod payload;
mod recording;
mod rest;
mod socket;
mod status;
mod tape;
pub mod text;
mod value;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::check_name;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

pub use self::recording::open as open_recording;
use self::{
    budget::WeightBudget,
    holder::{Holder, TICK},
    ladder::Ladder,
    recording::Recording,
};
use super::{
    FeedContext,
    lease::{self, FeedLease},
};
use crate::{
    backplane::Backplane,
    config,
    defect::{self, Defect},
    metrics::{FeedState, Metrics},
    publisher::Publisher,
    tasks::{Stop, Tasks},
};

const NAME: &str = "feed:binance";
/// How often a replica writes the symbols that its clients follow, and how long an entry is valid.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
const REQUEST_TTL: Duration = Duration::from_secs(5);
/// Maximum number of symbols that one replica requests.
const REQUESTED_MAX: usize = 2_000;
/// Maximum length of a requested symbol, in bytes.
const SYMBOL_LEN_MAX: usize = 64;

/// State shared by all parts of the feed. Cheap to clone.
#[derive(Clone)]
struct FeedShared {
    config: Arc<config::Binance>,
    publisher: Publisher,
    backplane: Backplane,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    held: FeedLease,
    recording: Option<Recording>,
    /// The symbols that clients of any replica follow.
    requested: watch::Receiver<BTreeSet<String>>,
    /// Symbols that another feed publishes.
    others: Arc<BTreeSet<String>>,
}

/// Waits that the exchange demanded of this process: they outlive a lease.
#[derive(Debug, Default)]
struct Manners {
    ladder: Ladder,
    budget: WeightBudget,
}

/// Starts the feed: its lease, its demand, and publishing on the replica that holds the lease.
pub(super) fn start(
    config: &config::Binance,
    others: &[String],
    recording: Option<File>,
    sources: &FeedContext,
    tasks: &Tasks,
) {
    sources.metrics.feed_enabled.set(1);
    let held = lease::start(sources.registry.clone(), NAME, tasks);
    let (sender, requested) = watch::channel(BTreeSet::new());
    let shared = FeedShared {
        config: Arc::new(config.clone()),
        publisher: sources.publisher.clone(),
        backplane: sources.backplane.clone(),
        metrics: sources.metrics.clone(),
        tasks: tasks.clone(),
        held,
        recording: recording.map(|file| Recording::start(file, sources.metrics.clone(), tasks)),
        requested,
        others: Arc::new(others.iter().cloned().collect()),
    };
    if config.on_demand {
        let exchange = exchange_requests(sources.clone(), shared.held.clone(), sender, tasks.stop());
        tasks.spawn("feed demand", exchange);
    }
    tasks.spawn("feed", run(shared, tasks.stop()));
}

/// Publishes while the lease is held. Each turn starts with empty state: another replica may have published in between.
async fn run(shared: FeedShared, mut stop: Stop) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut holder, mut manners): (Option<Holder>, _) = (None, Manners::default());
    while !stop.stopping() {
        let now = Instant::now();
        let is_held = shared.held.turn(now).is_some() || (holder.is_some() && defect::is(Defect::FeedWithoutLease));
        shared.metrics.feed_holder.set(i64::from(is_held));
        if !is_held {
            if let Some(holder) = holder.take() {
                tracing::info!("this replica stopped publishing the feed");
                manners = holder.into_manners();
                FeedState::ALL.iter().for_each(|state| shared.metrics.feed_status.of(*state).set(0));
            }
            tokio::select! {
                () = stop.wait() => return,
                _ = ticks.tick() => {}
            }
            continue;
        }
        let holder = holder.get_or_insert_with(|| Holder::new(shared.clone(), std::mem::take(&mut manners), now));
        let tick = async {
            ticks.tick().await;
        };
        tokio::select! {
            () = stop.wait() => return,
            () = holder.step(tick) => {}
        }
    }
}

/// Writes the symbols that this replica's clients follow for all replicas, and reads the union while this one
/// publishes.
async fn exchange_requests(
    sources: FeedContext,
    held: FeedLease,
    sender: watch::Sender<BTreeSet<String>>,
    mut stop: Stop,
) {
    let mut ticks = interval(REQUEST_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.wait() => return,
            _ = ticks.tick() => {}
        }
        let own = symbols((sources.followed)());
        let reads = held.turn(Instant::now()).is_some();
        match sources.registry.want(NAME, &own, REQUEST_TTL, reads).await {
            Ok(requested) if reads => {
                let requested = requested.into_iter().filter(|symbol| is_name(symbol)).collect();
                sender.send_if_modified(|known| std::mem::replace(known, requested) != *known);
            }
            Ok(_) => {}
            // The previous request still applies.
            Err(error) => tracing::debug!(%error, "cannot exchange what clients follow"),
        }
    }
}

/// The symbols of market topics, whether or not the exchange has them.
fn symbols(topics: Vec<String>) -> Vec<String> {
    let symbols = topics.into_iter().filter_map(|topic| {
        let (kind, symbol) = topic.split_once(':')?;
        (matches!(kind, "ticker" | "trades" | "orderbook") && is_name(symbol)).then(|| symbol.to_owned())
    });
    let symbols: BTreeSet<_> = symbols.collect();
    symbols.into_iter().take(REQUESTED_MAX).collect()
}

fn is_name(symbol: &str) -> bool {
    symbol.len() <= SYMBOL_LEN_MAX && check_name(symbol).is_ok()
}
