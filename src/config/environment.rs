//! The environment: which variable sets which key. No other module reads it.

/// Names a configuration file.
pub(super) const FILE: &str = "TICKGATE_CONFIG";

/// Names a deliberate defect, for the suite that verifies that it detects defects. Read only with the feature
/// `simulation`.
#[cfg(feature = "simulation")]
const DEFECT: &str = "TICKGATE_TEST_DEFECT";

/// The deliberate defect that this process runs with.
#[cfg(feature = "simulation")]
#[must_use]
pub fn deliberate_defect() -> Option<String> {
    std::env::var_os(DEFECT)?.into_string().ok()
}

/// Prefix of every variable that sets a key; `__` stands for the dot.
pub(super) const PREFIX: &str = "TICKGATE__";

/// Prefix of every variable that may be a misspelled setting.
const OWN: &str = "TICKGATE_";

/// Keys that would open the gateway if an empty variable were ignored.
pub(super) const SECRETS: [&str; 4] =
    ["auth.hs256_secrets", "auth.hs256_secrets_file", "auth.api_keys", "auth.api_keys_file"];

/// Short names of common settings, and the keys they set. Times are plain seconds.
pub const SHORT_NAMES: [(&str, &str); 4] = [
    ("WS_HEARTBEAT_INTERVAL", "session.heartbeat_interval"),
    ("WS_MAX_CONNECTIONS_PER_USER", "limits.connections_per_user_max"),
    ("WS_MESSAGE_QUEUE_SIZE", "limits.outbox_messages_max"),
    ("WS_RECONNECT_TIMEOUT", "session.resume_ttl"),
];

/// The gateway's variables of this process. Invalid Unicode in a value becomes U+FFFD, which fails when the value is
/// parsed.
pub(super) fn of_process() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with(OWN) || SHORT_NAMES.iter().any(|(short, _)| short == name))
        .collect()
}

/// The key that a variable sets: `TICKGATE__SERVER__LISTEN` sets `server.listen`.
pub(super) fn key_of(variable: &str) -> Option<String> {
    Some(variable.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", "."))
}

/// The part after the prefix of a variable that sets no key; `None` for variables of other programs: Kubernetes creates
/// variables for each Service, such as one named `tickgate-redis`.
pub(super) fn stray(variable: &str) -> Option<&str> {
    let rest = variable.strip_prefix(OWN).filter(|_| variable != FILE)?;
    let numbered = |rest: &str| {
        rest.split_once("_PORT_").is_some_and(|(_, tail)| tail.starts_with(|first: char| first.is_ascii_digit()))
    };
    let of_service = rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT") || rest.ends_with("_PORT");
    (!of_service && !numbered(rest)).then_some(rest)
}

/// The variable that sets a key.
pub(super) fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// A value in the form that the key accepts: plain seconds get their unit.
pub(super) fn short_value(key: &str, value: &str) -> String {
    let is_time = key.starts_with("session.");
    if is_time && value.bytes().all(|b| b.is_ascii_digit()) { format!("{value}s") } else { value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_keys_name_each_other() {
        for key in super::super::keys() {
            assert_eq!(key_of(&name_of(&key)), Some(key));
        }
        assert_eq!(key_of("PATH"), None);
    }

    #[test]
    fn kubernetes_service_variables_are_ignored() {
        for name in [
            "TICKGATE_REDIS_SERVICE_HOST",
            "TICKGATE_REDIS_SERVICE_PORT",
            "TICKGATE_REDIS_SERVICE_PORT_REDIS",
            "TICKGATE_REDIS_PORT",
            "TICKGATE_REDIS_PORT_6379_TCP",
            "TICKGATE_REDIS_PORT_6379_TCP_ADDR",
            "TICKGATE_CONFIG",
            "PATH",
        ] {
            assert_eq!(stray(name), None, "{name}");
        }
        assert_eq!(stray("TICKGATE_SERVER__LISTEN"), Some("SERVER__LISTEN"));
    }
}
