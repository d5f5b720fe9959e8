//! The two REST requests of the feed: the list of symbols, and missing trades.

use std::time::{Duration, Instant};

use tickgate_client::http::{HttpRequest, Response};

use super::{frame::AggregateTrade, listing::SymbolListing, payload, recording::Recording, tape::TapeTrade};

/// Weight of a request for trades.
pub(super) const TRADES_WEIGHT: u64 = 4;
/// Weight of the list of symbols.
pub(super) const LISTING_WEIGHT: u64 = 20;
/// Maximum number of trades in one response.
const TRADES_MAX: usize = 1_000;
const TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum size of the list, which has several megabytes.
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);
const LISTING_BYTES_MAX: usize = 32 << 20;
/// Delay before a failed request may be repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The result of a request.
#[derive(Debug)]
pub(super) enum RestResult {
    Listing(Result<SymbolListing, NotAnswered>),
    Trades { symbol: String, answer: Result<(Vec<TapeTrade>, bool), NotAnswered> },
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum NotAnswered {
    /// 429 or 418: no requests before this time.
    Limited {
        retry_after: Option<Duration>,
        /// 418: no connections either.
        is_ban: bool,
    },
    Failed(String),
}

/// A response, with the weight that the exchange has counted.
pub(super) type WeighedResponse = (RestResult, Option<u64>);

/// The REST host, and the recorder of its responses.
#[derive(Clone, Debug)]
pub(super) struct RestClient {
    pub base: String,
    pub recording: Option<Recording>,
}

impl RestClient {
    /// Requests the list of symbols.
    pub(super) async fn listing(self) -> WeighedResponse {
        let path = "/api/v3/exchangeInfo?showPermissionSets=false";
        let request = self.get(path).timeout(LISTING_TIMEOUT).body_bytes_max(LISTING_BYTES_MAX);
        let (answer, weight) = self.ask(path, request).await;
        let read = |body: String| {
            SymbolListing::read(&body).ok_or_else(|| NotAnswered::Failed("not a list of symbols".into()))
        };
        (RestResult::Listing(answer.and_then(read)), weight)
    }

    /// Requests trades starting at an id.
    pub(super) async fn trades(self, symbol: String, from: u64) -> WeighedResponse {
        let name = encoded(&symbol);
        let path = format!("/api/v3/aggTrades?symbol={name}&fromId={from}&limit={TRADES_MAX}");
        let request = self.get(&path).timeout(TIMEOUT);
        let (answer, weight) = self.ask(&path, request).await;
        let read = |body: String| {
            read_trades(&symbol, &body).ok_or_else(|| NotAnswered::Failed("not a list of trades".into()))
        };
        let answer = answer.and_then(read);
        (RestResult::Trades { symbol, answer }, weight)
    }

    fn get(&self, path: &str) -> HttpRequest {
        HttpRequest::get(format!("{}{path}", self.base))
    }

    async fn ask(&self, path: &str, request: HttpRequest) -> (Result<String, NotAnswered>, Option<u64>) {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return (Err(NotAnswered::Failed(error.to_string())), None),
        };
        let weight = header(&response, "x-mbx-used-weight-1m");
        let answer = match response.status.as_u16() {
            200 => Ok(response.body),
            status @ (429 | 418) => Err(NotAnswered::Limited {
                retry_after: header(&response, "retry-after").map(Duration::from_secs),
                is_ban: status == 418,
            }),
            status => Err(NotAnswered::Failed(format!("HTTP {status}"))),
        };
        if let (Ok(body), Some(recording)) = (&answer, &self.recording) {
            recording.answer(path, body);
        }
        (answer, weight)
    }
}

pub(super) fn read_trades(symbol: &str, body: &str) -> Option<(Vec<TapeTrade>, bool)> {
    let trades: Vec<AggregateTrade<'_>> = serde_json::from_str(body).ok()?;
    let is_full = trades.len() >= TRADES_MAX;
    let trades = trades.iter().filter(|trade| trade.is_sound());
    Some((trades.map(|trade| TapeTrade::new(trade, payload::trade(symbol, trade, true), true)).collect(), is_full))
}

/// A symbol encoded for a query.
fn encoded(symbol: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    symbol.bytes().map(byte).collect()
}

fn header(response: &Response, name: &str) -> Option<u64> {
    response.headers.get(name)?.to_str().ok()?.parse().ok()
}

/// When a failed request may be made again.
pub(super) fn retry_at(now: Instant) -> Instant {
    now + RETRY_INTERVAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_other_alphabets_are_encoded() {
        assert_eq!(encoded("BTC_USDT1"), "BTC_USDT1");
        assert_eq!(encoded("测USDT"), "%E6%B5%8BUSDT");
    }
}
