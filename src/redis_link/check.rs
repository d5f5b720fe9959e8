//! Whether the settings can lead to a connection at all: address and certificates. Never connects.

use super::connect;
use crate::config::{self, Access, Problems};

/// Reports settings with which no link can be established.
pub fn check(config: &config::Redis, problems: &mut Problems) {
    let access = config.access();
    let without_ca = Access { authority: None, identity: None, ..(*access).clone() };
    if connect::read_info(config, &without_ca).is_err() {
        // Not the address itself: it may contain a password.
        problems.report("redis.url", "cannot be used: must be one server, redis://user:password@host:port");
    } else if let Some(path) = &config.ca_file
        && let Err(error) = connect::read_info(config, &access)
    {
        let expected = "the certificate authority of Redis in PEM form";
        problems.report("redis.ca_file", format!("{}: {error}; it should contain {expected}", path.display()));
    }
}
