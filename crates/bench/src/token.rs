//! Tokens of the benchmark's users, signed as by an application's login service.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::BenchFailure;

#[derive(Serialize)]
struct BenchClaims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
}

/// A token (HS256) for a user, valid from now on for `life`, in whole seconds.
pub(crate) fn sign(secret: &str, user: &str, life: Duration) -> Result<String, BenchFailure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let claims = BenchClaims { sub: user, iat: now, exp: now + life.as_secs() };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .map_err(|error| BenchFailure::Said(format!("cannot sign a token for {user}: {error}")))
}
