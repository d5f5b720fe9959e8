//! Keys of backends (HTTP API, ingest): the owner of each key, its rights and its rate. Keys are compared in constant
//! time: the time reveals neither a key's text nor its length.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tickgate_wire::model::Pattern;

use crate::{
    bucket::Bucket,
    config::{self, Rate, Right, Secret, UNNAMED},
};

/// The owner of a key or a certificate.
pub struct ApiKey {
    /// The key's name in the configuration, shown in logs and metrics.
    pub name: Arc<str>,
    rights: Vec<Right>,
    topics: Option<Vec<Pattern>>,
    certificate: Option<String>,
    rate: Rate,
    spent: Arc<KeyRateLimit>,
}

/// The key's rate limit state. Survives a reload if the key keeps its name.
struct KeyRateLimit {
    began: Instant,
    // Held only for an addition.
    bucket: Mutex<Bucket>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("rights", &self.rights).finish_non_exhaustive()
    }
}

impl ApiKey {
    fn new(key: &config::ApiKey) -> Self {
        Self {
            name: key.name.as_str().into(),
            rights: key.rights.clone(),
            topics: key.topics.clone(),
            certificate: key.certificate.clone(),
            rate: key.rate,
            spent: Arc::new(KeyRateLimit { began: Instant::now(), bucket: Mutex::default() }),
        }
    }

    /// Whether it has the right.
    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// Whether it may publish to, and read, the topic or private channel of this name, given the right to do so at all.
    #[must_use]
    pub fn reaches(&self, topic: &str) -> bool {
        self.topics.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(topic)))
    }

    /// Counts one publication or request.
    ///
    /// # Errors
    /// How long to wait before the next one.
    pub fn spend(&self, now: Instant) -> Result<(), Duration> {
        if self.rate.per_second == 0 {
            return Ok(());
        }
        let since = now.saturating_duration_since(self.spent.began);
        self.spent.bucket.lock().take(1, since, self.rate)
    }
}

/// All keys.
#[derive(Default)]
pub(super) struct ApiKeys {
    keys: Vec<Arc<ApiKey>>,
    /// Digests of the keys, and the owner of each.
    texts: Vec<([u8; 32], u32)>,
}

impl ApiKeys {
    /// `unnamed` keys grant every right.
    pub(super) fn new(unnamed: &[Secret], named: &[config::ApiKey]) -> Self {
        let everything = config::ApiKey {
            name: UNNAMED.to_owned(),
            rights: Right::ALL.iter().map(|(_, right)| *right).collect(),
            topics: None,
            secrets: unnamed.to_vec(),
            certificate: None,
            rate: Rate { per_second: 0, burst: 0 },
        };
        let (mut keys, mut texts) = (Vec::new(), Vec::new());
        for (key, at) in std::iter::once(&everything).chain(named).zip(0_u32..) {
            keys.push(Arc::new(ApiKey::new(key)));
            texts.extend(key.secrets.iter().map(|secret| (sha256(secret.expose()), at)));
        }
        Self { keys, texts }
    }

    /// The same keys, with the rate limit state of keys that have the same name and rate in `before`.
    pub(super) fn continuing(&self, before: &Self) -> Self {
        let keys = self.keys.iter().map(|key| {
            let former = before.keys.iter().find(|former| former.name == key.name && former.rate == key.rate);
            let spent = former.map_or_else(|| key.spent.clone(), |former| former.spent.clone());
            Arc::new(ApiKey {
                name: key.name.clone(),
                rights: key.rights.clone(),
                topics: key.topics.clone(),
                certificate: key.certificate.clone(),
                rate: key.rate,
                spent,
            })
        });
        Self { keys: keys.collect(), texts: self.texts.clone() }
    }

    /// The owner of this key. Compares with all of them, whichever matches.
    pub(super) fn find(&self, text: &str) -> Option<Arc<ApiKey>> {
        let given = sha256(text);
        let none = u32::MAX;
        let found = self
            .texts
            .iter()
            .fold(none, |found, (digest, at)| u32::conditional_select(&found, at, digest.ct_eq(&given)));
        self.keys.get(found as usize).cloned()
    }

