//! A server's WebSocket frames, byte by byte: a simulator must also be able to write invalid ones.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Maximum frame size of a client; larger frames close the connection.
const PAYLOAD_MAX: usize = 1 << 20;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// The first reserved bit, which no extension uses.
pub(crate) const RSV1: u8 = 0x40;
const FIN: u8 = 0x80;

/// A frame from the client.
#[derive(Debug)]
pub(crate) struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
    /// Size on the wire, in bytes.
    pub bytes: usize,
    pub masked: bool,
}

/// Reads the next frame.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let mut bytes = 2;
    let length = match head[1] & 0x7f {
        126 => {
            bytes += 2;
            usize::from(stream.read_u16().await?)
        }
        127 => {
            bytes += 8;
            usize::try_from(stream.read_u64().await?).unwrap_or(usize::MAX)
        }
        short => usize::from(short),
    };
    if length > PAYLOAD_MAX {
        return Err(io::Error::other("a frame larger than 1 MiB"));
    }
    let masked = head[1] & 0x80 != 0;
    let mut mask = [0; 4];
    if masked {
        bytes += 4;
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(Frame { opcode: head[0] & 0x0f, payload, bytes: bytes + length, masked })
}

/// A complete message in one frame. `bits` are set unchanged in its first byte.
pub(crate) fn whole(opcode_and_bits: u8, payload: &[u8]) -> Vec<u8> {
    part(FIN | opcode_and_bits, payload)
}

/// Payload of the pings between fragments.
pub(crate) const BETWEEN: &[u8] = b"between";

/// A text message in small fragments, with a ping between them.
pub(crate) fn fragments(text: &str) -> Vec<u8> {
    let pieces: Vec<_> = text.as_bytes().chunks(16).collect();
    let mut bytes = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        let fin = if at + 1 == pieces.len() { FIN } else { 0 };
        bytes.extend(part(fin | opcode, piece));
        if at == 0 && fin == 0 {
            bytes.extend(whole(PING, BETWEEN));
        }
    }
    bytes
}

/// A Close frame.
pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.as_bytes());
    whole(CLOSE, &payload)
}

fn part(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(short as u8),
        middle @ 126..65_536 => {
            bytes.push(126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_read_as_written_masked_or_not() {
        for length in [0, 5, 125, 126, 65_535, 65_536] {
            let written = whole(TEXT, &vec![7; length]);
            let frame = read(&mut &written[..]).await.unwrap();
            assert_eq!(
                (frame.opcode, frame.payload, frame.bytes, frame.masked),
                (TEXT, vec![7; length], written.len(), false)
            );
        }
        let masked = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
        let frame = read(&mut &masked[..]).await.unwrap();
        assert!(frame.masked && frame.payload == b"hi");
    }

    #[test]
    fn pieces_end_with_the_last_one() {
        let bytes = fragments(&"x".repeat(40));
        assert_eq!((bytes[0], bytes[18]), (TEXT, FIN | PING));
    }
}
