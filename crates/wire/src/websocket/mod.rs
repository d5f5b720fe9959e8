//! WebSocket frames (RFC 6455) in both directions, without I/O.
//!
//! - `reader` turns incoming bytes into events.
//! - `writer` encodes frames: unmasked ones of a server, masked ones of a client.

mod opcode;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use opcode::Opcode;
pub use reader::{Feed, FrameReader, Peer, ProtocolViolation, WebSocketEvent};
pub use writer::{close, ping, pong, put_head, put_masked, text};

/// Maximum payload of a control frame, in bytes.
pub const CONTROL_BYTES_MAX: usize = 125;

/// XORs `bytes`, which start `offset` bytes into the payload, with the mask. Its own inverse.
fn unmask(bytes: &mut [u8], mut mask: [u8; 4], offset: usize) {
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
