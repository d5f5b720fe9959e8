//! Excessive use within the protocol: served or refused by its limit, at bounded cost.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    bystander::Bystander,
    eventually,
    redis::RedisServer,
    replica::TestReplica,
    wire::{PING, PONG, RawConnection, ServerEvent, TEXT, frame, upgrade_request},
};

#[tokio::test]
async fn a_thousand_messages_in_one_segment_are_limited() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.hear_json().await;
    wire.send(&frame(TEXT, br#"{"type":"ping"}"#).repeat(1_000)).await;
    let said = wire.expect_close(4100, "a thousand messages").await;
    let said: Vec<Value> = said.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let pongs = said.iter().take_while(|answer| answer["type"] == "pong").count();
    assert!((200..=210).contains(&pongs), "a burst of 200 is answered, not {pongs}");
    let (closing, refused) = said[pongs..].split_last().expect("a notice of the end");
    assert_eq!((&closing["type"], &closing["code"]), (&json!("closing"), &json!(4100)));
    assert_eq!(refused.len(), 100, "then each offence until the limit of offences");
    for answer in refused {
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(4100)), "{answer}");
        let wait = answer["details"]["retry_after_ms"].as_u64().expect("a time to wait");
        assert!((1..=1_000).contains(&wait), "{answer}");
    }
    bystander.is_alone_after("a thousand messages").await;
    assert!(replica.metric("tickgate_rate_limited_total").await >= 100.0);
}

#[tokio::test]
async fn a_client_that_waits_as_asked_is_served_again() {
    let replica = TestReplica::alone_with("[limits]\nmessages_per_connection = { per_second = 5, burst = 2 }").await;
    let mut client = replica.market().await;
    for _ in 0..2 {
        client.send(json!({"type": "ping"})).await;
        client.expect_type("pong").await;
    }
    client.send(json!({"type": "ping"})).await;
    let wait = client.expect_error(4100).await["details"]["retry_after_ms"].as_u64().expect("a time to wait");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    client.send(json!({"type": "ping"})).await;
    client.expect_type("pong").await;
}

#[tokio::test]
async fn ten_thousand_pings_are_answered_in_few_writes() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.hear_json().await;
    let before = replica.metric("tickgate_writes_total").await;
    wire.send(&frame(PING, b"x").repeat(10_000)).await;
    for _ in 0..10_000 {
        assert_eq!(wire.hear().await, ServerEvent::Frame(PONG, b"x".to_vec()));
    }
    let writes = replica.metric("tickgate_writes_total").await - before;
    assert!(writes < 1_000.0, "{writes} writes: one segment of pings must not cost a system call each");
    bystander.is_unharmed_by("ten thousand pings").await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_from() {
    let replica = TestReplica::alone_with(
        "[limits]\nmessages_per_connection = { per_second = 0, burst = 1 }\n[session]\nwrite_timeout = \"2s\"",
    )
    .await;
    let mut bystander = Bystander::at(&replica).await;
    for bytes in [frame(TEXT, br#"{"type":"ping","timestamp":"2023-12-01T12:00:00Z"}"#), frame(PING, &[b'x'; 125])] {
        // With the kernel's own receive buffer: one that is far too small drops packets in flight, including
        // acknowledgements, and then neither side hears from the other for half a minute.
        let mut wire = RawConnection::connect(replica.address()).await;
        wire.send(upgrade_request("/ws/market", "").as_bytes()).await;
        let flood = bytes.repeat(1_000);
        let before = replica.metric("tickgate_received_bytes_total").await;
        // No one waits for what this client does not accept: the gateway stops reading, and finally closes the
        // connection.
        eventually("the gateway to hang up", async || {
            while wire.send_some(&flood) > 0 {}
            (replica.metric("tickgate_connections").await == 1.0).then_some(())
        })
        .await;
        let read = replica.metric("tickgate_received_bytes_total").await - before;
        assert!(read < 16e6, "{:.1} MB were read from a client that takes no answers", read / 1e6);
        bystander.is_alone_after("a client that never reads its answers").await;
    }
}

#[tokio::test]
async fn every_request_of_an_address_counts_against_its_limit() {
    let settings = "[server]\nallowed_origins = [\"https://app.example\"]\n\
                    [limits]\nhandshakes_per_address = { per_second = 1, burst = 3 }";
    let malformed = upgrade_request("/ws/market", "").replace("Version: 13", "Version: 12");
    let foreign = upgrade_request("/ws/market", "Origin: https://evil.example\r\n");
    let stream = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    for (what, request, status) in
        [("malformed", malformed, 426), ("foreign", foreign, 101), ("no channels", stream, 400)]
    {
        let replica = TestReplica::alone_with(settings).await;
        let mut statuses = Vec::new();
        for _ in 0..6 {
            let mut wire = RawConnection::connect(replica.address()).await;
            wire.send(request.as_bytes()).await;
            statuses.push(wire.answer_head().await.expect("an answer").0);
        }
        assert!(statuses[..3] == [status; 3], "{what}: {statuses:?}");
        // A page sees the limit as a Close frame: its status stays.
        assert!(status == 101 || statuses[3..].contains(&429), "{what}: {statuses:?}");
        assert!(replica.metric("tickgate_rate_limited_total").await > 0.0, "{what}");
    }
}

#[tokio::test]
async fn a_forwarded_address_is_accepted_from_a_trusted_proxy_only() {
    let limit = "mode = \"production\"\n[limits]\nhandshakes_per_address = { per_second = 1, burst = 3 }";
    let upgrade = async |replica: &TestReplica, number: u32| {
        let mut wire = RawConnection::connect(replica.address()).await;
        let spoofed = format!("X-Forwarded-For: 198.51.100.{number}\r\nForwarded: for=198.51.100.{number}\r\n");
        wire.send(upgrade_request("/ws/market", &spoofed).as_bytes()).await;
        let (status, head) = wire.answer_head().await.expect("an answer");
        if status == 429 {
            assert!(head.to_lowercase().contains("retry-after: "), "{head}");
        }
        status
    };
    let stranger = TestReplica::alone_with(&format!("[server]\n{limit}")).await;
    let mut statuses = Vec::new();
    for number in 1..=6 {
        statuses.push(upgrade(&stranger, number).await);
    }
    assert!(statuses[..3] == [101; 3] && statuses[3..].contains(&429), "{statuses:?}");

    let trusted = format!("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{limit}");
    let behind = TestReplica::alone_with(&trusted).await;
    for number in 1..=6 {
        assert_eq!(upgrade(&behind, number).await, 101, "each of them has its own address");
    }
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(upgrade(&behind, 99).await);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(behind.get("/livez").await.status, 200);
}

#[tokio::test]
async fn connections_of_one_address_are_limited_and_released() {
    let settings = "[limits]\nconnections_per_address_max = 5\nhandshakes_per_address = { per_second = 0, burst = 1 }";
    let replica = TestReplica::alone_with(settings).await;
    let mut bystander = Bystander::at(&replica).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(replica.market().await);
    }
    for _ in 0..20 {
        let refusal = replica.connect("/ws/market").expect_refused(429).await;
        assert!(refusal.retry_after.is_some(), "{refusal:?}");
    }
    drop(open);
    bystander.is_alone_after("too many connections").await;
    replica.market().await;
}

