//! Text that is never shown in logs, errors or `check-config`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a copy of the text, which is never shown.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// A new one of 244 random bits, as 64 hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        let half = || uuid::Uuid::new_v4().simple().to_string();
        Self::new(&format!("{}{}", half(), half()))
    }

    /// The secret itself, for the one place that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is not set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `***`, or nothing if the secret is empty.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "" } else { "***" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

/// Shows an address without its user and password.
pub(super) fn hide_credentials<S: Serializer>(url: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&without_credentials(url.expose()))
}

/// Shows an address without its query, which may hold a key.
pub(super) fn hide_query<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match url.split_once('?') {
        Some((before, _)) => serializer.collect_str(&format_args!("{before}?***")),
        None => serializer.serialize_str(url),
    }
}

/// `redis://***@host:6379/0`. Text without a scheme is hidden entirely; queries are removed.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    // The last `@`: a password may contain one that is not encoded.
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{}", cut_query(host)),
        None => format!("{scheme}://{}", cut_query(rest)),
    }
}

fn cut_query(text: &str) -> &str {
    text.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2-hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(format!("{:?}", Secret::default()), "");
    }

    #[test]
    fn random_secrets_are_long_and_differ() {
        assert_eq!(Secret::random().len(), 64);
        assert!(Secret::random() != Secret::random());
    }

    #[test]
    fn an_address_is_shown_without_its_credentials() {
        let cases = [
            ("redis://bob:p@ss@host:6379/0", "redis://***@host:6379/0"),
            ("rediss://:pw@host", "rediss://***@host"),
            ("redis://host:6379?password=pw", "redis://host:6379"),
            ("bob:pw@host", "***"),
            ("", ""),
        ];
        for (url, shown) in cases {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
