//! The log line of a client that is refused. Strangers can cause it, so it is sampled. Never holds a token, a key, a path
//! or a query.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use hyper::{HeaderMap, header};
use tickgate_wire::model::SessionId;

use crate::{log_limit::LogLimit, metrics::Handshake as Outcome};

/// Each outcome is logged once in this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// Characters of a foreign origin that are logged.
const ORIGIN_MAX: usize = 100;

/// A client that wants a connection.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// What its session is called unless it resumes another one.
    pub session: SessionId,
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
        let Attempt { session, address } = attempt;
        let (connection_id, result) = (session.connection_id(), outcome.as_str());
        tracing::info!(%connection_id, endpoint, %address, result, %reason, left_out, "client refused");
    }
}
