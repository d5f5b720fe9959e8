//! The claims of a verified token, and whether they are acceptable now. Pure; never sees an unverified token.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tickgate_wire::model::{IssuedAt, Pattern, UserId};

use super::{Rights, TokenError, TokenIdentity};
use crate::config;

/// The last second of the year 9999: later times are mistakes (milliseconds, 1e300), not dates.
const SECONDS_MAX: u64 = 253_402_300_799;

/// What the configuration requires of every token's claims.
#[derive(Debug)]
pub(super) struct ClaimRules {
    issuer: Option<String>,
    audience: Option<String>,
    leeway_seconds: u64,
    /// `None`: `sub`, or else `user_id`.
    user_claim: Option<String>,
    /// Lifetime of tokens without `exp`; `None`: they are refused.
    lifetime_seconds: Option<u64>,
    /// Shared by all tokens without claims about rights.
    plain: Arc<Rights>,
}

/// Each claim as written: its type is checked where it is used, so that the refusal can name it. The derive refuses
/// duplicate claims.
#[derive(Deserialize)]
struct RawClaims<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    exp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    nbf: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    iat: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    iss: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    aud: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    sub: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    channels: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    publish: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    commands: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    runs: Option<&'a RawValue>,
}

/// A claim that is present, even if `null`: `null` must not mean "all".
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl ClaimRules {
    pub(super) fn new(config: &config::Auth) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway_seconds: config.leeway.as_secs(),
            user_claim: config.user_claim.clone(),
            lifetime_seconds: config.lifetime_without_exp.map(|life| life.as_secs()),
            plain: Arc::default(),
        }
    }

    /// The identity in the claims as of `now` (seconds since 1970).
    pub(super) fn identity(&self, json: &str, now: u64) -> Result<TokenIdentity, TokenError> {
        // The derive would also accept a list with the fields in order.
        if !json.trim_start().starts_with('{') {
            return Err(TokenError::Claim("all"));
        }
        let claims: RawClaims = serde_json::from_str(json).map_err(|_| TokenError::Claim("all"))?;
        let (expires_at, issued_at) = self.times(&claims, now)?;
        self.check_issuer(claims.iss)?;
        self.check_audience(claims.aud)?;
        let user = match self.user_claim.as_deref() {
            None => claims.sub.or(claims.user_id),
            Some(name) => claim(json, name)?,
        };
        let user = user.and_then(user_id).ok_or(TokenError::Subject)?;
        Ok(TokenIdentity { user, expires_at, issued_at, rights: self.rights(&claims)? })
    }

    fn times(&self, claims: &RawClaims, now: u64) -> Result<(u64, Option<IssuedAt>), TokenError> {
        let issued_at = claims.iat.map(issued_at).transpose()?;
        let expires_at = match (claims.exp, self.lifetime_seconds) {
            (Some(raw), _) => seconds(raw, "exp")?,
            (None, Some(lifetime)) => issued_at.map_or(now, IssuedAt::second).saturating_add(lifetime),
            (None, None) => return Err(TokenError::Claim("exp")),
        };
        if now >= expires_at.saturating_add(self.leeway_seconds) {
            return Err(TokenError::Expired);
        }
        let not_before = claims.nbf.map(|raw| seconds(raw, "nbf")).transpose()?;
        // A token issued in the future would survive the revocation of its user.
        if not_before
            .max(issued_at.map(IssuedAt::second))
            .is_some_and(|start| start > now.saturating_add(self.leeway_seconds))
        {
            return Err(TokenError::NotYetValid);
        }
        Ok((expires_at, issued_at))
    }

    fn check_issuer(&self, issuer: Option<&RawValue>) -> Result<(), TokenError> {
        let Some(expected) = &self.issuer else { return Ok(()) };
        match issuer.and_then(text) {
            Some(issuer) if issuer == **expected => Ok(()),
            _ => Err(TokenError::Issuer),
        }
    }

    /// A token with audiences is valid only for them (RFC 7519, 4.1.3), even if none is configured here.
    fn check_audience(&self, audience: Option<&RawValue>) -> Result<(), TokenError> {
        let Some(audience) = audience else {
            return if self.audience.is_none() { Ok(()) } else { Err(TokenError::Audience) };
        };
        let expected = self.audience.as_deref().ok_or(TokenError::Audience)?;
        let named = match text(audience) {
            Some(one) => one == expected,
            None => texts(audience).ok_or(TokenError::Claim("aud"))?.iter().any(|one| *one == expected),
        };
        if named { Ok(()) } else { Err(TokenError::Audience) }
    }

    fn rights(&self, claims: &RawClaims) -> Result<Arc<Rights>, TokenError> {
        if [claims.channels, claims.publish, claims.commands, claims.runs].iter().all(Option::is_none) {
            return Ok(Arc::clone(&self.plain));
        }
        let channels = claims.channels.map(|raw| patterns(raw, "channels")).transpose()?;
        let publish = claims.publish.map(|raw| patterns(raw, "publish")).transpose()?;
        let runs = claims.runs.map(|raw| patterns(raw, "runs")).transpose()?;
        let commands = match claims.commands.map(RawValue::get) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(TokenError::Claim("commands")),
        };
        Ok(Arc::new(Rights { channels, publish: publish.unwrap_or_default(), commands, runs }))
    }
}

