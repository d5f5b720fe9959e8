//! Tests of valid and invalid handshakes by their results.

use hyper::Request;
use tickgate_wire::{code::ProblemKind, command::Since, model::StreamId};

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A valid handshake to `path`, modified by `changes`: an empty value removes the header.
fn request(path: &str, changes: &[(&str, &str)]) -> Parts {
    let good = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    let mut request = Request::get(path);
    for (name, value) in good.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name)) {
        request = request.header(*name, *value);
    }
    for (name, value) in changes.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn outcome(path: &str, changes: &[(&str, &str)]) -> Result<Handshake, HandshakeRefusal> {
    check(&request(path, changes), &["*".into()])
}

fn malformed(changes: &[(&str, &str)]) -> MalformedRequest {
    match outcome("/ws", changes) {
        Err(HandshakeRefusal::Malformed(malformed)) => malformed,
        other => panic!("{changes:?}: {other:?}"),
    }
}

/// How and why an upgradable request is refused.
fn refused(path: &str, changes: &[(&str, &str)]) -> (RefusalDelivery, MalformedRequest) {
    match outcome(path, changes) {
        Err(HandshakeRefusal::Refused { told, why: UpgradeRefusal::Malformed(malformed), .. }) => (told, malformed),
        other => panic!("{changes:?}: {other:?}"),
    }
}

fn credential_of(path: &str, changes: &[(&str, &str)]) -> Credential {
    outcome(path, changes).unwrap().credential
}

fn token(text: &str) -> Credential {
    Credential::Token(Secret::new(text))
}

fn bearer(text: &str) -> Credential {
    Credential::Bearer(Secret::new(text))
}

