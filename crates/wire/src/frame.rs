//! Wraps text for its transport: WebSocket frames as a server sends them, and Server-Sent Events. Never looks into the
//! text, and never copies it: the writer writes into the frame itself.
//!
//! A server's frames are not masked, so the same bytes serve every socket.

use bytes::{BufMut, BytesMut};

use super::code::CloseCode;

/// Longest payload of a control frame, in bytes (RFC 6455).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Longest reason of a Close frame, in bytes: two go to the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

const FIN: u8 = 0x80;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
/// A frame whose length is not known before is begun with room for a length of 126 to 65,535, the usual one.
const LEN_USUAL: usize = 126;

/// Appends a text frame that holds what `write` appends: `frame_text(out, |out| reply::pong(out, …))`.
pub fn frame_text(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    frame_text_sized(out, LEN_USUAL, write);
}

/// As [`frame_text`], for a writer that knows how long the text will be. A wrong `len` costs a move of the text.
pub fn frame_text_sized(out: &mut BytesMut, len: usize, write: impl FnOnce(&mut BytesMut)) {
    let room = header_len(len);
    out.reserve(room + len);
    let start = out.len();
    out.put_bytes(0, room);
    write(out);
    let len = out.len() - start - room;
    let needed = header_len(len);
    if needed != room {
        fit_header(out, start, room, needed);
    }
    let header = &mut out[start..start + needed];
    header[0] = FIN | TEXT;
    match needed {
        2 => header[1] = len as u8,
        4 => {
            header[1] = 126;
            header[2..].copy_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

const fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}

/// Moves the text behind a header of another size.
#[cold]
fn fit_header(out: &mut BytesMut, start: usize, room: usize, needed: usize) {
    let end = out.len();
    if needed > room {
        out.put_bytes(0, needed - room);
    }
    out.copy_within(start + room..end, start + needed);
    out.truncate(end - room + needed);
}

/// Appends a ping frame. Its answer carries the same payload; bytes over [`CONTROL_BYTES_MAX`] are cut.
pub fn ping(out: &mut BytesMut, payload: &[u8]) {
    control(out, PING, payload);
}

/// Appends a pong frame, the answer to a ping with this payload.
pub fn pong(out: &mut BytesMut, payload: &[u8]) {
    control(out, PONG, payload);
}

/// Appends a Close frame. A reason over [`CLOSE_REASON_BYTES_MAX`] is cut where a character ends.
pub fn close(out: &mut BytesMut, code: CloseCode, reason: &str) {
    close_number(out, code.number(), reason);
}

/// As [`close`], with a number that need not be ours: the echo of a client's Close.
pub fn close_number(out: &mut BytesMut, number: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    out.put_slice(&[FIN | CLOSE, 2 + reason.len() as u8]);
    out.put_u16(number);
    out.put_slice(reason.as_bytes());
}

/// Appends a Close frame without code, the answer to one without.
pub fn close_empty(out: &mut BytesMut) {
    control(out, CLOSE, &[]);
}

fn control(out: &mut BytesMut, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    out.put_slice(&[FIN | opcode, payload.len() as u8]);
    out.put_slice(payload);
}

/// Appends a Server-Sent Event that holds what `write` appends, with `id` as its `id:` line; a client that reconnects
/// sends the last of them as `Last-Event-ID`. Line breaks in the text become further `data:` lines, and in `id` they end
/// it.
pub fn sse_event(out: &mut BytesMut, id: Option<&str>, write: impl FnOnce(&mut BytesMut)) {
    if let Some(id) = id {
        out.put_slice(b"id: ");
        out.put_slice(id.split(['\r', '\n', '\0']).next().unwrap_or_default().as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"data: ");
    let start = out.len();
    write(out);
    // Two searches by the word are faster than one by the byte.
    if out[start..].contains(&b'\n') || out[start..].contains(&b'\r') {
        break_lines(out, start);
    }
    out.put_slice(b"\n\n");
}

/// Appends an SSE comment, which keeps the stream alive and is seen by nobody.
pub fn sse_comment(out: &mut BytesMut) {
    out.put_slice(b":\n\n");
}

/// Puts `data: ` before each further line of the text that begins at `start`. CR, LF and CRLF all end a line.
#[cold]
fn break_lines(out: &mut BytesMut, start: usize) {
    let text = out.split_off(start);
    let mut rest = &text[..];
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        out.put_slice(&rest[..end]);
        out.put_slice(b"\ndata: ");
        let both = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(both)..];
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads one unmasked frame: opcode byte, payload, what follows.
    fn read_frame(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
        let (len, header) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, 10),
            short => (usize::from(short), 2),
        };
        assert_eq!(header, header_len(len), "the shortest form of the length");
        (bytes[0], &bytes[header..header + len], &bytes[header + len..])
    }

    #[test]
    fn text_frames_have_the_shortest_header_whatever_was_expected() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for expected in [0, 125, 126, 65_535, 65_536, len] {
                let text = vec![b'x'; len];
                let mut out = BytesMut::from(&b"before"[..]);
                frame_text_sized(&mut out, expected, |out| out.put_slice(&text));
                out.put_slice(b"after");
                let (first, payload, rest) = read_frame(&out[6..]);
                assert_eq!((first, payload, rest), (0x81, &text[..], &b"after"[..]), "{len} {expected}");
                assert_eq!(&out[..6], b"before");
            }
        }
    }

    #[test]
    fn control_frames() {
        let mut out = BytesMut::new();
        ping(&mut out, b"7");
        pong(&mut out, &[b'p'; 300]);
        close_empty(&mut out);
        assert_eq!(&out[..3], b"\x89\x017");
        assert_eq!(&out[3..5], b"\x8a\x7d");
        assert_eq!(&out[3 + 127..], b"\x88\x00");
    }

    #[test]
    fn a_close_reason_is_cut_where_a_character_ends() {
        let mut out = BytesMut::new();
        close(&mut out, CloseCode::Restarting, "draining; 1500");
        assert_eq!(&out[..], b"\x88\x10\x03\xf4draining; 1500");

        out.clear();
        close(&mut out, CloseCode::Policy, &"€".repeat(60));
        let (_, payload, _) = read_frame(&out);
        assert_eq!(std::str::from_utf8(&payload[2..]).unwrap(), "€".repeat(41));
    }

    #[test]
    fn events_keep_a_text_of_many_lines_in_one_event() {
        let mut out = BytesMut::new();
        sse_event(&mut out, Some("7-1\nid: x"), |out| out.put_slice(b"{\n\"a\":1,\r\n\"b\":2\r}"));
        sse_event(&mut out, None, |out| out.put_slice(b"{}"));
        let expected = "id: 7-1\ndata: {\ndata: \"a\":1,\ndata: \"b\":2\ndata: }\n\ndata: {}\n\n";
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn whatever_is_written_comes_back(texts in prop::collection::vec(".{0,200}", 1..4), reason in ".*") {
            let mut out = BytesMut::new();
            for text in &texts {
                frame_text(&mut out, |out| out.put_slice(text.as_bytes()));
            }
            close(&mut out, CloseCode::Normal, &reason);
            let mut rest = &out[..];
            for text in &texts {
                let (_, payload, after) = read_frame(rest);
                prop_assert_eq!(payload, text.as_bytes());
                rest = after;
            }
            let (_, payload, _) = read_frame(rest);
            prop_assert!(reason.starts_with(std::str::from_utf8(&payload[2..]).unwrap()));
        }
    }
}