/// The user that a claim names; some issuers use numbers.
fn user_id(raw: &RawValue) -> Option<UserId> {
    let name = if is_digits(raw.get()) { Some(Cow::Borrowed(raw.get())) } else { text(raw) };
    name.and_then(|name| UserId::new(&name).ok())
}

/// A claim by its name, which must not occur twice.
fn claim<'a>(json: &'a str, name: &str) -> Result<Option<&'a RawValue>, TokenError> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(ClaimName(name)).map_err(|_| TokenError::Claim("all"))
}

struct ClaimName<'n>(&'n str);

impl<'de> Visitor<'de> for ClaimName<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut claims: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = claims.next_key::<Cow<'de, str>>()? {
            let value = claims.next_value()?;
            if name == self.0 && found.replace(value).is_some() {
                return Err(A::Error::custom("a claim occurs twice"));
            }
        }
        Ok(found)
    }
}

/// A JWT time: a number of seconds; a fraction is dropped.
fn seconds(raw: &RawValue, claim: &'static str) -> Result<u64, TokenError> {
    let number = raw.get();
    let whole = if is_digits(number) {
        number.parse::<u64>().ok()
    } else {
        // Only numbers parse: any other JSON value starts with a quote, a bracket, a brace, `t`, `f` or `n`.
        let float = number.parse::<f64>().ok().filter(|float| (0.0..=SECONDS_MAX as f64).contains(float));
        float.map(|float| float as u64)
    };
    whole.filter(|whole| *whole <= SECONDS_MAX).ok_or(TokenError::Claim(claim))
}

/// When a token was issued. A fraction orders it among others of the same second; `1700000000.0` has none.
fn issued_at(raw: &RawValue) -> Result<IssuedAt, TokenError> {
    let whole = seconds(raw, "iat")?;
    let fraction = raw.get().parse::<f64>().ok().map(f64::fract).filter(|fraction| *fraction > 0.0);
    Ok(fraction.map_or(IssuedAt::in_second(whole), |fraction| IssuedAt::at_ms(whole * 1_000 + (fraction * 1e3) as u64)))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    // `Cow` alone would always copy.
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text>(raw.get()).ok().map(|text| text.0)
}

fn texts(raw: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    serde_json::from_str(raw.get()).ok()
}