#[tokio::test]
async fn the_memory_of_clients_that_never_read_is_limited_by_their_outboxes() {
    const CLIENTS: usize = 20;
    let server = RedisServer::start();
    // In a separate process, whose memory can be measured.
    let gateway = TestReplica::process(&server, "").await;
    let channels = ["ticker:BIG", "trades:BIG"];
    let text = "x".repeat(10_000);
    let publish = async |number: u32| {
        let data = json!({"number": number, "text": text});
        let publications: Vec<_> = channels.iter().map(|channel| json!({"channel": channel, "data": data})).collect();
        let answer = gateway.api_post("/api/v1/publish/batch", json!({ "publications": publications })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let mut reader = RawConnection::upgraded(gateway.address(), "/ws/market").await;
    reader.send(&frame(TEXT, br#"{"type":"subscribe","channels":["trades:BIG"]}"#)).await;
    assert_eq!(reader.hear_json().await["type"], "connection_established");
    assert_eq!(reader.hear_json().await["type"], "subscribed");
    // Fills the replica's memory of the topics before any client is slow.
    for number in 0..1_100 {
        publish(number).await;
        assert_eq!(numbered(&mut reader).await, number);
    }
    let mut idle = Vec::new();
    for _ in 0..CLIENTS {
        let mut wire = RawConnection::connect(gateway.address()).await;
        wire.set_receive_buffer(4_096);
        wire.send(upgrade_request("/ws/market", "").as_bytes()).await;
        assert_eq!(wire.answer_head().await.expect("an answer").0, 101);
        wire.send(&frame(TEXT, json!({"type": "subscribe", "channels": channels}).to_string().as_bytes())).await;
        idle.push(wire);
    }
    let subscriptions = (CLIENTS * channels.len() + 1) as f64;
    eventually("all to be subscribed", async || {
        (gateway.metric("tickgate_subscriptions").await == subscriptions).then_some(())
    })
    .await;
    let before = gateway.metric("process_resident_memory_bytes").await;
    for number in 1_100..2_200 {
        publish(number).await;
        assert_eq!(numbered(&mut reader).await, number, "whoever reads gets each, in order");
    }
    let grown = gateway.metric("process_resident_memory_bytes").await - before;
    assert!(gateway.metric("tickgate_dropped_total").await > 1_000.0, "events gave way");
    assert!(gateway.metric("tickgate_conflated_total").await > 1_000.0, "values were replaced");
    assert_eq!(gateway.metric("tickgate_panics_total").await, 0.0);
    // An outbox holds at most 1 MiB; without a limit, each would hold 22 MB.
    let bound = (CLIENTS as f64) * 1.2e6 + 8e6;
    assert!(grown < bound, "{:.1} MB for {CLIENTS} clients", grown / 1e6);
}

/// The number of the next message. A slow machine may take longer than a heartbeat interval.
async fn numbered(reader: &mut RawConnection) -> Value {
    loop {
        let mut heard = reader.hear_json().await;
        assert!(heard["type"] == "heartbeat" || heard["number"].is_number(), "{heard}");
        if heard["type"] != "heartbeat" {
            return heard["number"].take();
        }
    }
}
