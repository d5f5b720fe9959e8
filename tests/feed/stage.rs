//! The setup of a scenario: an exchange, a Redis, a replica that follows the exchange, and a client.

use crate::{
    audience::FeedClient,
    exchange::ExchangeProcess,
    support::{
        redis::RedisServer,
        replica::{IMPATIENT, TestReplica},
    },
};

/// Whether the long forms run.
pub fn is_long() -> bool {
    std::env::var("TICKGATE_FEED").is_ok_and(|form| form == "long")
}

/// The duration of a scenario's short form, or of its long one.
pub fn either<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

pub struct FeedStage {
    pub exchange: ExchangeProcess,
    pub redis: RedisServer,
    pub replica: TestReplica,
    pub audience: FeedClient,
}

/// The differences between a stage and the default one.
#[derive(Default)]
pub struct StageChanges<'a> {
    /// Arguments of the simulator.
    pub exchange: &'a [&'a str],
    /// Lines of `[feeds.binance]`.
    pub settings: &'a str,
    pub symbols: &'a [&'a str],
    pub defect: Option<&'a str>,
}

/// Busy, and less busy.
pub const SYMBOLS: &[&str] = &["BTCUSDT", "ADAUSDT"];

/// Settings of a replica to which many clients connect from one address.
pub const MANY_CLIENTS: &str =
    "[limits]\nconnections_per_address_max = 0\nhandshakes_per_address = { per_second = 0, burst = 1 }\n";

/// Settings of a replica that follows the exchange.
pub fn settings(exchange: &ExchangeProcess, lines: &str) -> String {
    let address = &exchange.address;
    let stale_after = if lines.contains("stale_after") { "" } else { "stale_after = \"2s\"\n" };
    let urls = format!("stream_url = \"ws://{address}\"\nrest_url = \"http://{address}\"\n");
    let urls = if lines.contains("stream_url") { String::new() } else { urls };
    format!("{IMPATIENT}[feeds.binance]\nenabled = \"on\"\n{urls}{stale_after}{lines}\n")
}

impl FeedStage {
    /// The default stage.
    pub async fn usual(defect: Option<&str>) -> Self {
        Self::set(StageChanges { defect, ..StageChanges::default() }).await
    }

    pub async fn set(plan: StageChanges<'_>) -> Self {
        let (exchange, redis) = (ExchangeProcess::start(plan.exchange), RedisServer::start());
        let replica = TestReplica::process_with(&redis, &settings(&exchange, plan.settings), plan.defect, &[]).await;
        let symbols = if plan.symbols.is_empty() { SYMBOLS } else { plan.symbols };
        let audience = FeedClient::of(&replica, symbols).await;
        Self { exchange, redis, replica, audience }
    }

    /// Receives until a condition holds. Returns an error if it does not hold within this time, or as soon as the
    /// exchange records a violation.
    pub async fn until(&mut self, what: &str, seconds: u64, holds: impl Fn(&FeedClient) -> bool) -> Vec<String> {
        for _ in 0..seconds {
            if self.audience.until(what, 1, &holds).await.is_empty() {
                return Vec::new();
            }
            let violations = self.exchange.violations().await;
            if !violations.is_empty() {
                return violations;
            }
        }
        self.audience.missed(what, seconds)
    }

    /// Waits until data flows.
    pub async fn live(&mut self) -> Vec<String> {
        self.until("data flows", 25, |seen| SYMBOLS.iter().all(|symbol| seen.is_live(symbol))).await
    }

    /// Waits until more trades of a symbol arrive.
    pub async fn more_trades(&mut self, symbol: &str) -> Vec<String> {
        let count = self.audience.count(symbol) + 20;
        self.until("more trades", 35, |seen| seen.count(symbol) >= count && seen.state() == "live").await
    }

    /// The errors in the messages that the client received, and the violations that the exchange recorded.
    pub async fn judged(&self) -> Vec<String> {
        let mut wrong = self.audience.judged(&self.exchange).await;
        wrong.extend(self.exchange.violations().await);
        let panics = self.replica.metric("tickgate_panics_total").await;
        if panics > 0.0 {
            wrong.push(format!("{panics} panics"));
        }
        wrong
    }

    /// The sum of a counter.
    pub async fn metric(&self, name: &str) -> f64 {
        self.replica.metric(name).await
    }
}

/// An error unless the condition holds.
pub fn unless(holds: bool, what: impl Into<String>) -> Option<String> {
    (!holds).then(|| what.into())
}
