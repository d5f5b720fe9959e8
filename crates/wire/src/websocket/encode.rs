//! What goes before a payload, and the mask over a client's. Never looks into a payload.

use bytes::BufMut;

use super::{CONTROL_BYTES_MAX, Opcode};

/// XORs `bytes`, which begin `offset` bytes into the payload, with the mask. Undoes itself.
pub(super) fn unmask(bytes: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// Writes the head of a server's frame: unmasked, not fragmented. The payload of `len` bytes follows it.
pub fn put_head(out: &mut impl BufMut, opcode: Opcode, len: usize) {
    put_any_head(out, opcode, len, 0);
}

/// Writes a client's frame: masked, not fragmented.
pub fn put_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    put_any_head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask, 0);
}

/// Writes a server's Close frame. The reason is cut, between characters, to what a control frame holds.
pub fn put_close(out: &mut impl BufMut, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    put_head(out, Opcode::Close, reason.len() + 2);
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}

fn put_any_head(out: &mut impl BufMut, opcode: Opcode, len: usize, mask_bit: u8) {
    out.put_u8(0x80 | opcode as u8);
    match len {
        0..126 => out.put_u8(mask_bit | len as u8),
        126..=0xffff => {
            out.put_u8(mask_bit | 126);
            out.put_u16(len as u16);
        }
        _ => {
            out.put_u8(mask_bit | 127);
            out.put_u64(len as u64);
        }
    }
}
