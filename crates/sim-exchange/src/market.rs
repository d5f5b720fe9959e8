//! The true market: what was traded, and the state of each book at each of its update ids. Advances in steps of 100 ms;
//! pure, so that a seed and a number of steps always give the same market, byte for byte.

use std::collections::VecDeque;

use crate::random::SplitMix;

/// One step of the market, in milliseconds.
pub(crate) const STEP_MS: u64 = 100;
/// Trades remembered per symbol.
const TRADES_MAX: usize = 200_000;
/// Books remembered per symbol: ten minutes.
const BOOKS_MAX: usize = 6_000;
/// Tickers remembered per symbol: ten minutes.
const TICKERS_MAX: usize = 600;
/// The time since which ids have grown, and the milliseconds per id, whether or not anything was traded.
const ID_EPOCH_MS: u64 = 1_790_000_000_000;
const ID_MS: u64 = 10;
/// Levels on each side of a book.
const LEVELS: usize = 40;

/// An aggregate trade. Prices are in hundredths, quantities in hundred-thousandths.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedTrade {
    pub id: u64,
    pub price: u64,
    pub quantity: u64,
    pub first: u64,
    pub last: u64,
    pub time_ms: u64,
    pub buyer_is_maker: bool,
}

/// A book at one of its update ids, as JSON arrays of levels, best first.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedBook {
    pub update_id: u64,
    pub bids: Vec<(u64, u64)>,
    pub asks: Vec<(u64, u64)>,
}

/// One symbol of the exchange.
#[derive(Debug)]
pub(crate) struct SimulatedInstrument {
    pub symbol: String,
    pub status: String,
    /// Aggregate trades per second, on average.
    rate: f64,
    middle: u64,
    quantities: [VecDeque<u64>; 2],
    update_id: u64,
    next_trade: u64,
    next_raw: u64,
    open: u64,
    high: u64,
    low: u64,
    volume: u64,
    quote: u128,
    pub trades: VecDeque<SimulatedTrade>,
    pub books: VecDeque<SimulatedBook>,
    /// Payloads of tickers with their event times.
    pub tickers: VecDeque<(u64, String)>,
}

/// The results of one step for one symbol.
#[derive(Debug, Default)]
pub(crate) struct MarketStep {
    pub trades: Vec<SimulatedTrade>,
    pub book_changed: bool,
}

#[derive(Debug)]
pub(crate) struct SimulatedMarket {
    pub instruments: Vec<SimulatedInstrument>,
    pub now_ms: u64,
    random: SplitMix,
    pub steps: u64,
    /// Factor on the frequency of trades.
    pub load: u64,
}

/// The symbols of a default market: name, status, price in hundredths, trades per second.
const DEFAULTS: &[(&str, &str, u64, f64)] = &[
    ("BTCUSDT", "TRADING", 8_265_000, 40.0),
    ("ETHUSDT", "TRADING", 321_000, 25.0),
    ("ADAUSDT", "TRADING", 4_512, 3.0),
    ("QUIETUSDT", "TRADING", 12_345, 0.033),
    ("NEWUSDT", "TRADING", 1_000, 0.0),
    ("OLDUSDT", "BREAK", 700, 0.0),
    ("STOPUSDT", "HALT", 900, 0.0),
    ("测试USDT", "TRADING", 500, 1.0),
];

impl SimulatedMarket {
    /// `symbols` in total: the default ones first, then generated ones with `rate` trades per second each.
    pub(crate) fn new(seed: u64, symbols: usize, rate: f64, now_ms: u64) -> Self {
        let mut random = SplitMix::new(seed);
        let mut instruments: Vec<_> = DEFAULTS
            .iter()
            .take(symbols)
            .map(|(symbol, status, price, rate)| {
                SimulatedInstrument::new(symbol, status, *price, *rate, now_ms, &mut random)
            })
            .collect();
        for number in DEFAULTS.len()..symbols {
            let price = 1_000 + random.below(1_000_000);
            instruments.push(SimulatedInstrument::new(
                &format!("SIM{number}USDT"),
                "TRADING",
                price,
                rate,
                now_ms,
                &mut random,
            ));
        }
        Self { instruments, now_ms, random, steps: 0, load: 1 }
    }

