//! Frames of the exchange: parsed and validated into an event that borrows from the text. Pure; handles any input.

use std::{borrow::Cow, cmp::Ordering};

use serde::Deserialize;
use serde_json::value::RawValue;
use tickgate_wire::model::check_name;

use super::decimal::{compare, is_plain, is_plain_and_positive, is_zero};
use crate::{
    defect::{self, Defect},
    metrics::{BadFrame, FeedData},
};

/// Levels on each side of a book.
pub(super) const LEVELS_MAX: usize = 20;
/// Maximum length of a followed symbol, in bytes.
pub(super) const SYMBOL_LEN_MAX: usize = 64;
/// The year 2100: a later time has another unit.
const TIME_MAX: u64 = 4_102_444_800_000;

/// The contents of a frame.
#[derive(Debug, PartialEq)]
pub(super) enum MarketFrame<'a> {
    Ticker(DayTicker<'a>),
    Trade {
        symbol: Cow<'a, str>,
        event_ms: u64,
        trade: AggregateTrade<'a>,
    },
    Book(PartialBook<'a>),
    /// A response to a control message; with a list if one was requested.
    Answer {
        id: u64,
        list: Option<Vec<String>>,
    },
    /// A refused control message, with the exchange's code.
    Refused {
        id: Option<u64>,
        code: i64,
    },
    /// This connection will end soon.
    Shutdown,
    /// Data of a symbol that was never traded: it has no price and no book to publish.
    Untraded {
        symbol: String,
        kind: FeedData,
    },
    /// Unrequested data.
    Other,
}

/// The last 24 hours of a symbol.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct DayTicker<'a> {
    #[serde(rename = "E")]
    pub event_ms: u64,
    #[serde(rename = "s", borrow)]
    pub symbol: Cow<'a, str>,
    #[serde(rename = "c", borrow)]
    pub price: Cow<'a, str>,
    #[serde(rename = "p", borrow)]
    pub change: Cow<'a, str>,
    #[serde(rename = "P", borrow)]
    pub percent: Cow<'a, str>,
    #[serde(rename = "h", borrow)]
    pub high: Cow<'a, str>,
    #[serde(rename = "l", borrow)]
    pub low: Cow<'a, str>,
    #[serde(rename = "v", borrow)]
    pub volume: Cow<'a, str>,
    /// The newest trade of the symbol, by its raw id; negative if there is none.
    #[serde(rename = "L")]
    pub last_raw: i64,
}

/// An aggregate trade; REST uses the same fields.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct AggregateTrade<'a> {
    #[serde(rename = "a")]
    pub id: u64,
    #[serde(rename = "p", borrow)]
    pub price: Cow<'a, str>,
    #[serde(rename = "q", borrow)]
    pub quantity: Cow<'a, str>,
    #[serde(rename = "l")]
    pub last_raw: i64,
    #[serde(rename = "T")]
    pub time_ms: u64,
    #[serde(rename = "m")]
    pub buyer_is_maker: bool,
}

impl AggregateTrade<'_> {
    /// Whether it is complete.
    pub(super) fn is_sound(&self) -> bool {
        is_plain_and_positive(&self.price) && is_plain_and_positive(&self.quantity) && self.time_ms < TIME_MAX
    }
}

/// A price and a quantity.
pub(super) type QuotedLevel<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The best levels of a book, best first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartialBook<'a> {
    pub symbol: String,
    pub update_id: u64,
    pub bids: Vec<QuotedLevel<'a>>,
    pub asks: Vec<QuotedLevel<'a>>,
}

impl MarketFrame<'_> {
    fn untraded(symbol: Cow<'_, str>, kind: FeedData) -> Self {
        Self::Untraded { symbol: symbol.into_owned(), kind }
    }
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow, default)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    error: Option<ErrorFrame>,
    #[serde(default)]
    code: Option<i64>,
    #[serde(borrow, default)]
    e: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ErrorFrame {
    code: i64,
}

#[derive(Deserialize)]
struct EventType<'a> {
    #[serde(borrow, default)]
    e: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct TradeEvent<'a> {
    #[serde(rename = "E")]
    event_ms: u64,
    #[serde(rename = "s", borrow)]
    symbol: Cow<'a, str>,
    #[serde(rename = "a")]
    id: u64,
    #[serde(rename = "p", borrow)]
    price: Cow<'a, str>,
    #[serde(rename = "q", borrow)]
    quantity: Cow<'a, str>,
    #[serde(rename = "l")]
    last_raw: i64,
    #[serde(rename = "T")]
    time_ms: u64,
    #[serde(rename = "m")]
    buyer_is_maker: bool,
}

#[derive(Deserialize)]
struct Depth<'a> {
    #[serde(rename = "lastUpdateId")]
    update_id: i64,
    #[serde(borrow)]
    bids: Vec<QuotedLevel<'a>>,
    #[serde(borrow)]
    asks: Vec<QuotedLevel<'a>>,
}

/// Parses one text frame of a combined connection.
///
/// # Errors
/// Why the frame is unusable. The connection can continue.
pub(super) fn parse(text: &str) -> Result<MarketFrame<'_>, BadFrame> {
    let outer: Outer<'_> = serde_json::from_str(text).map_err(|_| BadFrame::Json)?;
    if let Some(stream) = &outer.stream {
        let data = outer.data.ok_or(BadFrame::Field)?;
        return event(stream, data.get());
    }
    if let Some(code) = outer.error.map(|error| error.code).or(outer.code) {
        return Ok(MarketFrame::Refused { id: outer.id, code });
    }
    if let Some(id) = outer.id {
        let list = outer.result.and_then(|result| serde_json::from_str(result.get()).ok());
        return Ok(MarketFrame::Answer { id, list });
    }
    // Without the name of its stream, an event's symbol is unknown.
    match outer.e.as_deref() {
        Some("serverShutdown") => Ok(MarketFrame::Shutdown),
        _ => Ok(MarketFrame::Other),
    }
}

