//! Verification of a token, from its text to a [`TokenIdentity`]. Never takes the algorithm from the token: a token only
//! selects keys, and each key has its own algorithm.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;

use super::{
    TokenError, TokenIdentity,
    api_keys::{ApiKey, ApiKeys},
    claims::ClaimRules,
    jwks::{KeyDoubt, KeySet},
    jws::Jws,
    keys::VerifyingKey,
};
use crate::{clock, config, metrics::Metrics, tasks::Tasks};

/// Verifies tokens against the configured keys. Shared; cheap to use from any task, without locks.
pub struct Verifier {
    /// Secrets and PEM keys.
    keys: ArcSwap<Vec<VerifyingKey>>,
    key_set: Option<Arc<KeySet>>,
    rules: ClaimRules,
    token_bytes_max: usize,
    api_keys: ArcSwap<ApiKeys>,
}

impl Verifier {
    /// Loads all key material; [`Verifier::start`] fetches the key set.
    ///
    /// # Errors
    /// One problem per unusable key.
    pub fn new(config: &config::Auth) -> Result<Self, config::Problems> {
        let secrets =
            config.hs256_secrets.iter().map(|secret| ("hs256_secrets".to_owned(), VerifyingKey::from_secret(secret)));
        let files = config.public_keys.iter().enumerate();
        let files = files.map(|(at, key)| (format!("public_keys[{at}].path"), VerifyingKey::from_file(key)));
        let mut problems = config::Problems::default();
        let mut report = |key: &str, text: String| problems.report(format!("auth.{key}"), text);
        let keys: Vec<VerifyingKey> =
            secrets.chain(files).filter_map(|(at, key)| key.map_err(|text| report(&at, text)).ok()).collect();
        let key_set = config.jwks.as_ref().map(KeySet::new).transpose();
        let key_set = key_set.map_err(|text| report("jwks_url", text)).unwrap_or_default().map(Arc::new);
        if config.api_keys.iter().any(|key| key.expose().is_empty()) {
            report("api_keys", "one of them is empty".into());
        }
        let api_keys = ApiKeys::new(&config.api_keys, &config.keys);
        if let Some([one, other]) = api_keys.shared() {
            report("keys", format!("{one} and {other} have the same key: its owner would be ambiguous"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            keys: ArcSwap::from_pointee(keys),
            key_set,
            rules: ClaimRules::new(config),
            token_bytes_max: config.token_bytes_max,
            api_keys: ArcSwap::from_pointee(api_keys),
        })
    }

    /// Takes over the secrets, public keys and API keys of another verifier, effective for the next token or key.
    /// Claims, limits and the key set stay. Connections that are already authenticated keep their token until it
    /// expires.
    pub fn take_keys(&self, other: &Self) {
        self.keys.store(other.keys.load_full());
        let continuing = other.api_keys.load().continuing(&self.api_keys.load());
        self.api_keys.store(Arc::new(continuing));
    }

    /// Keeps a configured key set fresh in a task, and waits for the first fetch to succeed or fail. A failure is
    /// logged, counted, and retried: until then, tokens that need the set are refused with
    /// [`TokenError::KeysUnavailable`].
    pub async fn start(&self, tasks: &Tasks, metrics: &Arc<Metrics>) {
        if let Some(key_set) = &self.key_set {
            tasks.spawn_vital("key_set", Arc::clone(key_set).keep_fresh(Arc::clone(metrics), tasks.stop()));
            key_set.first_attempt().await;
        }
    }

    /// Fetches a configured key set once.
    ///
    /// # Errors
    /// Why it cannot be fetched.
    pub async fn probe(&self) -> Result<(), String> {
        match &self.key_set {
            Some(key_set) => key_set.probe().await,
            None => Ok(()),
        }
    }

    /// Verifies signature and claims as of `now`, and waits for a fetch of the key set if the token needs one.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<TokenIdentity, TokenError> {
        if let Some(settled) = self.verify_now(token, now) {
            return settled;
        }
        let now = clock::s_of(now);
        let first = self.check(token, now);
        if let (Some(key_set), Some(doubt)) = (&self.key_set, self.doubt(&first, token)) {
            key_set.refresh(doubt, now).await;
        }
        self.check(token, now)
    }

