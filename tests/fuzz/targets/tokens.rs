//! Tokens, forged and signed.

use std::{collections::BTreeMap, sync::LazyLock, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Number, value::RawValue};
use tickgate::{
    auth::Verifier,
    config::{Config, Secret},
};

const SECRET: &str = "a-secret-that-only-this-test-knows-1234567890";

/// Tokens: an unsigned one is never accepted; a signed one is accepted only with a user and an expiry.
pub(super) fn tokens(data: &[u8]) {
    static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
        let mut config = Config::development();
        config.auth.hs256_secrets = vec![Secret::new(SECRET)];
        Verifier::new(&config.auth).expect("a verifier")
    });
    let now = SystemTime::now();
    if let Ok(token) = str::from_utf8(data) {
        assert!(matches!(VERIFIER.verify_now(token, now), Some(Err(_))), "{token:?} was never signed");
    }
    // The same header and claims, correctly signed.
    let (header, claims) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (&br#"{"alg":"HS256"}"#[..], data),
    };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    if let Some(Ok(identity)) = VERIFIER.verify_now(&format!("{message}.{signature}"), now) {
        assert_eq!(serde_json::from_str::<String>(fields(header)["alg"].get()).expect("a string"), "HS256");
        let claims = fields(claims);
        assert!(serde_json::from_str::<Number>(claims["exp"].get()).is_ok());
        assert!(claims.contains_key("sub") || claims.contains_key("user_id"));
        assert!(!identity.user.as_str().is_empty());
        assert_eq!(identity.rights.commands, claims.get("commands").is_some_and(|raw| raw.get() == "true"));
        assert_eq!(identity.rights.runs.is_some(), claims.contains_key("runs"));
    }
}

/// Text as RFC 7519 requires it; values of unknown claims need not be readable.
fn fields(json: &[u8]) -> BTreeMap<String, &RawValue> {
    let text = str::from_utf8(json).expect("UTF-8");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
