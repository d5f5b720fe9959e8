//! Plain HTTP connections: how long one is kept for the next request, and clients that shut down their sending side.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{API_KEY, TestReplica},
    wire::{RawConnection, ServerEvent},
};

async fn asked(address: SocketAddr, request: &str) -> (RawConnection, u16, String) {
    let mut wire = RawConnection::connect(address).await;
    wire.send(request.as_bytes()).await;
    let (status, head) = wire.answer_head().await.unwrap_or_else(|| panic!("no answer to {request}"));
    (wire, status, head.to_ascii_lowercase())
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

fn post(path: &str, kind: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {API_KEY}\r\nContent-Type: {kind}\r\n\
         Content-Length: {len}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request_as_long_as_announced() {
    let replica = TestReplica::alone_with("[server]\nheader_timeout = \"300ms\"\nidle_timeout = \"2s\"").await;
    for address in [replica.address(), replica.operations_address()] {
        let (mut wire, _, head) = asked(address, "HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(head.contains("\r\nkeep-alive: timeout=2\r\n"), "{head}");
        let began = Instant::now();
        wire.send(get("/nothing/here", "").as_bytes()).await;
        let (status, head) = wire.answer_head().await.expect("a second answer");
        assert_eq!(status, 404);
        assert!(head.to_ascii_lowercase().contains("\r\nkeep-alive: timeout=2\r\n"), "{head}");
        wire.expect_end_within(Duration::from_secs(10), "an idle connection").await;
        assert!(began.elapsed() > Duration::from_secs(2), "ended after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_next_request_has_the_same_timeout_as_the_first() {
    let replica = TestReplica::alone_with("[server]\nheader_timeout = \"300ms\"\nidle_timeout = \"1h\"").await;
    let (mut wire, ..) = asked(replica.address(), &get("/livez", "")).await;
    wire.send(b"GET /livez HTT").await;
    wire.expect_end_within(Duration::from_secs(10), "half a head after a whole request").await;
}

#[tokio::test]
async fn by_default_it_is_kept_longer_than_usual_connection_pools_assume() {
    let replica = TestReplica::alone().await;
    let (_wire, _, head) = asked(replica.address(), &get("/livez", "")).await;
    assert!(head.contains("\r\nkeep-alive: timeout=75\r\n"), "{head}");
}

#[tokio::test]
async fn a_connection_that_ends_is_not_announced_as_kept() {
    let replica = TestReplica::alone().await;
    for request in [get("/livez", "Connection: close\r\n"), "GET /livez HTTP/1.0\r\n\r\n".into()] {
        let (mut wire, status, head) = asked(replica.address(), &request).await;
        assert_eq!(status, 200);
        assert!(!head.contains("\r\nkeep-alive:"), "{head}");
        wire.expect_end_within(Duration::from_secs(10), &request).await;
    }
    let (_wire, _, head) = asked(replica.address(), "GET /livez HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").await;
    assert!(head.contains("\r\nkeep-alive: timeout=75\r\n"), "{head}");
}

#[tokio::test]
async fn a_client_that_shuts_down_its_side_after_the_request_gets_the_response() {
    let redis = RedisServer::start();
    let replica = TestReplica::on(&redis).await;
    let (public, operations) = (replica.address(), replica.operations_address());
    let one = json!({"channel": "ticker:HALF", "data": {"n": 1}}).to_string();
    let private = json!({"channel": "orders", "user": "alice", "data": {"n": 1}}).to_string();
    let batch = json!({"publications": vec![json!({"channel": "ticker:HALF", "data": {"n": 1}}); 200]}).to_string();
    let lines = format!("{one}\n").repeat(200);
    for (address, request) in [
        (public, get("/livez", "")),
        (public, "GET /readyz HTTP/1.0\r\n\r\n".into()),
        (public, get("/ws/status", "")),
        (operations, get("/metrics", "")),
        (operations, post("/api/v1/publish", "application/json", &one)),
        (operations, post("/api/v1/publish", "application/json", &private)),
        (operations, post("/api/v1/publish/batch", "application/json", &batch)),
        (operations, post("/api/v1/publish", "application/x-ndjson", &lines)),
    ] {
        for _ in 0..5 {
            let mut wire = RawConnection::connect(address).await;
            wire.send(request.as_bytes()).await;
            wire.finish().await;
            let (status, _) = wire.answer_head().await.unwrap_or_else(|| panic!("no answer to {request}"));
            assert_eq!(status, 200, "{request}");
            wire.expect_end_within(Duration::from_secs(10), &request).await;
        }
    }
}

#[tokio::test]
async fn an_incomplete_request_has_no_response() {
    let replica = TestReplica::alone().await;
    let whole = post("/api/v1/publish", "application/json", &json!({"channel": "ticker:X", "data": 1}).to_string());
    for part in ["GET /livez HTT", &whole[..whole.len() - 1]] {
        let mut wire = RawConnection::connect(replica.operations_address()).await;
        wire.send(part.as_bytes()).await;
        wire.finish().await;
        wire.expect_end_within(Duration::from_secs(10), part).await;
    }
}

/// Only the end of the connection shows that a reader of events has left: one that shuts down its side has.
#[tokio::test]
async fn a_reader_of_events_that_shuts_down_its_side_has_left() {
    let replica = TestReplica::alone().await;
    let readers = "tickgate_connections{endpoint=\"sse\"}";
    for leave in [true, false] {
        let (mut wire, status, _) = asked(replica.address(), &get("/sse?channels=ticker:BTC", "")).await;
        assert_eq!(status, 200);
        eventually("the reader", async || (replica.metric(readers).await == 1.0).then_some(())).await;
        if leave {
            drop(wire);
        } else {
            wire.finish().await;
            wire.expect_end_within(Duration::from_secs(10), "a half-closed stream").await;
        }
        eventually("its end", async || (replica.metric(readers).await == 0.0).then_some(())).await;
    }
}

/// A WebSocket that shuts down its side without a Close frame has left.
#[tokio::test]
async fn a_websocket_that_shuts_down_its_side_has_left() {
    let replica = TestReplica::alone().await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.finish().await;
    while !matches!(wire.hear().await, ServerEvent::End | ServerEvent::Reset) {}
}
