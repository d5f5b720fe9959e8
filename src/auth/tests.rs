//! Tokens of every kind against the verifier, each with its result; key sets over a real socket.

mod key_set;
mod keys;
mod tokens;

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{TokenError, Verifier};
use crate::config::{Auth, Secret};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn config() -> Auth {
    Auth {
        keys: Vec::new(),
        hs256_secrets: vec![Secret::new(SECRET)],
        public_keys: Vec::new(),
        jwks: None,
        issuer: None,
        audience: None,
        user_claim: None,
        lifetime_without_exp: None,
        leeway: Duration::from_secs(10),
        token_bytes_max: 8192,
        expiry_warning: Duration::from_secs(60),
        auth_timeout: Duration::from_secs(5),
        ticket_ttl: Duration::from_secs(30),
        api_keys: vec![Secret::new("backend-key")],
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// Valid claims for alice that expire in an hour.
fn good() -> Value {
    json!({ "sub": "alice", "exp": crate::clock::s_of(now()) + 3600 })
}

fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    hs256_by(SECRET, claims)
}

fn hs256_by(secret: &str, claims: &Value) -> String {
    signed(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))
}

fn with_kid(algorithm: Algorithm, kid: Option<&str>) -> Header {
    Header { kid: kid.map(Into::into), ..Header::new(algorithm) }
}

/// A token with the given header, signed with HS256 regardless of the header.
fn raw(header: &str, claims: &str, secret: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// The result of verifying a token without a fetch: the user or the refusal.
fn outcome(verifier: &Verifier, token: &str) -> Result<String, TokenError> {
    let settled = verifier.verify_now(token, now()).expect("no fetch is needed");
    settled.map(|identity| identity.user.to_string())
}
