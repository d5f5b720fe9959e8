//! Entry points for fuzzing the parsers of exchange data. Pure.

use bytes::Bytes;

use super::{
    frame::{self, MarketFrame},
    listing::SymbolListing,
    market::topic,
    payload, rest,
};
use crate::metrics::{BadFrame, FeedData};

/// What is published for a frame, with its topic.
///
/// # Errors
/// Why the frame is unusable.
pub fn messages(text: &str) -> Result<Option<(String, Bytes)>, BadFrame> {
    Ok(match frame::parse(text)? {
        MarketFrame::Ticker(ticker) => Some((topic(FeedData::Ticker, &ticker.symbol), payload::ticker(&ticker))),
        MarketFrame::Trade { symbol, trade, .. } => {
            Some((topic(FeedData::Trade, &symbol), payload::trade(&symbol, &trade, false)))
        }
        MarketFrame::Book(book) => Some((topic(FeedData::Orderbook, &book.symbol), payload::book(&book, 0))),
        MarketFrame::Untraded { .. }
        | MarketFrame::Answer { .. }
        | MarketFrame::Refused { .. }
        | MarketFrame::Shutdown
        | MarketFrame::Other => None,
    })
}

/// A message as it is published again when its value becomes stale.
#[must_use]
pub fn stale(message: &[u8]) -> Option<Bytes> {
    payload::stale(message, None)
}

/// The trades in a response, as they are published.
#[must_use]
pub fn trades(symbol: &str, body: &str) -> Option<Vec<Bytes>> {
    let (trades, _) = rest::read_trades(symbol, body)?;
    Some(trades.into_iter().map(|trade| trade.payload).collect())
}

/// How many symbols of a list cannot be followed; `None` if it is invalid.
#[must_use]
pub fn skipped(body: &str) -> Option<usize> {
    SymbolListing::read(body).map(|listing| listing.skipped)
}
