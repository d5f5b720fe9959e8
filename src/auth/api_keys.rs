//! Keys of backends (the HTTP API, ingest). Never compared byte by byte: neither a key's text nor its length shows in
//! the time that a comparison takes.

use aws_lc_rs::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

use crate::config::Secret;

/// Digests of all keys.
#[derive(Default)]
pub(super) struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    pub(super) fn new(keys: &[Secret]) -> Self {
        Self(keys.iter().map(|key| sha256(key.expose())).collect())
    }

    /// Whether the text is one of the keys. Looks at all of them, whichever matches.
    pub(super) fn contains(&self, text: &str) -> bool {
        let given = sha256(text);
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given)).into()
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_is_a_key() {
        let keys = ApiKeys::new(&[Secret::new("first-key"), Secret::new("second-key")]);
        assert!(keys.contains("first-key") && keys.contains("second-key"));
        for text in ["", "first", "first-key ", "First-key", "first-keysecond-key", "third-key"] {
            assert!(!keys.contains(text), "{text:?}");
        }
        assert!(!ApiKeys::default().contains(""), "no key configured: nothing is one");
    }
}
