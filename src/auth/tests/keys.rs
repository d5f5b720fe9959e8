//! Public keys from files: bound to an algorithm, validated when loaded.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    },
};
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{DecodingKey, jwk::Jwk};

use super::*;
use crate::config::{Algorithm as Pinned, PublicKey};

/// A private key and the PEM text of its public half.
pub(super) struct SigningPair {
    pub(super) algorithm: Algorithm,
    pub(super) private: EncodingKey,
    pem: String,
}

impl SigningPair {
    /// The public key as a key set contains it.
    pub(super) fn jwk(&self) -> Jwk {
        let public = match self.algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_pem(self.pem.as_bytes()),
            Algorithm::ES256 => DecodingKey::from_ec_pem(self.pem.as_bytes()),
            _ => DecodingKey::from_ed_pem(self.pem.as_bytes()),
        };
        Jwk::from_decoding_key(&public.unwrap(), Some(self.algorithm)).unwrap()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

pub(super) fn es256() -> SigningPair {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let public: PublicKeyX509Der = pair.public_key().as_der().unwrap();
    let private = EncodingKey::from_ec_der(pkcs8.as_ref());
    SigningPair { algorithm: Algorithm::ES256, private, pem: pem("PUBLIC KEY", public.as_ref()) }
}

pub(super) fn eddsa() -> SigningPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let public: PublicKeyX509Der = pair.public_key().as_der().unwrap();
    let private = EncodingKey::from_ed_der(pkcs8.as_ref());
    SigningPair { algorithm: Algorithm::EdDSA, private, pem: pem("PUBLIC KEY", public.as_ref()) }
}

pub(super) fn rs256() -> SigningPair {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der>::as_der(&pair).unwrap();
    let public: PublicKeyX509Der = pair.public_key().as_der().unwrap();
    let private = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes()).unwrap();
    SigningPair { algorithm: Algorithm::RS256, private, pem: pem("PUBLIC KEY", public.as_ref()) }
}

fn load(text: &str, algorithm: Pinned, kid: Option<&str>) -> Result<Verifier, crate::config::Problems> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let key = PublicKey { algorithm, path: file.path().into(), kid: kid.map(Into::into) };
    Verifier::new(&Auth { hs256_secrets: Vec::new(), public_keys: vec![key], ..config() })
}

fn pinned(algorithm: Algorithm) -> Pinned {
    match algorithm {
        Algorithm::RS256 => Pinned::Rs256,
        Algorithm::ES256 => Pinned::Es256,
        _ => Pinned::EdDsa,
    }
}

#[test]
fn each_kind_of_key_verifies_only_its_own_tokens() {
    let pairs = [rs256(), es256(), eddsa()];
    for key in &pairs {
        let verifier = load(&key.pem, pinned(key.algorithm), None).unwrap();
        for other in &pairs {
            let token = signed(&Header::new(other.algorithm), &good(), &other.private);
            let expected =
                if other.algorithm == key.algorithm { Ok("alice".into()) } else { Err(TokenError::Algorithm) };
            assert_eq!(outcome(&verifier, &token), expected, "{:?} with {:?}", other.algorithm, key.algorithm);
        }
        let token = signed(&Header::new(key.algorithm), &good(), &key.private);
        let (message, _) = token.rsplit_once('.').unwrap();
        for signature in ["AA", &"A".repeat(86), &"A".repeat(342)] {
            assert_eq!(outcome(&verifier, &format!("{message}.{signature}")), Err(TokenError::Signature));
        }
    }
}

/// The classic confusion attack: a public key's text used as an HS256 secret.
#[test]
fn a_public_key_is_not_a_secret() {
    for key in [rs256(), es256()] {
        let token = hs256_by(&key.pem, &good());
        assert_eq!(outcome(&load(&key.pem, pinned(key.algorithm), None).unwrap(), &token), Err(TokenError::Algorithm));
        let problems = Verifier::new(&Auth { hs256_secrets: vec![Secret::new(&key.pem)], ..config() }).unwrap_err();
        assert!(problems.to_string().contains("public_keys"), "{problems:?}");
    }
}

#[test]
fn a_kid_binds_a_key_to_its_tokens() {
    let key = es256();
    let tied = load(&key.pem, Pinned::Es256, Some("k1")).unwrap();
    let free = load(&key.pem, Pinned::Es256, None).unwrap();
    let token = |kid| signed(&with_kid(Algorithm::ES256, kid), &good(), &key.private);
    assert_eq!(outcome(&tied, &token(Some("k1"))).as_deref(), Ok("alice"));
    for kid in [Some("k2"), Some(""), Some("K1"), None] {
        assert_eq!(outcome(&tied, &token(kid)), Err(TokenError::UnknownKey), "{kid:?}");
        assert_eq!(outcome(&free, &token(kid)).as_deref(), Ok("alice"), "{kid:?}");
    }
}

#[test]
fn unusable_keys_are_reported_at_start() {
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384: PublicKeyX509Der = p384.public_key().as_der().unwrap();
    let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let cases = [
        (String::new(), Pinned::Rs256),
        ("hello".into(), Pinned::Rs256),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into(), Pinned::Es256),
        (es256().pem, Pinned::Rs256),
        (es256().pem, Pinned::EdDsa),
        (pem("PUBLIC KEY", p384.as_ref()), Pinned::Es256),
        (pem("PRIVATE KEY", private.as_ref()), Pinned::EdDsa),
        (WEAK_RSA.into(), Pinned::Rs256),
    ];
    for (text, algorithm) in cases {
        let problems = load(&text, algorithm, None).expect_err(&text);
        assert!(problems.iter().count() == 1 && problems.to_string().contains("should contain"), "{problems:?}");
    }
    let missing = PublicKey { algorithm: Pinned::Rs256, path: "/nowhere/key.pem".into(), kid: None };
    let all = Auth {
        hs256_secrets: vec![Secret::new("")],
        public_keys: vec![missing],
        api_keys: vec![Secret::new("")],
        ..config()
    };
    assert_eq!(Verifier::new(&all).unwrap_err().iter().count(), 3, "all problems at once");
}

/// 1024 bits, generated for this test.
const WEAK_RSA: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDai/1TBhnluineB6lbAEpc+LS7\n\
HPqW3q7ho0AEB4LqN1IJ63ppYZRD68A5YlIxFXT5gx+WxL0byA0r+RaAiQfdY0ew\n\
3rbSvIEysw5/2nIm2D6ymgCSEWEByBzzfWuSLCJKMWUceubcQapCUzf2dCtWmJf8\n\
RSKE78ezsKNaScQjGQIDAQAB\n\
-----END PUBLIC KEY-----\n";
