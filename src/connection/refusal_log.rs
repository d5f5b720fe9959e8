//! The log line of a client that is refused. Strangers can cause it, so it is sampled. Never holds a token, a key, a path
//! or a query.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use hyper::{HeaderMap, header};
use uuid::Uuid;

use crate::{log_limit::LogLimit, metrics::Handshake as Outcome};

/// Each outcome is logged once in this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// Characters of a foreign origin that are logged.
const ORIGIN_MAX: usize = 100;

/// The name of one connection, 8 hexadecimal digits. Independent of the session, which is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u32);

impl ConnectionId {
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().as_fields().0)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A client that wants a connection.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// What the connection is called in logs and to its client.
    pub connection_id: ConnectionId,
    /// Where it comes from, behind trusted proxies.
    pub address: IpAddr,
}

/// Logs refusals, each outcome at its own pace: a flood of one does not hide another.
#[derive(Debug)]
pub struct RefusalLog([LogLimit; Outcome::ALL.len()]);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(std::array::from_fn(|_| LogLimit::new(INTERVAL)))
    }
}

/// The reason for refusing a foreign page, with its origin: an operator may have to allow it.
pub(super) fn foreign_origin(headers: &HeaderMap) -> String {
    let origin = headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let shown: String = origin.unwrap_or_default().chars().take(ORIGIN_MAX).collect();
    format!("Origin not allowed: {shown:?}")
}

impl RefusalLog {
    /// Logs why a client of an endpoint is refused. `reason` must not hold a token.
    pub fn write(&self, endpoint: &str, attempt: Attempt, outcome: Outcome, reason: impl fmt::Display) {
        let Some(left_out) = self.0[outcome as usize].admit(Instant::now()) else { return };
        let left_out = Some(left_out).filter(|count| *count > 0);
        let (Attempt { connection_id, address }, result) = (attempt, outcome.as_str());
        tracing::info!(%connection_id, endpoint, %address, result, %reason, left_out, "client refused");
    }
}
