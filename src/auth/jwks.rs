//! The key set at a configured address: fetched at start, then periodically, and when a token names an unknown key.
//! Never follows an address in a token; time, size and frequency of fetches are bounded.
//!
//! One task does all fetching ([`KeySet::keep_fresh`]); callers that need a fetch request it and wait for the next
//! attempt. A flood of unknown tokens therefore causes one fetch, and a client that disconnects does not cancel it for
//! others.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use hyper::{StatusCode, Uri, header};
use ipnet::IpNet;
use jsonwebtoken::{Algorithm, jwk::Jwk};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;
use tickgate_client::http::HttpRequest;
use tokio::{net::lookup_host, sync::watch, time::Instant};

use super::keys::VerifyingKey;
use crate::{clock, config, metrics::Metrics, tasks::Stop};

/// Timeout of a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a key set, in bytes.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Maximum number of keys that are read from a set.
const KEYS_MAX: usize = 64;
/// Minimum time between two fetches caused by unknown keys.
const UNKNOWN_KEY_INTERVAL_SECONDS: u64 = 30;
/// Minimum time between two fetches caused by a bad signature of a known key: the key may have been replaced under the
/// same `kid`.
const REPLACED_KEY_INTERVAL_SECONDS: u64 = 60;
/// Delay before the retry after a failed fetch, doubled each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The keys from an address. While they cannot be fetched, the last good ones are kept up to a maximum age: a key
/// withdrawn in the meantime must not be trusted for longer.
#[derive(Debug)]
pub(super) struct KeySet {
    source: KeySetSource,
    refresh_interval: Duration,
    age_max: Duration,
    /// `None` until the first fetch succeeds.
    keys: ArcSwapOption<Fetched>,
    /// When the last attempt started, in seconds since 1970.
    attempted_at: AtomicU64,
    /// When a bad signature last caused an attempt, in seconds since 1970.
    doubted_at: AtomicU64,
    progress: watch::Sender<FetchProgress>,
    /// Why and when a fetch was last requested, in seconds since 1970.
    wanted_at: watch::Sender<(KeyDoubt, u64)>,
}

/// The keys of one fetch.
#[derive(Debug)]
struct Fetched {
    keys: Vec<VerifyingKey>,
    at: Instant,
}

/// Why the local keys may be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyDoubt {
    /// A token names an unknown key.
    UnknownKey,
    /// A token's signature does not match the key it names.
    Signature,
}

impl KeyDoubt {
    const fn interval_seconds(self) -> u64 {
        match self {
            Self::UnknownKey => UNKNOWN_KEY_INTERVAL_SECONDS,
            Self::Signature => REPLACED_KEY_INTERVAL_SECONDS,
        }
    }
}

/// The state of the fetching task.
#[derive(Clone, Copy, Debug, Default)]
struct FetchProgress {
    running: bool,
    /// Attempts that ended, successful or not.
    finished: u64,
}

#[derive(Debug)]
struct KeySetSource {
    url: String,
    /// A private certificate authority, read at each fetch.
    ca_file: Option<PathBuf>,
    /// Addresses from which a set may be fetched without TLS, in addition to loopback. Empty with TLS.
    plain_ranges: Vec<IpNet>,
    fetch_timeout: Duration,
}

/// Why a fetch failed.
#[derive(Debug, Error)]
enum FetchError {
    #[error(transparent)]
    Transport(#[from] tickgate_client::Error),
    #[error("{0}")]
    Authority(String),
    #[error("{0} is not in auth.jwks_plain_ranges, which lists the only addresses allowed without TLS")]
    Address(IpAddr),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("not a key set")]
    Malformed,
    #[error("no usable key among {0}")]
    NoUsableKey(usize),
}

impl KeySet {
    /// Validates the address; fetches nothing yet.
    ///
    /// # Errors
    /// A sentence if the address is neither `https` nor an allowed `http` one.
    pub(super) fn new(config: &config::Jwks) -> Result<Self, String> {
        Ok(Self {
            source: KeySetSource::new(config, FETCH_TIMEOUT)?,
            refresh_interval: config.refresh_interval,
            age_max: config.age_max,
            keys: ArcSwapOption::empty(),
            attempted_at: AtomicU64::new(0),
            doubted_at: AtomicU64::new(0),
            progress: watch::Sender::default(),
            wanted_at: watch::Sender::new((KeyDoubt::UnknownKey, 0)),
        })
    }

