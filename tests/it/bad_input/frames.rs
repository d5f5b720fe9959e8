//! Frames that violate the protocol: each is answered with a Close frame and its code, never by just ending the
//! connection.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    bystander::Bystander,
    replica::TestReplica,
    wire::{BINARY, CLOSE, PING, PONG, RawConnection, ServerEvent, TEXT, frame, head, unmasked, upgrade_request},
};

const ENDPOINTS: [&str; 3] = ["/ws/market", "/ws", "/ws/ingest"];
/// The default of `limits.message_bytes_max`.
const MESSAGE_BYTES_MAX: usize = 65_536;

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Protocol violations by name, with the code of the response.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let ping = br#"{"type":"ping"}"#;
    let kib = vec![b' '; 1_024];
    let fragments = |count: usize| [frame(0x01, &kib), frame(0x00, &kib).repeat(count - 1)].concat();
    vec![
        ("an unmasked text", unmasked(TEXT, ping), 1002),
        ("an unmasked ping", unmasked(PING, b""), 1002),
        ("the first reserved bit", frame(0xc1, ping), 1002),
        ("the second reserved bit", frame(0xa1, ping), 1002),
        ("the third reserved bit", frame(0x91, ping), 1002),
        ("a reserved bit on a ping", frame(0xc9, b""), 1002),
        ("opcode 3", frame(0x83, ping), 1002),
        ("opcode 7", frame(0x87, ping), 1002),
        ("opcode 11", frame(0x8b, b""), 1002),
        ("opcode 15", frame(0x8f, b""), 1002),
        ("a continuation of nothing", frame(0x80, ping), 1002),
        ("a continuation of what has ended", [frame(TEXT, ping), frame(0x80, ping)].concat(), 1002),
        ("a text inside of a text", [frame(0x01, ping), frame(TEXT, ping)].concat(), 1002),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), 1002),
        ("a ping of 64 KiB", head(PING, 65_536), 1002),
        ("a close of 126 bytes", frame(CLOSE, &[b'x'; 126]), 1002),
        ("a length that is not in its shortest form", [&[TEXT, 0xff], &15_u64.to_be_bytes()[..]].concat(), 1002),
        ("a fragmented ping", frame(0x09, b""), 1002),
        ("a fragmented close", frame(0x08, b""), 1002),
        ("a close of one byte", frame(CLOSE, &[3]), 1002),
        ("close code 0", close(0, b""), 1002),
        ("close code 999", close(999, b""), 1002),
        ("close code 1004", close(1004, b""), 1002),
        ("close code 1005", close(1005, b""), 1002),
        ("close code 1006", close(1006, b""), 1002),
        ("close code 1015", close(1015, b""), 1002),
        ("close code 5000", close(5000, b""), 1002),
        ("close code 65535", close(u16::MAX, b""), 1002),
        ("a binary message", frame(BINARY, ping), 1003),
        ("a fragmented binary message", frame(0x02, ping), 1003),
        ("an empty binary message", frame(BINARY, b""), 1003),
        ("a text that is not UTF-8", frame(TEXT, b"{\"type\":\"\xff\"}"), 1007),
        ("a text in Latin-1", frame(TEXT, b"{\"type\":\"caf\xe9\"}"), 1007),
        ("an encoded surrogate", frame(TEXT, b"\"\xed\xa0\x80\""), 1007),
        ("an overlong NUL", frame(TEXT, b"\"\xc0\x80\""), 1007),
        ("a text that ends inside of a character", frame(TEXT, b"\"\xe2\x82"), 1007),
        ("bad UTF-8 in a fragment", frame(0x01, b"\xf4\x90\x80\x80"), 1007),
        ("a close reason that is not UTF-8", close(1000, b"\xff"), 1007),
        ("a message over the limit by one", frame(TEXT, &vec![b' '; MESSAGE_BYTES_MAX + 1]), 1009),
        ("a message of 17 MiB, announced", head(TEXT, 17 << 20), 1009),
        ("a message of 2^62 bytes, announced", head(TEXT, 1 << 62), 1009),
        ("a message of 2^63 bytes, announced", head(TEXT, 1 << 63), 1009),
        ("a message of all bits, announced", head(TEXT, u64::MAX), 1009),
        ("fragments over the limit", fragments(65), 1009),
    ]
}

