//! API keys with a name, rights and a rate: `[[auth.keys]]`. Never shows a key.

use tickgate_wire::model::Pattern;

use super::{
    Problems, Rate, Secret, named_file, raw,
    value::{Section, quoted},
};

/// Maximum number of named keys in one configuration.
const KEYS_MAX: usize = 100;
/// What the files should contain, for error messages.
pub(super) const CONTENT: &str = "an API key of at least 32 bytes, or one per line during a rotation";
/// The name under which unnamed keys are counted and logged.
pub const UNNAMED: &str = "api_keys";

/// A user of the HTTP API or of `/ws/ingest`.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// In logs and metrics.
    pub name: String,
    /// What the key may do.
    pub rights: Vec<Right>,
    /// The only topics and private channels that it may publish to and read; `None`: all.
    pub topics: Option<Vec<Pattern>>,
    /// Any of these keys grants access. Empty if only a certificate does.
    pub secrets: Vec<Secret>,
    /// A client with a certificate for this DNS name needs no key.
    pub certificate: Option<String>,
    /// Rate limit of publications and requests; zero per second: no limit.
    pub rate: Rate,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Publish over the HTTP API and `/ws/ingest`.
    Publish,
    /// Read connections, topics, histories and users.
    Read,
    /// Everything that acts on clients or replicas.
    Admin,
}

impl Right {
    /// All rights, in the order in which they are written.
    pub const ALL: [(&'static str, Self); 3] =
        [("publish", Self::Publish), ("read", Self::Read), ("admin", Self::Admin)];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// All valid named keys, and a problem for each invalid one.
pub(super) fn check(raw: &[raw::RawKey], client_certificates: bool, problems: &mut Problems) -> Vec<ApiKey> {
    if raw.len() > KEYS_MAX {
        problems.report("auth.keys", format!("holds {} keys; at most {KEYS_MAX} are allowed", raw.len()));
    }
    raw.iter().map(|key| one(key, client_certificates, problems)).collect()
}

fn one(raw: &raw::RawKey, client_certificates: bool, problems: &mut Problems) -> ApiKey {
    let mut section = Section::new(format!("auth.keys.{}", raw.name), problems);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !(1..=64).contains(&raw.name.len()) || !raw.name.bytes().all(plain) || raw.name == UNNAMED {
        section.report("name", format!("must be 1 to 64 characters of A-Z a-z 0-9 - _ . other than {UNNAMED:?}"));
    }
    let rights = section.take_all("rights", &raw.rights, right);
    if raw.rights.is_empty() {
        section.report("rights", "requires at least one of publish, read, admin");
    }
    let patterns = raw.topics.as_ref().map(|topics| section.take_all("topics", topics, pattern));
    let secrets = match &raw.key_file {
        Some(path) => section.take("key_file", named_file::read_lines(path.as_ref(), CONTENT), Vec::new()),
        None if raw.certificate.is_none() => {
            section.report("key_file", "is missing: a key requires a file or a client certificate");
            Vec::new()
        }
        None => Vec::new(),
    };
    if raw.certificate.is_some() && !client_certificates {
        section.report(
            "certificate",
            "requires server.ops_tls.client_ca_file: otherwise clients cannot present a certificate",
        );
    }
    if raw.certificate.as_ref().is_some_and(|name| name.is_empty() || name.contains(['*', ' '])) {
        section.report("certificate", "must be a DNS name of a client certificate, such as \"engine.trading.svc\"");
    }
    let per_second = section.number("per_second", raw.per_second.unwrap_or(0), 0..=10_000_000);
    ApiKey {
        name: raw.name.clone(),
        rights,
        topics: patterns,
        secrets,
        certificate: raw.certificate.clone(),
        rate: Rate { per_second, burst: per_second },
    }
}

fn right(text: &str) -> Result<Right, String> {
    let found = Right::ALL.into_iter().find(|(word, _)| *word == text);
    found.map(|(_, right)| right).ok_or_else(|| format!("must be any of publish, read, admin, got {}", quoted(text)))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("{}: {error}", quoted(text)))
}
