//! Which settings may change while a replica runs, and which files the configuration depends on. Reads no files.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{Config, Effective, raw::Raw};

/// Keys, and prefixes of keys, whose new values a running replica applies.
const RELOADED: [&str; 12] = [
    "auth.hs256_secrets",
    "auth.hs256_secrets_file",
    "auth.public_keys",
    "auth.api_keys",
    "auth.api_keys_file",
    "auth.keys",
    "log.filter",
    "server.tls.cert_file",
    "server.tls.key_file",
    "server.ops_tls.cert_file",
    "server.ops_tls.key_file",
    "server.ops_tls.client_ca_file",
];

/// Files that the configuration names and that are read again when they change.
pub(super) fn files(raw: &Raw) -> Vec<PathBuf> {
    let (auth, redis, server) = (&raw.auth, &raw.redis, &raw.server);
    let named = [
        &auth.hs256_secrets_file,
        &auth.api_keys_file,
        &redis.url_file,
        &redis.ca_file,
        &redis.client_cert_file,
        &redis.client_key_file,
        &redis.password_file,
        &redis.sentinel.password_file,
        &redis.sentinel.ca_file,
        &server.tls.cert_file,
        &server.tls.key_file,
        &server.ops_tls.cert_file,
        &server.ops_tls.key_file,
        &server.ops_tls.client_ca_file,
    ];
    let keys = raw.auth.public_keys.iter().map(|key| &key.path);
    let named_keys = raw.auth.keys.iter().filter_map(|key| key.key_file.as_ref());
    named.into_iter().chain(keys).chain(named_keys).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

impl Config {
    /// Keeps the secrets that development mode generated at the start: clients have tokens signed with them.
    pub fn keep_generated(&mut self, before: &Self) {
        if self.secret_generated && before.secret_generated {
            self.auth.hs256_secrets.clone_from(&before.auth.hs256_secrets);
        }
        if self.api_key_generated && before.api_key_generated {
            self.auth.api_keys.clone_from(&before.auth.api_keys);
        }
    }
}

impl Effective {
    /// Keys whose value differs from `before` and that a running replica does not apply, in alphabetical order.
    #[must_use]
    pub fn needing_restart(&self, before: &Self) -> Vec<String> {
        let (now, then) = (flat(self), flat(before));
        let keys = now.keys().chain(then.keys().filter(|key| !now.contains_key(*key)));
        let changed = keys.filter(|key| now.get(*key) != then.get(*key) && !RELOADED.contains(&key.as_str()));
        let mut changed: Vec<_> = changed.cloned().collect();
        changed.sort();
        changed
    }
}

/// Every key with its value; lists are values.
fn flat(effective: &Effective) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let shown = effective.to_json();
    found.insert("server.mode".to_owned(), shown["development"].clone());
    collect("", &shown["config"], &mut found);
    found
}

fn collect(at: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    let Value::Object(members) = value else {
        found.insert(at.to_owned(), value.clone());
        return;
    };
    for (name, value) in members {
        let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        collect(&key, value, found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigSources, keys};
    use super::*;

    fn effective(settings: &[(&'static str, &str)]) -> (Config, Effective) {
        let sources =
            settings.iter().fold(ConfigSources::default(), |sources, (key, value)| sources.flag("", key, *value));
        Config::load(&sources).unwrap()
    }

    #[test]
    fn settings_that_require_a_restart_are_named() {
        let (_, before) = effective(&[]);
        let (_, after) = effective(&[
            ("log.filter", "debug"),
            ("auth.api_keys", "another"),
            ("limits.subscriptions_max", "7"),
            ("server.listen", "127.0.0.1:1"),
        ]);
        assert_eq!(after.needing_restart(&before), ["limits.subscriptions_max", "server.listen"]);
        assert_eq!(before.needing_restart(&before), Vec::<String>::new());
    }

    #[test]
    fn every_reloadable_key_exists() {
        let known = keys();
        for key in RELOADED {
            assert!(known.iter().any(|known| known == key || known.starts_with(&format!("{key}."))), "{key}");
        }
    }

    #[test]
    fn generated_secrets_survive_a_reload_unless_others_are_configured() {
        let (before, _) = effective(&[]);
        let (mut after, _) = effective(&[]);
        after.keep_generated(&before);
        assert!(after.auth.hs256_secrets == before.auth.hs256_secrets && after.auth.api_keys == before.auth.api_keys);
        let (mut after, _) = effective(&[("server.mode", "development"), ("auth.hs256_secrets", "own")]);
        after.keep_generated(&before);
        assert_ne!(after.auth.hs256_secrets, before.auth.hs256_secrets);
    }
}
