//! The client's address, and the limits per address: concurrent connections, and handshakes per second. Time is an
//! argument. Never trusts a header of a peer that is not a trusted proxy.

mod limits;

use std::net::IpAddr;

use hyper::{HeaderMap, header};

use crate::config::{AddressHeader, Proxies};
pub use limits::{AddressLimits, AddressRefusal, Permit, RefusedBy};

/// Maximum number of hops of a forwarding header that are read.
const HOPS_MAX: usize = 32;
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address that limits and logs use: the last hop that is not a trusted proxy.
///
/// Only the configured header is read, because a client can send any other and a proxy forwards it. It is read from the
/// right: everything left of the last untrusted hop was written by that hop and may be false.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_proxy(proxies, client, 0) {
        return client;
    }
    let hops = match proxies.header {
        AddressHeader::ForwardedFor => hops(headers, FORWARDED_FOR, |element| Some(element)),
        AddressHeader::Forwarded => hops(headers, header::FORWARDED.as_str(), forwarded_for),
    };
    for (passed, hop) in hops.into_iter().enumerate() {
        // A hop without an address (`unknown` or garbage): the result is the proxy that wrote it.
        let Some(address) = hop.filter(|_| is_proxy(proxies, client, passed)) else { break };
        client = address;
    }
    client
}

/// Whether the address is a trusted proxy, after `passed` hops.
fn is_proxy(proxies: &Proxies, address: IpAddr, passed: usize) -> bool {
    passed < proxies.hops || proxies.ranges.iter().any(|range| range.contains(&address))
}

/// The hops of a header, nearest first, over all its lines.
fn hops(headers: &HeaderMap, name: &str, value_of: fn(&str) -> Option<&str>) -> Vec<Option<IpAddr>> {
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    let elements = lines.into_iter().rev().flat_map(|line| line.to_str().unwrap_or("unreadable").rsplit(','));
    elements.take(HOPS_MAX).map(|element| value_of(element.trim()).and_then(address)).collect()
}

/// The `for` parameter of one element of `Forwarded`, unquoted.
fn forwarded_for(element: &str) -> Option<&str> {
    let mut parameters = element.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::7`, `fe80::7%eth0`, `[2001:db8::7]`, `[2001:db8::7]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    // A link-local address may include a zone (RFC 4007), which is meaningless here.
    let bare = bare.split_once('%').map_or(bare, |(address, _zone)| address);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    fn seen_by(proxies: &Proxies, peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &map, proxies).to_string()
    }

    fn trusting(header: AddressHeader) -> Proxies {
        let range = |address: &str, prefix_len| IpNet::new(address.parse().unwrap(), prefix_len).unwrap();
        Proxies { ranges: vec![range("10.0.0.0", 8), range("fd00::", 8)], hops: 0, header }
    }

    fn seen(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        seen_by(&trusting(AddressHeader::ForwardedFor), peer, headers)
    }

    #[test]
    fn headers_of_untrusted_peers_are_ignored() {
        assert_eq!(seen("203.0.113.7", &[("x-forwarded-for", "198.51.100.1")]), "203.0.113.7");
        assert_eq!(seen("203.0.113.7", &[("forwarded", "for=198.51.100.1")]), "203.0.113.7");
        assert_eq!(seen("::ffff:203.0.113.7", &[]), "203.0.113.7", "a mapped address is an IPv4 address");
    }

    #[test]
    fn a_trusted_proxy_names_the_last_untrusted_hop() {
        let by_proxy = |value| seen("10.0.0.1", &[("x-forwarded-for", value)]);
        assert_eq!(by_proxy("198.51.100.1"), "198.51.100.1");
        assert_eq!(by_proxy("1.1.1.1, 198.51.100.1"), "198.51.100.1", "the client wrote the left part");
        assert_eq!(by_proxy("1.1.1.1, 198.51.100.1, 10.9.9.9"), "198.51.100.1");
        assert_eq!(by_proxy("10.2.2.2,10.9.9.9"), "10.2.2.2", "if all are trusted, the first one");
        assert_eq!(by_proxy("198.51.100.1:4711"), "198.51.100.1");
        assert_eq!(by_proxy("[2001:db8::7]:4711"), "2001:db8::7");
        assert_eq!(by_proxy("2001:db8::7"), "2001:db8::7");
        assert_eq!(by_proxy("fe80::7%eth0"), "fe80::7");
        assert_eq!(by_proxy("[fe80::7%25eth0]:4711"), "fe80::7");
        assert_eq!(by_proxy("%eth0"), "10.0.0.1", "no address");
        assert_eq!(by_proxy("::ffff:10.1.1.1"), "10.1.1.1");
        assert_eq!(seen("fd00::1", &[("x-forwarded-for", "198.51.100.1")]), "198.51.100.1");
    }

    #[test]
    fn several_header_lines_form_one_list() {
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.1, 10.9.9.9")];
        assert_eq!(seen("10.0.0.1", &lines), "198.51.100.1");
    }

    #[test]
    fn a_hop_without_an_address_ends_the_search() {
        for value in ["", "unknown", "1.1.1.1, unknown", "1.1.1.1, 300.1.1.1", "1.1.1.1,", "1.1.1.1, [::1", "a\tb"] {
            assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", value)]), "10.0.0.1", "{value}");
        }
        assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", "1.1.1.1, unknown, 10.9.9.9")]), "10.9.9.9");
    }

    #[test]
    fn only_the_configured_header_is_read() {
        let proxies = trusting(AddressHeader::Forwarded);
        let by_proxy = |value| seen_by(&proxies, "10.0.0.1", &[("forwarded", value)]);
        assert_eq!(by_proxy("for=198.51.100.1"), "198.51.100.1");
        assert_eq!(by_proxy("for=1.1.1.1, For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.9"), "2001:db8::7");
        assert_eq!(by_proxy("proto=https;for=198.51.100.1, for=10.9.9.9"), "198.51.100.1");
        for value in ["for=unknown", "for=_hidden", "proto=https", "for=", "for=\"198.51.100.1"] {
            assert_eq!(by_proxy(value), "10.0.0.1", "{value}");
        }
        let both = [("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "1.1.1.1")];
        assert_eq!(seen_by(&proxies, "10.0.0.1", &both), "198.51.100.1");
        let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(seen("10.0.0.1", &both), "198.51.100.1");
        assert_eq!(seen("10.0.0.1", &[("forwarded", "for=1.1.1.1")]), "10.0.0.1", "a client's header, forwarded");
    }

    #[test]
    fn a_configured_number_of_hops_is_trusted_whatever_their_addresses() {
        let proxies = |hops| Proxies { ranges: Vec::new(), hops, header: AddressHeader::ForwardedFor };
        let lines = [("x-forwarded-for", "1.1.1.1, 198.51.100.1, 192.0.2.9")];
        let seen = |hops| seen_by(&proxies(hops), "203.0.113.7", &lines);
        assert_eq!([seen(0), seen(1), seen(2)], ["203.0.113.7", "192.0.2.9", "198.51.100.1"]);
        assert_eq!(seen(9), "1.1.1.1", "with fewer hops, the last one");
        assert_eq!(seen_by(&proxies(1), "203.0.113.7", &[]), "203.0.113.7");
    }

    #[test]
    fn only_a_bounded_part_of_a_long_list_is_read() {
        let long: &'static str = Box::leak(format!("198.51.100.1{}", ", 10.9.9.9".repeat(1_000)).into_boxed_str());
        assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", long)]), "10.9.9.9");
    }
}
