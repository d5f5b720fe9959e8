//! The compact form of a signed token and its header. Does not trust the header: it only selects a key, and the key's
//! own algorithm determines how the signature is verified.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::TokenError;

/// The parts of a token; nothing is verified yet.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// Header and payload as signed.
    pub(super) message: &'a [u8],
    pub(super) signature: &'a str,
    payload: &'a str,
}

/// The relevant header fields. Keys in the token itself (`jwk`, `jku`, `x5u`, `x5c`) are ignored.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    typ: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
    #[serde(default, deserialize_with = "present")]
    cty: bool,
    #[serde(default, deserialize_with = "present")]
    enc: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
}

/// True for any value, even `null`: the presence of an unsupported field matters.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'a> Jws<'a> {
    /// Splits a token.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        if header.is_empty() || payload.is_empty() || payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header = decode(header)?;
        let header: Header = serde_json::from_str(&header).map_err(|_| TokenError::Malformed)?;
        let algorithm = header.plain()?;
        if signature.is_empty() {
            return Err(TokenError::Malformed);
        }
        let kid = header.kid.map(Cow::into_owned);
        Ok(Self { algorithm, kid, message: message.as_bytes(), signature, payload })
    }

    /// The claims as JSON. Call it only after verifying the signature.
    pub(super) fn claims(&self) -> Result<String, TokenError> {
        decode(self.payload)
    }
}

impl Header<'_> {
    /// The algorithm, if this is a plain signed JWT of a kind to which keys can be bound.
    fn plain(&self) -> Result<Algorithm, TokenError> {
        let unsupported = [
            (self.crit, "crit"),
            (self.b64, "b64"),
            (self.cty, "cty"),
            (self.enc, "enc"),
            (self.zip, "zip"),
            (!self.typ.as_deref().is_none_or(is_access_token), "typ"),
        ];
        if let Some((_, what)) = unsupported.iter().find(|(there, _)| *there) {
            return Err(TokenError::Header(what));
        }
        match &*self.alg {
            "HS256" => Ok(Algorithm::HS256),
            "RS256" => Ok(Algorithm::RS256),
            "ES256" => Ok(Algorithm::ES256),
            "EdDSA" => Ok(Algorithm::EdDSA),
            _ => Err(TokenError::Algorithm),
        }
    }
}

/// `JWT`, or an OAuth access token (RFC 9068). Other kinds (logout tokens, proofs of possession) are signed with the
/// same keys but grant no access.
fn is_access_token(typ: &str) -> bool {
    let name = typ.get(.."application/".len()).filter(|prefix| prefix.eq_ignore_ascii_case("application/"));
    let name = name.map_or(typ, |prefix| &typ[prefix.len()..]);
    name.eq_ignore_ascii_case("JWT") || name.eq_ignore_ascii_case("at+jwt")
}

/// The JSON of a part. RFC 7519 requires UTF-8; the JSON parser validates only the strings that it keeps.
fn decode(part: &str) -> Result<String, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    String::from_utf8(bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(header: &str) -> Result<Algorithm, TokenError> {
        let token = format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header));
        Jws::parse(&token).map(|jws| jws.algorithm)
    }

    #[test]
    fn a_token_has_exactly_three_nonempty_parts() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        assert!(Jws::parse(&format!("{header}.e30.c2ln")).is_ok());
        let broken = ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "....", "\u{e9}.\u{e9}.\u{e9}"];
        for token in broken.into_iter().map(str::to_owned).chain([
            format!("{header}.e30."),
            format!("{header}..c2ln"),
            format!("{header}.e30.c2ln."),
            format!("{header}.e30.c2ln.x"),
            format!("{header}=.e30.c2ln"),
            format!(" {header}.e30.c2ln"),
        ]) {
            assert_eq!(Jws::parse(&token).map(|_| ()), Err(TokenError::Malformed), "{token:?}");
        }
    }

    #[test]
    fn the_header_must_be_of_a_plain_signed_jwt() {
        for header in [r#"{"alg":"HS256"}"#, r#"{"typ":"jwt","alg":"HS256"}"#, r#"{"typ":"at+JWT","alg":"HS256"}"#] {
            assert_eq!(with_header(header), Ok(Algorithm::HS256), "{header}");
        }
        for what in ["crit", "b64", "cty", "enc", "zip"] {
            for value in ["null", "[]", r#"["exp"]"#, "true", r#""DEF""#] {
                let header = format!(r#"{{"alg":"HS256","{what}":{value}}}"#);
                assert_eq!(with_header(&header), Err(TokenError::Header(what)), "{header}");
            }
        }
        assert_eq!(with_header(r#"{"alg":"HS256","typ":"dpop+jwt"}"#), Err(TokenError::Header("typ")));
        for alg in ["none", "None", "NONE", "", "hs256", "HS384", "HS512", "PS256", "ES256K", "HS256 "] {
            assert_eq!(with_header(&format!(r#"{{"alg":"{alg}"}}"#)), Err(TokenError::Algorithm), "{alg}");
        }
    }

    #[test]
    fn both_parts_must_be_utf8_everywhere() {
        let (good, bad) = (&b"{\"alg\":\"HS256\"}"[..], &b"{\"alg\":\"HS256\",\"x\":\"\xff\"}"[..]);
        let claims = |header: &[u8], claims: &[u8]| {
            let token = format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            Jws::parse(&token).and_then(|jws| jws.claims())
        };
        assert_eq!(claims(good, b"{}").as_deref(), Ok("{}"));
        assert_eq!(claims(bad, b"{}"), Err(TokenError::Malformed));
        assert_eq!(claims(good, b"{\"x\":\"\xff\"}"), Err(TokenError::Malformed));
    }

    #[test]
    fn an_invalid_header_is_malformed() {
        for header in
            ["", "[]", "null", "{}", r#"{"alg":1}"#, r#"{"alg":"HS256","alg":"none"}"#, r#"{"alg":"HS256"} x"#]
        {
            assert_eq!(with_header(header), Err(TokenError::Malformed), "{header}");
        }
        let deep = format!(r#"{{"alg":"HS256","x":{}1{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        assert!(matches!(with_header(&deep), Ok(_) | Err(TokenError::Malformed)), "no stack overflow");
    }
}