#[tokio::test]
async fn a_violation_is_answered_with_its_code() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    for (what, bytes, code) in violations() {
        for path in ENDPOINTS {
            let mut wire = RawConnection::upgraded(replica.address(), path).await;
            wire.send(&bytes).await;
            // What follows is no longer read as a message.
            wire.send(&frame(TEXT, br#"{"type":"ping","id":"late"}"#)).await;
            let said = wire.expect_close(code, what).await;
            assert!(!said.iter().any(|text| text.contains("late")), "{what} at {path}: {said:?}");
        }
        bystander.is_alone_after(what).await;
    }
}

#[tokio::test]
async fn a_violation_in_the_same_segment_as_the_request_is_answered_with_its_code() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    for (what, bytes, code) in violations() {
        let early = &bytes[..bytes.len().min(2_000)];
        let mut wire = RawConnection::upgraded_with(replica.address(), "/ws/market", early).await;
        wire.send(&bytes[early.len()..]).await;
        wire.expect_close(code, what).await;
    }
    bystander.is_alone_after("violations that came early").await;
}

#[tokio::test]
async fn a_violation_byte_by_byte_is_answered_with_its_code() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    for (what, bytes, code) in violations().into_iter().filter(|(_, bytes, _)| bytes.len() < 200) {
        let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
        for byte in bytes {
            wire.send(&[byte]).await;
        }
        wire.expect_close(code, what).await;
    }
    bystander.is_alone_after("violations in single bytes").await;
}

#[tokio::test]
async fn messages_before_a_violation_are_answered() {
    let replica = TestReplica::alone().await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.hear_json().await;
    let good = frame(TEXT, br#"{"type":"ping","id":"good"}"#);
    wire.send(&[good, frame(0xff, b"")].concat()).await;
    let said = wire.expect_close(1002, "a good and a bad frame at once").await;
    assert!(said.len() == 2 && said[0].contains("good") && said[1].contains("closing"), "{said:?}");
}

#[tokio::test]
async fn a_close_is_answered_with_the_same_code() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    for code in [1000, 1001, 1003, 1011, 3000, 4000, 4999] {
        let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
        wire.send(&close(code, b"bye")).await;
        wire.expect_close(code, "a close").await;
    }
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.send(&frame(CLOSE, b"")).await;
    wire.expect_close(1005, "a close without a code").await;
    bystander.is_alone_after("closes").await;
}

#[tokio::test]
async fn unusual_but_valid_frames_are_answered() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.hear_json().await;
    let pong_to = |id: &str| frame(TEXT, format!(r#"{{"type":"ping","id":"{id}"}}"#).as_bytes());
    let text = br#"{"type":"ping","id":"parts"}"#;
    let mut parts = vec![frame(0x01, b"")];
    for byte in text {
        parts.push(frame(0x00, &[*byte]));
        parts.push(frame(PONG, b"unasked"));
    }
    parts.push(frame(0x80, b""));
    wire.send(&parts.concat()).await;
    assert_eq!(wire.hear_json().await["id"], "parts", "fragments of one byte with pongs between");
    wire.send(&frame(PING, &[7; 125])).await;
    assert_eq!(wire.hear().await, ServerEvent::Frame(PONG, vec![7; 125]));
    let mut largest = br#"{"type":"ping","id":"largest","x":""#.to_vec();
    largest.resize(MESSAGE_BYTES_MAX - 2, b'x');
    largest.extend(b"\"}");
    wire.send(&frame(TEXT, &largest)).await;
    assert_eq!(wire.hear_json().await["id"], "largest");
    wire.send(&pong_to("last")).await;
    assert_eq!(wire.hear_json().await["id"], "last");
    bystander.is_unharmed_by("unusual frames").await;
}

#[tokio::test]
async fn a_client_that_leaves_without_a_close_is_detected() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let request = upgrade_request("/ws/market", "");
    let half = frame(TEXT, br#"{"type":"ping"}"#);
    for sent in [request.as_bytes(), &request.as_bytes()[..50], &[]] {
        let mut wire = RawConnection::connect(replica.address()).await;
        wire.send(sent).await;
        wire.reset();
    }
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.send(&half[..half.len() / 2]).await;
    wire.finish().await;
    wire.expect_end_within(Duration::from_secs(5), "a client that said its last half word").await;
    bystander.is_alone_after("clients that left").await;
}

#[tokio::test]
async fn a_close_reaches_a_client_that_still_sends() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/market").await;
    wire.hear_json().await;
    // More than the gateway reads at once follows the violation: unread input must not reset the connection.
    wire.send(&head(TEXT, 1 << 20)).await;
    wire.send(&vec![b'x'; 300_000]).await;
    wire.expect_close(1009, "a message that is too long and is sent all the same").await;
    bystander.is_alone_after("a long message").await;
    assert_eq!(replica.metric("tickgate_close_frames_total").await, 1.0);
    assert!(json!(replica.get("/health").await.json()["active_connections"]) == 1);
}
