//! Encodes unfragmented frames. A server's frames are not masked, so the same bytes serve every socket. Never inspects
//! a payload, and never copies a text: it is written directly into the frame.

use bytes::{BufMut, BytesMut};

use super::{CONTROL_BYTES_MAX, Opcode, unmask};

/// Appends the head of a server's frame. The payload of `len` bytes follows it.
pub fn put_head(out: &mut impl BufMut, opcode: Opcode, len: usize) {
    put_any_head(out, opcode, len, 0);
}

/// Appends a client's frame: masked.
pub fn put_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    put_any_head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask, 0);
}

/// Appends a server's text frame with the text that `write` appends. `len` is its expected length in bytes: if the
/// guess requires a head of another size, the text is moved. If `write` appends nothing, nothing is appended.
pub fn text(out: &mut BytesMut, len: usize, write: impl FnOnce(&mut BytesMut)) {
    let room = head_len(len);
    out.reserve(room + len);
    let start = out.len();
    out.put_bytes(0, room);
    write(out);
    let len = out.len() - start - room;
    if len == 0 {
        return out.truncate(start);
    }
    let needed = head_len(len);
    if needed != room {
        move_text(out, start, room, needed);
    }
    fill_head(&mut out[start..start + needed], Opcode::Text, len, 0);
}

/// Appends a server's ping. Its response carries the same payload; bytes beyond [`CONTROL_BYTES_MAX`] are cut.
pub fn ping(out: &mut impl BufMut, payload: &[u8]) {
    control(out, Opcode::Ping, payload);
}

/// Appends a server's pong, the response to a ping with this payload.
pub fn pong(out: &mut impl BufMut, payload: &[u8]) {
    control(out, Opcode::Pong, payload);
}

/// Appends a server's Close frame. The reason is truncated at a character boundary to fit a control frame. Without a
/// code there is no reason either: this responds to a client's Close without a code.
pub fn close(out: &mut impl BufMut, code: Option<u16>, reason: &str) {
    let Some(code) = code else { return put_head(out, Opcode::Close, 0) };
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    put_head(out, Opcode::Close, reason.len() + 2);
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}

fn control(out: &mut impl BufMut, opcode: Opcode, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    put_head(out, opcode, payload.len());
    out.put_slice(payload);
}

/// Moves the text that starts `room` bytes after `start` to the end of a head of `needed` bytes.
#[cold]
fn move_text(out: &mut BytesMut, start: usize, room: usize, needed: usize) {
    let end = out.len();
    out.resize(end.max(end - room + needed), 0);
    out.copy_within(start + room..end, start + needed);
    out.truncate(end - room + needed);
}

/// Length of the shortest head for a payload of `len` bytes, without a mask.
const fn head_len(len: usize) -> usize {
    match len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}

/// Writes a head for a payload of `len` bytes, with the length that [`head_len`] returns.
fn fill_head(head: &mut [u8], opcode: Opcode, len: usize, mask_bit: u8) {
    head[0] = 0x80 | opcode as u8;
    match head.len() {
        2 => head[1] = mask_bit | len as u8,
        4 => {
            head[1] = mask_bit | 126;
            head[2..].copy_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            head[1] = mask_bit | 127;
            head[2..].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

fn put_any_head(out: &mut impl BufMut, opcode: Opcode, len: usize, mask_bit: u8) {
    let mut head = [0; 10];
    let head = &mut head[..head_len(len)];
    fill_head(head, opcode, len, mask_bit);
    out.put_slice(head);
}
