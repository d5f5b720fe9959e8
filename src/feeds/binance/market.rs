//! The state of each followed symbol, and what is published about it: newer values only, books at a bounded rate, and
//! last values marked as stale if nothing newer arrives. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    frame::{AggregateTrade, DayTicker, PartialBook},
    payload::{self, TradePosition},
    tape::{Arrived, Tape, TapeEvent, TapeTrade},
    value::NewestValue,
};
use crate::metrics::FeedData;

/// Minimum time between two books of a symbol.
const BOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum number of trades, over all symbols, that wait behind holes.
const HELD_MAX: usize = 100_000;

/// What is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FeedPublication {
    Trade { symbol: String, trade: TapeTrade },
    Gap { symbol: String, from: u64, to: u64 },
    Value { topic: String, payload: bytes::Bytes },
}

/// The result of a trade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TradeOutcome {
    /// What to publish now; nothing while the trade waits behind a hole.
    Taken(Vec<FeedPublication>),
    Repeat,
    /// Late data after unsubscribing is normal.
    NotFollowed,
}

/// The results of the passing of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub publish: Vec<FeedPublication>,
    /// Symbols whose trades should be requested, with the first id.
    pub missing: Vec<(String, u64)>,
    /// Streams that are silent while others of their symbol are not.
    pub silent: Vec<(String, FeedData)>,
    /// Whether a symbol has been silent long enough that the exchange may have delisted it.
    pub is_suspect: bool,
}

/// One followed symbol.
#[derive(Debug, Default)]
struct FollowedSymbol {
    tape: Tape,
    ticker: NewestValue,
    book: NewestValue,
    book_published: Option<Instant>,
    book_waits: bool,
    is_received: bool,
    silent_since: Option<Instant>,
    is_suspect: bool,
}

/// All followed symbols.
#[derive(Debug)]
pub(super) struct FollowedSymbols {
    symbols: HashMap<String, FollowedSymbol>,
    /// Trades that wait behind holes.
    held: usize,
    /// A symbol without any data for this time may have been delisted.
    suspect_after: Duration,
}

impl FollowedSymbols {
    pub(super) fn new(suspect_after: Duration) -> Self {
        Self { symbols: HashMap::new(), held: 0, suspect_after }
    }

