//! Which hosts and origins belong to this machine. Pure.

use std::net::IpAddr;

/// A host name that only this machine can have: `localhost` and its subdomains (RFC 6761), or a loopback address.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether an origin is a page served by this machine, on any port.
#[must_use]
pub fn is_loopback_origin(origin: &str) -> bool {
    let page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    page.is_some_and(|page| is_loopback_host(without_port(page)))
}

/// `localhost` of `localhost:3000`, `[::1]` of `[::1]:3000`.
fn without_port(page: &str) -> &str {
    match page.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_this_machine_are_recognized() {
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080", "http://app.localhost"] {
            assert!(is_loopback_origin(origin), "{origin}");
        }
        let foreign = [
            "null",
            "*",
            "https://evil.example",
            "http://localhost.evil.example",
            "http://localhost@evil.example",
            "http://localhost:1@evil.example",
            "http://localhost:3000/x",
            "file://localhost",
            "http://0.0.0.0",
            "http://",
        ];
        for origin in foreign {
            assert!(!is_loopback_origin(origin), "{origin}");
        }
    }
}
