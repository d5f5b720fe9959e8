//! The replica that publishes: its connections to the exchange, its requests, and the processing of received data.
//! Exists as long as the lease. The market state ends with it, because another replica may have published since; the
//! waits that the exchange demanded of this process do not.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    FeedShared, Manners,
    budget::WeightBudget,
    connections::{FeedConnections, FeedEvent},
    demand::{Demand, SymbolRules, stream},
    following::Following,
    frame::{self, MarketFrame},
    lookups::{self, LookupResult},
    market::{FeedPublication, FollowedSymbols, TradeOutcome, topic},
    outgoing::FeedQueue,
    payload,
    rest::{self, NotAnswered, RestClient, RestResult, WeighedResponse},
    socket::SocketEvent,
    status::{FeedStatus, Reason},
};
use crate::{
    clock,
    defect::{self, Defect},
    metrics::{FeedData, FeedFrame, FeedState},
};

/// Interval of time-based checks.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Maximum number of frames that wait to be processed.
const FRAMES_MAX: usize = 4_096;
/// Maximum number of frames processed before other events are handled.
const BATCH_MAX: usize = 128;
/// Maximum number of concurrent REST requests.
const REQUESTS_MAX: usize = 4;

pub(super) struct Holder {
    shared: FeedShared,
    started: Instant,
    connections: FeedConnections,
    events: mpsc::Receiver<(u64, SocketEvent)>,
    demand: Demand,
    market: FollowedSymbols,
    outgoing: FeedQueue,
    status: FeedStatus,
    following: Following,
    /// Whether the last values are marked as stale because no data arrives.
    is_marked: bool,
    budget: WeightBudget,
    requests: FuturesUnordered<BoxFuture<'static, WeighedResponse>>,
    lookups: FuturesUnordered<BoxFuture<'static, LookupResult>>,
}

impl Holder {
    pub(super) fn new(shared: FeedShared, manners: Manners, now: Instant) -> Self {
        let (sender, events) = mpsc::channel(FRAMES_MAX);
        let config = &shared.config;
        let rules = SymbolRules {
            fixed: config.symbols.iter().cloned().collect(),
            max: config.symbols_max,
            linger: config.linger,
        };
        Self {
            started: now,
            connections: FeedConnections::new(shared.clone(), sender, manners.ladder),
            events,
            demand: Demand::new(rules, now),
            market: FollowedSymbols::new(config.symbols_refresh),
            outgoing: FeedQueue::new(shared.publisher.clone(), shared.held.clone(), shared.metrics.clone()),
            status: FeedStatus::new(now, clock::unix_ms()),
            following: Following::new(config.symbols_refresh, now),
            is_marked: false,
            budget: manners.budget,
            requests: FuturesUnordered::new(),
            lookups: FuturesUnordered::new(),
            shared,
        }
    }

    /// Disconnects from the exchange.
    pub(super) fn into_manners(self) -> Manners {
        Manners { ladder: self.connections.into_ladder(), budget: self.budget }
    }

