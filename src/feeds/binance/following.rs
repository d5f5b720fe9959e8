//! Decides which symbols to follow, based on demand and the exchange's list of symbols, and marks the last values of
//! symbols that the exchange has stopped. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    demand::Demand,
    frame::is_symbol,
    listing::{SymbolListing, SymbolStatus},
    market::{FeedPublication, FollowedSymbols},
    status::Names,
};

/// How often demand is checked.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often the list of symbols is fetched without a specific reason.
const LISTING_INTERVAL: Duration = Duration::from_secs(900);
/// The status of a symbol that the exchange no longer lists.
const GONE: &str = "BREAK";

/// Changes of symbols.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub publish: Vec<FeedPublication>,
    /// Newly followed symbols.
    pub new: Vec<String>,
    /// Symbols that the exchange has stopped, with their status.
    pub stopped: Vec<(String, String)>,
    pub has_new_names: bool,
}

/// What is known about symbols.
#[derive(Debug)]
pub(super) struct Following {
    /// Minimum time between two requests for the list.
    refresh: Duration,
    due: Instant,
    pub streams: BTreeSet<String>,
    pub names: Names,
    listing: Option<SymbolListing>,
    /// When to fetch the list; `None` while a fetch is in progress.
    listing_due: Option<Instant>,
    listing_requested: Option<Instant>,
    is_listing_tried: bool,
    /// Symbols whose last values are marked because of their status.
    stopped: BTreeSet<String>,
    /// Whether the exchange has stopped all requested symbols.
    is_maintenance: bool,
}

impl Following {
    pub(super) fn new(refresh: Duration, now: Instant) -> Self {
        Self {
            refresh,
            due: now,
            streams: BTreeSet::new(),
            names: Names::default(),
            listing: None,
            listing_due: Some(now),
            listing_requested: None,
            is_listing_tried: false,
            stopped: BTreeSet::new(),
            is_maintenance: false,
        }
    }

    pub(super) fn is_listing_due(&self, now: Instant) -> bool {
        self.listing_due.is_some_and(|due| due <= now)
    }

    pub(super) fn listing_requested(&mut self, now: Instant) {
        (self.listing_due, self.listing_requested) = (None, Some(now));
    }

    /// Applies the list.
    pub(super) fn listed(&mut self, listing: SymbolListing, now: Instant) {
        self.listing = Some(listing);
        (self.listing_due, self.is_listing_tried, self.due) = (Some(now + LISTING_INTERVAL), true, now);
    }

    /// The list could not be fetched; `ready` is when it may be requested again.
    pub(super) fn not_listed(&mut self, ready: Instant, now: Instant) {
        (self.listing_due, self.is_listing_tried) = (Some(ready.max(now + self.refresh)), true);
    }

    /// Fetches the list soon, because it may have changed.
    pub(super) fn hurry(&mut self, now: Instant) {
        let earliest = self.listing_requested.map_or(now, |requested| now.max(requested + self.refresh));
        self.listing_due = self.listing_due.map(|due| due.min(earliest));
    }

    fn status_of(&self, symbol: &str) -> SymbolStatus<'_> {
        if !is_symbol(symbol) {
            return SymbolStatus::Unknown;
        }
        self.listing.as_ref().map_or(SymbolStatus::Live, |listing| listing.of(symbol))
    }
}

impl Following {
    /// Checks demand, when it is due. `own` are the symbols in the configuration.
    pub(super) fn follow(
        &mut self,
        requested: impl FnOnce() -> BTreeSet<String>,
        own: &[String],
        demand: &mut Demand,
        market: &mut FollowedSymbols,
        now: Instant,
    ) -> Changes {
        if now < self.due {
            return Changes::default();
        }
        self.due = now + INTERVAL;
        // Until the list has been requested once, only the configured symbols are followed.
        let requested = if self.is_listing_tried { requested() } else { BTreeSet::new() };
        let mut all: BTreeSet<String> = requested.iter().chain(own).cloned().collect();
        let unknown = all.iter().filter(|symbol| self.status_of(symbol) != SymbolStatus::Live).cloned().collect();
        all.extend(demand.symbols().map(str::to_owned));
        let mut changes = self.stop(&all, market);
        demand.update(&requested, |symbol| self.status_of(symbol) == SymbolStatus::Live, now);
        let is_stopped = |symbol: &String| matches!(self.status_of(symbol), SymbolStatus::Halted(_));
        self.is_maintenance = demand.len() == 0 && all.iter().any(is_stopped);
        let names = Names { stale: market.stale(), unknown, refused: demand.refused.iter().cloned().collect() };
        changes.new = market.follow(demand.symbols());
        if !changes.new.is_empty() || self.streams.len() != demand.len() * 3 {
            self.streams = demand.streams();
        }
        if self.is_maintenance || names.unknown.iter().any(|name| !self.names.unknown.contains(name)) {
            self.hurry(now);
        }
        changes.has_new_names = names != self.names;
        self.names = names;
        changes
    }

