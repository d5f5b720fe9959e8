//! Appends JSON to a buffer: any value in its serde form, and objects key by key where speed matters.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::model::StreamId;

/// Appends a value. Appends nothing if JSON cannot express it, which never happens for the types in this crate.
pub fn push_value(out: &mut BytesMut, value: &impl Serialize) {
    let start = out.len();
    if serde_json::to_writer(out.writer(), value).is_err() {
        out.truncate(start);
    }
}

/// An object being written; [`Object::end`] writes the closing brace.
#[derive(Debug)]
#[must_use = "the object is not closed before `end`"]
pub(crate) struct Object<'a> {
    out: &'a mut BytesMut,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Writes the opening brace.
    pub(crate) fn begin(out: &'a mut BytesMut) -> Self {
        out.put_u8(b'{');
        Self { out, empty: true }
    }

    /// Writes the closing brace.
    pub(crate) fn end(self) {
        self.out.put_u8(b'}');
    }

    /// Writes a key and returns the buffer for its value. Keys are constants: plain ASCII, not escaped.
    pub(crate) fn key(&mut self, key: &'static str) -> &mut BytesMut {
        if !self.empty {
            self.out.put_u8(b',');
        }
        self.empty = false;
        self.out.put_u8(b'"');
        self.out.put_slice(key.as_bytes());
        self.out.put_slice(b"\":");
        self.out
    }

    /// A string, escaped as needed.
    pub(crate) fn string(&mut self, key: &'static str, value: &str) {
        push_string(self.key(key), value);
    }

    /// JSON text, unchanged.
    pub(crate) fn raw(&mut self, key: &'static str, json: &str) {
        self.key(key).put_slice(json.as_bytes());
    }

    /// A whole number.
    pub(crate) fn number(&mut self, key: &'static str, value: u64) {
        push_number(self.key(key), value);
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &'static str, value: bool) {
        self.raw(key, if value { "true" } else { "false" });
    }

    /// A stream id.
    pub(crate) fn id(&mut self, key: &'static str, id: StreamId) {
        let out = self.key(key);
        out.put_u8(b'"');
        push_id(out, id);
        out.put_u8(b'"');
    }
}

/// Appends a JSON string with its quotes. Quotes, backslashes and control characters are escaped, nothing else.
fn push_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut plain_from = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.put_slice(&text.as_bytes()[plain_from..index]);
        push_escape(out, byte);
        plain_from = index + 1;
    }
    out.put_slice(&text.as_bytes()[plain_from..]);
    out.put_u8(b'"');
}

fn push_escape(out: &mut BytesMut, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.put_slice(b"\\\""),
        b'\\' => out.put_slice(b"\\\\"),
        b'\n' => out.put_slice(b"\\n"),
        b'\r' => out.put_slice(b"\\r"),
        b'\t' => out.put_slice(b"\\t"),
        _ => {
            out.put_slice(b"\\u00");
            out.put_u8(HEX[usize::from(byte >> 4)]);
            out.put_u8(HEX[usize::from(byte & 15)]);
        }
    }
}

/// Appends a number in decimal digits.
fn push_number(out: &mut BytesMut, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.put_slice(&digits[from..]);
}

/// Appends `<epoch>-<seq>`.
fn push_id(out: &mut BytesMut, id: StreamId) {
    push_number(out, id.epoch);
    out.put_u8(b'-');
    push_number(out, id.seq);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_read_back_as_they_were(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut out = BytesMut::new();
            push_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn numbers_read_back_as_they_were(value in any::<u64>()) {
            let mut out = BytesMut::new();
            push_number(&mut out, value);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), value.to_string());
        }
    }

    #[test]
    fn an_object_is_written_in_order() {
        let mut out = BytesMut::new();
        let mut object = Object::begin(&mut out);
        object.string("type", "x\"y");
        object.raw("echo", "1.50");
        object.id("cursor", StreamId::new(7, 0));
        object.boolean("complete", true);
        object.number("n", 2);
        object.end();
        let expected = r#"{"type":"x\"y","echo":1.50,"cursor":"7-0","complete":true,"n":2}"#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }
}
