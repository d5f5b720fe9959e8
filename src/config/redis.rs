//! Where Redis is and how it is used.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    Identity, Problems, Secret, Sentinels, named_file, raw,
    secret::without_credentials,
    value::{Section, quoted},
};

/// What the files should contain, for error messages.
const URL_FILE_CONTENT: &str =
    "one line with the Redis address, such as redis://user:password@host:6379 (rediss:// for TLS)";
const CA_FILE_CONTENT: &str = "the certificate authority of Redis in PEM form (-----BEGIN CERTIFICATE-----)";

/// Where Redis is and how it is used.
#[derive(Clone, Debug)]
pub struct Redis {
    /// The settings for new connections.
    pub access: Arc<ArcSwap<Access>>,
    /// The file from which the address was read.
    pub url_file: Option<PathBuf>,
    /// Prefix of every key and channel. Contains a version.
    pub prefix: String,
    /// Connections in the pool for history reads and maintenance commands: limits how many reads of a mass reconnect
    /// reach Redis at once.
    pub pool_size: usize,
    /// How long a history read may wait for a connection of the pool.
    pub pool_wait_timeout: Duration,
    /// Timeout of one connection attempt, with TLS and login.
    pub connect_timeout: Duration,
    /// How long a command may take before its outcome is unknown.
    pub response_timeout: Duration,
    /// Time between two canaries (and two PINGs of the command link).
    pub canary_interval: Duration,
    /// A canary that is not seen for this long closes the pub/sub link.
    pub canary_timeout: Duration,
    /// How often quiet topics are compared with their streams.
    pub compare_interval: Duration,
    /// Engines publish to this Redis directly: the gateway cannot know which of their messages Redis lost.
    pub engines: bool,
    /// PEM file of a private certificate authority for `rediss://`.
    pub ca_file: Option<PathBuf>,
}

/// How to connect to Redis. Contains secrets. Replaced as a whole when files are read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `redis://` or `rediss://`, with user and password; empty with sentinels.
    pub url: Secret,
    /// Which servers there are, if sentinels name the primary.
    pub sentinels: Option<Sentinels>,
    /// Private certificate authorities of the servers, in PEM form.
    pub authority: Option<Arc<str>>,
    /// The client certificate for Redis.
    pub identity: Option<Identity>,
}

impl Access {
    /// Whether the servers, and the sentinels, are reached over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        match &self.sentinels {
            Some(sentinels) => sentinels.tls,
            None => self.url.expose().starts_with("rediss://"),
        }
    }

    /// Where Redis is, without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.sentinels {
            Some(sentinels) => sentinels.shown(),
            None => without_credentials(self.url.expose()),
        }
    }

    /// An address without certificates.
    #[must_use]
    pub fn by(url: &str) -> Arc<ArcSwap<Self>> {
        Arc::new(ArcSwap::from_pointee(Self { url: Secret::new(url), ..Self::default() }))
    }
}

impl Redis {
    /// `None` without an address: the memory backplane. The other keys are always validated.
    pub(super) fn check(raw: &raw::RawRedis, problems: &mut Problems) -> Option<Self> {
        let sentinels = Sentinels::check(raw, problems);
        let mut section = Section::new("redis", problems);
        let url = if sentinels.is_some() { None } else { address(raw, &mut section) };
        let is_used = url.is_some() || sentinels.is_some();
        let ca_file = section.take("ca_file", named_file::pem(&raw.ca_file, &["CERTIFICATE"], CA_FILE_CONTENT), None);
        let access = Access {
            url: url.unwrap_or_default(),
            sentinels,
            authority: ca_file.as_ref().map(|(_, text)| text.as_str().into()),
            identity: Identity::check(
                &mut section,
                ["client_cert_file", "client_key_file"],
                [&raw.client_cert_file, &raw.client_key_file],
            ),
        };
        if is_used && !access.is_tls() {
            let place = if access.sentinels.is_some() { "redis.addresses" } else { "redis.url" };
            if access.authority.is_some() {
                let text = format!("requires rediss:// in {place}: without TLS no certificate is checked");
                section.report("ca_file", text);
            }
            if access.identity.is_some() {
                let text = format!("requires rediss:// in {place}: without TLS no client certificate is sent");
                section.report("client_cert_file", text);
            }
        }
        let redis = Self {
            access: Arc::new(ArcSwap::from_pointee(access)),
            url_file: Some(PathBuf::from(&raw.url_file)).filter(|path| !path.as_os_str().is_empty()),
            prefix: section.take("prefix", prefix(&raw.prefix), String::new()),
            pool_size: section.number("pool_size", raw.pool_size, 1..=1024),
            pool_wait_timeout: section.duration("pool_wait_timeout", &raw.pool_wait_timeout, ["10ms", "1m"]),
            connect_timeout: section.duration("connect_timeout", &raw.connect_timeout, ["10ms", "1m"]),
            response_timeout: section.duration("response_timeout", &raw.response_timeout, ["10ms", "1m"]),
            canary_interval: section.duration("canary_interval", &raw.canary_interval, ["50ms", "1m"]),
            canary_timeout: section.duration("canary_timeout", &raw.canary_timeout, ["100ms", "5m"]),
            compare_interval: section.duration("compare_interval", &raw.compare_interval, ["100ms", "10m"]),
            engines: raw.engines,
            ca_file: ca_file.map(|(path, _)| path),
        };
        if redis.canary_timeout <= redis.canary_interval {
            let text = format!(
                "must be greater than redis.canary_interval ({}): the next probe may still be due",
                raw.canary_interval
            );
            section.report("canary_timeout", text);
        }
        is_used.then_some(redis)
    }