    /// Waits for the next event and handles it.
    pub(super) async fn step(&mut self, tick: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = tick => {
                self.tick();
                self.outgoing.sweep();
            }
            () = self.outgoing.settled() => {}
            Some((id, event)) = self.events.recv() => self.receive_batch(id, event),
            Some(counted) = self.requests.next(), if !self.requests.is_empty() => self.answered(counted),
            Some(found) = self.lookups.next(), if !self.lookups.is_empty() => self.found(found),
        }
        let now = Instant::now();
        // A lease that ended while this replica was suspended permits nothing.
        let turn = self.shared.held.turn(now);
        if turn.is_some() || defect::is(Defect::FeedWithoutLease) {
            self.outgoing.hand_over(now, turn);
        }
    }

    /// Handles an event, and those that arrived with it.
    fn receive_batch(&mut self, id: u64, event: SocketEvent) {
        self.receive(id, event);
        for _ in 1..BATCH_MAX {
            let Ok((id, event)) = self.events.try_recv() else { return };
            self.receive(id, event);
        }
    }

    fn receive(&mut self, id: u64, event: SocketEvent) {
        let now = Instant::now();
        match self.connections.receive(id, event, now) {
            None => {}
            Some(FeedEvent::Limited(wait)) => drop(self.budget.refused(Some(wait), now)),
            Some(FeedEvent::Text(text)) => match frame::parse(&text) {
                Ok(frame) => self.take(id, frame, now),
                Err(reason) => {
                    self.shared.metrics.feed_bad_frames_total.of(reason).inc();
                    self.connections.bad(id, now);
                }
            },
        }
    }

    fn take(&mut self, id: u64, frame: MarketFrame<'_>, now: Instant) {
        let kind = match frame {
            MarketFrame::Trade { symbol, trade, event_ms } => {
                self.data(id, &symbol, FeedData::Trade, now);
                let latency = clock::unix_ms().saturating_sub(event_ms);
                self.shared.metrics.feed_latency_seconds.observe(Duration::from_millis(latency).as_secs_f64());
                match self.market.trade(&symbol, &trade, now) {
                    TradeOutcome::Taken(list) => self.publish(list),
                    TradeOutcome::Repeat => self.shared.metrics.feed_repeats_total.inc(),
                    TradeOutcome::NotFollowed => {}
                }
                FeedFrame::Trade
            }
            MarketFrame::Book(book) => {
                self.data(id, &book.symbol, FeedData::Orderbook, now);
                let list = self.market.book(&book, clock::unix_ms(), now);
                self.publish(list);
                FeedFrame::Orderbook
            }
            MarketFrame::Ticker(ticker) => {
                self.data(id, &ticker.symbol, FeedData::Ticker, now);
                let (list, is_behind) = self.market.ticker(&ticker, now);
                self.publish(list);
                if is_behind {
                    self.connections.remedy(&stream(&ticker.symbol, FeedData::Trade), now);
                }
                FeedFrame::Ticker
            }
            MarketFrame::Untraded { symbol, kind } => {
                self.data(id, &symbol, kind, now);
                self.market.untraded(&symbol, now);
                if kind == FeedData::Ticker { FeedFrame::Ticker } else { FeedFrame::Orderbook }
            }
            MarketFrame::Answer { id: request, list } => {
                self.connections.answered(id, request, list);
                FeedFrame::Answer
            }
            MarketFrame::Refused { id: request, code } => {
                tracing::warn!(code, "the exchange refused a request");
                self.connections.refused(id, request);
                FeedFrame::Answer
            }
            MarketFrame::Shutdown => {
                self.connections.rotate(id, "the exchange announced the end of the connection");
                FeedFrame::Other
            }
            MarketFrame::Other => FeedFrame::Other,
        };
        self.shared.metrics.feed_frames_total.of(kind).inc();
    }

    fn data(&mut self, id: u64, symbol: &str, kind: FeedData, now: Instant) {
        self.connections.data(id, &stream(symbol, kind), now);
        let seconds = clock::unix_ms() / 1_000;
        self.shared.metrics.feed_data_timestamp_seconds.of(kind).set(seconds as i64);
    }

    fn publish(&mut self, list: Vec<FeedPublication>) {
        for publish in list {
            match publish {
                FeedPublication::Trade { symbol, trade } => {
                    if trade.backfilled {
                        self.shared.metrics.feed_backfilled_total.inc();
                    }
                    self.outgoing.trade(&symbol, trade.id, trade.payload);
                }
                FeedPublication::Gap { symbol, from, to } => self.outgoing.gap(&symbol, from, to),
                FeedPublication::Value { topic, payload } => self.outgoing.value(&topic, payload),
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.follow(now);
        let is_live = self.connections.is_live(now);
        let due = self.market.tick(is_live.then_some(self.shared.config.stale_after), now);
        self.publish(due.publish);
        for (symbol, kind) in due.silent {
            self.connections.remedy(&stream(&symbol, kind), now);
        }
        if due.is_suspect {
            self.following.hurry(now);
        }
        for (symbol, from) in due.missing {
            self.request_trades(symbol, from, now);
        }
        if self.following.is_listing_due(now) && self.budget.take(rest::LISTING_WEIGHT, now).is_ok() {
            self.following.listing_requested(now);
            self.requests.push(Box::pin(self.rest().listing()));
        }
        self.connections.tick(&self.following.streams, now);
        self.report(is_live, now);
    }

    /// Follows the currently requested symbols.
    fn follow(&mut self, now: Instant) {
        let Self { shared, following, demand, market, .. } = self;
        let requested = || shared.requested.borrow().difference(&shared.others).cloned().collect();
        let changes = following.follow(requested, &shared.config.symbols, demand, market, now);
        self.publish(changes.publish);
        for (symbol, status) in changes.stopped {
            tracing::warn!(symbol, status, "the exchange has stopped a symbol");
            self.look_up(&symbol, Some(&status));
        }
        for symbol in changes.new {
            self.lookups.push(Box::pin(lookups::position(self.shared.backplane.clone(), symbol)));
        }
        if changes.has_new_names {
            self.status.has_new_names();
        }
    }

    /// Why no data arrives, if none does.
    fn reason(&self) -> Reason {
        if self.following.is_maintenance() {
            Reason::Maintenance
        } else if self.demand.len() == 0 {
            Reason::NoSymbols
        } else {
            self.connections.reason()
        }
    }

    fn rest(&self) -> RestClient {
        RestClient { base: self.shared.config.rest_url.clone(), recording: self.shared.recording.clone() }
    }

    fn request_trades(&mut self, symbol: String, from: u64, now: Instant) {
        if self.requests.len() >= REQUESTS_MAX {
            return;
        }
        match self.budget.take(rest::TRADES_WEIGHT, now) {
            Ok(()) => {
                self.market.requested(&symbol, now);
                self.requests.push(Box::pin(self.rest().trades(symbol, from)));
            }
            Err(ready) => {
                let list = self.market.filled(&symbol, Err(ready), now);
                self.publish(list);
            }
        }
    }

    fn answered(&mut self, (answer, weight): WeighedResponse) {
        let now = Instant::now();
        if let Some(weight) = weight {
            self.budget.counted(weight, now);
        }
        self.shared.metrics.feed_rest_weight.set(self.budget.used() as i64);
        match answer {
            RestResult::Listing(Ok(listing)) => {
                self.shared.metrics.feed_symbols_skipped.set(listing.skipped as i64);
                self.following.listed(listing, now);
            }
            RestResult::Listing(Err(error)) => {
                let ready = self.not_answered(error, now);
                self.following.not_listed(ready, now);
            }
            RestResult::Trades { symbol, answer } => {
                let answer = answer.map_err(|error| self.not_answered(error, now));
                let list = self.market.filled(&symbol, answer, now);
                self.publish(list);
            }
        }
    }

    /// When the request may be made again.
    fn not_answered(&mut self, error: NotAnswered, now: Instant) -> Instant {
        match error {
            NotAnswered::Limited { retry_after, is_ban } => {
                tracing::warn!(?retry_after, is_ban, "the exchange limits requests");
                let ready = self.budget.refused(retry_after, now);
                if is_ban {
                    self.connections.banned(ready);
                }
                ready
            }
            NotAnswered::Failed(why) => {
                tracing::warn!(why, "a request to the exchange failed");
                rest::retry_at(now)
            }
        }
    }

    fn found(&mut self, found: LookupResult) {
        match found {
            LookupResult::Position { symbol, mark } => {
                let list = self.market.begin(&symbol, mark, Instant::now());
                self.publish(list);
            }
            // Data received since is newer.
            LookupResult::Value { symbol, kind, .. } if self.market.has_value(&symbol, kind) => {}
            LookupResult::Value { symbol, kind, status, value } => {
                if let Some(payload) = value.and_then(|value| payload::stale(&value, status.as_deref())) {
                    self.outgoing.value(&topic(kind, &symbol), payload);
                }
            }
        }
    }

    /// Reads the last values that this replica has not received, to mark them as stale.
    fn look_up(&mut self, symbol: &str, status: Option<&str>) {
        for kind in [FeedData::Ticker, FeedData::Orderbook] {
            if !self.market.has_value(symbol, kind) {
                let (backplane, status) = (self.shared.backplane.clone(), status.map(str::to_owned));
                self.lookups.push(Box::pin(lookups::value(backplane, symbol.to_owned(), kind, status)));
            }
        }
    }

    fn report(&mut self, is_live: bool, now: Instant) {
        let (now_ms, reason) = (clock::unix_ms(), self.reason());
        if self.status.update(is_live, reason, now, now_ms) {
            tracing::info!(status = self.status.state.as_str(), reason = ?self.status.reason, "the binance feed changed its status");
            if is_live {
                // Symbols may have changed while no data arrived.
                self.following.hurry(now);
            }
        }
        if is_live {
            self.is_marked = false;
        } else if !self.is_marked && now >= self.started + self.shared.config.stale_after {
            self.is_marked = true;
            let list = self.market.mark_all();
            self.publish(list);
            let symbols: BTreeSet<String> = self.demand.symbols().map(str::to_owned).collect();
            symbols.iter().for_each(|symbol| self.look_up(symbol, None));
        }
        let metrics = &self.shared.metrics;
        for state in FeedState::ALL {
            metrics.feed_status.of(*state).set(i64::from(*state == self.status.state));
        }
        let names = &self.following.names;
        metrics.feed_symbols.set(self.demand.len() as i64);
        metrics.feed_symbols_unknown.set(names.unknown.len() as i64);
        metrics.feed_symbols_refused.set(names.refused.len() as i64);
        metrics.feed_symbols_stale.set(names.stale.len() as i64);
        if let Some(message) = self.status.due(names, now, now_ms) {
            self.outgoing.value(super::NAME, message);
        }
    }
}
