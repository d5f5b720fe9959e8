//! Heads of upgrade requests.

use std::net::{IpAddr, Ipv4Addr};

use hyper::Request;
use tickgate::{
    config::{AddressHeader, Proxies},
    connection::{
        address::client_address,
        handshake::{self, HandshakeRefusal, RefusalDelivery, UpgradeRefusal},
    },
};

/// Request heads: the path, then headers, one per line. Refused with a documented status, or accepted with a valid
/// proof.
pub(super) fn heads(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut request = Request::get(lines.next().unwrap_or_default());
    for line in lines.take(100) {
        if let Some(at) = line.iter().position(|byte| *byte == b':') {
            request = request.header(&line[..at], line[at + 1..].trim_ascii());
        }
    }
    let Ok(request) = request.body(()) else { return };
    let (parts, ()) = request.into_parts();
    match handshake::check(&parts, &["https://app.example".to_owned()]) {
        Ok(taken) => {
            assert_eq!(taken.upgrade.accept.len(), 28);
            assert!(parts.headers.contains_key("sec-websocket-key"));
            assert!(taken.told != RefusalDelivery::Close || parts.headers.contains_key("origin"));
        }
        Err(HandshakeRefusal::Malformed(malformed)) => assert!([400, 405, 426].contains(&malformed.kind().status())),
        Err(HandshakeRefusal::Refused { why: UpgradeRefusal::ForeignOrigin, .. }) => {
            assert!(parts.headers.contains_key("origin"));
        }
        Err(HandshakeRefusal::Refused { why: UpgradeRefusal::Malformed(malformed), .. }) => {
            assert_eq!(malformed.kind().status(), 400);
        }
    }
    let _ = handshake::http_credential(&parts);
    let proxies = Proxies { ranges: Vec::new(), hops: 0, header: AddressHeader::ForwardedFor };
    let peer = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    assert_eq!(client_address(peer, &parts.headers, &proxies), peer, "only trusted proxies are believed");
}
