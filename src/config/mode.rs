//! Development mode: when it is on, and which settings it must not be combined with.

use super::{Auth, Problems, Server, raw, value::Section};

/// The requested `server.mode`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ServerMode {
    Auto,
    Development,
    Production,
}

/// Whether this is development mode. Reports listeners that are reachable from other machines without the required
/// secrets.
pub(super) fn is_development(raw: &raw::RawServer, server: &Server, auth: &Auth, problems: &mut Problems) -> bool {
    let mut section = Section::new("server", problems);
    let modes =
        [("auto", ServerMode::Auto), ("development", ServerMode::Development), ("production", ServerMode::Production)];
    let mode = section.choice("mode", &raw.mode, &modes);
    let exposed = [("listen", server.listen), ("ops_listen", server.ops_listen)].map(|(key, address)| {
        // The port does not matter: what matters is who can reach the address.
        (key, Some(address).filter(|address| !address.ip().to_canonical().is_loopback()))
    });
    if mode == ServerMode::Development {
        for (key, address) in exposed {
            if let Some(address) = address {
                let text =
                    format!("{address} is reachable from other machines: development mode listens only on loopback");
                section.report(key, text);
            }
        }
        return true;
    }
    let [(_, public), (_, operations)] = exposed;
    let keys = auth.has_token_keys();
    if mode == ServerMode::Auto && !keys && public.is_none() && operations.is_none() {
        return true;
    }
    if !keys {
        let why = match public {
            Some(address) => format!("{address} is reachable from other machines"),
            None => "this is not development mode".into(),
        };
        let text =
            "set auth.hs256_secrets (a file: TICKGATE__AUTH__HS256_SECRETS_FILE), auth.public_keys or auth.jwks_url";
        section.report(
            if public.is_some() { "listen" } else { "mode" },
            format!("{why}, and no key to verify tokens is set: {text}"),
        );
    }
    if let Some(address) = operations.filter(|_| !auth.has_api_keys()) {
        let text = "set auth.api_keys (a file: TICKGATE__AUTH__API_KEYS_FILE), or listen on loopback";
        section
            .report("ops_listen", format!("{address} is reachable from other machines, and no API key is set: {text}"));
    }
    false
}
