//! The audit log: what operators did, and whom the gateway refused. The only place that writes it, under its own
//! target. Never contains a token, a key, a payload or a complete session id.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tickgate_wire::model::{SessionId, UserId};

use crate::{
    config::AUDIT_TARGET as TARGET,
    log_limit::LogLimit,
    metrics::{AuthFailure, HandshakeResult},
};

/// Minimum time between two lines about the same address and reason.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of address and reason pairs that are tracked. Other addresses share one line per reason.
const PAIRS_MAX: usize = 128;

/// The origin of a request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The name of the key.
    pub key: Option<Arc<str>>,
    /// The peer's address; `None` if the request did not arrive over TCP.
    pub address: Option<IpAddr>,
    /// The response's `X-Request-Id`.
    pub request_id: Option<String>,
}

/// The user or object of an operator's action.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditTarget<'a> {
    /// Whose clients or tokens the action concerns.
    pub user: Option<&'a UserId>,
    /// The only session concerned, if it is not the whole user.
    pub session: Option<SessionId>,
    /// The only connection concerned.
    pub connection_id: Option<&'a str>,
    /// The topic concerned.
    pub topic: Option<&'a str>,
    /// For how long.
    pub seconds: Option<u64>,
    /// The new value.
    pub value: Option<&'a str>,
}

/// Writes the lines; lines that clients can cause are rate-limited.
#[derive(Debug)]
pub struct Audit {
    clients: SampledLines,
    requests: SampledLines,
    topics: LogLimit,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            clients: SampledLines::new(HandshakeResult::ALL.len()),
            requests: SampledLines::new(AuthFailure::ALL.len()),
            topics: LogLimit::new(INTERVAL),
        }
    }
}

impl Audit {
    /// An operator's action and its result. The only line at `info` that names a user: an audit must show who did what
    /// to whom.
    pub fn action(&self, caller: &Caller, action: &str, target: AuditTarget<'_>, failure: Option<&dyn fmt::Display>) {
        let Caller { key, address, request_id } = caller;
        let (key, address) = (key.as_deref(), address.map(tracing::field::display));
        let AuditTarget { user, session, connection_id, topic, seconds, value } = target;
        let user = user.map(UserId::as_str);
        // Only its first digits: it is a secret.
        let session = session.map(|session| format!("{session:?}"));
        let (result, failure) = (if failure.is_none() { "ok" } else { "failed" }, failure.map(tracing::field::display));
        tracing::info!(
            target: TARGET,
            action, result, failure, user, session, connection_id, topic, seconds, value, key, address, request_id,
            "operator action"
        );
    }

    /// A request to the API without a valid key.
    pub fn refused_request(&self, caller: &Caller, reason: AuthFailure) {
        let Some(left_out) = self.requests.admit(reason as usize, caller.address, Instant::now()) else { return };
        let (address, request_id) = (caller.address.map(tracing::field::display), &caller.request_id);
        tracing::info!(target: TARGET, reason = reason.as_str(), address, request_id, left_out, "api request refused");
    }

    /// A request whose key lacks the right. Not sampled: the owner of the key is known.
    pub fn forbidden(&self, caller: &Caller, right: &str) {
        let Caller { key, address, request_id } = caller;
        let (key, address, reason) = (key.as_deref(), address.map(tracing::field::display), "forbidden");
        tracing::info!(target: TARGET, reason, right, key, address, request_id, "api request refused");
    }

    /// A topic that a key with the right may not use. A stream of publications can cause many of these.
    pub fn forbidden_topic(&self, key: &str, right: &str, topic: &str) {
        let Some(left_out) = self.topics.admit(Instant::now()) else { return };
        let (reason, left_out) = ("topic", Some(left_out).filter(|count| *count > 0));
        tracing::info!(target: TARGET, reason, right, topic, key, left_out, "api request refused");
    }

    /// A client that an endpoint refused.
    pub fn refused_client(
        &self,
        endpoint: &str,
        (connection_id, address): (impl fmt::Display, IpAddr),
        outcome: HandshakeResult,
        reason: impl fmt::Display,
    ) {
        let Some(left_out) = self.clients.admit(outcome as usize, Some(address), Instant::now()) else { return };
        let result = outcome.as_str();
        tracing::info!(
            target: TARGET,
            %connection_id, endpoint, %address, result, %reason, left_out,
            "client refused"
        );
    }
}

/// Allows one line per interval for each pair of reason and address, and counts the omitted ones.
#[derive(Debug)]
struct SampledLines {
    // Held for a lookup, or for a scan of all pairs if there are too many.
    pairs: Mutex<HashMap<(usize, Option<IpAddr>), OmittedLines>>,
    /// By reason, for addresses beyond the bound.
    others: Box<[LogLimit]>,
}

#[derive(Debug)]
struct OmittedLines {
    last: Instant,
    left_out: u64,
}

impl SampledLines {
    fn new(reasons: usize) -> Self {
        Self { pairs: Mutex::default(), others: (0..reasons).map(|_| LogLimit::new(INTERVAL)).collect() }
    }

    /// Whether a line may be written as of `now`, and how many were omitted before it, if any.
    fn admit(&self, reason: usize, address: Option<IpAddr>, now: Instant) -> Option<Option<u64>> {
        let mut pairs = self.pairs.lock();
        let is_over = |pair: &OmittedLines| now.saturating_duration_since(pair.last) >= INTERVAL;
        if let Some(pair) = pairs.get_mut(&(reason, address)) {
            if !is_over(pair) {
                pair.left_out += 1;
                return None;
            }
            pair.last = now;
            return Some(Some(std::mem::take(&mut pair.left_out)).filter(|count| *count > 0));
        }
        if pairs.len() >= PAIRS_MAX {
            pairs.retain(|_, pair| !is_over(pair));
        }
        if pairs.len() >= PAIRS_MAX {
            drop(pairs);
            return Some(self.others.get(reason)?.admit(now)?).map(|count| Some(count).filter(|count| *count > 0));
        }
        pairs.insert((reason, address), OmittedLines { last: now, left_out: 0 });
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, (number >> 8) as u8, number as u8]))
    }

    #[test]
    fn one_noisy_address_does_not_hide_others_and_omitted_lines_are_counted() {
        let (sampled, began) = (SampledLines::new(2), Instant::now());
        let at = |reason, number, ms| sampled.admit(reason, address(number), began + Duration::from_millis(ms));
        assert_eq!([at(0, 1, 0), at(0, 1, 1), at(0, 1, 999)], [Some(None), None, None]);
        assert_eq!([at(1, 1, 2), at(0, 2, 2)], [Some(None), Some(None)], "another reason, another address");
        assert_eq!([at(0, 1, 1_000), at(0, 1, 1_001)], [Some(Some(2)), None]);
    }

    #[test]
    fn a_flood_of_many_addresses_is_bounded() {
        let (sampled, began) = (SampledLines::new(1), Instant::now());
        let lines = |from: usize, ms| {
            let now = began + Duration::from_millis(ms);
            (from..from + 10_000).filter(|number| sampled.admit(0, address(*number), now).is_some()).count()
        };
        assert_eq!(lines(0, 0), PAIRS_MAX + 1);
        assert_eq!(sampled.pairs.lock().len(), PAIRS_MAX);
        assert_eq!(lines(10_000, 1_000), PAIRS_MAX + 1, "earlier entries are forgotten");
    }
}