    pub(crate) fn find(&self, symbol: &str) -> Option<&SimulatedInstrument> {
        self.instruments.iter().find(|instrument| instrument.symbol == symbol)
    }

    pub(crate) fn find_mut(&mut self, symbol: &str) -> Option<&mut SimulatedInstrument> {
        self.instruments.iter_mut().find(|instrument| instrument.symbol == symbol)
    }

    /// Lists a new symbol with its own market.
    pub(crate) fn list(&mut self, symbol: &str) {
        if self.find(symbol).is_none() {
            self.instruments.push(SimulatedInstrument::new(
                symbol,
                "TRADING",
                10_000,
                2.0,
                self.now_ms,
                &mut self.random,
            ));
        }
    }

    /// Advances everything by one step; the results are in the order of the instruments.
    pub(crate) fn step(&mut self) -> Vec<MarketStep> {
        self.now_ms += STEP_MS;
        self.steps += 1;
        let (now_ms, load, random) = (self.now_ms, self.load, &mut self.random);
        self.instruments.iter_mut().map(|instrument| instrument.step(now_ms, load, random)).collect()
    }

    /// Whether tickers are due at this step: once a second.
    pub(crate) fn is_ticker_due(&self) -> bool {
        self.steps.is_multiple_of(1_000 / STEP_MS)
    }
}

impl SimulatedInstrument {
    fn new(symbol: &str, status: &str, price: u64, rate: f64, now_ms: u64, random: &mut SplitMix) -> Self {
        let mut side = || (0..LEVELS).map(|_| 1 + random.below(500_000)).collect::<VecDeque<_>>();
        let quantities = [side(), side()];
        // Ids grow with the wall clock, so that a restart does not decrease them.
        let first = 1_000_000 + random.below(1_000_000) + now_ms.saturating_sub(ID_EPOCH_MS) / ID_MS;
        let mut made = Self {
            symbol: symbol.to_owned(),
            status: status.to_owned(),
            rate,
            middle: price,
            quantities,
            update_id: 10 * first,
            next_trade: first,
            next_raw: 2 * first,
            open: price,
            high: price,
            low: price,
            volume: 0,
            quote: 0,
            trades: VecDeque::new(),
            books: VecDeque::new(),
            tickers: VecDeque::new(),
        };
        made.remember_book();
        made
    }

    pub(crate) fn has_data(&self) -> bool {
        matches!(&*self.status, "TRADING" | "HALT" | "CANCEL_ONLY")
    }

    /// Whether anything was ever traded.
    pub(crate) fn is_traded(&self) -> bool {
        self.rate > 0.0 || !self.trades.is_empty()
    }

    fn step(&mut self, now_ms: u64, load: u64, random: &mut SplitMix) -> MarketStep {
        if self.status != "TRADING" {
            return MarketStep::default();
        }
        let mean = self.rate * load as f64 * STEP_MS as f64 / 1_000.0;
        let mut count = mean as u64;
        count += u64::from(random.happens(mean - count as f64));
        let trades: Vec<_> = (0..count).map(|_| self.trade(now_ms, random)).collect();
        // Makers change their quotes more often than trades occur.
        let book_changed = count > 0 || (self.rate > 0.0 && random.happens((mean * 2.0).clamp(0.02, 0.95)));
        if book_changed {
            self.move_book(random);
        }
        MarketStep { trades, book_changed }
    }

    fn trade(&mut self, now_ms: u64, random: &mut SplitMix) -> SimulatedTrade {
        let buyer_is_maker = random.happens(0.5);
        let price = if buyer_is_maker { self.middle - 1 } else { self.middle };
        let quantity = 1 + random.below(300_000);
        let first = self.next_raw;
        let last = first + random.below(3);
        self.next_raw = last + 1;
        let id = self.next_trade;
        self.next_trade += 1;
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.volume += quantity;
        self.quote += u128::from(quantity) * u128::from(price);
        let time_ms = now_ms - 1 - random.below(STEP_MS - 1);
        let time_ms = self.trades.back().map_or(time_ms, |before| before.time_ms.max(time_ms));
        let trade = SimulatedTrade { id, price, quantity, first, last, time_ms, buyer_is_maker };
        self.trades.push_back(trade.clone());
        if self.trades.len() > TRADES_MAX {
            self.trades.pop_front();
        }
        trade
    }

