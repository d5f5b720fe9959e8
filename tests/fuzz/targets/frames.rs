//! The WebSocket reader.

use tickgate_wire::websocket::{
    CONTROL_BYTES_MAX, FrameReader, Opcode, Peer, ProtocolViolation, WebSocketEvent, put_head, put_masked,
};

/// An event that owns its bytes, or the violation that ends the stream.
#[derive(Debug, PartialEq)]
enum FrameOutcome {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Violation(u16),
}

fn seen(event: Result<WebSocketEvent<'_>, ProtocolViolation>) -> FrameOutcome {
    match event {
        Ok(WebSocketEvent::Text(text)) => FrameOutcome::Text(text.into()),
        Ok(WebSocketEvent::Binary(bytes)) => FrameOutcome::Binary(bytes.into()),
        Ok(WebSocketEvent::Ping(bytes)) => FrameOutcome::Ping(bytes.into()),
        Ok(WebSocketEvent::Pong(bytes)) => FrameOutcome::Pong(bytes.into()),
        Ok(WebSocketEvent::Close(code, reason)) => FrameOutcome::Close(code, reason.into()),
        Err(violation) => FrameOutcome::Violation(violation.code),
    }
}

fn read<'a>(mut reader: FrameReader, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<FrameOutcome> {
    let mut all = Vec::new();
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let mut feed = reader.feed(&mut chunk);
        while let Some(event) = feed.next() {
            all.push(seen(event));
        }
    }
    let ends = |seen: &FrameOutcome| matches!(seen, FrameOutcome::Close(..) | FrameOutcome::Violation(_));
    assert_eq!(reader.ended(), all.last().is_some_and(ends), "{all:?}");
    assert_eq!(all.iter().filter(|seen| ends(seen)).count(), usize::from(reader.ended()), "{all:?}");
    all
}

/// The same events however the bytes are cut, within the limit, and nothing after the end; events can be encoded and
/// decoded again. The first byte selects the reader, the second how the stream is cut.
pub(super) fn frames(data: &[u8]) {
    let [choice, cut, stream @ ..] = data else { return };
    let peer = if choice & 1 == 0 { Peer::Client } else { Peer::Server };
    let binary = choice & 2 == 0;
    // The head of the last frame may declare much more than will ever arrive.
    let bytes_max = [1_000, 100, 16 << 20, 16 << 20][usize::from(choice >> 2 & 3)];
    let reader = || FrameReader::new(peer, binary, bytes_max);
    let whole = read(reader(), std::iter::once(stream));
    assert_eq!(read(reader(), stream.chunks(1)), whole, "byte by byte");
    assert_eq!(read(reader(), stream.chunks(usize::from(*cut).max(1))), whole, "in pieces of {cut}");
    assert_eq!(read(reader(), odd_pieces(stream, *cut).into_iter()), whole, "in pieces of any length");
    for seen in &whole {
        match seen {
            FrameOutcome::Text(text) => assert!(text.len() <= bytes_max as usize),
            FrameOutcome::Binary(bytes) => assert!(binary && bytes.len() <= bytes_max as usize),
            FrameOutcome::Ping(bytes) | FrameOutcome::Pong(bytes) => assert!(bytes.len() <= CONTROL_BYTES_MAX),
            FrameOutcome::Close(code, _) => assert!(code.is_none_or(|code| (1000..5000).contains(&code))),
            FrameOutcome::Violation(code) => assert!([1002, 1003, 1007, 1009].contains(code), "{code}"),
        }
    }
    let messages: Vec<_> = whole.into_iter().filter(|seen| !matches!(seen, FrameOutcome::Violation(_))).collect();
    assert_eq!(read(reader(), std::iter::once(&*written(&messages, peer))), messages);
}

/// Cuts the stream as its own bytes say: empty pieces, single bytes, and longer ones, in any order.
fn odd_pieces(mut stream: &[u8], turn: u8) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let [first, ..] = stream {
        let (piece, rest) = stream.split_at(usize::from(first.rotate_left(3) ^ turn).min(stream.len()) % 23);
        let (byte, rest) = rest.split_at(rest.len().min(1));
        pieces.extend([piece, byte]);
        stream = rest;
    }
    pieces
}

/// The same messages, as this side would encode them.
fn written(messages: &[FrameOutcome], peer: Peer) -> Vec<u8> {
    let mut out = Vec::new();
    for seen in messages {
        let close;
        let (opcode, payload) = match seen {
            FrameOutcome::Text(text) => (Opcode::Text, text.as_bytes()),
            FrameOutcome::Binary(bytes) => (Opcode::Binary, &**bytes),
            FrameOutcome::Ping(bytes) => (Opcode::Ping, &**bytes),
            FrameOutcome::Pong(bytes) => (Opcode::Pong, &**bytes),
            FrameOutcome::Close(code, reason) => {
                close = [code.map_or(vec![], |code| code.to_be_bytes().to_vec()), reason.as_bytes().to_vec()].concat();
                (Opcode::Close, &*close)
            }
            FrameOutcome::Violation(_) => unreachable!("left out before"),
        };
        match peer {
            Peer::Client => put_masked(&mut out, opcode, payload, [0x5a, 0, 0xff, 0x81]),
            Peer::Server => {
                put_head(&mut out, opcode, payload.len());
                out.extend_from_slice(payload);
            }
        }
    }
    out
}