#[test]
fn a_valid_request_is_accepted_with_the_key_of_the_rfc() {
    let handshake = outcome("/ws", &[]).unwrap();
    assert_eq!(handshake.upgrade, Upgrade { accept: HeaderValue::from_static(ACCEPT), protocol: None });
    assert_eq!(handshake.credential, Credential::None);
    assert_eq!(
        (handshake.told, handshake.begin, handshake.session),
        (RefusalDelivery::Status, SubscribeOptions::default(), None)
    );
    for changes in [
        [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")],
        [("connection", "upgrade"), ("upgrade", "h2c, websocket")],
        [("sec-websocket-extensions", "permessage-deflate"), ("content-length", "0")],
    ] {
        assert!(outcome("/ws", &changes).is_ok(), "{changes:?}");
    }
}

#[test]
fn a_handshake_requires_a_get_over_http_1_1() {
    let with = |method: Method, version: Version| {
        let mut parts = request("/ws", &[]);
        (parts.method, parts.version) = (method, version);
        match check(&parts, &[]) {
            Err(HandshakeRefusal::Malformed(malformed)) => (malformed.kind().status(), malformed.headers()),
            other => panic!("{other:?}"),
        }
    };
    for method in [Method::POST, Method::HEAD, Method::CONNECT, Method::OPTIONS] {
        let (status, headers) = with(method, Version::HTTP_11);
        assert_eq!((status, headers), (405, &[("allow", "GET")][..]));
    }
    for version in [Version::HTTP_10, Version::HTTP_2] {
        assert_eq!(with(Method::GET, version).0, 426, "{version:?}");
    }
}

#[test]
fn a_request_without_an_upgrade_is_a_bad_request() {
    for changes in [
        [("upgrade", ""), ("x", "y")],
        [("upgrade", "h2c"), ("x", "y")],
        [("connection", ""), ("x", "y")],
        [("connection", "close"), ("x", "y")],
        [("connection", "keep-alive"), ("x", "Upgrade")],
    ] {
        assert_eq!(malformed(&changes), MalformedRequest::NotAnUpgrade, "{changes:?}");
        assert_eq!(malformed(&changes).kind(), ProblemKind::InvalidMessage);
    }
    assert_eq!(malformed(&[("content-length", "5")]), MalformedRequest::Body);
    assert_eq!(malformed(&[("transfer-encoding", "chunked")]), MalformedRequest::Body);
}

#[test]
fn another_version_is_refused_with_the_supported_one() {
    for version in ["", "12", "8", "013", "13, 8"] {
        let refused = malformed(&[("sec-websocket-version", version)]);
        assert_eq!(refused.kind(), ProblemKind::UpgradeRequired, "{version:?}");
        assert!(refused.headers().contains(&("sec-websocket-version", "13")));
    }
}

#[test]
fn the_key_must_have_sixteen_bytes() {
    for key in [
        "",
        "abc",
        "AAAA",
        "SGVsbG8sIHdvcmxkIQ==",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZWU=",
        "dGhlIHNhbXBsZSBub25jZWVl",
        "dGhlIHNhbXBsZSBub25j!Q==",
        "dGhlIHNhbXBsZSBub25jZR==",
    ] {
        assert_eq!(malformed(&[("sec-websocket-key", key)]), MalformedRequest::Key, "{key:?}");
    }
    let twice = [("sec-websocket-key", KEY), ("sec-websocket-key", KEY)];
    assert_eq!(malformed(&twice), MalformedRequest::Header("sec-websocket-key"));
}

#[test]
fn offered_sub_protocols_must_include_the_supported_one() {
    let protocol = |offered| outcome("/ws", &[("sec-websocket-protocol", offered)]).map(|ok| ok.upgrade.protocol);
    for offered in ["tickgate.v1", "graphql-ws, tickgate.v1", "tickgate.v1,bearer.a.b.c", "bearer.a.b.c , tickgate.v1"]
    {
        assert_eq!(protocol(offered), Ok(Some(PROTOCOL)), "{offered}");
    }
    assert_eq!(protocol(","), Ok(None), "an empty offer is ignored");
    for offered in [
        "graphql-ws",
        "bearer.a.b.c",
        "tickgate.v2",
        "TICKGATE.V1",
        "tickgate.v1, tickgate.v1",
        "tickgate.v1, bearer.a, bearer.b",
    ] {
        assert_eq!(protocol(offered), Err(MalformedRequest::Protocols.into()), "{offered}");
    }
    let mut parts = request("/ws", &[("sec-websocket-protocol", "tickgate.v1")]);
    let unreadable = HeaderValue::from_bytes(b"bearer.\xe9").unwrap();
    parts.headers.append(header::SEC_WEBSOCKET_PROTOCOL, unreadable);
    assert_eq!(check(&parts, &[]).err(), Some(MalformedRequest::Protocols.into()));
    let lines = [("sec-websocket-protocol", "tickgate.v1"), ("sec-websocket-protocol", "bearer.a.b.c")];
    assert_eq!(credential_of("/ws", &lines), token("a.b.c"));
}

#[test]
fn a_page_of_a_foreign_origin_is_closed_after_the_upgrade() {
    let origins = ["https://desk.example".to_owned(), "https://app.example:8443".to_owned()];
    let from = |origin| check(&request("/ws", &[("origin", origin)]), &origins);
    for origin in ["https://desk.example", "HTTPS://Desk.Example", "https://app.example:8443"] {
        assert_eq!(from(origin).unwrap().told, RefusalDelivery::Close, "{origin}");
    }
    let upgrade = Upgrade { accept: HeaderValue::from_static(ACCEPT), protocol: None };
    for origin in [
        "https://evil.example",
        "http://desk.example",
        "https://desk.example:444",
        "https://desk.example.evil.example",
        "https://desk.example/",
        "null",
        "*",
    ] {
        let refused = HandshakeRefusal::Refused {
            upgrade: upgrade.clone(),
            told: RefusalDelivery::Close,
            why: UpgradeRefusal::ForeignOrigin,
        };
        assert_eq!(from(origin).err(), Some(refused), "{origin}");
    }
    let no_page = check(&request("/ws", &[]), &origins).unwrap();
    assert_eq!(no_page.told, RefusalDelivery::Status, "only browsers send an origin");
    assert!(check(&request("/ws", &[("origin", "https://a")]), &[]).is_err(), "an empty list allows no origin");
    assert!(outcome("/ws", &[("origin", "null")]).is_ok(), "`*` allows all");
    let twice = [("origin", "https://desk.example"), ("origin", "https://evil.example")];
    assert_eq!(malformed(&twice), MalformedRequest::Header("origin"));
}

#[test]
fn the_first_credential_in_order_is_used() {
    let header = ("authorization", "Bearer header.token");
    let protocol = ("sec-websocket-protocol", "tickgate.v1, bearer.protocol.token");
    let key = ("x-api-key", "backend");
    let path = "/ws?token=query.token&ticket=t1&auth=message";
    assert_eq!(credential_of(path, &[header, protocol, key]), bearer("header.token"));
    assert_eq!(credential_of(path, &[protocol, key]), token("protocol.token"));
    assert_eq!(credential_of(path, &[key]), token("query.token"));
    assert_eq!(credential_of("/ws?ticket=t1&auth=message", &[key]), Credential::Ticket(Secret::new("t1")));
    assert_eq!(credential_of("/ws?auth=message", &[key]), Credential::ApiKey(Secret::new("backend")));
    assert_eq!(credential_of("/ws?auth=message", &[]), Credential::Deferred);
    assert_eq!(credential_of("/ws", &[("sec-websocket-protocol", "tickgate.v1")]), Credential::Deferred);
    assert_eq!(credential_of("/ws", &[]), Credential::None);
}

#[test]
fn empty_values_and_other_schemes_are_not_credentials() {
    for value in ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "header.token"] {
        assert_eq!(credential_of("/ws", &[("authorization", value)]), Credential::None, "{value}");
        assert_eq!(credential_of("/ws?token=q", &[("authorization", value)]), token("q"), "{value}");
    }
    assert_eq!(credential_of("/ws", &[("authorization", "bearer  a.b.c ")]), bearer("a.b.c"));
    assert_eq!(credential_of("/ws?token=&ticket=", &[]), Credential::None);
    let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
    assert_eq!(refused("/ws", &twice).1, MalformedRequest::Header("authorization"));
}

