//! The reader against a table of violations, against itself at every split, against a simple reference, and against
//! tungstenite.

use std::io::{self, Cursor, Read, Write};

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use tungstenite::{Error, Message, error::ProtocolError, protocol::WebSocket};

use super::*;

const MAX: u32 = 1000;

/// An event that owns its bytes, or the end.
#[derive(Clone, Debug, PartialEq)]
enum OwnedSocketEvent {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Violation(u16),
}

fn own(event: Result<WebSocketEvent<'_>, ProtocolViolation>) -> OwnedSocketEvent {
    match event {
        Ok(WebSocketEvent::Text(text)) => OwnedSocketEvent::Text(text.into()),
        Ok(WebSocketEvent::Binary(bytes)) => OwnedSocketEvent::Binary(bytes.into()),
        Ok(WebSocketEvent::Ping(bytes)) => OwnedSocketEvent::Ping(bytes.into()),
        Ok(WebSocketEvent::Pong(bytes)) => OwnedSocketEvent::Pong(bytes.into()),
        Ok(WebSocketEvent::Close(code, reason)) => OwnedSocketEvent::Close(code, reason.into()),
        Err(violation) => OwnedSocketEvent::Violation(violation.code),
    }
}

fn read_into(reader: &mut FrameReader, chunk: &[u8], seen: &mut Vec<OwnedSocketEvent>) {
    let mut chunk = chunk.to_vec();
    let mut feed = reader.feed(&mut chunk);
    while let Some(event) = feed.next() {
        seen.push(own(event));
    }
}

fn read_chunks<'a>(mut reader: FrameReader, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<OwnedSocketEvent> {
    let mut seen = Vec::new();
    for chunk in chunks {
        read_into(&mut reader, chunk, &mut seen);
    }
    seen
}

fn read(stream: &[u8]) -> Vec<OwnedSocketEvent> {
    read_chunks(FrameReader::new(Peer::Client, true, MAX), [stream])
}

/// A masked frame with the given first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_masked(&mut out, Opcode::Text, payload, [0x37, 0xfa, 0x21, 0x3d]);
    out[0] = first;
    out
}

fn declared(first: u8, len: u64) -> Vec<u8> {
    let mut out = vec![first, 0xff];
    out.extend_from_slice(&len.to_be_bytes());
    out
}

#[test]
fn the_examples_of_the_rfc_are_parsed() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read(&hello), [OwnedSocketEvent::Text("Hello".into())]);
    let server = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    let seen = read_chunks(FrameReader::new(Peer::Server, false, MAX), [&server[..]]);
    assert_eq!(seen, [OwnedSocketEvent::Text("Hello".into())]);
}