    /// The owner of the certificate for whose names `is_for` returns true.
    pub(super) fn find_certificate(&self, is_for: impl Fn(&str) -> bool) -> Option<Arc<ApiKey>> {
        self.keys.iter().find(|key| key.certificate.as_deref().is_some_and(&is_for)).cloned()
    }

    /// A text that belongs to two keys, which makes the owner ambiguous.
    pub(super) fn shared(&self) -> Option<[&str; 2]> {
        let named = |at: &u32| self.keys.get(*at as usize).map_or("", |key| &*key.name);
        let mut pairs = self
            .texts
            .iter()
            .enumerate()
            .flat_map(|(at, one)| self.texts[at + 1..].iter().map(move |other| (one, other)));
        pairs
            .find(|(one, other)| one.0 == other.0 && one.1 != other.1)
            .map(|(one, other)| [named(&one.1), named(&other.1)])
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

    fn named(name: &str, secret: &str, rights: &[Right], per_second: u32) -> config::ApiKey {
        config::ApiKey {
            name: name.into(),
            rights: rights.to_vec(),
            topics: Some(vec![Pattern::new("ticker:*").unwrap()]),
            secrets: vec![Secret::new(secret)],
            certificate: Some(format!("{name}.svc")),
            rate: Rate { per_second, burst: per_second },
        }
    }

    #[test]
    fn only_a_whole_key_is_a_key() {
        let keys = ApiKeys::new(&[Secret::new("first-key"), Secret::new("second-key")], &[]);
        assert!(keys.find("first-key").is_some() && keys.find("second-key").is_some());
        for text in ["", "first", "first-key ", "First-key", "first-keysecond-key", "third-key"] {
            assert!(keys.find(text).is_none(), "{text:?}");
        }
        assert!(ApiKeys::default().find("").is_none(), "no key configured: none matches");
    }

    #[test]
    fn a_key_has_its_own_rights_and_topics() {
        let keys = ApiKeys::new(&[Secret::new("all")], &[named("engine", "e", &[Right::Publish], 0)]);
        let (all, engine) = (keys.find("all").unwrap(), keys.find("e").unwrap());
        assert_eq!((&*all.name, &*engine.name), (UNNAMED, "engine"));
        assert!(Right::ALL.iter().all(|(_, right)| all.may(*right)) && all.reaches("orders"));
        assert!(engine.may(Right::Publish) && !engine.may(Right::Read) && !engine.may(Right::Admin));
        assert!(engine.reaches("ticker:A") && !engine.reaches("orders"));
        assert_eq!(
            keys.find_certificate(|name| name == "engine.svc").map(|key| key.name.clone()),
            Some("engine".into())
        );
        assert!(keys.find_certificate(|name| name == "other.svc").is_none());
    }

    #[test]
    fn a_rate_survives_a_reload_that_keeps_the_name() {
        let before = ApiKeys::new(&[], &[named("engine", "e", &[Right::Publish], 1)]);
        let now = Instant::now();
        assert!(before.find("e").unwrap().spend(now).is_ok() && before.find("e").unwrap().spend(now).is_err());
        let same = ApiKeys::new(&[], &[named("engine", "new", &[Right::Publish], 1)]).continuing(&before);
        assert!(same.find("new").unwrap().spend(now).is_err() && same.find("e").is_none());
        let faster = ApiKeys::new(&[], &[named("engine", "new", &[Right::Publish], 9)]).continuing(&before);
        assert!(faster.find("new").unwrap().spend(now).is_ok());
    }

    #[test]
    fn two_keys_cannot_share_a_text() {
        let both = [named("a", "same", &[Right::Read], 0), named("b", "same", &[Right::Read], 0)];
        assert_eq!(ApiKeys::new(&[], &both).shared(), Some(["a", "b"]));
        assert_eq!(ApiKeys::new(&[Secret::new("x"), Secret::new("x")], &[]).shared(), None);
    }
}
