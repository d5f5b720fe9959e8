//! Listeners and who may reach them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{
    Problems, Secret, named_file, raw,
    value::{Section, address, address_range, quoted},
};

/// Listeners and who may reach them.
#[derive(Clone, Debug)]
pub struct Server {
    /// Stable across restarts, unlike the replica's id.
    pub name: String,
    /// Public listener: sockets, SSE, health.
    pub listen: SocketAddr,
    /// Operations listener: metrics, HTTP API.
    pub ops_listen: SocketAddr,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Allowed origins of browsers; `*` alone allows all, [`LOOPBACK_ORIGINS`] those of this machine.
    pub allowed_origins: Vec<String>,
    /// Which proxies are trusted to report a client's address.
    pub proxies: Proxies,
    /// How long a client may take to send its request head.
    pub header_timeout: Duration,
    /// How long an idle connection is kept between two requests; sent to clients in `Keep-Alive`.
    pub idle_timeout: Duration,
    /// Maximum size of a request head, in bytes.
    pub header_bytes_max: usize,
    /// Whether `/` returns the program's name, version and endpoints.
    pub service_information: bool,
    /// TLS on the public listener.
    pub tls: Option<Tls>,
    /// TLS on the operations listener.
    pub ops_tls: Option<Tls>,
}

/// The certificates that a TLS listener presents and requests.
#[derive(Clone, Debug)]
pub struct Tls {
    /// What the listener presents.
    pub identity: Identity,
    /// Authorities, in PEM form, of client certificates; `None`: client certificates are not requested.
    pub client_authority: Option<Arc<str>>,
}

/// A certificate chain and the key of its first certificate, in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The chain in PEM form, the listener's own certificate first.
    pub certificate: Arc<str>,
    /// The private key in PEM form.
    pub key: Secret,
}

/// What the files should contain, for error messages.
const CERTIFICATE_CONTENT: &str =
    "a certificate chain in PEM form (-----BEGIN CERTIFICATE-----), the server certificate first";
const KEY_CONTENT: &str = "the private key of the certificate in PEM form (-----BEGIN PRIVATE KEY-----)";
const CLIENT_CA_CONTENT: &str = "the certificate authority of the clients in PEM form (-----BEGIN CERTIFICATE-----)";
/// PEM block types that can hold a private key.
const KEY_BLOCKS: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];

impl Identity {
    /// Both files, or neither. `keys`: the names of the two settings.
    pub(super) fn check(
        section: &mut Section<'_>,
        keys: [&'static str; 2],
        [certificate, key]: [&str; 2],
    ) -> Option<Self> {
        let missing = |path: &str, content: &str| format!("is missing, but {path} is set: it should contain {content}");
        match (certificate, key) {
            ("", "") => return None,
            (certificate, "") => section.report(keys[1], missing(certificate, KEY_CONTENT)),
            ("", key) => section.report(keys[0], missing(key, CERTIFICATE_CONTENT)),
            _ => {}
        }
        let read = named_file::pem(certificate, &["CERTIFICATE"], CERTIFICATE_CONTENT);
        let certificate = section.take(keys[0], read, None);
        let key = section.take(keys[1], named_file::pem(key, &KEY_BLOCKS, KEY_CONTENT), None);
        let ((_, certificate), (_, key)) = certificate.zip(key)?;
        Some(Self { certificate: certificate.into(), key: Secret::new(&key) })
    }
}

impl Tls {
    fn check(raw: &raw::RawTls, problems: &mut Problems) -> Option<Self> {
        let mut section = Section::new("server.tls", problems);
        let identity = Identity::check(&mut section, ["cert_file", "key_file"], [&raw.cert_file, &raw.key_file])?;
        Some(Self { identity, client_authority: None })
    }

    fn check_operations(raw: &raw::OpsTls, problems: &mut Problems) -> Option<Self> {
        let mut section = Section::new("server.ops_tls", problems);
        let identity = Identity::check(&mut section, ["cert_file", "key_file"], [&raw.cert_file, &raw.key_file]);
        let authority = named_file::pem(&raw.client_ca_file, &["CERTIFICATE"], CLIENT_CA_CONTENT);
        let authority = section.take("client_ca_file", authority, None);
        if authority.is_some() && raw.cert_file.is_empty() {
            section.report(
                "client_ca_file",
                "requires server.ops_tls.cert_file: without TLS clients cannot present a certificate",
            );
        }
        Some(Self { identity: identity?, client_authority: authority.map(|(_, text)| text.into()) })
    }
}

/// Stands for the origins of this machine. It cannot be configured: it is not a valid origin.
pub const LOOPBACK_ORIGINS: &str = "loopback";

/// The proxies in front of the gateway, and how they pass on client addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies {
    /// Peers whose header is trusted (CIDR notation).
    pub ranges: Vec<IpNet>,
    /// Instead of ranges: how many proxies are in front of every client.
    pub hops: usize,
    /// The one header that is read.
    pub header: AddressHeader,
}