    /// Calls `use_key` for each key that may verify such a token, until one returns true. `None`: the set has none. A
    /// token without `kid` matches only if exactly one key has its algorithm: trying all keys would let an attacker
    /// choose the cost of a bad token.
    pub(super) fn any(
        &self,
        (algorithm, kid): (Algorithm, Option<&str>),
        use_key: impl Fn(&VerifyingKey) -> bool,
    ) -> Option<bool> {
        let fetched = self.keys.load();
        let fetched = fetched.as_ref().filter(|fetched| self.is_young(fetched));
        let of_algorithm = fetched.iter().flat_map(|fetched| &fetched.keys).filter(|key| key.algorithm == algorithm);
        let fitting = of_algorithm.filter(|key| kid.is_none() || key.answers(algorithm, kid));
        let (mut found, mut verified) = (0_usize, false);
        for key in fitting {
            found += 1;
            if kid.is_none() && found > 1 {
                return None;
            }
            verified = verified || use_key(key);
        }
        (found > 0).then_some(verified)
    }

    /// Whether there are keys: a set was fetched, and is not too old.
    pub(super) fn is_loaded(&self) -> bool {
        self.keys.load().as_ref().is_some_and(|fetched| self.is_young(fetched))
    }

    fn is_young(&self, fetched: &Fetched) -> bool {
        fetched.at.elapsed() < self.age_max
    }

    /// Whether waiting for a fetch is useful at this time (seconds since 1970): one is running, or this reason may
    /// start one.
    pub(super) fn may_fetch(&self, doubt: KeyDoubt, now: u64) -> bool {
        self.progress.borrow().running || self.is_due(doubt, now)
    }

    fn is_due(&self, doubt: KeyDoubt, now: u64) -> bool {
        let last = match doubt {
            KeyDoubt::UnknownKey => &self.attempted_at,
            KeyDoubt::Signature => &self.doubted_at,
        };
        now.abs_diff(last.load(Ordering::Relaxed)) >= doubt.interval_seconds()
    }

    /// Waits for the end of the current fetch, or requests one, regardless of its result.
    pub(super) async fn refresh(&self, doubt: KeyDoubt, now: u64) {
        let progress = self.progress.subscribe();
        let FetchProgress { running, finished } = *progress.borrow();
        if !running && self.is_due(doubt, now) {
            self.wanted_at.send_replace((doubt, now));
        } else if !running {
            return;
        }
        self.attempt_after(progress, finished).await;
    }

    /// Waits until the first fetch ends, successful or not.
    pub(super) async fn first_attempt(&self) {
        self.attempt_after(self.progress.subscribe(), 0).await;
    }

    async fn attempt_after(&self, mut progress: watch::Receiver<FetchProgress>, finished: u64) {
        let ended = progress.wait_for(|progress| progress.finished > finished);
        // After the timeout no fetch is running: the caller finds no key, which is then the right result.
        let _ = tokio::time::timeout(self.source.fetch_timeout * 2, ended).await;
    }

    /// Fetches now, then periodically or on request, until the replica stops. Counts failures.
    pub(super) async fn keep_fresh(self: Arc<Self>, metrics: Arc<Metrics>, mut stop: Stop) {
        let mut wanted_at = self.wanted_at.subscribe();
        let mut retry = RETRY_MIN;
        let mut now = clock::unix_s();
        loop {
            let wait = if self.attempt(now).await {
                metrics.key_set_fetched_timestamp_seconds.set(i64::try_from(now).unwrap_or(i64::MAX));
                retry = RETRY_MIN;
                self.refresh_interval
            } else {
                metrics.key_set_failures_total.inc();
                let next = (retry * 2).min(RETRY_MAX);
                std::mem::replace(&mut retry, next)
            };
            now = tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(wait) => clock::unix_s(),
                asked = self.asked(&mut wanted_at) => asked,
            };
        }
    }

    /// Fetches once, logs the result and notifies waiting callers. Returns whether it succeeded.
    async fn attempt(&self, now: u64) -> bool {
        self.attempted_at.store(now, Ordering::Relaxed);
        self.progress.send_modify(|progress| progress.running = true);
        let fetched = self.fetch().await;
        match &fetched {
            Ok(keys) => tracing::debug!(keys, "key set loaded"),
            Err(error) => {
                let (url, kept) = (self.source.shown(), self.is_loaded());
                tracing::warn!(url, %error, kept, "key set can't be loaded");
            }
        }
        self.progress
            .send_modify(|progress| *progress = FetchProgress { running: false, finished: progress.finished + 1 });
        fetched.is_ok()
    }

    /// The next request for a fetch that the last attempt did not already serve.
    async fn asked(&self, wanted_at: &mut watch::Receiver<(KeyDoubt, u64)>) -> u64 {
        loop {
            if wanted_at.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let (doubt, now) = *wanted_at.borrow_and_update();
            if self.is_due(doubt, now) {
                if doubt == KeyDoubt::Signature {
                    self.doubted_at.store(now, Ordering::Relaxed);
                }
                return now;
            }
        }
    }

    /// Fetches once.
    pub(super) async fn probe(&self) -> Result<(), String> {
        self.fetch().await.map(|_| ()).map_err(|error| format!("{}: {error}", self.source.shown()))
    }

    /// Replaces the keys. Keeps the old ones if the fetch fails.
    async fn fetch(&self) -> Result<usize, FetchError> {
        let body = self.source.get().await?;
        let keys = parse(&body)?;
        let count = keys.len();
        self.keys.store(Some(Arc::new(Fetched { keys, at: Instant::now() })));
        Ok(count)
    }
}

