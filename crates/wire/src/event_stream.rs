//! Server-Sent Events: messages, comments, and the ids that carry a reader's cursors. Never inspects or copies the text: it
//! is written directly into the event.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};

use crate::model::StreamId;

/// Appends an event with the text that `write` appends. Each further line of the text becomes its own `data:` line. If
/// `write` appends nothing, nothing is appended.
pub fn event(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    const DATA: &[u8] = b"data: ";
    out.put_slice(DATA);
    let start = out.len();
    write(out);
    if out.len() == start {
        return out.truncate(start - DATA.len());
    }
    // Two searches with memchr are faster than one loop over the bytes.
    if out[start..].contains(&b'\n') || out[start..].contains(&b'\r') {
        break_lines(out, start);
    }
    out.put_slice(b"\n\n");
}

/// Appends a comment. It keeps the stream alive; readers ignore it.
pub fn comment(out: &mut BytesMut) {
    out.put_slice(b":\n\n");
}

/// Appends an event without data whose id is the reader's cursors. A reader that reconnects sends the last id as
/// `Last-Event-ID`.
pub fn cursors(out: &mut BytesMut, cursors: &[StreamId]) {
    for (at, cursor) in cursors.iter().enumerate() {
        // Writing to the buffer cannot fail.
        let _ = write!(out, "{}{cursor}", if at == 0 { "id: " } else { "," });
    }
    out.put_slice(b"\n\n");
}

/// Inserts `data: ` before each further line of the text that starts at `start`. CR, LF and CRLF all end a line.
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
    use super::*;

    #[test]
    fn a_text_with_several_lines_is_one_event() {
        let mut out = BytesMut::new();
        event(&mut out, |out| out.put_slice(b"{\n\"a\":1,\r\n\"b\":2\r}"));
        event(&mut out, |_| ());
        event(&mut out, |out| out.put_slice(b"{}"));
        let expected = "data: {\ndata: \"a\":1,\ndata: \"b\":2\ndata: }\n\ndata: {}\n\n";
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn cursors_are_one_id() {
        let mut out = BytesMut::new();
        cursors(&mut out, &[StreamId::new(7, 1), StreamId::ZERO]);
        assert_eq!(&out[..], b"id: 7-1,0-0\n\n");
    }
}
