//! The published messages, in the form of the market documents, copied from the exchange's text byte for byte. Pure.

use std::{borrow::Cow, fmt::Write};

use bytes::Bytes;
use serde::Deserialize;
use tickgate_wire::time::Timestamp;

use super::frame::{AggregateTrade, DayTicker, PartialBook, QuotedLevel};
use crate::defect::{self, Defect};

/// A `ticker`.
pub(super) fn ticker(ticker: &DayTicker<'_>) -> Bytes {
    let DayTicker { symbol, price, change, percent, high, low, volume, event_ms, .. } = ticker;
    let time = Timestamp::from_ms(*event_ms);
    format!(
        concat!(
            r#"{{"type":"ticker","symbol":"{}","price":"{}","price_change":"{}","price_change_percent":"{}","#,
            r#""high_price":"{}","low_price":"{}","volume":"{}","timestamp":"{}"}}"#
        ),
        symbol, price, change, percent, high, low, volume, time
    )
    .into()
}

/// A `trade`. `backfilled`: it was fetched later.
pub(super) fn trade(symbol: &str, trade: &AggregateTrade<'_>, backfilled: bool) -> Bytes {
    // The taker's side: if the buyer's order was in the book, the taker sold.
    let side = if trade.buyer_is_maker != defect::is(Defect::FeedSides) { "sell" } else { "buy" };
    let mark = if backfilled { r#","backfilled":true"# } else { "" };
    let time = Timestamp::from_ms(trade.time_ms);
    let AggregateTrade { id, price, quantity, .. } = trade;
    let price = through_float(price);
    format!(
        concat!(
            r#"{{"type":"trade","symbol":"{}","price":"{}","quantity":"{}","side":"{}","timestamp":"{}","#,
            r#""trade_id":{}{}}}"#
        ),
        symbol, price, quantity, side, time, id, mark
    )
    .into()
}

/// The price as received; with the defect, as a program with floats would write it.
fn through_float(price: &str) -> Cow<'_, str> {
    if !defect::is(Defect::FeedFloats) {
        return Cow::Borrowed(price);
    }
    price.parse::<f64>().map_or(Cow::Borrowed(price), |number| number.to_string().into())
}

/// An `orderbook`. The exchange gives no time for it: the timestamp is that of its arrival.
pub(super) fn book(book: &PartialBook<'_>, received_ms: u64) -> Bytes {
    let mut text = format!(r#"{{"type":"orderbook","symbol":"{}","bids":["#, book.symbol);
    levels(&mut text, &book.bids);
    text.push_str(r#"],"asks":["#);
    levels(&mut text, &book.asks);
    let time = Timestamp::from_ms(received_ms);
    // Writing to a string cannot fail.
    let _ = write!(text, r#"],"timestamp":"{time}","update_id":{}}}"#, book.update_id);
    text.into()
}

fn levels(text: &mut String, levels: &[QuotedLevel<'_>]) {
    for (at, (price, quantity)) in levels.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(text, r#"{comma}["{price}","{quantity}"]"#);
    }
}

/// Trades that can no longer be obtained, by their ids.
pub(super) fn gap(symbol: &str, from: u64, to: u64) -> Bytes {
    format!(r#"{{"type":"trades_gap","symbol":"{symbol}","from":{from},"to":{to}}}"#).into()
}

/// A value that is still the newest but may be old; with the symbol's status if that is the reason. `None` if it is
/// marked already, or is not an object.
pub(super) fn stale(value: &[u8], symbol_status: Option<&str>) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct StatusFields<'a> {
        #[serde(default)]
        stale: bool,
        #[serde(borrow, default)]
        symbol_status: Option<&'a str>,
    }
    let text = std::str::from_utf8(value).ok()?.trim_end();
    let standing: StatusFields<'_> = serde_json::from_str(text).ok()?;
    if standing.stale {
        // It keeps its first mark, unless there is more to add.
        let more = symbol_status.filter(|_| standing.symbol_status.is_none())?;
        return Some(format!(r#"{},"symbol_status":"{more}"}}"#, text.strip_suffix('}')?).into());
    }
    let status = symbol_status.map(|status| format!(r#","symbol_status":"{status}""#)).unwrap_or_default();
    Some(format!(r#"{},"stale":true{status}}}"#, text.strip_suffix('}')?).into())
}

/// The position of a stream of trades, from its newest entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TradePosition {
    /// The newest trade that was published or given up.
    pub id: u64,
    /// When it was traded; 0 if the entry does not say.
    pub time_ms: u64,
}

/// Parses the newest entry of a stream of trades; `None` if no feed of this kind wrote it.
pub(super) fn mark(entry: &[u8]) -> Option<TradePosition> {
    #[derive(Deserialize)]
    struct TradeEntry {
        trade_id: Option<u64>,
        to: Option<u64>,
        timestamp: Option<Timestamp>,
    }
    let entry: TradeEntry = serde_json::from_slice(entry).ok()?;
    let id = entry.trade_id.or(entry.to)?;
    Some(TradePosition { id, time_ms: entry.timestamp.map_or(0, Timestamp::ms) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_value_is_marked_once_and_keeps_its_time() {
        let value = br#"{"type":"ticker","symbol":"A","price":"1.00","timestamp":"2026-09-21T14:13:20.123Z"}"#;
        let marked = stale(value, None).unwrap();
        assert!(marked.starts_with(&value[..value.len() - 1]) && marked.ends_with(br#","stale":true}"#));
        assert_eq!(stale(&marked, None), None);
        let halted = stale(&marked, Some("BREAK")).unwrap();
        assert!(halted.ends_with(br#","stale":true,"symbol_status":"BREAK"}"#));
        assert_eq!(stale(&halted, Some("BREAK")), None);
        assert_eq!(stale(b"[]", None), None);
    }

    #[test]
    fn the_position_of_a_stream_is_its_newest_trade_or_gap() {
        let entry = br#"{"type":"trade","trade_id":7,"timestamp":"1970-01-01T00:00:01.000Z"}"#;
        assert_eq!(mark(entry), Some(TradePosition { id: 7, time_ms: 1_000 }));
        assert_eq!(mark(&gap("A", 3, 9)), Some(TradePosition { id: 9, time_ms: 0 }));
        assert_eq!(mark(br#"{"type":"trade","price":"1"}"#), None);
    }
}