#[test]
fn the_session_and_the_starting_position_are_read_from_the_query() {
    let session = SessionSecret::random();
    let handshake = outcome(&format!("/ws?session={session}&since=7-9&last=5"), &[]).unwrap();
    let begin = SubscribeOptions {
        since: Some(Since::After(StreamId::new(7, 9))),
        last: Some(5),
        ..SubscribeOptions::default()
    };
    assert_eq!((handshake.session, handshake.begin), (Some(session), begin));
}

#[test]
fn an_upgradable_request_is_refused_in_a_way_that_the_client_can_see() {
    let native = ("sec-websocket-protocol", "tickgate.v2, tickgate.v1, something.else");
    let page = ("origin", "https://desk.example");
    for (changes, told) in [
        (vec![], RefusalDelivery::Status),
        (vec![page], RefusalDelivery::Close),
        (vec![native], RefusalDelivery::Notice),
        (vec![native, page], RefusalDelivery::Notice),
    ] {
        assert_eq!(outcome("/ws", &changes).unwrap().told, told);
        assert_eq!(refused("/ws?since=yesterday", &changes), (told, MalformedRequest::Parameter("since")));
    }
    assert_eq!(outcome("/ws", &[native]).unwrap().upgrade.protocol, Some(PROTOCOL), "the first supported one");
}

#[test]
fn debug_output_never_shows_a_token() {
    let offered = [("authorization", "Bearer SECRET1"), ("sec-websocket-protocol", "tickgate.v1, bearer.SECRET2")];
    let path = "/ws?token=SECRET3&ticket=SECRET4";
    let shown = [
        format!("{:?}", outcome(path, &offered)),
        format!("{:?}", outcome(path, &offered[1..])),
        format!("{:?}", outcome(path, &[])),
        format!("{:?}", outcome("/ws?ticket=SECRET4", &[])),
        format!("{:?}", outcome("/ws", &[("x-api-key", "SECRET5")])),
        format!("{:?}", outcome("/ws?token=SECRET3&token=SECRET3", &[])),
        format!("{:?}", check(&request(path, &[("origin", "https://evil.example")]), &[])),
    ];
    assert!(shown.iter().all(|text| !text.contains("SECRET")), "{shown:?}");
}

#[test]
fn plain_http_accepts_the_same_credentials() {
    let parts = |path: &str, headers: &[(&str, &str)]| request(path, headers);
    assert_eq!(http_credential(&parts("/sse?token=q", &[])), Ok(token("q")));
    assert_eq!(http_credential(&parts("/sse", &[("authorization", "Bearer h")])), Ok(bearer("h")));
    assert_eq!(http_credential(&parts("/sse?token=%", &[])), Err(MalformedRequest::Parameter("token")));
}

#[test]
fn an_origin_that_equals_the_host_of_the_request_is_not_foreign() {
    let allowed = |origin: &str, host: &str| {
        let headers = request("/ws", &[("host", host)]).headers;
        is_allowed(origin, &headers, &["https://app.example".into()])
    };
    for (origin, host) in [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://gate.example", "gate.example"),
        ("https://gate.example", "gate.example"),
        ("https://gate.example", "gate.example:443"),
        ("https://gate.example:443", "gate.example"),
        ("wss://gate.example", "gate.example"),
        ("HTTP://Gate.Example", "gate.example:80"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://app.example", "gate.example"),
    ] {
        assert!(allowed(origin, host), "{origin} at {host}");
    }
    for (origin, host) in [
        ("http://gate.example", "gate.example:8000"),
        ("http://gate.example:8000", "gate.example"),
        ("http://gate.example", "gate.example:443"),
        ("http://evil.example", "gate.example"),
        ("http://gate.example.evil.example", "gate.example"),
        ("http://gate.example@evil.example", "gate.example"),
        ("http://a@gate.example", "gate.example"),
        ("http://gate.example/", "gate.example"),
        ("file://gate.example", "gate.example"),
        ("null", "null"),
        ("http://", "gate.example"),
        ("http://gate.example", ""),
        ("http://gate.example:", "gate.example"),
        ("http://gate.example:99999", "gate.example:99999"),
    ] {
        assert!(!allowed(origin, host), "{origin} at {host}");
    }
    let mut twice = request("/ws", &[("host", "gate.example")]).headers;
    twice.append("host", HeaderValue::from_static("gate.example"));
    assert!(!is_allowed("http://gate.example", &twice, &[]));
}
