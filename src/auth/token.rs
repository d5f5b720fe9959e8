//! JWT verification.
use std::time::SystemTime;
use thiserror::Error;
use super::Identity;
use crate::config;

/// Why a token was refused. Never holds any part of the token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the token is expired")]
    Expired,
    #[error("the token is invalid: {0}")]
    Invalid(&'static str),
    #[error("no key for this token is known")]
    UnknownKey,
    #[error("keys can't be loaded now")]
    KeysUnavailable,
}

/// Verifies tokens against the configured keys. Shared; cheap to use from any task.
#[derive(Debug)]
pub struct Verifier;

impl Verifier {
    /// Loads all key material.
    ///
    /// # Errors
    /// A sentence per key that can't be used.
    pub fn new(_config: &config::Auth) -> Result<Self, Vec<String>> { unimplemented!() }
    /// Verifies signature and claims as of `now`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, _token: &str, _now: SystemTime) -> Result<Identity, TokenError> { unimplemented!() }
    /// Whether the text is one of the API keys, in constant time.
    #[must_use]
    pub fn is_api_key(&self, _key: &str) -> bool { unimplemented!() }
}
