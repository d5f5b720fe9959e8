//! One symbol of the synthetic market: its price, its day, and the messages of a step. All numbers are integers of the
//! last decimal place.

use bytes::Bytes;
use serde::Serialize;
use tickgate_wire::{model::Topic, time::Timestamp};

use super::{
    book::{self, BookLevel, Side},
    decimal::Decimal,
    random::SeededRandom,
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const QUANTITY_PLACES: u32 = 3;
const TRADES_MAX: i64 = 2;
/// A step moves a price by at most this fraction of it.
const STEP_DIVISOR: i64 = 4_000;
/// Each step reverts this fraction of the distance from the symbol's usual price, so that the walk stays bounded.
const PULL_DIVISOR: i64 = 2_000;

/// Initial prices of well-known symbols: ticks, decimal places. Others start at 100.00.
const USUAL_PRICES: [(&str, i64, u32); 8] = [
    ("BTCUSDT", 5_000_000, 2),
    ("ETHUSDT", 250_000, 2),
    ("BNBUSDT", 60_000, 2),
    ("SOLUSDT", 15_000, 2),
    ("XRPUSDT", 50_000, 5),
    ("ADAUSDT", 45_000, 5),
    ("DOGEUSDT", 10_000, 5),
    ("LTCUSDT", 8_000, 2),
];

/// A symbol and the state of its walk.
#[derive(Debug)]
pub(super) struct SyntheticInstrument {
    symbol: String,
    topics: InstrumentTopics,
    random: SeededRandom,
    places: u32,
    usual: i64,
    price: i64,
    day: Day,
}

#[derive(Debug)]
struct InstrumentTopics {
    ticker: Topic,
    trades: Topic,
    orderbook: Topic,
}

/// The ticker's figures of the last day.
#[derive(Debug)]
struct Day {
    began_ms: u64,
    open: i64,
    high: i64,
    low: i64,
    /// In units of the quantity's last place.
    volume: i64,
}

#[derive(Serialize)]
struct TickerPayload<'a> {
    r#type: &'static str,
    symbol: &'a str,
    price: Decimal,
    price_change: Decimal,
    price_change_percent: Decimal,
    high_price: Decimal,
    low_price: Decimal,
    volume: Decimal,
    timestamp: &'a str,
}

#[derive(Serialize)]
struct TradePayload<'a> {
    r#type: &'static str,
    symbol: &'a str,
    price: Decimal,
    quantity: Decimal,
    side: &'static str,
    timestamp: &'a str,
}

#[derive(Serialize)]
struct OrderBook<'a> {
    r#type: &'static str,
    symbol: &'a str,
    bids: Vec<BookLevel>,
    asks: Vec<BookLevel>,
    timestamp: &'a str,
}

impl SyntheticInstrument {
    pub(super) fn new(seed: u64, symbol: &str) -> Self {
        let known = USUAL_PRICES.iter().find(|(name, ..)| *name == symbol);
        let (usual, places) = known.map_or((10_000, 2), |(_, ticks, places)| (*ticks, *places));
        let topic = |prefix| Topic::from_wire(&format!("{prefix}:{symbol}"));
        Self {
            topics: InstrumentTopics {
                ticker: topic("ticker"),
                trades: topic("trades"),
                orderbook: topic("orderbook"),
            },
            random: SeededRandom::new(seed, symbol),
            symbol: symbol.into(),
            places,
            usual,
            price: usual,
            day: Day { began_ms: 0, open: usual, high: usual, low: usual, volume: 0 },
        }
    }

    /// Moves the price and appends what is published.
    pub(super) fn step(&mut self, now_ms: u64, publications: &mut Vec<(Topic, Bytes)>) {
        let timestamp = &*Timestamp::from_ms(now_ms).to_string();
        if now_ms >= self.day.began_ms.saturating_add(DAY_MS) {
            self.day = Day { began_ms: now_ms, open: self.price, high: self.price, low: self.price, volume: 0 };
        }
        self.walk();
        for _ in 0..self.random.between(0, TRADES_MAX) {
            let trade = self.trade(timestamp);
            publications.push((self.topics.trades.clone(), trade));
        }
        publications.push((self.topics.ticker.clone(), self.ticker(timestamp)));
        let book = self.order_book(timestamp);
        publications.push((self.topics.orderbook.clone(), book));
    }

    fn walk(&mut self) {
        let step = self.step_ticks();
        let pull = (self.usual - self.price) / PULL_DIVISOR;
        self.price = (self.price + pull + self.random.between(-step, step)).max(1);
        self.day.high = self.day.high.max(self.price);
        self.day.low = self.day.low.min(self.price);
    }

    fn step_ticks(&self) -> i64 {
        (self.price / STEP_DIVISOR).max(1)
    }

    fn trade(&mut self, timestamp: &str) -> Bytes {
        let quantity = self.random.between(1, 2 * 10_i64.pow(QUANTITY_PLACES));
        self.day.volume = self.day.volume.saturating_add(quantity);
        json(&TradePayload {
            r#type: "trade",
            symbol: &self.symbol,
            price: self.price_of(self.price),
            quantity: Decimal { units: quantity, places: QUANTITY_PLACES },
            side: if self.random.between(0, 1) == 0 { "buy" } else { "sell" },
            timestamp,
        })
    }

    fn ticker(&self, timestamp: &str) -> Bytes {
        let change = self.price - self.day.open;
        json(&TickerPayload {
            r#type: "ticker",
            symbol: &self.symbol,
            price: self.price_of(self.price),
            price_change: self.price_of(change),
            price_change_percent: Decimal { units: change * 10_000 / self.day.open, places: 2 },
            high_price: self.price_of(self.day.high),
            low_price: self.price_of(self.day.low),
            volume: Decimal { units: self.day.volume, places: QUANTITY_PLACES },
            timestamp,
        })
    }

    fn order_book(&mut self, timestamp: &str) -> Bytes {
        let (price, step) = (self.price_of(self.price), (self.step_ticks() / 4).max(1));
        let mut side = |side| book::side(side, price, step, QUANTITY_PLACES, &mut self.random);
        let (bids, asks) = (side(Side::Bids), side(Side::Asks));
        json(&OrderBook { r#type: "orderbook", symbol: &self.symbol, bids, asks, timestamp })
    }

    fn price_of(&self, units: i64) -> Decimal {
        Decimal { units, places: self.places }
    }
}

/// Strings and numbers only: writing them cannot fail.
fn json(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}