impl KeySetSource {
    fn new(config: &config::Jwks, fetch_timeout: Duration) -> Result<Self, String> {
        let url = &config.url;
        let uri: Uri = url.parse().map_err(|_| format!("is not a URL: {}", without_query(url)))?;
        let shown = without_query(url);
        let plain = match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => false,
            (Some("http"), Some(host)) => {
                let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
                let allowed = match literal {
                    Some(address) => may_be_plain(address, &config.plain_ranges),
                    // Its addresses are resolved at each fetch.
                    None => host == "localhost" || !config.plain_ranges.is_empty(),
                };
                if !allowed {
                    let where_to = "http:// is allowed only for loopback and auth.jwks_plain_ranges";
                    return Err(format!("must begin with https:// ({where_to}), not {shown}"));
                }
                true
            }
            _ => return Err(format!("must begin with https://, not {shown}")),
        };
        let plain_ranges = if plain { config.plain_ranges.clone() } else { Vec::new() };
        Ok(Self { url: url.clone(), ca_file: config.ca_file.clone(), plain_ranges, fetch_timeout })
    }

    fn shown(&self) -> &str {
        without_query(&self.url)
    }

    /// The body of a plain 200 response. Redirects are not followed: the address is fixed.
    async fn get(&self) -> Result<String, FetchError> {
        let request = HttpRequest::get(&self.url)
            .header(header::ACCEPT.as_str(), "application/jwk-set+json, application/json")
            .header(header::USER_AGENT.as_str(), concat!("tickgate/", env!("CARGO_PKG_VERSION")))
            .timeout(self.fetch_timeout)
            .body_bytes_max(BODY_BYTES_MAX);
        let request = match &self.ca_file {
            Some(path) => request.authorities(config::read_pem(path).map_err(FetchError::Authority)?),
            None => request,
        };
        let request = match self.url.starts_with("https:") {
            true => request,
            false => request.connect_to(self.plain_address().await?),
        };
        let answer = request.send().await?;
        if answer.status == StatusCode::OK {
            Ok(config::without_marks(answer.body))
        } else {
            Err(FetchError::Status(answer.status))
        }
    }

    /// Where to fetch a set without TLS: the first address of its host, which must be an allowed one.
    async fn plain_address(&self) -> Result<SocketAddr, FetchError> {
        let unreachable = |text: String| FetchError::Transport(tickgate_client::Error::Unreachable(text));
        let uri: Uri = self.url.parse().map_err(|_| unreachable("not a URL".into()))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let looked_up =
            tokio::time::timeout(self.fetch_timeout, lookup_host((host, uri.port_u16().unwrap_or(80)))).await;
        let found = looked_up.map_err(|_| unreachable(format!("the DNS lookup of {host} timed out")))?;
        let found: Vec<SocketAddr> = found.map_err(|error| unreachable(error.to_string()))?.collect();
        let allowed = found.iter().find(|address| may_be_plain(address.ip(), &self.plain_ranges));
        match (allowed, found.first()) {
            (Some(address), _) => Ok(*address),
            (None, Some(address)) => Err(FetchError::Address(address.ip())),
            (None, None) => Err(unreachable(format!("{host} has no address"))),
        }
    }
}

/// An address without its query, which may hold a secret.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// The usable keys of a set. Unknown kinds are skipped, as RFC 7517 requires.
fn parse(body: &str) -> Result<Vec<VerifyingKey>, FetchError> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let set: Set = serde_json::from_str(body).map_err(|_| FetchError::Malformed)?;
    let jwks = set.keys.iter().take(KEYS_MAX).filter_map(|raw| serde_json::from_str::<Jwk>(raw.get()).ok());
    let keys: Vec<VerifyingKey> = jwks.filter_map(|jwk| VerifyingKey::from_jwk(&jwk)).collect();
    if keys.is_empty() { Err(FetchError::NoUsableKey(set.keys.len())) } else { Ok(keys) }
}

fn may_be_plain(address: IpAddr, ranges: &[IpNet]) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || ranges.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use tickgate_client::Error;

    use super::*;

    #[tokio::test]
    async fn a_fetch_from_a_silent_server_times_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let config = config::Jwks { url, ..config::Jwks::default() };
        let source = KeySetSource::new(&config, Duration::from_millis(50)).unwrap();
        let (fetched, accepted) = tokio::join!(source.get(), listener.accept());
        assert!(matches!(fetched, Err(FetchError::Transport(Error::Timeout { .. }))), "{fetched:?}");
        drop(accepted);
    }
}