    /// Follows exactly these symbols; returns the new ones.
    pub(super) fn follow<'a>(&mut self, symbols: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut before = std::mem::take(&mut self.symbols);
        let mut new = Vec::new();
        for symbol in symbols {
            let followed = before.remove(symbol).unwrap_or_else(|| {
                new.push(symbol.to_owned());
                FollowedSymbol::default()
            });
            self.symbols.insert(symbol.to_owned(), followed);
        }
        self.held = self.symbols.values().map(|followed| followed.tape.held()).sum();
        new
    }

    /// Trades that wait behind holes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.symbols.values().map(|followed| followed.tape.held()).sum()
    }

    pub(super) fn is_followed(&self, symbol: &str) -> bool {
        self.symbols.contains_key(symbol)
    }

    /// Lets `act` change the trades of a symbol; returns what to publish then.
    fn tape<T>(
        &mut self,
        symbol: &str,
        act: impl FnOnce(&mut FollowedSymbol) -> (T, Vec<TapeEvent>),
    ) -> Option<(T, Vec<FeedPublication>)> {
        let followed = self.symbols.get_mut(symbol)?;
        let before = followed.tape.held();
        let (result, events) = act(followed);
        self.held = (self.held + followed.tape.held()).saturating_sub(before);
        Some((result, publications(symbol, events)))
    }

    /// Sets the position of the published trades of a symbol.
    pub(super) fn begin(&mut self, symbol: &str, stored: Option<TradePosition>, now: Instant) -> Vec<FeedPublication> {
        let begun = self.tape(symbol, |followed| {
            let tape = &mut followed.tape;
            ((), if tape.has_begun() { Vec::new() } else { tape.begin(stored, now) })
        });
        begun.map_or_else(Vec::new, |((), list)| list)
    }

    /// Handles a trade.
    pub(super) fn trade(&mut self, symbol: &str, trade: &AggregateTrade<'_>, now: Instant) -> TradeOutcome {
        let is_full = self.held >= HELD_MAX;
        let taken = self.tape(symbol, |followed| {
            followed.receive(now);
            let payload = payload::trade(symbol, trade, false);
            let (arrived, mut events) = followed.tape.arrive(TapeTrade::new(trade, payload, false), now);
            if arrived == Arrived::New {
                followed.ticker.expect(now);
                followed.book.expect(now);
            }
            if is_full && followed.tape.held() > 0 {
                events.extend(followed.tape.overflow(now));
            }
            (arrived, events)
        });
        match taken {
            None => TradeOutcome::NotFollowed,
            Some((Arrived::Repeat, list)) if list.is_empty() => TradeOutcome::Repeat,
            Some((_, list)) => TradeOutcome::Taken(list),
        }
    }

    /// Handles a ticker; true if trades of the symbol are overdue.
    pub(super) fn ticker(&mut self, ticker: &DayTicker<'_>, now: Instant) -> (Vec<FeedPublication>, bool) {
        let Some(followed) = self.symbols.get_mut(&*ticker.symbol) else { return (Vec::new(), false) };
        followed.receive(now);
        let is_behind = followed.tape.compare(ticker.last_raw, now);
        // The id decides; the time orders tickers with the same trade.
        let order = (u64::try_from(ticker.last_raw).unwrap_or(0), ticker.event_ms);
        if !followed.ticker.receive(order, now) {
            return (Vec::new(), is_behind);
        }
        let payload = payload::ticker(ticker);
        followed.ticker.set(order, payload.clone());
        (vec![FeedPublication::Value { topic: topic(FeedData::Ticker, &ticker.symbol), payload }], is_behind)
    }

    /// Handles a book.
    pub(super) fn book(&mut self, book: &PartialBook<'_>, received_ms: u64, now: Instant) -> Vec<FeedPublication> {
        let Some(followed) = self.symbols.get_mut(&book.symbol) else { return Vec::new() };
        followed.receive(now);
        let order = (book.update_id, 0);
        if !followed.book.receive(order, now) {
            return Vec::new();
        }
        followed.book.set(order, payload::book(book, received_ms));
        followed.book_waits = true;
        followed.due_book(&book.symbol, now).into_iter().collect()
    }

    /// Records data with nothing to publish: the symbol was never traded.
    pub(super) fn untraded(&mut self, symbol: &str, now: Instant) {
        if let Some(followed) = self.symbols.get_mut(symbol) {
            followed.receive(now);
        }
    }

    /// Handles the passing of time. `stale_after` compares streams with the others of their symbol; `None` while the
    /// exchange sends nothing at all.
    pub(super) fn tick(&mut self, stale_after: Option<Duration>, now: Instant) -> Due {
        let (mut due, mut held) = (Due::default(), 0);
        for (symbol, followed) in &mut self.symbols {
            due.publish.extend(followed.due_book(symbol, now));
            due.publish.extend(publications(symbol, followed.tape.check(now)));
            due.missing.extend(followed.tape.wanted(now).map(|from| (symbol.clone(), from)));
            held += followed.tape.held();
            let Some(stale_after) = stale_after else { continue };
            for (kind, value) in followed.values() {
                if value.is_overdue(stale_after, now) {
                    due.silent.push((symbol.clone(), kind));
                    due.publish.extend(
                        value.mark(None).map(|payload| FeedPublication::Value { topic: topic(kind, symbol), payload }),
                    );
                }
            }
            due.is_suspect |= followed.becomes_suspect(self.suspect_after, now);
        }
        self.held = held;
        due
    }

    /// Records that missing trades of a symbol were requested.
    pub(super) fn requested(&mut self, symbol: &str, now: Instant) {
        if let Some(followed) = self.symbols.get_mut(symbol) {
            followed.tape.requested(now);
        }
    }

    /// Handles missing trades, or when they may be requested again.
    pub(super) fn filled(
        &mut self,
        symbol: &str,
        answer: Result<(Vec<TapeTrade>, bool), Instant>,
        now: Instant,
    ) -> Vec<FeedPublication> {
        let filled = self.tape(symbol, |FollowedSymbol { tape, .. }| {
            let events = match answer {
                Ok((trades, full)) => tape.filled(trades, full, now),
                Err(ready) => tape.not_filled(ready, now),
            };
            ((), events)
        });
        filled.map_or_else(Vec::new, |((), list)| list)
    }

    /// Marks the last values of all symbols as stale.
    pub(super) fn mark_all(&mut self) -> Vec<FeedPublication> {
        self.symbols.iter_mut().flat_map(|(symbol, followed)| followed.mark(symbol, None)).collect()
    }

    /// Marks the last values of a symbol as stale, for the reason of its status at the exchange.
    pub(super) fn mark(&mut self, symbol: &str, status: &str) -> Vec<FeedPublication> {
        self.symbols.get_mut(symbol).map_or_else(Vec::new, |followed| followed.mark(symbol, Some(status)))
    }

    /// Whether this replica has received a value for the topic.
    pub(super) fn has_value(&self, symbol: &str, kind: FeedData) -> bool {
        self.symbols.get(symbol).is_some_and(|followed| match kind {
            FeedData::Ticker => followed.ticker.is_known(),
            FeedData::Orderbook => followed.book.is_known(),
            FeedData::Trade => followed.is_received,
        })
    }

    /// Symbols whose last values may be out of date, in order.
    pub(super) fn stale(&self) -> Vec<String> {
        let stale = self
            .symbols
            .iter()
            .filter(|(_, followed)| followed.ticker.is_marked() || followed.book.is_marked() || !followed.is_received);
        let mut names: Vec<_> = stale.map(|(symbol, _)| symbol.clone()).collect();
        names.sort_unstable();
        names
    }
}

