//! Reads frames: bytes in, events out. Never replies.
//!
//! [`FrameReader`] is the state of one connection: 16 bytes, and nothing else while no frame or fragmented message is
//! incomplete. It allocates only for bytes that have arrived, never for a declared length, and never more than the
//! message limit. Lengths must have their shortest form (RFC 6455, 5.2): parsers that accept others can be made to
//! disagree.

use std::ops::Range;

use thiserror::Error;

use super::{CONTROL_BYTES_MAX, Opcode, unmask};
use crate::code::CloseCode;

/// Maximum length of a frame head: two bytes, a 64-bit length, a mask.
const HEAD_BYTES_MAX: usize = 14;

/// The sender of the frames: a client masks every frame, a server none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client, whose frames are masked.
    Client,
    /// A server, whose frames are not masked.
    Server,
}

/// One message or control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketEvent<'a> {
    /// A complete text message.
    Text(&'a str),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A ping with its payload, to be echoed in a pong.
    Ping(&'a [u8]),
    /// A pong with its payload.
    Pong(&'a [u8]),
    /// Code and reason; no code if the peer sent none. Nothing follows it.
    Close(Option<u16>, &'a str),
}

/// The peer violated the protocol or a limit. The reader ignores everything after it; the caller sends a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{reason} ({code})")]
pub struct ProtocolViolation {
    /// 1002, 1003, 1007 or 1009.
    pub code: u16,
    /// What was wrong, as the reason of the Close frame.
    pub reason: &'static str,
}

impl ProtocolViolation {
    const NOT_TEXT: Self = Self::new(CloseCode::UnsupportedData, "binary messages are not supported");
    const NOT_UTF8: Self = Self::new(CloseCode::InvalidUtf8, "text is not UTF-8");
    const TOO_LONG: Self = Self::new(CloseCode::MessageTooBig, "message is too long");

    const fn new(code: CloseCode, reason: &'static str) -> Self {
        Self { code: code.number(), reason }
    }

    const fn protocol(reason: &'static str) -> Self {
        Self::new(CloseCode::ProtocolError, reason)
    }
}

/// The state of one connection between reads.
#[derive(Debug)]
pub struct FrameReader {
    pub(super) pending: Option<Box<PendingInput>>,
    message_bytes_max: u32,
    peer: Peer,
    binary: bool,
    ended: bool,
}

/// State while a head, a payload or a fragmented message is incomplete.
#[derive(Debug, Default)]
pub(super) struct PendingInput {
    head: [u8; HEAD_BYTES_MAX],
    head_len: u8,
    /// The frame whose payload is still arriving.
    frame: Option<PartialFrame>,
    /// The payload so far of an incomplete control frame, which may come between the fragments of a message.
    control: Vec<u8>,
    message: Option<PartialMessage>,
}

impl PendingInput {
    fn is_empty(&self) -> bool {
        self.head_len == 0 && self.frame.is_none() && self.message.is_none()
    }
}

/// A message that is not complete yet.
#[derive(Debug)]
pub(super) struct PartialMessage {
    opcode: Opcode,
    pub(super) bytes: Vec<u8>,
    /// The text up to here is valid UTF-8.
    checked: usize,
}

impl PartialMessage {
    /// Appends a part of the payload. Invalid text is detected at its first bad byte, not at the end of the message.
    fn append(&mut self, chunk: &[u8], bytes_max: usize) -> Result<(), ProtocolViolation> {
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            // Doubles, but never beyond the limit against which the head was checked.
            let target = (self.bytes.capacity() * 2).clamp(needed, bytes_max.max(needed));
            self.bytes.reserve_exact(target - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        if self.opcode == Opcode::Text {
            match simdutf8::compat::from_utf8(&self.bytes[self.checked..]) {
                Ok(text) => self.checked += text.len(),
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(ProtocolViolation::NOT_UTF8),
            }
        }
        Ok(())
    }
}

/// A parsed head, and how much of the payload has been read.
#[derive(Clone, Copy, Debug)]
struct PartialFrame {
    fin: bool,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    len: usize,
    taken: usize,
}

/// A complete message or control frame, and where its payload is.
struct FoundFrame {
    opcode: Opcode,
    /// In the input, or in the assembled buffer.
    input: Option<Range<usize>>,
}

impl FrameReader {
    /// For the frames that a client sends to a gateway: masked, text only.
    #[must_use]
    pub fn text(message_bytes_max: u32) -> Self {
        Self::new(Peer::Client, false, message_bytes_max)
    }

    /// A reader of `peer`'s frames that accepts binary messages if `binary` is set.
    #[must_use]
    pub fn new(peer: Peer, binary: bool, message_bytes_max: u32) -> Self {
        Self { pending: None, message_bytes_max, peer, binary, ended: false }
    }

    /// Accepts what was read from the socket; the returned [`Feed`] yields the events. Payloads are unmasked in place.
    pub fn feed<'a>(&'a mut self, input: &'a mut [u8]) -> Feed<'a> {
        Feed { reader: self, input, at: 0, assembled: Vec::new() }
    }

    /// Whether a Close frame or a violation was read. All further input is ignored.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn pending(&mut self) -> &mut PendingInput {
        self.pending.get_or_insert_default()
    }

    /// Frees the memory as soon as nothing is incomplete.
    fn settle(&mut self) {
        if self.pending.as_ref().is_some_and(|pending| pending.is_empty()) {
            self.pending = None;
        }
    }

    pub(super) fn partial(&self) -> Option<&PartialMessage> {
        self.pending.as_ref()?.message.as_ref()
    }

    /// Parses a head at the start of `bytes`: the frame and the head's length, or `None` if bytes are missing. Anything
    /// invalid in the first two bytes is refused immediately.
    fn parse_head(&self, bytes: &[u8]) -> Result<Option<(PartialFrame, usize)>, ProtocolViolation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (fin, masked, len7) = (first & 0x80 != 0, second & 0x80 != 0, second & 0x7f);
        if first & 0x70 != 0 {
            return Err(ProtocolViolation::protocol("reserved bits are set"));
        }
        let Some(opcode) = Opcode::from_bits(first & 0x0f) else {
            return Err(ProtocolViolation::protocol("unknown opcode"));
        };
        match (self.peer, masked) {
            (Peer::Client, false) => return Err(ProtocolViolation::protocol("frame is not masked")),
            (Peer::Server, true) => return Err(ProtocolViolation::protocol("frame is masked")),
            _ => {}
        }
        self.check_place(opcode, fin, len7)?;
        let (len, len_bytes) = match (len7, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
            (126 | 127, _) => return Ok(None),
            _ => (u64::from(len7), 0),
        };
        if (len7 == 126 && len < 126) || (len7 == 127 && len <= u64::from(u16::MAX)) {
            return Err(ProtocolViolation::protocol("length is not in its shortest form"));
        }
        let before = if opcode.is_control() { 0 } else { self.partial().map_or(0, |partial| partial.bytes.len()) };
        let room = self.message_bytes_max as usize - before;
        let len = match usize::try_from(len) {
            Ok(len) if len <= room || opcode.is_control() => len,
            _ => return Err(ProtocolViolation::TOO_LONG),
        };
        let mask = match (masked, &rest[len_bytes..]) {
            (false, _) => None,
            (true, [a, b, c, d, ..]) => Some([*a, *b, *c, *d]),
            (true, _) => return Ok(None),
        };
        let head_len = 2 + len_bytes + if masked { 4 } else { 0 };
        Ok(Some((PartialFrame { fin, opcode, mask, len, taken: 0 }, head_len)))
    }

    /// Whether a frame of this kind is allowed now.
    fn check_place(&self, opcode: Opcode, fin: bool, len7: u8) -> Result<(), ProtocolViolation> {
        if opcode.is_control() {
            if !fin {
                return Err(ProtocolViolation::protocol("control frame is fragmented"));
            }
            if usize::from(len7) > CONTROL_BYTES_MAX {
                return Err(ProtocolViolation::protocol("control frame is too long"));
            }
            return Ok(());
        }
        match (opcode, self.partial().is_some()) {
            (Opcode::Continuation, false) => Err(ProtocolViolation::protocol("continuation without a message")),
            (Opcode::Text | Opcode::Binary, true) => {
                Err(ProtocolViolation::protocol("message inside a fragmented message"))
            }
            (Opcode::Binary, false) if !self.binary => Err(ProtocolViolation::NOT_TEXT),
            _ => Ok(()),
        }
    }
}

/// Input that is being read. Dropping it early drops the rest of the input.
#[derive(Debug)]
pub struct Feed<'a> {
    reader: &'a mut FrameReader,
    input: &'a mut [u8],
    at: usize,
    /// The payload of the last event, if it was not contiguous in the input.
    assembled: Vec<u8>,
}

impl Feed<'_> {
    /// The next event, or `None` at the end of the input, after a Close and after a violation.
    #[expect(clippy::should_implement_trait, reason = "events borrow from the feed, which an iterator cannot express")]
    pub fn next(&mut self) -> Option<Result<WebSocketEvent<'_>, ProtocolViolation>> {
        let found = match self.find() {
            Ok(found) => found?,
            Err(violation) => {
                self.reader.ended = true;
                self.reader.pending = None;
                return Some(Err(violation));
            }
        };
        let payload = match found.input {
            Some(range) => &self.input[range],
            None => &self.assembled,
        };
        let event = event(found.opcode, payload);
        if matches!(event, Err(_) | Ok(WebSocketEvent::Close(..))) {
            self.reader.ended = true;
            self.reader.pending = None;
        }
        Some(event)
    }

    fn find(&mut self) -> Result<Option<FoundFrame>, ProtocolViolation> {
        while !self.reader.ended && self.at < self.input.len() {
            let arriving = self.reader.pending.as_mut().and_then(|pending| pending.frame.take());
            let frame = match arriving {
                Some(frame) => frame,
                None => match self.take_head()? {
                    Some(frame) => frame,
                    None => break,
                },
            };
            let found = self.take_payload(frame)?;
            self.reader.settle();
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Reads a head from the input, or stores its start.
    fn take_head(&mut self) -> Result<Option<PartialFrame>, ProtocolViolation> {
        let rest = &self.input[self.at..];
        let kept = self.reader.pending.as_ref().map_or(0, |pending| usize::from(pending.head_len));
        if kept == 0
            && let Some((frame, head_len)) = self.reader.parse_head(rest)?
        {
            self.at += head_len;
            return Ok(Some(frame));
        }
        let added = rest.len().min(HEAD_BYTES_MAX - kept);
        let pending = self.reader.pending();
        pending.head[kept..kept + added].copy_from_slice(&rest[..added]);
        let head = pending.head;
        if let Some((frame, head_len)) = self.reader.parse_head(&head[..kept + added])? {
            self.reader.pending().head_len = 0;
            self.at += head_len - kept;
            return Ok(Some(frame));
        }
        // A complete head always parses, so `added` is the rest of the input and fits.
        self.reader.pending().head_len = (kept + added) as u8;
        self.at += added;
        Ok(None)
    }

    /// Reads the payload, or the available part of it.
    fn take_payload(&mut self, frame: PartialFrame) -> Result<Option<FoundFrame>, ProtocolViolation> {
        let len = (frame.len - frame.taken).min(self.input.len() - self.at);
        let range = self.at..self.at + len;
        self.at += len;
        let chunk = &mut self.input[range.clone()];
        if let Some(mask) = frame.mask {
            unmask(chunk, mask, frame.taken);
        }
        let frame = PartialFrame { taken: frame.taken + len, ..frame };
        let complete = frame.taken == frame.len;
        let in_one_piece = complete && len == frame.len;
        if in_one_piece && frame.fin && frame.opcode != Opcode::Continuation {
            return Ok(Some(FoundFrame { opcode: frame.opcode, input: Some(range) }));
        }
        let bytes_max = self.reader.message_bytes_max as usize;
        let pending = self.reader.pending();
        if !complete {
            pending.frame = Some(frame);
            if len == 0 {
                // Nothing stored yet: the payload may still be contiguous.
                return Ok(None);
            }
        }
        if frame.opcode.is_control() {
            pending.control.extend_from_slice(chunk);
            if !complete {
                return Ok(None);
            }
            self.assembled = std::mem::take(&mut pending.control);
            return Ok(Some(FoundFrame { opcode: frame.opcode, input: None }));
        }
        let new = || PartialMessage { opcode: frame.opcode, bytes: Vec::new(), checked: 0 };
        pending.message.get_or_insert_with(new).append(chunk, bytes_max)?;
        if !(complete && frame.fin) {
            return Ok(None);
        }
        Ok(pending.message.take().map(|message| {
            self.assembled = message.bytes;
            FoundFrame { opcode: message.opcode, input: None }
        }))
    }
}

fn event(opcode: Opcode, payload: &[u8]) -> Result<WebSocketEvent<'_>, ProtocolViolation> {
    Ok(match opcode {
        Opcode::Text => WebSocketEvent::Text(text(payload)?),
        Opcode::Binary | Opcode::Continuation => WebSocketEvent::Binary(payload),
        Opcode::Ping => WebSocketEvent::Ping(payload),
        Opcode::Pong => WebSocketEvent::Pong(payload),
        Opcode::Close => match payload {
            [] => WebSocketEvent::Close(None, ""),
            [_] => return Err(ProtocolViolation::protocol("close code is incomplete")),
            [a, b, reason @ ..] => {
                let code = u16::from_be_bytes([*a, *b]);
                if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                    return Err(ProtocolViolation::protocol("close code is not allowed"));
                }
                WebSocketEvent::Close(Some(code), text(reason)?)
            }
        },
    })
}

fn text(bytes: &[u8]) -> Result<&str, ProtocolViolation> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| ProtocolViolation::NOT_UTF8)
}