/// A header in which proxies name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressHeader {
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The shortest prefixes of private networks: a larger range cannot be a network of proxies.
const PREFIX_MIN: [u8; 2] = [8, 7];

impl Server {
    pub(super) fn check(raw: &raw::RawServer, problems: &mut Problems) -> Self {
        let (tls, ops_tls) = (Tls::check(&raw.tls, problems), Tls::check_operations(&raw.ops_tls, problems));
        let mut section = Section::new("server", problems);
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let server = Self {
            name: section.take("name", name(&raw.name), String::new()),
            listen: section.take("listen", address(&raw.listen), loopback(8000)),
            ops_listen: section.take("ops_listen", address(&raw.ops_listen), loopback(8001)),
            workers: section.number("workers", raw.workers, 0..=1024),
            allowed_origins: section.take_all("allowed_origins", &raw.allowed_origins, origin),
            proxies: Proxies {
                ranges: section.take_all("trusted_proxies", &raw.trusted_proxies, proxy_range),
                hops: section.number("trusted_hops", raw.trusted_hops, 0..=16),
                header: section.choice(
                    "address_header",
                    &raw.address_header,
                    &[("x-forwarded-for", AddressHeader::ForwardedFor), ("forwarded", AddressHeader::Forwarded)],
                ),
            },
            header_timeout: section.duration("header_timeout", &raw.header_timeout, ["100ms", "5m"]),
            idle_timeout: section.duration("idle_timeout", &raw.idle_timeout, ["1s", "1h"]),
            header_bytes_max: section.number("header_bytes_max", raw.header_bytes_max, 1024..=1_048_576),
            service_information: raw.service_information,
            tls,
            ops_tls,
        };
        if server.allowed_origins.len() > 1 && server.allowed_origins.iter().any(|origin| origin == "*") {
            section.report("allowed_origins", "\"*\" allows every origin: it must be the only entry");
        }
        if server.proxies.hops > 0 && !server.proxies.ranges.is_empty() {
            section.report("trusted_hops", "is set together with server.trusted_proxies: set only one of them");
        }
        if collide(server.listen, server.ops_listen) {
            section.report("ops_listen", format!("must use a different port from server.listen ({})", server.listen));
        }
        server
    }
}

/// The configured name, or the host name.
fn name(text: &str) -> Result<String, String> {
    let own = rustix::system::uname();
    let text = if text.is_empty() { own.nodename().to_str().unwrap_or_default() } else { text };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("must be 1 to 128 characters of A-Z a-z 0-9 - _ . such as a host name, got {}", quoted(text)))
}

/// The range of proxies; a range that contains clients would let them choose their address.
fn proxy_range(text: &str) -> Result<IpNet, String> {
    let range = address_range(text)?;
    let [v4, v6] = PREFIX_MIN;
    let prefix_min = if range.addr().is_ipv4() { v4 } else { v6 };
    if range.prefix_len() < prefix_min {
        let text = quoted(text);
        return Err(format!("must be the proxies' own addresses, /{prefix_min} or smaller, not {text}"));
    }
    Ok(range)
}

/// Whether two listeners cannot be bound at the same time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// An origin exactly as browsers send it: scheme, host, and the port unless it is the scheme's default.
fn origin(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map(|(_, host)| host);
    let exact = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', '?', '#', ' ']))
        && !text.bytes().any(|b| b.is_ascii_uppercase());
    if exact || text == "*" {
        return Ok(text.into());
    }
    let example = "must be an origin as browsers send it, such as \"https://app.example.com\" (lower case, no path)";
    Err(format!("{example}, got {}", quoted(text)))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn ranges_contain_their_addresses() {
        let contains = |range: &str, ip: &str| address_range(range).unwrap().contains(&ip.parse::<IpAddr>().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && contains("10.0.0.1", "10.0.0.1"));
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe80::1") && !contains("::/0", "10.0.0.1"));
    }

    #[test]
    fn overly_large_proxy_ranges_are_refused() {
        for text in ["10.0.0.0/8", "fc00::/7", "192.0.2.1", "2001:db8::/32"] {
            assert!(proxy_range(text).is_ok(), "{text}");
        }
        for text in ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/7", "2000::/3", "x"] {
            assert!(proxy_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        for text in ["https://app.example.com", "http://localhost:3000", "*", "app://obsidian.md"] {
            assert!(origin(text).is_ok(), "{text}");
        }
        for text in ["", "app.example.com", "https://", "https://a/", "https://*.a", "https://App.com"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
