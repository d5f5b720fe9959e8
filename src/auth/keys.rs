//! Keys that verify signatures. Each is bound to one algorithm when it is loaded: by the configuration, or by the key
//! itself if it comes from a key set. Never by a token.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};

use crate::config;

/// One key, ready to use.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    /// The `kid` that selects this key; `None`: it verifies any token of its algorithm.
    pub(super) kid: Option<Box<str>>,
    decoding: DecodingKey,
}

impl VerifyingKey {
    /// An HS256 secret.
    ///
    /// # Errors
    /// A sentence if it is invalid. The text of a public key is refused, because it is not secret.
    pub(super) fn from_secret(secret: &config::Secret) -> Result<Self, String> {
        let text = secret.expose();
        if text.is_empty() {
            return Err("one of them is empty".into());
        }
        if text.contains("-----BEGIN ") {
            return Err("one of them is a PEM key; public keys belong to auth.public_keys".into());
        }
        let decoding = DecodingKey::from_secret(text.as_bytes());
        Ok(Self { algorithm: Algorithm::HS256, kid: None, decoding })
    }

    /// A public key from a PEM file.
    ///
    /// # Errors
    /// A sentence that names the file: unreadable, not a public key, of another algorithm, or too weak.
    pub(super) fn from_file(key: &config::PublicKey) -> Result<Self, String> {
        let path = key.path.display();
        let pem = config::read_pem(&key.path)?;
        Self::from_pem(pem.as_bytes(), key.algorithm, key.kid.as_deref())
            .ok_or_else(|| format!("{path} should contain a PEM public key for {}", name(pinned(key.algorithm))))
    }

    fn from_pem(pem: &[u8], algorithm: config::Algorithm, kid: Option<&str>) -> Option<Self> {
        let decoding = match algorithm {
            config::Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem),
            config::Algorithm::Es256 => DecodingKey::from_ec_pem(pem),
            config::Algorithm::EdDsa => DecodingKey::from_ed_pem(pem),
        };
        let key = Self { algorithm: pinned(algorithm), kid: kid.map(Into::into), decoding: decoding.ok()? };
        key.is_sound().then_some(key)
    }

    /// A key of a key set; `None` if it is not a public key that may verify signatures here. Symmetric keys in a key
    /// set are ignored.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let verifies = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature))
            && jwk.common.key_operations.as_ref().is_none_or(|allowed| allowed.contains(&KeyOperations::Verify));
        if !verifies {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let stated = jwk.common.key_algorithm;
        let agrees = match algorithm {
            Algorithm::RS256 => matches!(stated, None | Some(KeyAlgorithm::RS256)),
            Algorithm::ES256 => matches!(stated, None | Some(KeyAlgorithm::ES256)),
            _ => matches!(stated, None | Some(KeyAlgorithm::EdDSA)),
        };
        let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| agrees)?;
        let key = Self { algorithm, kid: jwk.common.key_id.as_deref().map(Into::into), decoding };
        key.is_sound().then_some(key)
    }

    /// Whether the cryptographic library accepts the key: an unusable key is reported at start.
    fn is_sound(&self) -> bool {
        use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        match (self.algorithm, self.decoding.kind()) {
            // The library checks the size when it verifies; the DER form is a few bytes longer than the modulus.
            (Algorithm::RS256, SecretOrDer(der)) => {
                RSA_MODULUS_BYTES.contains(&der.len()) && parses(&RSA_PKCS1_2048_8192_SHA256, der)
            }
            (Algorithm::RS256, RsaModulusExponent { n, e }) => RSA_MODULUS_BYTES.contains(&n.len()) && !e.is_empty(),
            (Algorithm::ES256, SecretOrDer(point)) => parses(&ECDSA_P256_SHA256_FIXED, point),
            (Algorithm::EdDSA, SecretOrDer(point)) => parses(&ED25519, point),
            _ => false,
        }
    }

    /// Whether this key may verify a token with this algorithm and `kid`.
    pub(super) fn answers(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithm == algorithm && (self.kid.is_none() || self.kid.as_deref() == kid)
    }

    /// Whether the signature was made with this key and the key's own algorithm.
    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        crypto::verify(signature, message, &self.decoding, self.algorithm).unwrap_or(false)
    }
}

/// 2048 to 8192 bits, with room for the DER form.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024 + 32;

fn parses(algorithm: &'static dyn VerificationAlgorithm, material: &[u8]) -> bool {
    ParsedPublicKey::new(algorithm, material).is_ok()
}

const fn pinned(algorithm: config::Algorithm) -> Algorithm {
    match algorithm {
        config::Algorithm::Rs256 => Algorithm::RS256,
        config::Algorithm::Es256 => Algorithm::ES256,
        config::Algorithm::EdDsa => Algorithm::EdDSA,
    }
}

const fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => "RS256 (2048 to 8192 bits)",
        Algorithm::ES256 => "ES256 (curve P-256)",
        _ => "EdDSA (Ed25519)",
    }
}