    /// Like [`Verifier::verify`], but does not wait: `None` if the token requires a fetch of the key set. Takes a few
    /// microseconds for HS256.
    #[must_use]
    pub fn verify_now(&self, token: &str, now: SystemTime) -> Option<Result<TokenIdentity, TokenError>> {
        let now = clock::s_of(now);
        let checked = self.check(token, now);
        let may_fetch = |doubt| self.key_set.as_ref().is_some_and(|set| set.may_fetch(doubt, now));
        if self.doubt(&checked, token).is_some_and(may_fetch) { None } else { Some(checked) }
    }

    /// Whether no token can be verified yet: all keys come from the key set, which was never fetched.
    #[must_use]
    pub fn awaits_keys(&self) -> bool {
        self.keys.load().is_empty() && self.key_set.as_ref().is_some_and(|set| !set.is_loaded())
    }

    /// The owner of this API key, compared in constant time.
    #[must_use]
    pub fn api_key(&self, text: &str) -> Option<Arc<ApiKey>> {
        self.api_keys.load().find(text)
    }

    /// The owner of a certificate for whose names `is_for` returns true.
    #[must_use]
    pub fn certificate_key(&self, is_for: impl Fn(&str) -> bool) -> Option<Arc<ApiKey>> {
        self.api_keys.load().find_certificate(is_for)
    }

    /// Why newer keys might lead to another result.
    fn doubt(&self, checked: &Result<TokenIdentity, TokenError>, token: &str) -> Option<KeyDoubt> {
        match checked {
            Err(TokenError::UnknownKey | TokenError::KeysUnavailable) => Some(KeyDoubt::UnknownKey),
            Err(TokenError::Signature) => {
                let jws = Jws::parse(token).ok()?;
                let key_set = self.key_set.as_ref().filter(|_| jws.algorithm != Algorithm::HS256)?;
                let named = key_set.any((jws.algorithm, jws.kid.as_deref()), |_| false).is_some();
                named.then_some(KeyDoubt::Signature)
            }
            _ => None,
        }
    }

    fn check(&self, token: &str, now: u64) -> Result<TokenIdentity, TokenError> {
        if token.len() > self.token_bytes_max {
            return Err(TokenError::TooLong);
        }
        let jws = Jws::parse(token)?;
        self.check_signature(&jws)?;
        self.rules.identity(&jws.claims()?, now)
    }

    fn check_signature(&self, jws: &Jws) -> Result<(), TokenError> {
        let kid = jws.kid.as_deref();
        let verifies = |key: &VerifyingKey| key.verifies(jws.message, jws.signature);
        let keys = self.keys.load();
        let mut fixed = keys.iter().filter(|key| key.answers(jws.algorithm, kid)).peekable();
        let known = fixed.peek().is_some();
        if fixed.any(verifies) {
            return Ok(());
        }
        // Secrets never come from a key set, so only public-key tokens are looked up there.
        let symmetric = jws.algorithm == Algorithm::HS256;
        let key_set = self.key_set.as_ref().filter(|_| !symmetric);
        match key_set.and_then(|set| set.any((jws.algorithm, kid), verifies)) {
            Some(true) => Ok(()),
            Some(false) => Err(TokenError::Signature),
            None if known => Err(TokenError::Signature),
            None => Err(self.no_key(jws, key_set.map(|set| set.is_loaded()))),
        }
    }

    /// Why no key matches the token; `loaded` is the state of the key set that could have contained it.
    fn no_key(&self, jws: &Jws, loaded: Option<bool>) -> TokenError {
        match loaded {
            Some(true) => TokenError::UnknownKey,
            Some(false) => TokenError::KeysUnavailable,
            None if self.keys.load().iter().any(|key| key.algorithm == jws.algorithm) => TokenError::UnknownKey,
            None => TokenError::Algorithm,
        }
    }
}

/// Shows only counts.
impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("keys", &self.keys.load().len())
            .field("key_set", &self.key_set.is_some())
            .finish()
    }
}
