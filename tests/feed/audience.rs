//! A client of the market endpoint: what it received, and how that differs from the exchange's true data.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tickgate_wire::time::Timestamp;
use tokio::time::Instant;

use crate::{
    exchange::ExchangeProcess,
    support::{client::TestClient, replica::TestReplica},
};

/// Number of books and tickers per symbol that are compared with the truth.
const SAMPLES: usize = 12;

pub struct FeedClient {
    client: TestClient,
    /// Trades and gaps by symbol, in the order of arrival.
    pub trades: BTreeMap<String, Vec<Value>>,
    pub books: BTreeMap<String, Vec<Value>>,
    pub tickers: BTreeMap<String, Vec<Value>>,
    pub statuses: Vec<Value>,
}

/// The three channels of a symbol.
pub fn channels_of(symbol: &str) -> [String; 3] {
    [format!("trades:{symbol}"), format!("orderbook:{symbol}"), format!("ticker:{symbol}")]
}

impl FeedClient {
    /// Follows everything about these symbols, and the status of the feed.
    pub async fn of(replica: &TestReplica, symbols: &[&str]) -> Self {
        let channels: Vec<_> = symbols.iter().flat_map(|symbol| channels_of(symbol)).collect();
        let mut channels: Vec<_> = channels.iter().map(String::as_str).collect();
        channels.push("feed:binance");
        let client = replica.market().await;
        let (trades, books, tickers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut audience = Self { client, trades, books, tickers, statuses: Vec::new() };
        audience.follow(&channels).await;
        audience
    }

    /// Subscribes to channels; retries those that a busy replica cannot follow now.
    pub async fn follow(&mut self, channels: &[&str]) {
        let mut channels = json!(channels);
        for _ in 0..20 {
            let answer = self.client.ask(json!({"type": "subscribe", "channels": channels})).await;
            let refused = answer["errors"].as_array().unwrap();
            assert!(refused.iter().all(|error| error["code"] == 1013), "{answer}");
            if refused.is_empty() {
                return;
            }
            channels = refused.iter().map(|error| error["channel"].clone()).collect();
            self.watch(1.0).await;
        }
        panic!("never followed: {channels}");
    }

    /// How often a book of a symbol was older than the previous one.
    pub fn books_back(&self, symbol: &str) -> usize {
        let ids: Vec<_> = self.books[symbol].iter().map(|book| book["update_id"].as_u64().unwrap()).collect();
        ids.windows(2).filter(|pair| pair[1] < pair[0]).count()
    }

    fn take(&mut self, message: Value) {
        let list = match message["type"].as_str().unwrap_or_default() {
            "feed_status" => {
                self.statuses.push(message);
                return;
            }
            "trade" | "trades_gap" => &mut self.trades,
            "orderbook" => &mut self.books,
            "ticker" => &mut self.tickers,
            _ => return,
        };
        list.entry(message["symbol"].as_str().unwrap().to_owned()).or_default().push(message);
    }

    /// Receives for this duration.
    pub async fn watch(&mut self, seconds: f64) {
        self.receive(Duration::from_secs_f64(seconds), |_| false).await;
    }

    /// Receives until a condition holds. Returns an error if it does not hold within this time.
    pub async fn until(&mut self, what: &str, seconds: u64, holds: impl Fn(&Self) -> bool) -> Vec<String> {
        self.receive(Duration::from_secs(seconds), &holds).await;
        if holds(self) { Vec::new() } else { self.missed(what, seconds) }
    }

    /// Reports that a condition never held, and what was received last.
    pub fn missed(&self, what: &str, seconds: u64) -> Vec<String> {
        let last = |list: &[Value]| list.last().map_or_else(String::new, Value::to_string);
        let tickers: Vec<_> = self.tickers.values().map(|list| last(list)).collect();
        let status = last(&self.statuses);
        vec![format!("not within {seconds} s: {what}; the last status is {status}, the last tickers are {tickers:#?}")]
    }

    async fn receive(&mut self, time: Duration, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + time;
        while !done(self) {
            let Some(message) = self.client.next_until(until).await else { return };
            self.take(message);
        }
    }

    /// The state that was reported last.
    pub fn state(&self) -> &str {
        self.statuses.last().and_then(|status| status["status"].as_str()).unwrap_or("none")
    }

    /// The reason that was reported last.
    pub fn reason(&self) -> &str {
        self.statuses.last().and_then(|status| status["reason"].as_str()).unwrap_or("none")
    }

    /// Names in a list of the last status.
    pub fn named(&self, list: &str) -> Vec<&str> {
        let names = self.statuses.last().and_then(|status| status[list].as_array());
        names.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Live, with trades of a symbol.
    pub fn is_live(&self, symbol: &str) -> bool {
        self.state() == "live" && self.count(symbol) > 0
    }

    /// Trades of a symbol so far.
    pub fn count(&self, symbol: &str) -> usize {
        self.trades.get(symbol).map_or(0, Vec::len)
    }

    /// States other than live that were reported since a place in the list.
    pub fn troubles_since(&self, from: usize) -> Vec<String> {
        let troubles = self.statuses[from..].iter().filter(|status| status["status"] != "live");
        troubles.map(|status| format!("reported: {status}")).collect()
    }

    /// The last ticker of a symbol contains a key.
    pub fn ticker_has(&self, symbol: &str, key: &str) -> bool {
        self.tickers.get(symbol).and_then(|list| list.last()).is_some_and(|ticker| !ticker[key].is_null())
    }

    /// Gaps of a symbol, as reported.
    pub fn gaps(&self, symbol: &str) -> Vec<(u64, u64)> {
        let list = self.trades.get(symbol).into_iter().flatten().filter(|trade| trade["type"] == "trades_gap");
        list.map(|gap| (gap["from"].as_u64().unwrap(), gap["to"].as_u64().unwrap())).collect()
    }

    /// The errors in everything that was received.
    pub async fn judged(&self, exchange: &ExchangeProcess) -> Vec<String> {
        let mut wrong = self.judged_trades(exchange, true).await;
        for (symbol, books) in &self.books {
            wrong.extend(judged_books(exchange, symbol, books).await);
        }
        for (symbol, tickers) in &self.tickers {
            wrong.extend(judged_tickers(exchange, symbol, tickers).await);
        }
        wrong
    }

    /// Errors in trades: each must arrive once, in order, unchanged, or be reported as missing.
    pub async fn judged_trades(&self, exchange: &ExchangeProcess, with_times: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for (symbol, seen) in &self.trades {
            let first = |trade: &Value| trade["trade_id"].as_u64().or(trade["from"].as_u64()).unwrap_or(0);
            let last = |trade: &Value| trade["trade_id"].as_u64().or(trade["to"].as_u64()).unwrap_or(0);
            let (from, to) = (first(&seen[0]), seen.iter().map(last).max().unwrap_or(0));
            let truth =
                exchange.get(&format!("/sim/truth/trades?symbol={}&from={from}&to={to}", encoded(symbol))).await;
            let truth: BTreeMap<u64, &Value> =
                truth.as_array().unwrap().iter().map(|trade| (trade["a"].as_u64().unwrap(), trade)).collect();
            let mut next = from;
            for trade in seen {
                if first(trade) != next {
                    wrong.push(format!("{symbol}: {next} is followed by {trade}"));
                }
                next = last(trade) + 1;
                if trade["type"] == "trade" {
                    let expected = truth.get(&first(trade)).map(|truth| as_published(truth, with_times));
                    let got = as_received(trade, with_times);
                    if expected.as_ref() != Some(&got) {
                        wrong.push(format!("{symbol}: {got}, but the truth is {expected:?}"));
                    }
                }
            }
            wrong.truncate(20);
        }
        wrong
    }
}

/// A symbol encoded for a query.
fn encoded(symbol: &str) -> String {
    let byte =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    symbol.bytes().map(byte).collect()
}

fn as_received(trade: &Value, with_time: bool) -> String {
    let time = if with_time { ms(trade) } else { 0 };
    let word = |key: &str| trade[key].as_str().unwrap_or("?");
    format!("{} {} {} {} {time}", trade["trade_id"], word("price"), word("quantity"), word("side"))
}

fn as_published(truth: &Value, with_time: bool) -> String {
    let time = if with_time { truth["T"].as_u64().unwrap() } else { 0 };
    let side = if truth["m"] == true { "sell" } else { "buy" };
    let word = |key: &str| truth[key].as_str().unwrap();
    format!("{} {} {} {side} {time}", truth["a"], word("p"), word("q"))
}

/// The time of a message, in milliseconds since 1970.
pub fn ms(message: &Value) -> u64 {
    serde_json::from_value::<Timestamp>(message["timestamp"].clone()).map_or(0, Timestamp::ms)
}

/// Evenly spread samples.
fn samples(list: &[Value]) -> impl Iterator<Item = &Value> {
    list.iter().step_by((list.len() / SAMPLES).max(1))
}

async fn judged_books(exchange: &ExchangeProcess, symbol: &str, books: &[Value]) -> Vec<String> {
    let id = |book: &Value| book["update_id"].as_u64().unwrap();
    let mut wrong: Vec<_> = books
        .windows(2)
        // A marked book repeats the previous one.
        .filter(|pair| id(&pair[1]) < id(&pair[0]))
        .map(|pair| format!("{symbol}: the book {} comes after {}", id(&pair[1]), id(&pair[0])))
        .take(5)
        .collect();
    for book in samples(books) {
        let truth = exchange.get(&format!("/sim/truth/book?symbol={symbol}&update_id={}", id(book))).await;
        if (&book["bids"], &book["asks"]) != (&truth["bids"], &truth["asks"]) {
            wrong.push(format!("{symbol}: {book}, but the truth is {truth}"));
        }
    }
    wrong
}

async fn judged_tickers(exchange: &ExchangeProcess, symbol: &str, tickers: &[Value]) -> Vec<String> {
    let pairs = [
        ("price", "c"),
        ("price_change", "p"),
        ("price_change_percent", "P"),
        ("high_price", "h"),
        ("low_price", "l"),
        ("volume", "v"),
    ];
    let mut wrong = Vec::new();
    for ticker in samples(tickers) {
        let truth = exchange.get(&format!("/sim/truth/ticker?symbol={symbol}&at={}", ms(ticker))).await;
        if pairs.iter().any(|(ours, theirs)| ticker[ours] != truth[theirs]) {
            wrong.push(format!("{symbol}: {ticker}, but the truth is {truth}"));
        }
    }
    wrong
}
