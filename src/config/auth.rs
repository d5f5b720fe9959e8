//! Who may connect and publish: keys, secrets, and token lifetimes.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{
    ApiKey, Problems, Right, Secret, named_file, raw,
    value::{Section, address_range, quoted},
};

/// The current token secret, and the previous one during a rotation.
const TOKEN_SECRETS_MAX: usize = 2;
/// What the files should contain, for error messages.
pub(super) const TOKEN_SECRETS_CONTENT: &str =
    "HS256 secrets of at least 32 bytes, one per line: the current one, then the previous one during a rotation";
pub(super) const API_KEYS_CONTENT: &str = "API keys of at least 32 bytes, one per line";
const PUBLIC_KEY_CONTENT: &str = "a public key in PEM form (-----BEGIN PUBLIC KEY-----)";
const CA_FILE_CONTENT: &str = "the key set's certificate authority in PEM form (-----BEGIN CERTIFICATE-----)";
/// PEM block types that can hold a public key.
const PUBLIC_KEY_BLOCKS: [&str; 3] = ["PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"];

/// Who may connect and publish.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Current and previous HS256 secrets.
    pub hs256_secrets: Vec<Secret>,
    /// PEM files of public keys.
    pub public_keys: Vec<PublicKey>,
    /// Fixed address of a key set.
    pub jwks: Option<Jwks>,
    /// Required `iss` of a token; `None`: any.
    pub issuer: Option<String>,
    /// Required `aud` of a token; `None`: tokens with an audience are refused.
    pub audience: Option<String>,
    /// The claim that names the user; `None`: `sub`, or else `user_id`.
    pub user_claim: Option<String>,
    /// Lifetime of a token without `exp`; `None`: such tokens are refused.
    pub lifetime_without_exp: Option<Duration>,
    /// Tolerated clock difference.
    pub leeway: Duration,
    /// Maximum token size, in bytes.
    pub token_bytes_max: usize,
    /// How long before a token expires its client is warned.
    pub expiry_warning: Duration,
    /// Deadline for the first `auth` message.
    pub auth_timeout: Duration,
    /// Lifetime of a single-use ticket.
    pub ticket_ttl: Duration,
    /// Keys of the HTTP API and of `/ws/ingest` that grant every right.
    pub api_keys: Vec<Secret>,
    /// Keys with a name and their own rights.
    pub keys: Vec<ApiKey>,
}

/// One entry of `auth.public_keys`: a key that verifies tokens.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// The only algorithm for which the key is used, whatever the token's header says.
    pub algorithm: Algorithm,
    /// PEM file with the key. Read at the start and at each reload.
    pub path: PathBuf,
    /// The `kid` that selects this key; `None`: it verifies any token of its algorithm.
    pub kid: Option<String>,
}

/// Asymmetric signature algorithms to which a key can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// Where keys are fetched from, and how long they are used.
#[derive(Clone, Debug, Default)]
pub struct Jwks {
    /// Address of the key set: `https`, or `http` from an allowed range.
    pub url: String,
    /// PEM file of certificate authorities that replace those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// Addresses from which keys may be fetched without TLS, in addition to loopback.
    pub plain_ranges: Vec<IpNet>,
    /// Time between two fetches.
    pub refresh_interval: Duration,
    /// How long fetched keys may be used.
    pub age_max: Duration,
}

impl Auth {
    pub(super) fn check(raw: &raw::RawAuth, problems: &mut Problems) -> Self {
        let public_keys =
            raw.public_keys.iter().enumerate().filter_map(|(at, key)| public_key(at, key, problems)).collect();
        let mut section = Section::new("auth", problems);
        let hs256_secrets = secrets(&token_secrets(raw), &mut section);
        if hs256_secrets.len() > TOKEN_SECRETS_MAX {
            let text =
                format!("holds {} secrets, not one or two: the current one and the previous one", hs256_secrets.len());
            token_secrets(raw).report(text, &mut section);
        }
        Self {
            hs256_secrets,
            public_keys,
            jwks: jwks(raw, &mut section),
            issuer: some(&raw.issuer),
            audience: some(&raw.audience),
            user_claim: some(&section.take("user_claim", user_claim(&raw.user_claim), String::new())),
            lifetime_without_exp: Some(section.duration(
                "lifetime_without_exp",
                &raw.lifetime_without_exp,
                ["0s", "30d"],
            ))
            .filter(|life| !life.is_zero()),
            leeway: section.duration("leeway", &raw.leeway, ["0s", "5m"]),
            token_bytes_max: section.number("token_bytes_max", raw.token_bytes_max, 256..=65_536),
            expiry_warning: section.duration("expiry_warning", &raw.expiry_warning, ["1s", "1h"]),
            auth_timeout: section.duration("auth_timeout", &raw.auth_timeout, ["100ms", "5m"]),
            ticket_ttl: section.duration("ticket_ttl", &raw.ticket_ttl, ["1s", "10m"]),
            api_keys: secrets(&api_keys(raw), &mut section),
            keys: Vec::new(),
        }
    }

    /// A key that may publish to all topics.
    #[must_use]
    pub fn publishing_key(&self) -> Option<&Secret> {
        let may = |key: &&ApiKey| key.rights.contains(&Right::Publish) && key.topics.is_none();
        self.api_keys.first().or_else(|| self.keys.iter().find(may)?.secrets.first())
    }

    /// Whether the HTTP API can be used at all.
    pub(super) fn has_api_keys(&self) -> bool {
        !(self.api_keys.is_empty() && self.keys.is_empty())
    }

