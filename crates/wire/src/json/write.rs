//! Appends JSON objects to a buffer, key by key. Never allocates besides the buffer.

use bytes::{BufMut, BytesMut};

use crate::{model::StreamId, time::Timestamp};

/// An object being written; the closing brace comes with [`Object::end`].
#[derive(Debug)]
#[must_use = "the object is not closed before `end`"]
pub struct Object<'a> {
    out: &'a mut BytesMut,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Writes the opening brace.
    pub fn begin(out: &'a mut BytesMut) -> Self {
        out.put_u8(b'{');
        Self { out, empty: true }
    }

    /// Writes the closing brace.
    pub fn end(self) {
        self.out.put_u8(b'}');
    }

    /// Writes a key and hands out the buffer for its value. Keys are ours: plain ASCII, not escaped.
    pub fn key(&mut self, key: &'static str) -> &mut BytesMut {
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
    pub fn string(&mut self, key: &'static str, value: &str) {
        push_string(self.key(key), value);
    }

    /// A string, or `null`.
    pub fn string_or_null(&mut self, key: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.string(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// JSON text as it is.
    pub fn raw(&mut self, key: &'static str, json: &str) {
        self.key(key).put_slice(json.as_bytes());
    }

    /// JSON text as it is, where there is one.
    pub fn raw_if(&mut self, key: &'static str, json: Option<&str>) {
        if let Some(json) = json {
            self.raw(key, json);
        }
    }

    /// A whole number.
    pub fn number(&mut self, key: &'static str, value: u64) {
        push_number(self.key(key), value);
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, value: bool) {
        self.raw(key, if value { "true" } else { "false" });
    }

    /// A time in milliseconds since 1970, as RFC 3339.
    pub fn time(&mut self, key: &'static str, ms: u64) {
        push_string(self.key(key), &Timestamp::from_ms(ms).to_string());
    }

    /// A stream id.
    pub fn id(&mut self, key: &'static str, id: StreamId) {
        let out = self.key(key);
        out.put_u8(b'"');
        push_id(out, id);
        out.put_u8(b'"');
    }

    /// A stream id, or `null`.
    pub fn id_or_null(&mut self, key: &'static str, id: Option<StreamId>) {
        match id {
            Some(id) => self.id(key, id),
            None => self.raw(key, "null"),
        }
    }

    /// An object within.
    pub fn object(&mut self, key: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        let mut object = Object::begin(self.key(key));
        write(&mut object);
        object.end();
    }

    /// An array with one object per item.
    pub fn objects<T>(&mut self, key: &'static str, items: &[T], mut write: impl FnMut(&mut Object<'_>, &T)) {
        let out = self.key(key);
        out.put_u8(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            let mut object = Object::begin(out);
            write(&mut object, item);
            object.end();
        }
        out.put_u8(b']');
    }

    /// An array of strings.
    pub fn strings<S: AsRef<str>>(&mut self, key: &'static str, items: &[S]) {
        let out = self.key(key);
        out.put_u8(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            push_string(out, item.as_ref());
        }
        out.put_u8(b']');
    }
}

/// Appends a JSON string with its quotes. Quotes, backslashes and control characters are escaped, nothing else.
pub fn push_string(out: &mut BytesMut, text: &str) {
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
pub(crate) fn push_number(out: &mut BytesMut, mut value: u64) {
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
pub(crate) fn push_id(out: &mut BytesMut, id: StreamId) {
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
        object.raw_if("none", None);
        object.id_or_null("cursor", Some(StreamId::new(7, 0)));
        object.id_or_null("before", None);
        object.boolean("complete", true);
        object.strings("names", &["a", "b"]);
        object.objects("list", &[1u64, 2], |object, n| object.number("n", *n));
        object.end();
        let expected = r#"{"type":"x\"y","cursor":"7-0","before":null,"complete":true,"names":["a","b"],"list":[{"n":1},{"n":2}]}"#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }
}
