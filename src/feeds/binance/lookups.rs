//! What the feed reads from the backplane: the position of published trades, and last values that nobody has marked yet.

use std::time::Duration;

use bytes::Bytes;
use tickgate_wire::model::{Content, Topic};
use tokio::time::sleep;

use super::{
    market::topic,
    payload::{self, Mark},
};
use crate::{
    backplane::{Backplane, ReadLimits},
    metrics::FeedData,
};

/// Until the backplane is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What a lookup found.
#[derive(Debug)]
pub(super) enum Found {
    /// The position of the published trades of a symbol.
    Position { symbol: String, mark: Option<Mark> },
    /// The last value of a topic, and the status of its symbol for which it is to be marked as stale.
    Value { symbol: String, kind: FeedData, status: Option<String>, value: Option<Bytes> },
}

/// Finds the position of the published trades of a symbol; asks until the backplane answers.
pub(super) async fn position(backplane: Backplane, symbol: String) -> Found {
    let entry = newest(&backplane, &topic(FeedData::Trade, &symbol)).await;
    Found::Position { symbol, mark: entry.and_then(|entry| payload::mark(&entry)) }
}

/// Finds the last value of a topic; asks until the backplane answers.
pub(super) async fn value(backplane: Backplane, symbol: String, kind: FeedData, status: Option<String>) -> Found {
    let value = newest(&backplane, &topic(kind, &symbol)).await;
    Found::Value { symbol, kind, status, value }
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
                tracing::debug!(topic, %error, "the last message of a topic can't be read");
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