fn event<'a>(stream: &str, data: &'a str) -> Result<MarketFrame<'a>, BadFrame> {
    let Some((name, kind)) = stream.split_once('@') else {
        let kind: EventType<'_> = serde_json::from_str(data).map_err(|_| BadFrame::Field)?;
        let is_shutdown = kind.e.as_deref() == Some("serverShutdown");
        return Ok(if is_shutdown { MarketFrame::Shutdown } else { MarketFrame::Other });
    };
    match kind {
        "ticker" => ticker(name, data),
        "aggTrade" => trade(name, data),
        "depth20@100ms" => book(name, data),
        _ => Ok(MarketFrame::Other),
    }
}

/// Whether an event is of the kind that its stream promises. Unknown kinds are not errors.
fn is_of_kind(data: &str, wanted: &str) -> Result<bool, BadFrame> {
    let kind: EventType<'_> = serde_json::from_str(data).map_err(|_| BadFrame::Field)?;
    Ok(kind.e.as_deref() == Some(wanted))
}

fn ticker<'a>(name: &str, data: &'a str) -> Result<MarketFrame<'a>, BadFrame> {
    if !is_of_kind(data, "24hrTicker")? {
        return Ok(MarketFrame::Other);
    }
    let ticker: DayTicker<'a> = serde_json::from_str(data).map_err(|_| BadFrame::Field)?;
    check_symbol(name, &ticker.symbol)?;
    let positive = [&ticker.price, &ticker.high, &ticker.low, &ticker.volume];
    let signed = [&ticker.change, &ticker.percent];
    if !positive.iter().all(|text| is_plain_and_positive(text)) || !signed.iter().all(|text| is_plain(text)) {
        return Err(BadFrame::Field);
    }
    if ticker.event_ms >= TIME_MAX {
        return Err(BadFrame::Time);
    }
    let is_untraded = is_zero(&ticker.price);
    Ok(if is_untraded { MarketFrame::untraded(ticker.symbol, FeedData::Ticker) } else { MarketFrame::Ticker(ticker) })
}

fn trade<'a>(name: &str, data: &'a str) -> Result<MarketFrame<'a>, BadFrame> {
    if !is_of_kind(data, "aggTrade")? {
        return Ok(MarketFrame::Other);
    }
    let event: TradeEvent<'a> = serde_json::from_str(data).map_err(|_| BadFrame::Field)?;
    check_symbol(name, &event.symbol)?;
    let trade = AggregateTrade {
        id: event.id,
        price: event.price,
        quantity: event.quantity,
        last_raw: event.last_raw,
        time_ms: if defect::is(Defect::FeedEventTimes) { event.event_ms } else { event.time_ms },
        buyer_is_maker: event.buyer_is_maker,
    };
    if event.event_ms >= TIME_MAX || trade.time_ms >= TIME_MAX {
        return Err(BadFrame::Time);
    }
    if !trade.is_sound() || is_zero(&trade.price) {
        return Err(BadFrame::Field);
    }
    Ok(MarketFrame::Trade { symbol: event.symbol, event_ms: event.event_ms, trade })
}

fn book<'a>(name: &str, data: &'a str) -> Result<MarketFrame<'a>, BadFrame> {
    let depth: Depth<'a> = serde_json::from_str(data).map_err(|_| BadFrame::Field)?;
    let symbol = name.to_ascii_uppercase();
    check_symbol(name, &symbol)?;
    // A new instrument without a book yet.
    let Ok(update_id) = u64::try_from(depth.update_id) else {
        return Ok(MarketFrame::untraded(symbol.into(), FeedData::Orderbook));
    };
    let (mut bids, mut asks) = (depth.bids, depth.asks);
    bids.truncate(LEVELS_MAX);
    asks.truncate(LEVELS_MAX);
    let is_level =
        |(price, quantity): &QuotedLevel<'_>| is_plain_and_positive(price) && is_plain_and_positive(quantity);
    if !bids.iter().chain(&asks).all(is_level) {
        return Err(BadFrame::Field);
    }
    if !is_sorted(&bids, Ordering::Greater) || !is_sorted(&asks, Ordering::Less) {
        return Err(BadFrame::Unsorted);
    }
    if let (Some((bid, _)), Some((ask, _))) = (bids.first(), asks.first())
        && compare(bid, ask) != Ordering::Less
    {
        return Err(BadFrame::Crossed);
    }
    Ok(MarketFrame::Book(PartialBook { symbol, update_id, bids, asks }))
}

fn is_sorted(levels: &[QuotedLevel<'_>], wanted: Ordering) -> bool {
    levels.windows(2).all(|pair| compare(&pair[0].0, &pair[1].0) == wanted)
}

/// The payload and the name of the stream must name the same symbol, which must be valid in a topic name.
fn check_symbol(name: &str, symbol: &str) -> Result<(), BadFrame> {
    if name != symbol.to_ascii_lowercase() || !is_symbol(symbol) {
        return Err(BadFrame::Symbol);
    }
    Ok(())
}

/// Whether a symbol can be followed: it is part of topic names, and the exchange writes it in capitals. It may contain
/// letters of other alphabets, as on the exchange.
pub(super) fn is_symbol(symbol: &str) -> bool {
    let is_spelled = |c: char| !c.is_ascii() || c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    symbol.len() <= SYMBOL_LEN_MAX && check_name(symbol).is_ok() && symbol.chars().all(is_spelled)
}
