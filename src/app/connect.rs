//! What `check-config --connect` tries: all external resources that a replica uses. Never serves.

use std::io;

use crate::{
    auth::Verifier,
    config::{Config, Problems},
    connection::accept,
    redis_link,
};

/// Advice for an address that cannot be bound.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the program that uses the port, or set another one",
        io::ErrorKind::AddrNotAvailable => "; set an address of this machine, or 0.0.0.0 for all",
        io::ErrorKind::PermissionDenied => "; ports below 1024 require a privilege: choose a higher one",
        _ => "",
    }
}

/// Tries what `serve` would use: both addresses, Redis, and the key set.
///
/// # Errors
/// Everything that cannot be used now.
pub async fn connect(config: &Config) -> Result<(), Problems> {
    let mut problems = Problems::default();
    for (key, address) in [("server.listen", config.server.listen), ("server.ops_listen", config.server.ops_listen)] {
        if let Err(source) = accept::bind(address) {
            problems.report(key, format!("cannot listen on {address}: {source}{}", remedy(&source)));
        }
    }
    if let Some(redis) = &config.redis
        && let Err(failure) = redis_link::probe(redis).await
    {
        problems.report(redis.place_key(), failure.to_string());
    }
    match Verifier::new(&config.auth) {
        Ok(verifier) => {
            if let Err(text) = verifier.probe().await {
                problems.report("auth.jwks_url", text);
            }
        }
        Err(found) => problems.extend(found),
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
