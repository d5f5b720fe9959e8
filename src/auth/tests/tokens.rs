//! HS256 tokens, good and bad.

use tickgate_wire::model::{IssuedAt, Pattern, UserId};

use super::*;
use crate::auth::{NewToken, Rights, mint};

fn verifier() -> Verifier {
    Verifier::new(&config()).unwrap()
}

#[test]
fn a_good_token_names_its_user() {
    assert_eq!(outcome(&verifier(), &hs256(&good())).as_deref(), Ok("alice"));
}

#[test]
fn a_minted_token_has_the_requested_claims() {
    let rights = Rights {
        channels: Some(vec![Pattern::new("orders").unwrap()]),
        publish: vec![Pattern::new("run:*").unwrap()],
        commands: true,
        runs: Some(vec![Pattern::new("bt-*").unwrap()]),
    };
    let user = UserId::new("bob").unwrap();
    let issued_at = crate::clock::s_of(now());
    let new = NewToken {
        user: &user,
        issued_at: IssuedAt::in_second(issued_at),
        expires_at: issued_at + 60,
        issuer: Some("here"),
        audience: Some("desk"),
        user_claim: None,
        rights: &rights,
    };
    let token = mint(&Secret::new(SECRET), &new).unwrap();
    let strict = Auth { issuer: Some("here".into()), audience: Some("desk".into()), ..config() };
    let identity = Verifier::new(&strict).unwrap().verify_now(&token, now()).unwrap().unwrap();
    assert_eq!((identity.user, &*identity.rights), (user, &rights));
    assert_eq!((identity.expires_at, identity.issued_at), (issued_at + 60, Some(IssuedAt::in_second(issued_at))));
    assert_eq!(outcome(&verifier(), &token), Err(TokenError::Audience));
}

#[test]
fn garbage_is_malformed() {
    for token in ["", "undefined", "null", "Bearer x", "a.b.c", "..", "\u{1F600}", &hs256(&good())[1..]] {
        assert_eq!(outcome(&verifier(), token), Err(TokenError::Malformed), "{token:?}");
    }
}

#[test]
fn the_time_is_an_argument() {
    let token = hs256(&good());
    let at = |offset| verifier().verify_now(&token, now() + Duration::from_secs(offset)).unwrap().map(|_| ());
    assert_eq!(at(3600), Ok(()), "within the leeway");
    assert_eq!(at(3611), Err(TokenError::Expired));
}

#[test]
fn every_invalid_expiry_is_refused() {
    let with_exp = |exp: Value| outcome(&verifier(), &hs256(&json!({ "sub": "alice", "exp": exp })));
    let soon = crate::clock::s_of(now()) + 3600;
    assert_eq!(with_exp(json!(soon as f64 + 0.5)).as_deref(), Ok("alice"), "fractions are allowed by RFC 7519");
    assert_eq!(with_exp(json!(1_600_000_000)), Err(TokenError::Expired));
    let malformed = [json!(soon.to_string()), json!(-1), json!(1e300), json!(true), json!([soon]), Value::Null];
    for exp in malformed {
        assert_eq!(with_exp(exp.clone()), Err(TokenError::Claim("exp")), "{exp}");
    }
    assert_eq!(outcome(&verifier(), &hs256(&json!({ "sub": "alice" }))), Err(TokenError::Claim("exp")));
}

#[test]
fn an_unsigned_token_is_refused() {
    let claims = good().to_string();
    for alg in ["none", "None", "nOnE"] {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims));
        assert_eq!(outcome(&verifier(), &unsigned), Err(TokenError::Algorithm), "{alg}");
        assert_eq!(outcome(&verifier(), &raw(&header, &claims, SECRET)), Err(TokenError::Algorithm), "{alg}");
    }
    let stripped = hs256(&good());
    let stripped = &stripped[..=stripped.rfind('.').unwrap()];
    assert_eq!(outcome(&verifier(), stripped), Err(TokenError::Malformed));
}

#[test]
fn another_algorithm_is_refused_even_with_the_right_secret() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(&Header::new(algorithm), &good(), &key);
        assert_eq!(outcome(&verifier(), &token), Err(TokenError::Algorithm), "{algorithm:?}");
    }
    for alg in ["RS256", "ES256", "EdDSA", "PS256", "hs256"] {
        let token = raw(&format!(r#"{{"alg":"{alg}"}}"#), &good().to_string(), SECRET);
        assert_eq!(outcome(&verifier(), &token), Err(TokenError::Algorithm), "{alg}");
    }
}

#[test]
fn a_changed_token_is_refused() {
    let token = hs256(&good());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(json!({ "sub": "root", "exp": 4_000_000_000_u64 }).to_string());
    assert_eq!(outcome(&verifier(), &format!("{header}.{other}.{signature}")), Err(TokenError::Signature));
    assert_eq!(outcome(&verifier(), &format!("{message}.{}", &signature[1..])), Err(TokenError::Signature));
    assert_eq!(
        outcome(&verifier(), &hs256_by("another secret of thirty-two byte", &good())),
        Err(TokenError::Signature)
    );
}

#[test]
fn no_byte_of_a_token_can_be_changed() {
    let (verifier, token) = (verifier(), hs256(&good()));
    for at in 0..token.len() {
        for other in ["A", "B", "9", "_", ".", "=", " ", ""] {
            let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            let accepted = changed != token && outcome(&verifier, &changed).is_ok();
            assert!(!accepted, "byte {at} as {other:?}");
        }
    }
}

#[test]
fn critical_headers_are_refused() {
    let header = r#"{"alg":"HS256","crit":["exp"],"exp":1}"#;
    let token = raw(header, &good().to_string(), SECRET);
    assert_eq!(outcome(&verifier(), &token), Err(TokenError::Header("crit")));
}

#[test]
fn a_token_over_the_limit_is_not_parsed() {
    let mut claims = good();
    claims["padding"] = json!("x".repeat(100_000));
    let token = hs256(&claims);
    assert_eq!(outcome(&verifier(), &token), Err(TokenError::TooLong));
    let roomy = Auth { token_bytes_max: 200_000, ..config() };
    assert_eq!(outcome(&Verifier::new(&roomy).unwrap(), &token).as_deref(), Ok("alice"));
}

#[test]
fn both_secrets_are_valid_during_a_rotation() {
    let (old, new) = ("the old secret, thirty-two bytes!", "the new secret, thirty-two bytes!");
    let both = Auth { hs256_secrets: vec![Secret::new(new), Secret::new(old)], ..config() };
    let both = Verifier::new(&both).unwrap();
    for secret in [old, new] {
        assert_eq!(outcome(&both, &hs256_by(secret, &good())).as_deref(), Ok("alice"));
    }
    assert_eq!(outcome(&both, &hs256(&good())), Err(TokenError::Signature));
    let after = Verifier::new(&Auth { hs256_secrets: vec![Secret::new(new)], ..config() }).unwrap();
    assert_eq!(outcome(&after, &hs256_by(old, &good())), Err(TokenError::Signature));
}

#[test]
fn secrets_are_never_shown() {
    let token = hs256(&good());
    let refused = verifier().verify_now(&format!("{token}x"), now()).unwrap().unwrap_err();
    let shown = format!("{:?} {refused:?} {refused} {:?}", verifier(), config());
    for secret in [SECRET, "backend-key", token.rsplit('.').next().unwrap()] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