    /// Whether anything is configured that can verify a token.
    pub(super) fn has_token_keys(&self) -> bool {
        !self.hs256_secrets.is_empty() || !self.public_keys.is_empty() || self.jwks.is_some()
    }

    /// Generates the secrets that development mode needs and the configuration lacks. Returns whether it generated a
    /// token secret, and whether an API key.
    pub(super) fn generate_missing(&mut self) -> [bool; 2] {
        let generated = [!self.has_token_keys(), !self.has_api_keys()];
        for (secrets, generated) in [&mut self.hs256_secrets, &mut self.api_keys].into_iter().zip(generated) {
            if generated {
                secrets.push(Secret::random());
            }
        }
        generated
    }
}

/// Secrets written as a list, or one per line in a file.
struct SecretSource<'a> {
    key: &'static str,
    file_key: &'static str,
    written: &'a [Secret],
    path: &'a str,
    /// What the file should contain.
    content: &'static str,
}

fn token_secrets(raw: &raw::RawAuth) -> SecretSource<'_> {
    SecretSource {
        key: "hs256_secrets",
        file_key: "hs256_secrets_file",
        written: &raw.hs256_secrets,
        path: &raw.hs256_secrets_file,
        content: TOKEN_SECRETS_CONTENT,
    }
}

fn api_keys(raw: &raw::RawAuth) -> SecretSource<'_> {
    SecretSource {
        key: "api_keys",
        file_key: "api_keys_file",
        written: &raw.api_keys,
        path: &raw.api_keys_file,
        content: API_KEYS_CONTENT,
    }
}

impl SecretSource<'_> {
    /// Reports a problem with the secrets under the key they come from, and names the file, if any.
    fn report(&self, text: String, section: &mut Section<'_>) {
        if self.path.is_empty() {
            section.report(self.key, text);
        } else {
            section.report(self.file_key, format!("{}: {text}; it should contain {}", self.path, self.content));
        }
    }
}

/// Secrets from the key or from the file it names.
fn secrets(source: &SecretSource<'_>, section: &mut Section<'_>) -> Vec<Secret> {
    let written: Vec<Secret> = source.written.iter().filter(|secret| !secret.is_empty()).cloned().collect();
    if written.len() < source.written.len() {
        section.report(source.key, "has an empty secret: set a value or omit it");
    }
    match (written.is_empty(), source.path.is_empty()) {
        (_, true) => written,
        (true, false) => {
            let read = named_file::read_lines(source.path.as_ref(), source.content);
            section.take(source.file_key, read, Vec::new())
        }
        (false, false) => {
            section.report(source.file_key, format!("is set together with auth.{}: set only one of them", source.key));
            written
        }
    }
}

fn jwks(raw: &raw::RawAuth, section: &mut Section<'_>) -> Option<Jwks> {
    let refresh_interval = section.duration("jwks_refresh_interval", &raw.jwks_refresh_interval, ["1s", "24h"]);
    let age_max = section.duration("jwks_age_max", &raw.jwks_age_max, ["2s", "30d"]);
    if age_max < refresh_interval * 2 {
        section.report(
            "jwks_age_max",
            "must be at least twice auth.jwks_refresh_interval, so that one failed fetch does \
                not discard the keys",
        );
    }
    let ca_file = section.take("ca_file", named_file::pem(&raw.ca_file, &["CERTIFICATE"], CA_FILE_CONTENT), None);
    let ca_file = ca_file.map(|(path, _)| path);
    let plain_ranges = section.take_all("jwks_plain_ranges", &raw.jwks_plain_ranges, address_range);
    if ca_file.is_some() && !raw.jwks_url.starts_with("https://") {
        section.report("ca_file", "requires https:// in auth.jwks_url: without TLS no certificate is checked");
    }
    let url = some(&raw.jwks_url)?;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains([' ', '@'])) {
        section.report("jwks_url", "must be an address such as \"https://login.example.com/.well-known/jwks.json\"");
        return None;
    }
    Some(Jwks { url, ca_file, plain_ranges, refresh_interval, age_max })
}

fn public_key(at: usize, raw: &raw::RawPublicKey, problems: &mut Problems) -> Option<PublicKey> {
    let mut section = Section::new(format!("auth.public_keys[{at}]"), problems);
    let algorithms = [("RS256", Algorithm::Rs256), ("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];
    let algorithm = section.choice("algorithm", &raw.algorithm, &algorithms);
    let path = section.take("path", named_file::pem(&raw.path, &PUBLIC_KEY_BLOCKS, PUBLIC_KEY_CONTENT), None);
    if raw.path.is_empty() {
        section.report("path", "must be a PEM file");
    }
    let (path, _) = path?;
    Some(PublicKey { algorithm, path, kid: raw.kid.clone().filter(|kid| !kid.is_empty()) })
}

/// Empty text means "not set". A registered claim with another meaning cannot name the user.
fn user_claim(text: &str) -> Result<String, String> {
    const OTHERS: [&str; 10] = ["exp", "nbf", "iat", "iss", "aud", "jti", "channels", "publish", "commands", "runs"];
    if OTHERS.contains(&text) {
        return Err(format!("must be a claim that names the user, such as \"uid\", not {}", quoted(text)));
    }
    Ok(text.to_owned())
}

fn some(text: &str) -> Option<String> {
    Some(text).filter(|text| !text.is_empty()).map(str::to_owned)
}
