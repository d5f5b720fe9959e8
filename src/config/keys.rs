//! API keys with a name, rights and a rate: `[[auth.keys]]`. Never shows one.

use tickgate_wire::model::Pattern;

use super::{
    Problems, Rate, Secret, named_file, raw,
    value::{Section, quoted},
};

/// Named keys of one configuration.
const KEYS_MAX: usize = 100;
/// What the files should contain, for messages.
pub(super) const CONTENT: &str = "an API key of at least 32 bytes, or one per line during a rotation";
/// The name under which keys without one are counted and logged.
pub const UNNAMED: &str = "api_keys";

/// Somebody who uses the HTTP API, or sends to `/ws/ingest`.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// In logs and metrics.
    pub name: String,
    pub rights: Vec<Right>,
    /// The only topics and private channels that it may publish to and read; `None`: all.
    pub topics: Option<Vec<Pattern>>,
    /// Each of them opens. None where only a certificate does.
    pub secrets: Vec<Secret>,
    /// Whoever shows a certificate for this DNS name needs no key.
    pub certificate: Option<String>,
    /// Publications and requests; zero per second: any number.
    pub rate: Rate,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Publish,
    Read,
    Admin,
}

impl Right {
    /// All of them, as they are written.
    pub const ALL: [(&'static str, Self); 3] =
        [("publish", Self::Publish), ("read", Self::Read), ("admin", Self::Admin)];

    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// All named keys that can be used, and a problem for each other one.
pub(super) fn check(raw: &[raw::Key], client_certificates: bool, problems: &mut Problems) -> Vec<ApiKey> {
    if raw.len() > KEYS_MAX {
        problems.tell("auth.keys", format!("holds {} keys; {KEYS_MAX} are enough", raw.len()));
    }
    raw.iter().map(|key| one(key, client_certificates, problems)).collect()
}

fn one(raw: &raw::Key, client_certificates: bool, problems: &mut Problems) -> ApiKey {
    let mut section = Section::new(format!("auth.keys.{}", raw.name), problems);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !(1..=64).contains(&raw.name.len()) || !raw.name.bytes().all(plain) || raw.name == UNNAMED {
        section.tell("name", format!("wants 1 to 64 characters of A-Z a-z 0-9 - _ . other than {UNNAMED:?}"));
    }
    let rights = section.take_all("rights", &raw.rights, right);
    if raw.rights.is_empty() {
        section.tell("rights", "wants at least one of publish, read, admin");
    }
    let patterns = raw.topics.as_ref().map(|topics| section.take_all("topics", topics, pattern));
    let secrets = match &raw.key_file {
        Some(path) => section.take("key_file", named_file::read_lines(path.as_ref(), CONTENT), Vec::new()),
        None if raw.certificate.is_none() => {
            section.tell("key_file", "is missing: a key has a file, or the certificate of whoever uses it");
            Vec::new()
        }
        None => Vec::new(),
    };
    if raw.certificate.is_some() && !client_certificates {
        section.tell("certificate", "requires server.ops_tls.client_ca_file: otherwise nobody shows one");
    }
    if raw.certificate.as_ref().is_some_and(|name| name.is_empty() || name.contains(['*', ' '])) {
        section.tell("certificate", "wants a DNS name of a client certificate, such as \"engine.trading.svc\"");
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
    found.map(|(_, right)| right).ok_or_else(|| format!("wants any of publish, read, admin, got {}", quoted(text)))
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("{}: {error}", quoted(text)))
}
