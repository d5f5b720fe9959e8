//! Whether the settings can lead to a connection at all: address and certificates. Never connects.

use super::connect;
use crate::config::{self, Access, Problems, Sentinels};

/// Reports settings with which no link can be established.
pub fn check(config: &config::Redis, problems: &mut Problems) {
    let access = config.access();
    if let Some(sentinels) = &access.sentinels {
        return check_sentinels(config, &access, sentinels, problems);
    }
    let without_ca = Access { authority: None, identity: None, ..(*access).clone() };
    if connect::read_info(config, &without_ca, None).is_err() {
        // Not the address itself: it may contain a password.
        problems.report("redis.url", "cannot be used: must be one server, redis://user:password@host:port");
    } else if let Some(path) = &config.ca_file
        && let Err(error) = connect::read_info(config, &access, None)
    {
        let expected = "the certificate authority of Redis in PEM form";
        problems.report("redis.ca_file", format!("{}: {error}; it should contain {expected}", path.display()));
    }
}

/// Addresses were parsed already, so only certificates can be unusable.
fn check_sentinels(config: &config::Redis, access: &Access, sentinels: &Sentinels, problems: &mut Problems) {
    let Some(address) = sentinels.addresses.first() else { return };
    let expected = "it should contain a certificate authority in PEM form";
    if let Err(error) = connect::read_info(config, access, Some(address)) {
        problems.report("redis.ca_file", format!("cannot be used: {error}; {expected}"));
    }
    if sentinels.authority.is_some()
        && let Err(error) = connect::read_sentinel_info(config, access, address)
    {
        problems.report("redis.sentinel.ca_file", format!("cannot be used: {error}; {expected}"));
    }
}