    fn move_book(&mut self, random: &mut SplitMix) {
        self.update_id += 1 + random.below(20);
        match random.below(4) {
            0 => self.middle += 1 + random.below(3),
            1 => self.middle = self.middle.saturating_sub(1 + random.below(3)).max(LEVELS as u64 + 2),
            _ => {}
        }
        for side in &mut self.quantities {
            let at = random.below(LEVELS as u64) as usize;
            side[at] = 1 + random.below(500_000);
        }
        self.remember_book();
    }

    fn remember_book(&mut self) {
        let [bids, asks] = &self.quantities;
        let bids = (1..).zip(bids).map(|(away, quantity)| (self.middle - away, *quantity)).collect();
        let asks = (0..).zip(asks).map(|(away, quantity)| (self.middle + away, *quantity)).collect();
        self.books.push_back(SimulatedBook { update_id: self.update_id, bids, asks });
        if self.books.len() > BOOKS_MAX {
            self.books.pop_front();
        }
    }

    /// The current book.
    pub(crate) fn book(&self) -> &SimulatedBook {
        self.books.back().expect("a book is created with its instrument")
    }

    /// The current ticker, remembered for comparison.
    pub(crate) fn ticker(&mut self, now_ms: u64) -> &str {
        let json = if self.is_traded() { self.ticker_json(now_ms) } else { self.untraded_json(now_ms) };
        self.tickers.push_back((now_ms, json));
        if self.tickers.len() > TICKERS_MAX {
            self.tickers.pop_front();
        }
        self.tickers.back().map_or("", |(_, json)| json)
    }

    fn ticker_json(&self, now_ms: u64) -> String {
        let close = self.trades.back().map_or(self.open, |trade| trade.price);
        let change = close.cast_signed() - self.open.cast_signed();
        // In thousandths of a percent, rounded to the nearest.
        let thousandths =
            (change * 200_000 + change.signum() * self.open.cast_signed()) / (2 * self.open.cast_signed());
        let sign = |negative: bool| if negative { "-" } else { "" };
        let last_quantity = self.trades.back().map_or(0, |trade| trade.quantity);
        let (first, last) = (self.trades.front().map_or(0, |t| t.first), self.next_raw - 1);
        let book = self.book();
        format!(
            concat!(
                r#"{{"e":"24hrTicker","E":{e},"s":"{s}","p":"{p}","P":"{P}","w":"{c}","x":"{o}","c":"{c}","Q":"{Q}","#,
                r#""b":"{b}","B":"{B}","a":"{a}","A":"{A}","o":"{o}","h":"{h}","l":"{l}","v":"{v}","q":"{q}","#,
                r#""O":{O},"C":{e},"F":{F},"L":{L},"n":{n}}}"#
            ),
            e = now_ms,
            s = self.symbol,
            p = format_args!("{}{}", sign(change < 0), price(change.unsigned_abs())),
            P = format_args!(
                "{}{}.{:03}",
                sign(thousandths < 0),
                thousandths.unsigned_abs() / 1_000,
                thousandths.unsigned_abs() % 1_000
            ),
            c = price(close),
            Q = quantity(last_quantity),
            b = price(book.bids[0].0),
            B = quantity(book.bids[0].1),
            a = price(book.asks[0].0),
            A = quantity(book.asks[0].1),
            o = price(self.open),
            h = price(self.high),
            l = price(self.low),
            v = quantity(self.volume),
            q = format_args!("{}.{:07}0", self.quote / 10_000_000, self.quote % 10_000_000),
            O = now_ms - 86_400_000,
            F = first,
            L = last,
            n = self.next_raw - first,
        )
    }