#[test]
fn every_violation_has_its_code() {
    let long = vec![b'x'; 126];
    let kib = vec![b'x'; 600];
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x81, 0x05, b'H', b'e', b'l', b'l', b'o'], 1002),
        ("rsv1", frame(0xc1, b"x"), 1002),
        ("rsv2", frame(0xa1, b"x"), 1002),
        ("rsv3", frame(0x91, b"x"), 1002),
        ("opcode 3", frame(0x83, b"x"), 1002),
        ("opcode 11", frame(0x8b, b"x"), 1002),
        ("continuation first", frame(0x80, b"x"), 1002),
        ("text inside a text", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002),
        ("binary inside a text", [frame(0x01, b"a"), frame(0x82, b"b")].concat(), 1002),
        ("continuation after the end", [frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")].concat(), 1002),
        ("long ping", frame(0x89, &long), 1002),
        ("long close", frame(0x88, &long), 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("close of one byte", frame(0x88, &[3]), 1002),
        ("close 999", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("close 1004", frame(0x88, &1004_u16.to_be_bytes()), 1002),
        ("close 1005", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("close 1006", frame(0x88, &1006_u16.to_be_bytes()), 1002),
        ("close 1015", frame(0x88, &1015_u16.to_be_bytes()), 1002),
        ("close 2999", frame(0x88, &2999_u16.to_be_bytes()), 1002),
        ("close 5000", frame(0x88, &5000_u16.to_be_bytes()), 1002),
        ("close reason", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("text", frame(0x81, b"ab\xc3\x28"), 1007),
        ("text that ends inside a character", frame(0x81, b"ab\xe2\x82"), 1007),
        ("bad byte in a fragment", frame(0x01, b"ab\xc3\x28"), 1007),
        ("surrogate over fragments", [frame(0x01, b"\xed"), frame(0x00, b"\xa0")].concat(), 1007),
        ("declared one too many", vec![0x81, 0xfe, 0x03, 0xe9], 1009),
        ("16 bits for a short length", vec![0x81, 0xfe, 0x00, 125], 1002),
        ("64 bits for a short length", declared(0x81, 125), 1002),
        ("64 bits for a length of 16", declared(0x81, u64::from(MAX) + 1), 1002),
        ("declared 17 MiB", declared(0x82, 17 << 20), 1009),
        ("declared 2^62", declared(0x81, 1 << 62), 1009),
        ("declared with the top bit", declared(0x81, 1 << 63), 1009),
        ("declared all bits", declared(0x81, u64::MAX), 1009),
        ("fragments over the bound", [frame(0x01, &kib), frame(0x00, &kib)].concat(), 1009),
    ];
    for (name, stream, code) in cases {
        let seen = read(&stream);
        assert_eq!(seen.last(), Some(&OwnedSocketEvent::Violation(code)), "{name}");
        let single = read_chunks(FrameReader::new(Peer::Client, true, MAX), stream.chunks(1));
        assert_eq!(single, seen, "{name}, byte by byte");
    }
}

#[test]
fn a_text_endpoint_refuses_binary_and_a_client_refuses_masks() {
    assert_eq!(read_chunks(FrameReader::text(MAX), [&frame(0x82, b"x")[..]]), [OwnedSocketEvent::Violation(1003)]);
    assert_eq!(read_chunks(FrameReader::text(MAX), [&frame(0x02, b"x")[..]]), [OwnedSocketEvent::Violation(1003)]);
    let masked = frame(0x81, b"x");
    assert_eq!(
        read_chunks(FrameReader::new(Peer::Server, true, MAX), [&masked[..]]),
        [OwnedSocketEvent::Violation(1002)]
    );
}

#[test]
fn bad_text_is_found_at_its_first_bad_byte() {
    let text = frame(0x81, b"caf\xc3\xa9 \xf4\x90\x80\x80 and more");
    let bad = text.len() - b"\x90\x80\x80 and more".len();
    let mut reader = FrameReader::text(MAX);
    let mut seen = Vec::new();
    read_into(&mut reader, &text[..bad], &mut seen);
    assert_eq!(seen, []);
    read_into(&mut reader, &text[bad..=bad], &mut seen);
    assert_eq!(seen, [OwnedSocketEvent::Violation(1007)]);
    assert!(reader.ended());
}

#[test]
fn close_codes_are_returned_and_nothing_follows() {
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999_u16] {
        let close = [&code.to_be_bytes()[..], b"bye"].concat();
        let stream = [frame(0x88, &close), frame(0x81, b"late"), frame(0xff, b"bad")].concat();
        assert_eq!(read(&stream), [OwnedSocketEvent::Close(Some(code), "bye".into())], "{code}");
    }
    assert_eq!(read(&frame(0x88, b"")), [OwnedSocketEvent::Close(None, String::new())]);
}

#[test]
fn nothing_is_read_after_a_violation() {
    let mut reader = FrameReader::text(MAX);
    let mut seen = Vec::new();
    read_into(&mut reader, &frame(0xff, b"x"), &mut seen);
    read_into(&mut reader, &frame(0x81, b"x"), &mut seen);
    assert_eq!(seen, [OwnedSocketEvent::Violation(1002)]);
}

#[test]
fn long_lengths_are_parsed() {
    for len in [0, 1, 125, 126, 127, 999, 1000] {
        let text = "x".repeat(len);
        assert_eq!(read(&frame(0x81, text.as_bytes())), [OwnedSocketEvent::Text(text)], "{len}");
    }
}

#[test]
fn an_idle_reader_holds_no_memory() {
    assert!(size_of::<FrameReader>() <= 16);
    let stream = [frame(0x01, b"a"), frame(0x89, b"p"), frame(0x80, b"b"), frame(0x81, &[b'x'; 300])].concat();
    for split in 0..stream.len() {
        let mut reader = FrameReader::text(MAX);
        let mut seen = Vec::new();
        read_into(&mut reader, &stream[..split], &mut seen);
        let at_rest = [0, stream.len() - frame(0x81, &[b'x'; 300]).len()].contains(&split);
        assert_eq!(reader.pending.is_some(), !at_rest, "{split}");
        read_into(&mut reader, &stream[split..], &mut seen);
        assert!(reader.pending.is_none(), "{split}");
    }
}

#[test]
fn memory_depends_on_received_bytes_not_on_declared_lengths() {
    let mut reader = FrameReader::text(1 << 20);
    let mut stream = declared(0x81, 1 << 20);
    stream.extend_from_slice(&[0; 4]);
    stream.extend_from_slice(&[b'x'; 10]);
    read_into(&mut reader, &stream, &mut Vec::new());
    let capacity = |reader: &FrameReader| reader.partial().unwrap().bytes.capacity();
    assert!(capacity(&reader) < 100);
    for _ in 0..((1 << 20) - 20) / 10 {
        read_into(&mut reader, &[b'x'; 10], &mut Vec::new());
        assert!(capacity(&reader) <= 1 << 20);
    }
}

fn read_server(stream: &[u8]) -> Vec<OwnedSocketEvent> {
    read_chunks(FrameReader::new(Peer::Server, true, 1 << 20), [stream])
}

#[test]
fn control_frames_hold_up_to_their_limit() {
    let mut out = Vec::new();
    ping(&mut out, b"7");
    pong(&mut out, &[b'p'; 300]);
    close(&mut out, Some(1012), &"é".repeat(100));
    assert_eq!(&out[..5], b"\x89\x017\x8a\x7d");
    let last = OwnedSocketEvent::Close(Some(1012), "é".repeat(61));
    assert_eq!(read_server(&out), [OwnedSocketEvent::Ping(b"7".into()), OwnedSocketEvent::Pong(vec![b'p'; 125]), last]);
    out.clear();
    close(&mut out, None, "never said");
    assert_eq!(out, b"\x88\x00");
}

#[test]
fn a_head_declares_every_length() {
    for len in [0, 125, 126, 0xffff, 0x1_0000] {
        let mut out = Vec::new();
        put_head(&mut out, Opcode::Binary, len);
        out.resize(out.len() + len, 7);
        assert_eq!(read_server(&out), [OwnedSocketEvent::Binary(vec![7; len])], "{len}");
    }
}

#[test]
fn a_text_has_the_shortest_head_whatever_its_expected_length() {
    for len in [1, 125, 126, 127, 65_535, 65_536, 70_000] {
        for expected in [0, 125, 126, 65_535, 65_536, len] {
            let written = "x".repeat(len);
            let mut out = BytesMut::new();
            text(&mut out, 9, |out| out.put_slice(b"before"));
            let from = out.len();
            text(&mut out, expected, |out| out.put_slice(written.as_bytes()));
            let head = [2, 4, 10][usize::from(len > 125) + usize::from(len > 65_535)];
            assert_eq!(out.len() - from - len, head, "{len} {expected}");
            text(&mut out, expected, |_| ());
            assert_eq!(
                read_server(&out),
                [OwnedSocketEvent::Text("before".into()), OwnedSocketEvent::Text(written)],
                "{len} {expected}"
            );
        }
    }
}

// ---- random streams ----

/// The simple way: the whole stream at once, byte by byte, everything copied.
fn reference(mut bytes: &[u8]) -> Vec<OwnedSocketEvent> {
    let mut seen = Vec::new();
    let mut message: Option<(u8, Vec<u8>)> = None;
    while bytes.len() >= 2 {
        let (first, len7, masked) = (bytes[0], bytes[1] & 0x7f, bytes[1] & 0x80 != 0);
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let refused = |seen: &mut Vec<OwnedSocketEvent>, code| seen.push(OwnedSocketEvent::Violation(code));
        let place_ok = match opcode {
            0 => message.is_some(),
            1 | 2 => message.is_none(),
            8..=10 => fin && len7 <= 125,
            _ => false,
        };
        if first & 0x70 != 0 || !masked || !place_ok {
            refused(&mut seen, 1002);
            return seen;
        }
        let extra = [2, 8][usize::from(len7 == 127)] * usize::from(len7 > 125);
        if bytes.len() < 2 + extra {
            return seen;
        }
        let long = bytes[2..2 + extra].iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let len = if extra == 0 { u128::from(len7) } else { long };
        if (len7 == 126 && len < 126) || (len7 == 127 && len <= u128::from(u16::MAX)) {
            refused(&mut seen, 1002);
            return seen;
        }
        let kept = if opcode < 8 { message.as_ref().map_or(0, |(_, bytes)| bytes.len()) } else { 0 };
        if len + kept as u128 > u128::from(MAX) {
            refused(&mut seen, 1009);
            return seen;
        }
        let start = 2 + extra + 4;
        if bytes.len() < start {
            return seen;
        }
        let end = bytes.len().min(start + len as usize);
        let complete = end == start + len as usize;
        let mask = &bytes[start - 4..start];
        let payload: Vec<u8> = bytes[start..end].iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        bytes = &bytes[end..];
        if opcode >= 8 {
            if !complete {
                return seen;
            }
            seen.push(reference_control(opcode, payload));
            if matches!(seen.last(), Some(OwnedSocketEvent::Close(..) | OwnedSocketEvent::Violation(_))) {
                return seen;
            }
            continue;
        }
        let (kind, so_far) = message.get_or_insert((opcode, Vec::new()));
        so_far.extend(payload);
        let over = complete && fin;
        if *kind == 1 && std::str::from_utf8(so_far).is_err_and(|error| over || error.error_len().is_some()) {
            refused(&mut seen, 1007);
            return seen;
        }
        if over {
            seen.push(match message.take().unwrap() {
                (1, text) => OwnedSocketEvent::Text(String::from_utf8(text).unwrap()),
                (_, binary) => OwnedSocketEvent::Binary(binary),
            });
        }
    }
    seen
}

fn reference_control(opcode: u8, payload: Vec<u8>) -> OwnedSocketEvent {
    match (opcode, payload.len()) {
        (9, _) => OwnedSocketEvent::Ping(payload),
        (10, _) => OwnedSocketEvent::Pong(payload),
        (_, 0) => OwnedSocketEvent::Close(None, String::new()),
        (_, 1) => OwnedSocketEvent::Violation(1002),
        _ => match (u16::from(payload[0]) << 8 | u16::from(payload[1]), String::from_utf8(payload[2..].to_vec())) {
            (0..1000 | 1004..=1006 | 1015..3000 | 5000.., _) => OwnedSocketEvent::Violation(1002),
            (_, Err(_)) => OwnedSocketEvent::Violation(1007),
            (code, Ok(reason)) => OwnedSocketEvent::Close(Some(code), reason),
        },
    }
}

/// Frames that mostly follow the rules, and sometimes violate one.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => "[a-zé€😀]{0,40}".prop_map(String::into_bytes),
        2 => (0..700_usize).prop_map(|len| vec![b'x'; len]),
        1 => prop::collection::vec(any::<u8>(), 0..130),
        1 => (995..5005_u16, "[a-z]{0,9}").prop_map(|(code, text)| [&code.to_be_bytes()[..], text.as_bytes()].concat()),
    ];
    let first = prop_oneof![
        8 => Just(0x81_u8), 2 => Just(0x82), 4 => Just(0x01), 1 => Just(0x02), 4 => Just(0x00), 4 => Just(0x80),
        3 => Just(0x89), 3 => Just(0x8a), 1 => Just(0x88), 1 => any::<u8>(),
    ];
    let frame = (first, payload, any::<[u8; 4]>()).prop_map(|(first, payload, mask)| {
        let mut out = Vec::new();
        put_masked(&mut out, Opcode::Text, &payload, mask);
        out[0] = first;
        out
    });
    let noise = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(frame, 0..8), noise).prop_map(|(frames, noise)| {
        let mut stream = frames.concat();
        if let Some((at, byte)) = noise.filter(|_| !stream.is_empty()) {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream
    })
}

/// A stream that ends, and a sink for the pongs.
struct TestStream(Cursor<Vec<u8>>);

impl Read for TestStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for TestStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The events of tungstenite, and whether it found a violation. It replaces close codes that may not be sent.
fn tungstenite(stream: &[u8]) -> (Vec<OwnedSocketEvent>, bool) {
    use tungstenite::protocol::{Role, WebSocketConfig};
    let config = WebSocketConfig::default().max_message_size(Some(MAX as usize)).max_frame_size(Some(MAX as usize));
    let mut socket = WebSocket::from_raw_socket(TestStream(Cursor::new(stream.to_vec())), Role::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(Message::Text(text)) => OwnedSocketEvent::Text(text.as_str().into()),
            Ok(Message::Binary(bytes)) => OwnedSocketEvent::Binary(bytes.into()),
            Ok(Message::Ping(bytes)) => OwnedSocketEvent::Ping(bytes.into()),
            Ok(Message::Pong(bytes)) => OwnedSocketEvent::Pong(bytes.into()),
            Ok(Message::Close(Some(close))) => {
                OwnedSocketEvent::Close(Some(close.code.into()), close.reason.as_str().into())
            }
            Ok(Message::Close(None)) => OwnedSocketEvent::Close(None, String::new()),
            Ok(Message::Frame(_)) => unreachable!("raw frames are not read"),
            Err(Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (seen, false);
            }
            Err(_) => return (seen, true),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_streams_are_read_like_the_reference(stream in stream()) {
        prop_assert_eq!(read(&stream), reference(&stream));
    }

    #[test]
    fn random_chunks_give_the_same_events(stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
        prop_assert_eq!(read_chunks(FrameReader::new(Peer::Client, true, MAX), chunks), reference(&stream));
    }

    #[test]
    fn single_bytes_give_the_same_events(stream in stream()) {
        let seen = read_chunks(FrameReader::new(Peer::Client, true, MAX), stream.chunks(1));
        prop_assert_eq!(seen, reference(&stream));
    }

    #[test]
    fn tungstenite_sees_the_same(stream in stream()) {
        let mut ours = read(&stream);
        let (theirs, they_refused) = tungstenite(&stream);
        if !matches!(ours.last(), Some(OwnedSocketEvent::Violation(_))) {
            prop_assert!(!they_refused);
            prop_assert_eq!(ours, theirs);
            return Ok(());
        }
        // We may refuse earlier (invalid text within a fragment), never later, and never differ before.
        ours.pop();
        prop_assert!(theirs.starts_with(&ours));
    }

    #[test]
    fn unmasking_is_the_bytewise_xor(bytes in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4], offset in 0..9_usize) {
        let mut fast = bytes.clone();
        unmask(&mut fast, mask, offset);
        let slow: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ mask[(at + offset) % 4]).collect();
        prop_assert_eq!(fast, slow);
    }
}