impl FollowedSymbol {
    fn receive(&mut self, now: Instant) {
        (self.is_received, self.silent_since, self.is_suspect) = (true, Some(now), false);
    }

    fn values(&mut self) -> [(FeedData, &mut NewestValue); 2] {
        [(FeedData::Ticker, &mut self.ticker), (FeedData::Orderbook, &mut self.book)]
    }

    fn mark(&mut self, symbol: &str, status: Option<&str>) -> Vec<FeedPublication> {
        self.book_waits = false;
        let marked = self.values().into_iter().filter_map(|(kind, value)| Some((kind, value.mark(status)?)));
        marked.map(|(kind, payload)| FeedPublication::Value { topic: topic(kind, symbol), payload }).collect()
    }

    /// True once per silence.
    fn becomes_suspect(&mut self, suspect_after: Duration, now: Instant) -> bool {
        let since = *self.silent_since.get_or_insert(now);
        let is_new = !self.is_suspect && now >= since + suspect_after;
        self.is_suspect |= is_new;
        is_new
    }

    fn due_book(&mut self, symbol: &str, now: Instant) -> Option<FeedPublication> {
        if !self.book_waits || self.book_published.is_some_and(|at| now < at + BOOK_INTERVAL) {
            return None;
        }
        (self.book_waits, self.book_published) = (false, Some(now));
        Some(FeedPublication::Value { topic: topic(FeedData::Orderbook, symbol), payload: self.book.payload()? })
    }
}

/// The topic of a kind of data of a symbol.
pub(super) fn topic(kind: FeedData, symbol: &str) -> String {
    let prefix = match kind {
        FeedData::Ticker => "ticker",
        FeedData::Trade => "trades",
        FeedData::Orderbook => "orderbook",
    };
    format!("{prefix}:{symbol}")
}

fn publications(symbol: &str, events: Vec<TapeEvent>) -> Vec<FeedPublication> {
    let one = |event| match event {
        TapeEvent::Trade(trade) => FeedPublication::Trade { symbol: symbol.to_owned(), trade },
        TapeEvent::Gap { from, to } => FeedPublication::Gap { symbol: symbol.to_owned(), from, to },
    };
    events.into_iter().map(one).collect()
}
