//! A synthetic market, so that a first run has live data. Never mistaken for a real one: it is on only in development
//! mode, unless the configuration enables it.

mod book;
mod decimal;
mod instrument;
mod random;

use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use tickgate_wire::model::Topic;
use tokio::time::MissedTickBehavior;

use self::instrument::SyntheticInstrument;
use super::lease::FeedLease;
use crate::{
    backplane::LeaseTurn,
    clock, config,
    metrics::PublicationSource,
    publisher::{PublishRequest, Publisher},
    tasks::Stop,
};

/// A seeded random walk of several symbols. Pure: the same seed and the same times give the same messages.
#[derive(Debug)]
pub struct SyntheticMarket {
    instruments: Vec<SyntheticInstrument>,
}

impl SyntheticMarket {
    /// A market of these symbols, each already validated as a part of a topic name. A symbol's walk depends only on the
    /// seed and its own name.
    #[must_use]
    pub fn new(seed: u64, symbols: &[String]) -> Self {
        Self { instruments: symbols.iter().map(|symbol| SyntheticInstrument::new(seed, symbol)).collect() }
    }

    /// Moves every price once. Returns what is published: the trades, the ticker, the order book of each symbol, as of
    /// `now_ms` (milliseconds since 1970).
    pub fn step(&mut self, now_ms: u64) -> Vec<(Topic, Bytes)> {
        let mut publications = Vec::with_capacity(self.instruments.len() * 4);
        for instrument in &mut self.instruments {
            instrument.step(now_ms, &mut publications);
        }
        publications
    }
}

/// Steps and publishes while this replica holds the feed's lease, until the replica stops.
pub(super) async fn run(config: config::Synthetic, publisher: Publisher, held: FeedLease, mut stop: Stop) {
    let mut market = SyntheticMarket::new(config.seed, &config.symbols);
    let mut ticks = tokio::time::interval(config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.wait() => return,
            _ = ticks.tick() => {}
        }
        let Some(turn) = held.turn(Instant::now()) else { continue };
        let failed = publish(&publisher, market.step(clock::unix_ms()), turn).await;
        if failed > 0 && !failing {
            tracing::warn!(failed, "the synthetic feed cannot publish");
        }
        failing = failed > 0;
    }
}

/// Publishes one step and waits for all results, so that at most one step is in progress. Returns how many failed.
async fn publish(publisher: &Publisher, publications: Vec<(Topic, Bytes)>, turn: LeaseTurn) -> usize {
    let under_way: Vec<_> = publications
        .into_iter()
        .map(|(topic, payload)| {
            let channel = topic.as_str();
            let request = PublishRequest { channel, user: None, payload, msg: None, door: PublicationSource::Feed };
            publisher.publish_in_turn(request, Some(turn))
        })
        .collect();
    join_all(under_way).await.into_iter().filter(Result::is_err).count()
}

#[cfg(test)]
mod tests;
