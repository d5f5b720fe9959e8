//! Weak secrets: published, guessable, used twice, readable by every user. Never shows one.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt};

use super::{
    ApiKey, Problems, Redis, Secret,
    auth::{API_KEYS_CONTENT, TOKEN_SECRETS_CONTENT},
    keys::CONTENT,
    raw,
    value::Section,
};

/// The minimum length of a secret or API key outside development mode, in bytes.
const SECRET_BYTES_MIN: usize = 32;
/// The minimum entropy of a secret, estimated from its byte frequencies.
const ENTROPY_BITS_MIN: f64 = 96.0;
/// Secrets that were published in Tickgate's own files and documents.
const PUBLISHED: [&str; 5] = [
    "local-machine-only-0123456789abcdef",
    "local-machine-only-key-0123456789abcdef",
    "change-me",
    "change-me-too",
    "change-me-as-well",
];

/// Problems of secrets outside development mode.
pub(super) fn check(raw: &raw::RawAuth, [tokens, keys]: [&[Secret]; 2], problems: &mut Problems) {
    let mut section = Section::new("auth", problems);
    for ([key, file_key, content], path, secrets) in [
        (["hs256_secrets", "hs256_secrets_file", TOKEN_SECRETS_CONTENT], &raw.hs256_secrets_file, tokens),
        (["api_keys", "api_keys_file", API_KEYS_CONTENT], &raw.api_keys_file, keys),
    ] {
        let mut tell = |text: String| match path.as_str() {
            "" => section.report(key, text),
            path => section.report(file_key, format!("{path}: {text}; it should contain {content}")),
        };
        if secrets.iter().any(|secret| secret.len() < SECRET_BYTES_MIN) {
            tell(format!("must be at least {SECRET_BYTES_MIN} bytes each; generate one with `openssl rand -hex 32`"));
        }
        if secrets.iter().any(is_published) {
            tell("is published with Tickgate's own files; generate your own with `openssl rand -hex 32`".to_owned());
        }
    }
}

/// Checks named keys in the same way.
pub(super) fn check_keys(raw: &[raw::RawKey], keys: &[ApiKey], problems: &mut Problems) {
    for (raw, key) in raw.iter().zip(keys) {
        let mut section = Section::new(format!("auth.keys.{}", key.name), problems);
        let path = raw.key_file.as_deref().unwrap_or_default();
        if key.secrets.iter().any(|secret| secret.len() < SECRET_BYTES_MIN) {
            section.report(
                "key_file",
                format!("{path}: must be at least {SECRET_BYTES_MIN} bytes; it should contain {CONTENT}"),
            );
        }
        if key.secrets.iter().any(is_published) {
            section.report("key_file", format!("{path}: is published with Tickgate's own files"));
        }
    }
}

/// Settings that are valid but insecure.
pub(super) fn warn(
    raw: (&raw::RawAuth, &raw::RawRedis),
    [tokens, keys]: [&[Secret]; 2],
    redis: Option<&Redis>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, secrets) in [("auth.hs256_secrets", tokens), ("auth.api_keys", keys)] {
        if secrets.iter().any(|secret| entropy_bits(secret.expose().as_bytes()) < ENTROPY_BITS_MIN) {
            warnings
                .push(format!("a secret of {name} can be guessed; generate a better one with `openssl rand -hex 32`"));
        }
    }
    if tokens.iter().any(|secret| keys.contains(secret)) {
        warnings.push(
            "the same secret signs tokens and is an API key: every publisher can impersonate any user".to_owned(),
        );
    }
    let files = [
        ("auth.hs256_secrets_file", &raw.0.hs256_secrets_file),
        ("auth.api_keys_file", &raw.0.api_keys_file),
        ("redis.url_file", &raw.1.url_file),
        ("redis.password_file", &raw.1.password_file),
        ("redis.sentinel.password_file", &raw.1.sentinel.password_file),
    ];
    let open = |path: &str| fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0);
    for (key, path) in files.into_iter().filter(|(_, path)| !path.is_empty() && open(path)) {
        warnings.push(format!("every user of this machine can read {path}, which is set in {key}"));
    }
    let Some(redis) = redis else { return warnings };
    let access = redis.access();
    if let Some(sentinels) = &access.sentinels {
        let is_far = sentinels.addresses.iter().any(|address| !is_loopback(&address.host));
        if !sentinels.tls && is_far {
            let text = "tokens and messages are sent to Redis unencrypted: redis.addresses does not use rediss://";
            warnings.push(text.to_owned());
        }
        return warnings;
    }
    let (credentials, host) = authority(access.url.expose());
    let password = credentials.and_then(|text| text.split_once(':')).map(|(_, password)| Secret::new(password));
    if password.is_some_and(|password| is_published(&password)) {
        warnings.push("the password of redis.url is published with Tickgate's own files".to_owned());
    }
    if access.url.expose().starts_with("redis://") && !is_loopback(host) {
        warnings.push("tokens and messages are sent to Redis unencrypted: redis.url does not use rediss://".to_owned());
    }
    warnings
}

fn is_published(secret: &Secret) -> bool {
    PUBLISHED.contains(&secret.expose())
}

/// User and password, and the host without its port.
fn authority(url: &str) -> (Option<&str>, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (credentials, rest) = rest.rsplit_once('@').map_or((None, rest), |(before, rest)| (Some(before), rest));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    (credentials, host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Length times the Shannon entropy of the bytes; a text that repeats a shorter one is rated as the shorter one.
fn entropy_bits(bytes: &[u8]) -> f64 {
    let repeats =
        |len: &usize| bytes.len().is_multiple_of(*len) && bytes.chunks(*len).all(|chunk| chunk == &bytes[..*len]);
    let unit = (1..=bytes.len() / 2).find(repeats).map_or(bytes, |len| &bytes[..len]);
    let mut counts: HashMap<u8, f64> = HashMap::new();
    for byte in unit {
        *counts.entry(*byte).or_default() += 1.0;
    }
    counts.values().map(|count| -count * (count / unit.len() as f64).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_secrets_are_strong_and_repetitive_ones_are_guessable() {
        for _ in 0..100 {
            assert!(entropy_bits(Secret::random().expose().as_bytes()) > ENTROPY_BITS_MIN);
        }
        for weak in ["a".repeat(64), "0123456789abcdef".repeat(4), "password".repeat(8), "abab".repeat(20)] {
            assert!(entropy_bits(weak.as_bytes()) < ENTROPY_BITS_MIN, "{weak}");
        }
    }

    #[test]
    fn an_address_has_credentials_and_a_host() {
        assert_eq!(authority("redis://u:p@host:6379/0"), (Some("u:p"), "host"));
        assert_eq!(authority("redis://[::1]:6379"), (None, "::1"));
        assert!(is_loopback("::1") && is_loopback("127.9.9.9") && is_loopback("localhost") && !is_loopback("redis"));
    }

    /// A copied shipped file must not contain a secret that is public.
    #[test]
    fn no_shipped_file_starts_a_gateway_with_a_published_secret() {
        let compose = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docker-compose.yml")).unwrap();
        for secret in &PUBLISHED[..2] {
            assert!(!compose.contains(secret));
        }
        for line in compose.lines().filter(|line| line.contains("HS256_SECRETS:") || line.contains("API_KEYS:")) {
            assert!(line.contains("${"), "{line}");
        }
    }
}
