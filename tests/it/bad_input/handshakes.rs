//! Requests that are not handshakes, or that are slow: HTTP responses, and a timeout.

use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE,
    bystander::Bystander,
    replica::TestReplica,
    sse::EventStream,
    wire::{KEY, RawConnection, TEXT, frame, upgrade_request},
};

/// The head of a valid request, with one of its lines replaced (by none, or by several).
fn changed(line: &str, by: &str) -> String {
    let good = upgrade_request("/ws/market", "");
    assert!(good.contains(line), "{line}");
    good.replacen(&format!("{line}\r\n"), by, 1)
}

/// Invalid handshakes by name, with the permitted statuses.
fn malformed() -> Vec<(&'static str, String, &'static [u16])> {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let (version, upgrade) = ("Sec-WebSocket-Version: 13", "Upgrade: websocket");
    let with = |more: &str| upgrade_request("/ws/market", more);
    vec![
        ("no key", changed(&key, ""), &[400]),
        ("a short key", changed(&key, "Sec-WebSocket-Key: abc\r\n"), &[400]),
        ("a key that is not base64", changed(&key, "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!\r\n"), &[400]),
        ("a key of 17 bytes", changed(&key, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=\r\n"), &[400]),
        ("two keys", changed(&key, &format!("{key}\r\n{key}\r\n")), &[400]),
        ("no version", changed(version, ""), &[426]),
        ("version 8", changed(version, "Sec-WebSocket-Version: 8\r\n"), &[426]),
        ("version 12", changed(version, "Sec-WebSocket-Version: 12\r\n"), &[426]),
        ("a version that is no number", changed(version, "Sec-WebSocket-Version: new\r\n"), &[426]),
        ("no upgrade", changed(upgrade, ""), &[400, 426]),
        ("an upgrade to something else", changed(upgrade, "Upgrade: h2c\r\n"), &[400, 426]),
        ("a closing connection", changed("Connection: Upgrade", "Connection: close\r\n"), &[400, 426]),
        ("POST", with("").replacen("GET", "POST", 1), &[405]),
        ("PUT", with("").replacen("GET", "PUT", 1), &[405]),
        ("HEAD", with("").replacen("GET", "HEAD", 1), &[405]),
        ("HTTP/1.0", with("").replacen("HTTP/1.1", "HTTP/1.0", 1), &[426]),
        ("a body", with("Content-Length: 5\r\n"), &[400]),
        ("a chunked body", with("Transfer-Encoding: chunked\r\n"), &[400]),
        ("only unknown sub-protocols", with("Sec-WebSocket-Protocol: mqtt, graphql-ws\r\n"), &[400]),
        ("a bearer without our sub-protocol", with("Sec-WebSocket-Protocol: bearer.abc\r\n"), &[400]),
        ("two bearers", with("Sec-WebSocket-Protocol: tickgate.v1, bearer.a, bearer.b\r\n"), &[400]),
        ("two origins", with("Origin: https://a.example\r\nOrigin: https://b.example\r\n"), &[400]),
        ("a token twice", upgrade_request("/ws/trading?token=a&token=b", ""), &[400]),
        ("a cursor that is none", upgrade_request("/ws/trading?since=yesterday", ""), &[400]),
        ("a session that is none", upgrade_request("/ws/trading?session=1", ""), &[400]),
        ("an escaped NUL in the token", upgrade_request("/ws/trading?token=%00", ""), &[400]),
        ("an unknown path", upgrade_request("/ws/nowhere", ""), &[404]),
        ("a session twice", upgrade_request("/ws/trading?session=a&session=a", ""), &[400]),
        ("a last that is no number", upgrade_request("/ws?last=many", ""), &[400]),
        ("a last of none", upgrade_request("/ws?last=0", ""), &[400]),
        ("a cursor and a last", upgrade_request("/ws/backtest/r?since=earliest&last=5", ""), &[400]),
        ("a cursor for several channels", upgrade_request("/ws?since=7-7", ""), &[400]),
        ("a cursor where nothing is subscribed on connect", upgrade_request("/ws/market?since=7-7", ""), &[400]),
        ("a last where nothing is subscribed on connect", upgrade_request("/ws/market?last=5", ""), &[400]),
        ("our sub-protocol twice", with("Sec-WebSocket-Protocol: tickgate.v1, tickgate.v1\r\n"), &[400]),
        ("a run that is no name", upgrade_request("/ws/backtest/a%2Cb", ""), &[404]),
        ("a run that leads upwards", upgrade_request("/ws/backtest/../../etc/passwd", ""), &[404]),
        ("two hundred headers", with(&"X-Padding: x\r\n".repeat(200)), &[431]),
        ("a head of 100 KB", with(&format!("X-Padding: {}\r\n", "x".repeat(100_000))), &[431]),
        ("an address of 70 KB", upgrade_request(&format!("/ws/market?x={}", "x".repeat(70_000)), ""), &[414, 431]),
        ("a control character in a header", with("X-Padding: a\u{1}b\r\n"), &[400]),
        ("a folded header", with("X-Padding: a\r\n b\r\n"), &[400]),
        ("a header without a colon", with("nonsense\r\n"), &[400]),
        ("no HTTP at all", "hello, is anybody there?\r\n\r\n".to_owned(), &[400]),
        ("a TLS greeting", "\u{16}\u{3}\u{1}\0\u{5}\u{1}\r\n\r\n".to_owned(), &[400]),
    ]
}

#[tokio::test]
async fn an_invalid_handshake_is_answered_by_plain_http() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    for (what, request, statuses) in malformed() {
        let mut wire = RawConnection::connect(replica.address()).await;
        wire.send(request.as_bytes()).await;
        let (status, head) = wire.answer_head().await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert!(statuses.contains(&status), "{what}: {status} instead of {statuses:?}");
        let lower = head.to_lowercase();
        match status {
            405 => assert!(lower.contains("allow: "), "{what}: {head}"),
            426 => assert!(lower.contains("upgrade: websocket"), "{what}: {head}"),
            400 if head.len() > 200 => assert!(lower.contains("application/problem+json"), "{what}: {head}"),
            _ => {}
        }
        bystander.is_unharmed_by(what).await;
    }
    bystander.is_alone_after("malformed handshakes").await;
}

#[tokio::test]
async fn sub_protocols_that_include_the_supported_one_are_accepted() {
    let replica = TestReplica::alone().await;
    for offered in ["tickgate.v1", "mqtt, tickgate.v1", "tickgate.v1,bearer.x.y.z"] {
        let mut wire = RawConnection::connect(replica.address()).await;
        let line = format!("Sec-WebSocket-Protocol: {offered}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n");
        wire.send(upgrade_request("/ws/market", &line).as_bytes()).await;
        let (status, head) = wire.answer_head().await.expect("an answer");
        let lower = head.to_lowercase();
        assert_eq!(status, 101, "{offered}: {head}");
        assert!(lower.contains("sec-websocket-protocol: tickgate.v1\r\n"), "{offered}: {head}");
        assert!(!lower.contains("sec-websocket-extensions"), "no compression is spoken: {head}");
    }
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_is_closed_with_1008_and_receives_nothing_before() {
    let replica = TestReplica::alone_with("[server]\nallowed_origins = [\"https://app.example\"]").await;
    let mut bystander = Bystander::at(&replica).await;
    for origin in ["https://evil.example", "null", "http://app.example", "https://app.example.evil.example", "*"] {
        for path in ["/ws/market", "/ws/trading", "/ws", "/ws/ingest"] {
            let mut wire = RawConnection::connect(replica.address()).await;
            let request = upgrade_request(path, &format!("Origin: {origin}\r\n"));
            wire.send(&[request.as_bytes(), &frame(TEXT, br#"{"type":"ping"}"#)].concat()).await;
            assert_eq!(wire.answer_head().await.expect("an answer").0, 101);
            assert_eq!(wire.expect_close(1008, origin).await, Vec::<String>::new(), "{origin} at {path}");
        }
        bystander.is_alone_after(origin).await;
    }
    replica.connect("/ws/market").origin("https://app.example").open().await.greeted().await;
}

/// Some non-browser clients send the host that they connect to as the origin.
#[tokio::test]
async fn an_origin_that_equals_the_gateways_host_is_admitted() {
    let replica =
        TestReplica::alone_with("[server]\nmode = \"production\"\nallowed_origins = [\"https://app.example\"]").await;
    let host = replica.address().to_string();
    for scheme in ["http", "https"] {
        let origin = format!("{scheme}://{host}");
        replica.connect("/ws/market").origin(&origin).open().await.greeted().await;
        EventStream::open(replica.address(), "/sse?channels=ticker:BTC", &[("origin", &origin)])
            .await
            .expect("a stream");
    }
    let other = format!("http://{}:1", replica.address().ip());
    let refused = EventStream::open(replica.address(), "/sse?channels=ticker:BTC", &[("origin", &other)]).await;
    assert_eq!(refused.err().expect("a refusal").status, 403);
}

#[tokio::test]
async fn a_slow_request_times_out() {
    let replica = TestReplica::alone_with("[server]\nheader_timeout = \"700ms\"\nidle_timeout = \"1s\"").await;
    let mut bystander = Bystander::at(&replica).await;
    let request = upgrade_request("/ws/market", "");
    let long = PATIENCE;

    let mut silent = RawConnection::connect(replica.address()).await;
    silent.expect_end_within(long, "silence").await;
    bystander.is_alone_after("silence").await;

    let mut half = RawConnection::connect(replica.address()).await;
    half.send(&request.as_bytes()[..request.len() - 2]).await;
    half.expect_end_within(long, "half a head").await;
    bystander.is_alone_after("half a head").await;

    // No response: a client that uses HTTP/2 would not understand it.
    let mut newer = RawConnection::connect(replica.address()).await;
    newer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    newer.expect_end_within(long, "HTTP/2 without being asked").await;
    bystander.is_alone_after("HTTP/2 without being asked").await;

    let mut slow = RawConnection::connect(replica.address()).await;
    let began = Instant::now();
    for byte in request.bytes().cycle() {
        slow.send(&[byte]).await;
        tokio::select! {
            () = slow.expect_end_within(long, "a byte now and then") => break,
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        assert!(began.elapsed() < long, "a byte now and then keeps the connection");
    }
    bystander.is_alone_after("a byte now and then").await;

    let mut second = RawConnection::connect(replica.address()).await;
    second.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(second.answer_head().await.expect("an answer").0, 200);
    second.expect_end_within(long, "silence after an answer").await;
    bystander.is_alone_after("silence after an answer").await;
}

#[tokio::test]
async fn by_default_a_head_has_five_seconds() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let (mut half, mut silent) =
        (RawConnection::connect(replica.address()).await, RawConnection::connect(replica.address()).await);
    half.send(b"GET /ws/market HTTP/1.1\r\n").await;
    let began = Instant::now();
    tokio::join!(half.expect_end_within(PATIENCE, "half a head"), silent.expect_end_within(PATIENCE, "silence"));
    assert!(began.elapsed() > Duration::from_secs(4), "ended after {:?}", began.elapsed());
    bystander.is_alone_after("slow heads").await;
}

#[tokio::test]
async fn the_timeout_of_a_head_does_not_end_an_open_websocket() {
    let replica = TestReplica::alone_with("[server]\nheader_timeout = \"300ms\"").await;
    let mut market = replica.market().await;
    market.subscribe(&["trades:CALM"]).await;
    let mut silent = RawConnection::connect(replica.address()).await;
    // A head that started after this one was complete has also timed out, twice.
    silent.expect_end_within(PATIENCE, "silence").await;
    let mut silent = RawConnection::connect(replica.address()).await;
    silent.expect_end_within(PATIENCE, "silence").await;
    market.expect_nothing().await;
}
