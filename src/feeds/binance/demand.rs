//! Which symbols are followed: the fixed ones, those that clients follow, and for a while those that clients followed.
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    defect::{self, Defect},
    metrics::FeedData,
};

/// The settings that decide about symbols.
#[derive(Clone, Debug)]
pub(super) struct SymbolRules {
    pub fixed: BTreeSet<String>,
    pub max: usize,
    pub linger: Duration,
}

/// The symbols that are followed.
#[derive(Debug)]
pub(super) struct Demand {
    rules: SymbolRules,
    /// With the time at which they were last requested.
    followed: BTreeMap<String, Instant>,
    /// Symbols beyond the limit.
    pub refused: BTreeSet<String>,
}

impl Demand {
    pub(super) fn new(rules: SymbolRules, now: Instant) -> Self {
        let followed = rules.fixed.iter().map(|symbol| (symbol.clone(), now)).collect();
        Self { rules, followed, refused: BTreeSet::new() }
    }

    /// Updates the requested symbols. `has_data`: whether a symbol has data; a symbol without data does not use up the
    /// limit.
    pub(super) fn update(&mut self, wanted: &BTreeSet<String>, has_data: impl Fn(&str) -> bool, now: Instant) {
        let Self { rules, followed, refused } = self;
        followed.retain(|symbol, since| {
            if rules.fixed.contains(symbol) || wanted.contains(symbol) {
                *since = now;
            }
            now < *since + rules.linger && has_data(symbol)
        });
        refused.clear();
        for symbol in rules.fixed.iter().chain(wanted).filter(|symbol| has_data(symbol)) {
            if followed.contains_key(symbol) {
                continue;
            }
            // Lingering symbols give way to requested ones.
            let lingering = || followed.iter().filter(|(_, since)| **since < now).min_by_key(|(_, since)| **since);
            if followed.len() >= rules.max
                && let Some(oldest) = lingering().map(|(symbol, _)| symbol.clone())
            {
                followed.remove(&oldest);
            }
            if followed.len() < rules.max {
                followed.insert(symbol.clone(), now);
            } else {
                refused.insert(symbol.clone());
            }
        }
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = &str> {
        self.followed.keys().map(String::as_str)
    }

    pub(super) fn len(&self) -> usize {
        self.followed.len()
    }

    /// The streams of all symbols, three for each.
    pub(super) fn streams(&self) -> BTreeSet<String> {
        self.followed.keys().flat_map(|symbol| streams_of(symbol)).collect()
    }
}

/// The streams of a symbol.
fn streams_of(symbol: &str) -> [String; 3] {
    [FeedData::Trade, FeedData::Orderbook, FeedData::Ticker].map(|kind| stream(symbol, kind))
}

/// The stream of one kind of data of a symbol.
pub(super) fn stream(symbol: &str, kind: FeedData) -> String {
    let kind = match kind {
        FeedData::Trade => "aggTrade",
        FeedData::Orderbook => "depth20@100ms",
        FeedData::Ticker => "ticker",
    };
    let name = if defect::is(Defect::FeedCapitals) { symbol.to_owned() } else { symbol.to_ascii_lowercase() };
    format!("{name}@{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn followed(demand: &Demand) -> Vec<&str> {
        demand.symbols().collect()
    }

    #[test]
    fn a_symbol_lingers_and_the_fixed_ones_stay() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let rules = SymbolRules { fixed: set(&["A"]), max: 10, linger: Duration::from_secs(60) };
        let mut demand = Demand::new(rules, now);
        demand.update(&set(&["B"]), |_| true, at(1));
        assert_eq!(followed(&demand), ["A", "B"]);
        demand.update(&set(&[]), |_| true, at(60));
        assert_eq!(followed(&demand), ["A", "B"], "lingers");
        demand.update(&set(&[]), |_| true, at(61));
        assert_eq!(followed(&demand), ["A"]);
        demand.update(&set(&["B", "C"]), |symbol| symbol != "C", at(62));
        assert_eq!(followed(&demand), ["A", "B"], "a symbol without data is not followed");
        assert_eq!(stream("BTCUSDT", FeedData::Ticker), "btcusdt@ticker");
    }

    #[test]
    fn the_limit_holds_and_lingering_symbols_give_way_first() {
        let now = Instant::now();
        let rules = SymbolRules { fixed: set(&["A"]), max: 3, linger: Duration::from_secs(60) };
        let mut demand = Demand::new(rules, now);
        demand.update(&set(&["B", "C", "D"]), |_| true, now);
        assert_eq!((followed(&demand), demand.refused.len()), (vec!["A", "B", "C"], 1));
        demand.update(&set(&["C", "D"]), |_| true, now + Duration::from_secs(1));
        assert_eq!((followed(&demand), demand.refused.len()), (vec!["A", "C", "D"], 0));
    }
}