fn patterns(raw: &RawValue, claim: &'static str) -> Result<Vec<Pattern>, TokenError> {
    let texts = texts(raw).ok_or(TokenError::Claim(claim))?;
    texts.iter().map(|text| Pattern::new(text).map_err(|_| TokenError::Claim(claim))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn rules(issuer: Option<&str>, audience: Option<&str>) -> ClaimRules {
        ClaimRules {
            issuer: issuer.map(Into::into),
            audience: audience.map(Into::into),
            leeway_seconds: 10,
            user_claim: None,
            lifetime_seconds: None,
            plain: Arc::default(),
        }
    }

    fn open(json: &str) -> Result<TokenIdentity, TokenError> {
        rules(None, None).identity(json, NOW)
    }

    fn outcome(json: &str) -> Result<u64, TokenError> {
        open(json).map(|identity| identity.expires_at)
    }

    #[test]
    fn the_expiry_must_be_a_number_in_the_future() {
        let with_exp = |exp: &str| outcome(&format!(r#"{{"sub":"a","exp":{exp}}}"#));
        assert_eq!(with_exp("1700000060"), Ok(1_700_000_060));
        assert_eq!(with_exp("1700000060.9"), Ok(1_700_000_060));
        assert_eq!(with_exp("1.70000006e9"), Ok(1_700_000_060));
        assert_eq!(with_exp("1699999991"), Ok(1_699_999_991), "within the leeway");
        for exp in ["1699999990", "0", "0.0", "1"] {
            assert_eq!(with_exp(exp), Err(TokenError::Expired), "{exp}");
        }
        let malformed = [
            r#""1700000060""#,
            r#""never""#,
            "true",
            "[]",
            "{}",
            "-1",
            "-1700000060",
            "1e300",
            "1700000060000",
            "18446744073709551615",
            "99999999999999999999999",
            "null",
        ];
        for exp in malformed {
            assert_eq!(with_exp(exp), Err(TokenError::Claim("exp")), "{exp}");
        }
        assert_eq!(with_exp("1e400"), Err(TokenError::Claim("exp")));
        assert_eq!(outcome(r#"{"sub":"a"}"#), Err(TokenError::Claim("exp")), "a token must expire");
    }

    #[test]
    fn a_token_without_expiry_gets_the_configured_lifetime() {
        let rules = ClaimRules { lifetime_seconds: Some(3_600), ..rules(None, None) };
        let end = |json: &str| rules.identity(json, NOW).map(|identity| identity.expires_at);
        assert_eq!(end(r#"{"sub":"a","iat":1699999000}"#), Ok(1_700_002_600));
        assert_eq!(end(r#"{"sub":"a"}"#), Ok(NOW + 3_600), "from now on, without `iat`");
        assert_eq!(end(r#"{"sub":"a","iat":1699996391}"#), Ok(1_699_999_991), "within the leeway");
        assert_eq!(end(r#"{"sub":"a","iat":1699996390}"#), Err(TokenError::Expired));
        assert_eq!(end(r#"{"sub":"a","iat":1700000011}"#), Err(TokenError::NotYetValid));
        assert_eq!(end(r#"{"sub":"a","exp":1700000060,"iat":1}"#), Ok(1_700_000_060), "`exp` takes precedence");
        for (claims, claim) in [(r#""exp":null"#, "exp"), (r#""exp":"1""#, "exp"), (r#""iat":null"#, "iat")] {
            assert_eq!(end(&format!(r#"{{"sub":"a",{claims}}}"#)), Err(TokenError::Claim(claim)), "{claims}");
        }
    }

    #[test]
    fn only_a_configured_claim_names_the_user() {
        let with = |claim: &str, claims: &str| {
            let rules = ClaimRules { user_claim: Some(claim.into()), ..rules(None, None) };
            let identity = rules.identity(&format!(r#"{{"exp":1800000000,{claims}}}"#), NOW);
            identity.map(|identity| identity.user.as_str().to_owned())
        };
        assert_eq!(with("uid", r#""uid":"bob","sub":"alice""#).as_deref(), Ok("bob"));
        assert_eq!(with("uid", r#""uid":42"#).as_deref(), Ok("42"));
        assert_eq!(with("user_id", r#""sub":"alice","user_id":"bob""#).as_deref(), Ok("bob"));
        assert_eq!(with("https://a.b/user", r#""https:\/\/a.b\/user":"bob""#).as_deref(), Ok("bob"));
        for claims in [r#""sub":"alice""#, r#""uid":null"#, r#""uid":"""#, r#""uid":{}"#, r#""UID":"bob""#] {
            assert_eq!(with("uid", claims), Err(TokenError::Subject), "{claims}");
        }
        assert_eq!(with("uid", r#""uid":"a","uid":"b""#), Err(TokenError::Claim("all")));
    }

    #[test]
    fn a_token_from_the_future_is_refused() {
        for claim in ["nbf", "iat"] {
            let with =
                |value: &str| outcome(&format!(r#"{{"sub":"a","exp":1800000000,"{claim}":{value}}}"#)).map(|_| ());
            assert_eq!(with("1700000010"), Ok(()), "within the leeway");
            assert_eq!(with("1700000011"), Err(TokenError::NotYetValid));
            assert_eq!(with(r#""0""#), Err(TokenError::Claim(claim)));
            assert_eq!(with("null"), Err(TokenError::Claim(claim)));
            assert_eq!(with("-5"), Err(TokenError::Claim(claim)));
        }
        for (iat, expected) in [
            ("1699999000", IssuedAt::in_second(1_699_999_000)),
            ("1699999000.0", IssuedAt::in_second(1_699_999_000)),
            ("1699999000.5", IssuedAt::at_ms(1_699_999_000_500)),
        ] {
            let json = format!(r#"{{"sub":"a","exp":1800000000,"iat":{iat}}}"#);
            assert_eq!(open(&json).unwrap().issued_at, Some(expected));
        }
    }

    #[test]
    fn a_claim_given_twice_is_refused() {
        assert_eq!(outcome(r#"{"sub":"a","exp":1,"exp":1800000000}"#), Err(TokenError::Claim("all")));
        for json in ["", "null", "[]", "1", r#""x""#, r#"{"sub":"a","exp":1800000000"#] {
            assert_eq!(outcome(json), Err(TokenError::Claim("all")), "{json}");
        }
    }

    #[test]
    fn the_issuer_must_be_the_configured_one() {
        let with = |claim: &str| {
            let json = format!(r#"{{"sub":"a","exp":1800000000{claim}}}"#);
            rules(Some("https://id.example"), None).identity(&json, NOW).map(|_| ())
        };
        assert_eq!(with(r#","iss":"https://id.example""#), Ok(()));
        for claim in ["", r#","iss":"https://id.example/""#, r#","iss":1"#, r#","iss":["https://id.example"]"#] {
            assert_eq!(with(claim), Err(TokenError::Issuer), "{claim}");
        }
    }

    #[test]
    fn the_audience_must_include_the_configured_one() {
        let with = |audience: Option<&str>, claim: &str| {
            let json = format!(r#"{{"sub":"a","exp":1800000000{claim}}}"#);
            rules(None, audience).identity(&json, NOW).map(|_| ())
        };
        assert_eq!(with(Some("desk"), r#","aud":"desk""#), Ok(()));
        assert_eq!(with(Some("desk"), r#","aud":["web","desk"]"#), Ok(()));
        assert_eq!(with(None, ""), Ok(()));
        for claim in ["", r#","aud":"web""#, r#","aud":[]"#, r#","aud":["web"]"#] {
            assert_eq!(with(Some("desk"), claim), Err(TokenError::Audience), "{claim}");
        }
        for claim in [r#","aud":1"#, r#","aud":null"#] {
            assert_eq!(with(Some("desk"), claim), Err(TokenError::Claim("aud")));
        }
        assert_eq!(with(None, r#","aud":"desk""#), Err(TokenError::Audience), "issued for another audience");
    }

    #[test]
    fn the_user_is_sub_or_user_id() {
        let with = |claims: &str| {
            let json = format!(r#"{{"exp":1800000000,{claims}}}"#);
            open(&json).map(|identity| identity.user.as_str().to_owned())
        };
        assert_eq!(with(r#""sub":"alice""#).as_deref(), Ok("alice"));
        assert_eq!(with(r#""sub":"\u00e9milie""#).as_deref(), Ok("émilie"));
        assert_eq!(with(r#""user_id":"bob""#).as_deref(), Ok("bob"));
        assert_eq!(with(r#""user_id":42"#).as_deref(), Ok("42"));
        assert_eq!(with(r#""user_id":"bob","sub":"alice""#).as_deref(), Ok("alice"));
        assert_eq!(with(r#""sub":42,"user_id":"bob""#).as_deref(), Ok("42"));
        let long = format!(r#""sub":"{}""#, "x".repeat(129));
        for claims in [
            r#""sub":"""#,
            r#""sub":-42"#,
            r#""sub":4.2"#,
            r#""sub":"a\u0000b""#,
            r#""sub":"a\nb""#,
            r#""sub":"","user_id":"bob""#,
            r#""user_id":-1"#,
            r#""user_id":1.5"#,
            r#""user_id":{}"#,
            r#""name":"x""#,
            &long,
        ] {
            assert_eq!(with(claims), Err(TokenError::Subject), "{claims}");
        }
    }

    #[test]
    fn malformed_rights_refuse_the_token() {
        let with = |claims: &str| open(&format!(r#"{{"sub":"a","exp":1800000000{claims}}}"#)).map(|id| id.rights);
        assert_eq!(*with("").unwrap(), Rights::default());
        let rights = with(r#","channels":["orders","ticker:*"],"publish":["run:*"],"commands":true"#).unwrap();
        assert!(rights.may_subscribe("ticker:BTC", true) && !rights.may_subscribe("portfolio", false));
        assert!(rights.may_publish("run:1") && !rights.may_publish("orders") && rights.commands);
        let runs = with(r#","runs":["bt-*","live"]"#).unwrap();
        assert!(runs.may_reach("bt-7", false) && runs.may_reach("live", false) && !runs.may_reach("live-2", true));
        assert!(!with(r#","runs":[]"#).unwrap().may_reach("bt-7", true), "an empty list allows nothing");
        assert!(
            rights.may_reach("bt-7", true) && !rights.may_reach("bt-7", false),
            "without the claim, the default applies"
        );
        let none = with(r#","channels":[]"#).unwrap();
        assert!(!none.may_subscribe("orders", false), "an empty list allows nothing");
        let all = with(r#","channels":["*"]"#).unwrap();
        assert!(
            all.may_subscribe("orders", false) && !all.may_subscribe("logs", true),
            "restricted channels must be named"
        );
        assert!(with(r#","channels":["log*"]"#).unwrap().may_subscribe("logs", true));
        for (claim, values) in [
            ("channels", ["null", r#""orders""#, r#"[1]"#, r#"["a,b"]"#, "{}"]),
            ("publish", ["null", "true", r#"[""]"#, r#"["*****"]"#, r#"[["a"]]"#]),
            ("commands", ["null", r#""true""#, "1", "[]", "{}"]),
            ("runs", ["null", r#""bt-*""#, r#"["bt-1",1]"#, r#"["a,b"]"#, "true"]),
        ] {
            for value in values {
                assert_eq!(with(&format!(r#","{claim}":{value}"#)).err(), Some(TokenError::Claim(claim)), "{value}");
            }
        }
    }
}
