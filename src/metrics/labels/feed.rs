//! The label values of an exchange's feed. Never a symbol.

use crate::metrics::family::Labels;

label!(
    /// The state of a feed.
    FeedState as "status" {
        Live = "live",
        Stale = "stale",
        Down = "down",
    }
);

label!(
    /// A kind of market data of an exchange.
    FeedData as "kind" {
        Ticker = "ticker",
        Trade = "trade",
        Orderbook = "orderbook",
    }
);

label!(
    /// What a frame of an exchange contains.
    FeedFrame as "kind" {
        Ticker = "ticker",
        Trade = "trade",
        Orderbook = "orderbook",
        Answer = "answer",
        Other = "other",
    }
);

label!(
    /// Why a connection to an exchange ended.
    FeedEnd as "reason" {
        Lost = "lost",
        Silent = "silent",
        Unanswered = "unanswered",
        BadFrames = "bad_frames",
        Rules = "rules",
        Limited = "limited",
        Restricted = "restricted",
    }
);

label!(
    /// Why a frame of an exchange cannot be used.
    BadFrame as "reason" {
        Json = "json",
        Field = "field",
        Time = "time",
        Symbol = "symbol",
        Crossed = "crossed",
        Unsorted = "unsorted",
        Binary = "binary",
    }
);
