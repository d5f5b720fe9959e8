//! What the feed reads from the backplane: the position of published trades, and last values that are not marked yet.

use std::time::Duration;

use bytes::Bytes;
use tickgate_wire::model::{Content, Topic};
use tokio::time::sleep;

use super::{
    market::topic,
    payload::{self, TradePosition},
};
use crate::{
    backplane::{Backplane, ReadLimits},
    metrics::FeedData,
};

/// Delay before the backplane is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum LookupResult {
    /// The position of the published trades of a symbol.
    Position { symbol: String, mark: Option<TradePosition> },
    /// The last value of a topic, and the status of its symbol for which it should be marked as stale.
    Value { symbol: String, kind: FeedData, status: Option<String>, value: Option<Bytes> },
}

/// Looks up the position of the published trades of a symbol; retries until the backplane responds.
pub(super) async fn position(backplane: Backplane, symbol: String) -> LookupResult {
    let entry = newest(&backplane, &topic(FeedData::Trade, &symbol)).await;
    LookupResult::Position { symbol, mark: entry.and_then(|entry| payload::mark(&entry)) }
}

/// Looks up the last value of a topic; retries until the backplane responds.
pub(super) async fn value(
    backplane: Backplane,
    symbol: String,
    kind: FeedData,
    status: Option<String>,
) -> LookupResult {
    let value = newest(&backplane, &topic(kind, &symbol)).await;
    LookupResult::Value { symbol, kind, status, value }
}

async fn newest(backplane: &Backplane, topic: &str) -> Option<Bytes> {
    loop {
        match backplane.newest(&Topic::from_wire(topic), ReadLimits::ONE).await {
            Ok(newest) => {
                return newest.messages.last().and_then(|message| match &message.content {
                    Content::Data(payload) => Some(payload.clone()),
                    Content::Unreadable => None,
                });
            }
            Err(error) => {
                tracing::debug!(topic, %error, "cannot read the last message of a topic");
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