    fn untraded_json(&self, now_ms: u64) -> String {
        let zero = "0.00000000";
        format!(
            concat!(
                r#"{{"e":"24hrTicker","E":{e},"s":"{s}","p":"{z}","P":"0.000","w":"{z}","x":"{z}","c":"{z}","Q":"{z}","#,
                r#""b":"{z}","B":"{z}","a":"{z}","A":"{z}","o":"{z}","h":"{z}","l":"{z}","v":"{z}","q":"{z}","#,
                r#""O":{o},"C":{e},"F":-1,"L":-1,"n":0}}"#
            ),
            e = now_ms,
            s = self.symbol,
            z = zero,
            o = now_ms - 86_400_000,
        )
    }
}

impl SimulatedTrade {
    /// As in the stream.
    pub(crate) fn json(&self, symbol: &str, now_ms: u64) -> String {
        format!(
            r#"{{"e":"aggTrade","E":{now_ms},"s":"{symbol}","a":{},"p":"{}","q":"{}","f":{},"l":{},"T":{},"m":{},"M":true}}"#,
            self.id,
            price(self.price),
            quantity(self.quantity),
            self.first,
            self.last,
            self.time_ms,
            self.buyer_is_maker
        )
    }

    /// As in REST.
    pub(crate) fn rest_json(&self) -> String {
        format!(
            r#"{{"a":{},"p":"{}","q":"{}","f":{},"l":{},"T":{},"m":{},"M":true}}"#,
            self.id,
            price(self.price),
            quantity(self.quantity),
            self.first,
            self.last,
            self.time_ms,
            self.buyer_is_maker
        )
    }
}

impl SimulatedBook {
    /// The best `depth` levels of each side.
    pub(crate) fn json(&self, depth: usize) -> String {
        let side = |levels: &[(u64, u64)]| {
            let levels: Vec<_> = levels
                .iter()
                .take(depth)
                .map(|(at, size)| format!(r#"["{}","{}"]"#, price(*at), quantity(*size)))
                .collect();
            levels.join(",")
        };
        let (bids, asks) = (side(&self.bids), side(&self.asks));
        format!(r#"{{"lastUpdateId":{},"bids":[{bids}],"asks":[{asks}]}}"#, self.update_id)
    }
}

/// Hundredths as a decimal with eight places.
pub(crate) fn price(hundredths: u64) -> String {
    format!("{}.{:02}000000", hundredths / 100, hundredths % 100)
}

/// Hundred-thousandths as a decimal with eight places.
pub(crate) fn quantity(parts: u64) -> String {
    format!("{}.{:05}000", parts / 100_000, parts % 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(seed: u64) -> SimulatedMarket {
        let mut market = SimulatedMarket::new(seed, 10, 5.0, 1_790_000_000_000);
        for _ in 0..50 {
            market.step();
            let now_ms = market.now_ms;
            let _ = market.instruments.iter_mut().map(|instrument| instrument.ticker(now_ms).len()).sum::<usize>();
        }
        market
    }

    #[test]
    fn the_same_seed_gives_the_same_market_byte_for_byte() {
        let text = |market: &SimulatedMarket| {
            let of = |i: &SimulatedInstrument| format!("{:?}{}{:?}", i.trades, i.book().json(20), i.tickers);
            market.instruments.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(text(&played(1)), text(&played(1)));
        assert_ne!(text(&played(1)), text(&played(2)));
    }

    #[test]
    fn ids_have_no_holes_and_books_never_cross() {
        for instrument in &played(3).instruments {
            let ids: Vec<_> = instrument.trades.iter().map(|trade| trade.id).collect();
            assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
            let raw: Vec<_> = instrument.trades.iter().map(|trade| (trade.first, trade.last)).collect();
            assert!(raw.windows(2).all(|pair| pair[1].0 == pair[0].1 + 1));
            for book in &instrument.books {
                assert!(book.bids[0].0 < book.asks[0].0);
                assert!(book.bids.windows(2).all(|pair| pair[0].0 > pair[1].0));
            }
        }
    }

    #[test]
    fn decimals_have_eight_places() {
        assert_eq!((price(8_265_000), quantity(1_500)), ("82650.00000000".into(), "0.01500000".into()));
    }
}
