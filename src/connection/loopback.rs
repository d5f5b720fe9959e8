//! Restricts development mode to this machine: requests that come through a proxy, or from a page by DNS rebinding, are
//! refused and logged. Not used in production.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use hyper::{HeaderMap, Uri, header, http::uri::Authority};
use tickgate_wire::code::ProblemKind;

use crate::{config::is_loopback_host, log_limit::LogLimit, problem::Problem};

/// Headers that proxies write.
const FORWARDING: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
];
/// Minimum time between two logged refusals.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

struct LoopbackGuard {
    /// `server.allowed_origins`.
    origins: Vec<String>,
    log: LogLimit,
}

/// Admits only requests from this machine and those of `origins` (`server.allowed_origins`).
pub fn only(router: Router, origins: &[String]) -> Router {
    let guard = LoopbackGuard { origins: origins.to_vec(), log: LogLimit::new(LOG_INTERVAL) };
    router.layer(from_fn_with_state(Arc::new(guard), admit))
}

async fn admit(State(guard): State<Arc<LoopbackGuard>>, request: Request, next: Next) -> Response {
    let Some(reason) = refusal(request.headers(), request.uri(), &guard.origins) else {
        return next.run(request).await;
    };
    if let Some(left_out) = guard.log.admit(Instant::now()) {
        let left_out = Some(left_out).filter(|count| *count > 0);
        tracing::warn!(reason, left_out, "request refused: development mode accepts requests from this machine only");
    }
    Problem::new(ProblemKind::Policy, reason).respond(request.headers())
}

/// Why a request does not come from this machine.
fn refusal(headers: &HeaderMap, uri: &Uri, origins: &[String]) -> Option<&'static str> {
    if FORWARDING.iter().any(|name| headers.contains_key(*name)) {
        return Some("forwarded by a proxy, in development mode: set server.mode = \"production\" behind one");
    }
    let hosts = headers.get_all(header::HOST).iter().map(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let is_own = |host: Option<Authority>| host.is_some_and(|host| is_allowed_host(host.host(), origins));
    if !hosts.chain(uri.authority().map(|host| Some(host.clone()))).all(is_own) {
        return Some("the Host is not this machine, in development mode: list its origin in server.allowed_origins");
    }
    None
}

/// Whether a request may have this host: one of this machine, or of a listed origin.
fn is_allowed_host(host: &str, origins: &[String]) -> bool {
    is_loopback_host(host) || origins.iter().any(|origin| origin == "*" || host_of(origin).is_some_and(|it| it == host))
}

fn host_of(origin: &str) -> Option<String> {
    let (_, authority) = origin.split_once("://")?;
    Some(authority.parse::<Authority>().ok()?.host().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LOOPBACK_ORIGINS;

    fn refused(origins: &[&str], headers: &[(&'static str, &str)]) -> bool {
        let origins: Vec<_> = origins.iter().map(ToString::to_string).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        refusal(&map, &Uri::from_static("/ws"), &origins).is_some()
    }

    #[test]
    fn only_hosts_of_this_machine_are_accepted() {
        for host in [
            "localhost",
            "localhost:8000",
            "LOCALHOST.",
            "app.localhost:1",
            "127.0.0.1:8000",
            "127.8.9.1",
            "[::1]:8000",
        ] {
            assert!(!refused(&[LOOPBACK_ORIGINS], &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "10.0.0.1",
            "[2001:db8::1]",
            "0.0.0.0",
            "a b",
            "",
        ] {
            assert!(refused(&[LOOPBACK_ORIGINS], &[("host", host)]), "{host}");
            assert!(refused(&[LOOPBACK_ORIGINS], &[("host", "localhost"), ("host", host)]), "{host}");
        }
        assert!(!refused(&["https://app.example"], &[("host", "app.example:443")]), "listed origin");
        assert!(refused(&["https://app.example"], &[("host", "evil.example")]));
        assert!(!refused(&["*"], &[("host", "evil.example")]), "`*` allows all");
    }

    #[test]
    fn requests_forwarded_by_a_proxy_are_refused() {
        for name in FORWARDING {
            assert!(refused(&["*"], &[("host", "localhost"), (name, "203.0.113.7")]), "{name}");
        }
    }
}
