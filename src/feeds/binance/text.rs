//! The readers of what an exchange sends, as the search for inputs that break them calls them. Pure.

use bytes::Bytes;

use super::{
    frame::{self, Frame},
    listing::Listing,
    market::topic,
    payload, rest,
};
use crate::metrics::{BadFrame, FeedData};

/// What is published of a frame, with its topic.
///
/// # Errors
/// Why the frame can't be used.
pub fn messages(text: &str) -> Result<Option<(String, Bytes)>, BadFrame> {
    Ok(match frame::parse(text)? {
        Frame::Ticker(ticker) => Some((topic(FeedData::Ticker, &ticker.symbol), payload::ticker(&ticker))),
        Frame::Trade { symbol, trade, .. } => {
            Some((topic(FeedData::Trade, &symbol), payload::trade(&symbol, &trade, false)))
        }
        Frame::Book(book) => Some((topic(FeedData::Orderbook, &book.symbol), payload::book(&book, 0))),
        Frame::Untraded { .. } | Frame::Answer { .. } | Frame::Refused { .. } | Frame::Shutdown | Frame::Other => None,
    })
}

/// A message as it is published again when its value is out of date.
#[must_use]
pub fn stale(message: &[u8]) -> Option<Bytes> {
    payload::stale(message, None)
}

/// The trades in an answer to a request, as they are published.
#[must_use]
pub fn trades(symbol: &str, body: &str) -> Option<Vec<Bytes>> {
    let (trades, _) = rest::read_trades(symbol, body)?;
    Some(trades.into_iter().map(|trade| trade.payload).collect())
}

/// How many symbols of a list can't be followed; `None` when it is no list.
#[must_use]
pub fn skipped(body: &str) -> Option<usize> {
    Listing::read(body).map(|listing| listing.skipped)
}
