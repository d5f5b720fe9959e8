//! Makes tokens for the `token` command, development mode and tests. Never used in production to answer a client.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use thiserror::Error;
use tickgate_wire::model::{IssuedAt, Pattern, UserId};

use super::Rights;
use crate::config::Secret;

/// The contents of a new token.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// The claim `sub`.
    pub user: &'a UserId,
    /// The claim `iat`.
    pub issued_at: IssuedAt,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// The claim `iss`; `None`: omitted.
    pub issuer: Option<&'a str>,
    /// The claim `aud`; `None`: omitted.
    pub audience: Option<&'a str>,
    /// A claim that names the user next to `sub`.
    pub user_claim: Option<&'a str>,
    /// The claims that narrow or extend what the token allows.
    pub rights: &'a Rights,
}

/// The token could not be made.
#[derive(Clone, Debug, Error)]
#[error("the token cannot be signed")]
pub struct MintError;

#[derive(Serialize)]
struct MintedClaims<'a> {
    sub: &'a UserId,
    iat: Time,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publish: Vec<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    commands: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<Vec<&'a str>>,
    #[serde(flatten)]
    user: Option<BTreeMap<&'a str, &'a UserId>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Time {
    Second(u64),
    Exact(f64),
}

/// A token signed with HS256.
///
/// # Errors
/// [`MintError`] if the library cannot sign.
pub fn mint(secret: &Secret, token: &NewToken) -> Result<String, MintError> {
    let rights = token.rights;
    let claims = MintedClaims {
        sub: token.user,
        iat: token
            .issued_at
            .exact_ms()
            .map_or(Time::Second(token.issued_at.second()), |ms| Time::Exact(ms as f64 / 1e3)),
        exp: token.expires_at,
        iss: token.issuer,
        aud: token.audience,
        channels: rights.channels.as_deref().map(written),
        publish: written(&rights.publish),
        commands: rights.commands,
        runs: rights.runs.as_deref().map(written),
        user: token.user_claim.filter(|name| *name != "sub").map(|name| BTreeMap::from([(name, token.user)])),
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| MintError)
}

fn written(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(Pattern::as_str).collect()
}