    /// The settings for a connection that is opened now.
    #[must_use]
    pub fn access(&self) -> Arc<Access> {
        self.access.load_full()
    }

    /// The configuration key that contains the address of Redis.
    #[must_use]
    pub fn place_key(&self) -> &'static str {
        match self.access().sentinels {
            Some(_) => "redis.addresses",
            None if self.url_file.is_some() => "redis.url_file",
            None => "redis.url",
        }
    }

    /// Whether `other` leads to the same servers. A file with an address may change: it is meant to be replaced.
    #[must_use]
    pub fn leads_where(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.access(), other.access());
        match (&ours.sentinels, &theirs.sentinels) {
            (Some(ours), Some(theirs)) => ours.leads_where(theirs),
            (None, None) => self.url_file.is_some() || ours.url == theirs.url,
            _ => false,
        }
    }

    /// Uses the settings of `other` for new connections. Returns whether they differ from the previous ones.
    pub fn take_access(&self, other: &Self) -> bool {
        let access = other.access();
        let changed = *access != *self.access.load_full();
        self.access.store(access);
        changed
    }
}

/// The address, from the key or from the file that it names.
fn address(raw: &raw::RawRedis, section: &mut Section<'_>) -> Option<Secret> {
    match (raw.url.is_empty(), raw.url_file.is_empty()) {
        (true, true) => None,
        (false, true) if is_address(raw.url.expose()) && has_other_database(raw.url.expose()) => {
            section.report("url", OTHER_DATABASE);
            None
        }
        (false, true) if is_address(raw.url.expose()) => Some(raw.url.clone()),
        (false, true) => {
            section.report(
                "url",
                "must be redis://host:port, with user:password@ before the host if needed (rediss:// for TLS)",
            );
            None
        }
        (true, false) => section.take("url_file", address_in(raw.url_file.as_ref()).map(Some), None),
        (false, false) => {
            section.report("url_file", "is set together with redis.url: set only one of them");
            None
        }
    }
}

/// The one line of the file.
fn address_in(path: &Path) -> Result<Secret, String> {
    let (lines, path) = (named_file::read_lines(path, URL_FILE_CONTENT)?, path.display());
    match &lines[..] {
        [url] if is_address(url.expose()) && has_other_database(url.expose()) => {
            Err(format!("{path}: {OTHER_DATABASE}"))
        }
        [url] if is_address(url.expose()) => Ok(url.clone()),
        [_] => Err(format!("{path} holds no Redis address; it should contain {URL_FILE_CONTENT}")),
        _ => Err(format!("{path} holds {} lines; it should contain {URL_FILE_CONTENT}", lines.len())),
    }
}

/// The message never shows the value, which may contain a password.
fn is_address(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://")) else { return false };
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let port = if host.ends_with(']') { None } else { host.rsplit_once(':').map(|(_, port)| port) };
    let name = port.map_or(host, |port| &host[..host.len() - port.len() - 1]);
    !name.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Redis channels are not separated by database: two gateways on different databases would receive each other's
/// messages.
const OTHER_DATABASE: &str = "requires database 0: set redis.prefix to separate two gateways on one Redis";

/// Whether an address names a database other than 0.
fn has_other_database(url: &str) -> bool {
    let path = url.split_once("://").map_or("", |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let database = path.split('?').next().unwrap_or_default();
    let is_other = |text: &str| !matches!(text, "" | "0");
    is_other(database) || url.split(['?', '&']).filter_map(|part| part.strip_prefix("db=")).any(is_other)
}

/// Keys are built from it: no braces (they delimit the hash tag), no spaces.
fn prefix(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.');
    if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(format!("must be 1 to 32 characters of A-Z a-z 0-9 : - _ . such as \"tg2:\", got {}", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scheme_and_a_host() {
        for url in ["redis://h", "redis://h:6379/0", "rediss://u:p@h:1", "redis://:p@[::1]:6379", "redis://[::1]"] {
            assert!(is_address(url), "{url}");
        }
        for url in ["", "h:6379", "http://h", "redis://", "redis://:6379", "redis://u:p@", "redis://h:x"] {
            assert!(!is_address(url), "{url}");
        }
    }

    #[test]
    fn only_database_zero_is_supported() {
        for url in ["redis://h", "redis://h/", "redis://h:1/0", "rediss://u:p@h:1/0?protocol=resp3"] {
            assert!(!has_other_database(url), "{url}");
        }
        for url in
            ["redis://h/1", "redis://u:p@h:1/15", "redis://h/0?db=2", "redis://h/-1", "redis://h/name", "redis://h/0/1"]
        {
            assert!(has_other_database(url), "{url}");
        }
    }

    #[test]
    fn prefixes_contain_no_braces() {
        assert!(prefix("tg2:").is_ok());
        for text in ["", "a{b}", "a b", &"x".repeat(33)] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }
}