    /// Marks the last values of symbols that the exchange has stopped since the last check.
    fn stop(&mut self, symbols: &BTreeSet<String>, market: &mut FollowedSymbols) -> Changes {
        let (mut changes, mut stopped) = (Changes::default(), BTreeSet::new());
        for symbol in symbols {
            let status = match self.status_of(symbol) {
                SymbolStatus::Live => continue,
                SymbolStatus::Halted(status) => status.to_owned(),
                // The topic of any other unknown symbol belongs to another publisher.
                SymbolStatus::Unknown if market.is_followed(symbol) || self.stopped.contains(symbol) => GONE.to_owned(),
                SymbolStatus::Unknown => continue,
            };
            if !self.stopped.contains(symbol) {
                changes.publish.extend(market.mark(symbol, &status));
                changes.stopped.push((symbol.clone(), status));
            }
            stopped.insert(symbol.clone());
        }
        self.stopped = stopped;
        changes
    }

    /// Whether the exchange has stopped all requested symbols.
    pub(super) const fn is_maintenance(&self) -> bool {
        self.is_maintenance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::binance::demand::SymbolRules;

    const OWN: &str = "BTCUSDT";
    const REFRESH: Duration = Duration::from_secs(30);

    struct FollowingCase {
        following: Following,
        demand: Demand,
        market: FollowedSymbols,
        now: Instant,
    }

    impl FollowingCase {
        fn new() -> Self {
            let now = Instant::now();
            let rules =
                SymbolRules { fixed: BTreeSet::from([OWN.to_owned()]), max: 10, linger: Duration::from_secs(60) };
            let (following, demand) = (Following::new(REFRESH, now), Demand::new(rules, now));
            Self { following, demand, market: FollowedSymbols::new(REFRESH), now }
        }

        fn list(&mut self, symbols: &[(&str, &str)]) {
            let entries: Vec<_> = symbols
                .iter()
                .map(|(symbol, status)| serde_json::json!({"symbol": symbol, "status": status}))
                .collect();
            let body = serde_json::json!({ "symbols": entries }).to_string();
            self.following.listing_requested(self.now);
            self.following.listed(SymbolListing::read(&body).unwrap(), self.now);
        }

        fn follow(&mut self, requested: &[&str]) -> Changes {
            self.now += INTERVAL;
            let requested = requested.iter().map(|symbol| (*symbol).to_owned()).collect();
            let Self { following, demand, market, now } = self;
            following.follow(|| requested, &[OWN.to_owned()], demand, market, *now)
        }
    }

    #[test]
    fn only_configured_symbols_are_followed_until_the_list_was_requested() {
        let mut case = FollowingCase::new();
        assert_eq!(case.follow(&["ETHUSDT"]).new, [OWN]);
        assert!(case.following.is_listing_due(case.now));
        case.following.listing_requested(case.now);
        case.following.not_listed(case.now, case.now);
        assert_eq!(case.follow(&["ETHUSDT"]).new, ["ETHUSDT"], "without a list, every symbol may exist");
        assert!(!case.following.is_listing_due(case.now + REFRESH - INTERVAL * 2));
        assert!(case.following.is_listing_due(case.now + REFRESH));
    }

    #[test]
    fn symbols_without_data_are_named_and_only_known_ones_are_marked() {
        let mut case = FollowingCase::new();
        case.list(&[(OWN, "TRADING"), ("OLDUSDT", "BREAK")]);
        let changes = case.follow(&["NOUSDT", "OLDUSDT", "lower", "a/b"]);
        assert_eq!((changes.new, changes.stopped), (vec![OWN.into()], vec![("OLDUSDT".into(), "BREAK".into())]));
        assert!(changes.has_new_names);
        assert_eq!(case.following.names.unknown, ["NOUSDT", "OLDUSDT", "a/b", "lower"]);
        assert_eq!(case.follow(&["OLDUSDT"]).stopped, [], "once");
    }

    #[test]
    fn a_removed_symbol_is_marked_and_followed_again_when_it_returns() {
        let mut case = FollowingCase::new();
        case.list(&[(OWN, "TRADING"), ("ADAUSDT", "TRADING")]);
        case.follow(&["ADAUSDT"]);
        case.list(&[(OWN, "TRADING")]);
        let changes = case.follow(&[]);
        assert_eq!(changes.stopped, [("ADAUSDT".to_owned(), GONE.to_owned())], "it was only lingering");
        assert!(!case.market.is_followed("ADAUSDT"));
        case.list(&[(OWN, "TRADING"), ("ADAUSDT", "TRADING")]);
        assert_eq!(case.follow(&["ADAUSDT"]).new, ["ADAUSDT"]);
    }

    #[test]
    fn a_maintenance_and_its_end_are_detected() {
        let mut case = FollowingCase::new();
        case.list(&[(OWN, "TRADING")]);
        case.follow(&[]);
        assert!(!case.following.is_maintenance());
        case.list(&[(OWN, "BREAK")]);
        case.follow(&[]);
        assert!(case.following.is_maintenance() && case.following.streams.is_empty());
        assert!(case.following.is_listing_due(case.now + REFRESH), "before {LISTING_INTERVAL:?} has passed");
        case.list(&[(OWN, "TRADING")]);
        assert_eq!(case.follow(&[]).new, [OWN]);
    }
}
