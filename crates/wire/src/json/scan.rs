//! Validation of JSON text in one pass: grammar, depth, duplicate keys, number range. Never builds a tree.
//!
//! Stricter than the grammar where parsers are known to differ: duplicate keys in one object (which one counts?), a
//! number beyond the range of a double (an error for some, infinity for others), half of a surrogate pair (not
//! representable in UTF-8).

use std::borrow::Cow;

use thiserror::Error;

/// Maximum nesting depth that any limit can allow; the scan recurses once per level.
const DEPTH_CAP: usize = 128;
/// Objects with at most this many keys are compared pairwise; larger ones are sorted.
const PAIRWISE_KEYS_MAX: usize = 12;

/// Why a text is not a valid JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JsonError {
    /// A syntax error.
    #[error("not JSON: {expected} expected at byte {at}")]
    Syntax {
        /// What the grammar allows there.
        expected: &'static str,
        /// The offset in the text, in bytes.
        at: usize,
    },
    /// A text frame must contain an object.
    #[error("a JSON object is expected, not {found}")]
    NotObject {
        /// The kind of value, such as `an array`.
        found: &'static str,
    },
    /// Text follows the object.
    #[error("one JSON object is expected, but more follows at byte {at}")]
    Trailing {
        /// The offset in the text, in bytes.
        at: usize,
    },
    /// Nested too deeply.
    #[error("JSON is nested deeper than {max} levels")]
    TooDeep {
        /// The maximum number of levels.
        max: usize,
    },
    /// A duplicate key in one object.
    #[error("a key appears twice in one object, the second time at byte {at}")]
    DuplicateKey {
        /// The offset of the second key, in bytes.
        at: usize,
    },
    /// Not representable as a double.
    #[error("the number at byte {at} is out of range")]
    NumberRange {
        /// The offset in the text, in bytes.
        at: usize,
    },
    /// Half of a surrogate pair.
    #[error("the escape at byte {at} is half of a surrogate pair")]
    LoneSurrogate {
        /// The offset in the text, in bytes.
        at: usize,
    },
}

/// Validates that `text` is exactly one JSON object, nested at most `depth_max` levels (the object itself is the
/// first), and calls `on_field` with each of its keys, unescaped, and the value as written.
///
/// # Errors
/// [`JsonError`] for the first error. `on_field` has been called for the fields before it.
pub fn scan_object<'a>(
    text: &'a str,
    depth_max: usize,
    mut on_field: impl FnMut(Cow<'a, str>, &'a str),
) -> Result<(), JsonError> {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0, keys: Vec::with_capacity(16), depth_max };
    scan.skip_blank();
    if scan.peek() != Some(b'{') {
        return Err(not_object(text, depth_max));
    }
    scan.object(1, &mut on_field)?;
    scan.skip_blank();
    if scan.at < text.len() { Err(JsonError::Trailing { at: scan.at }) } else { Ok(()) }
}

/// The kind of value that starts a JSON text, for messages: `a string`, `an array` …
#[must_use]
pub fn kind_of(text: &str) -> &'static str {
    match text.trim_start_matches(BLANKS).bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "text",
        None => "nothing",
    }
}

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// Distinguishes a JSON value that is not an object from text that is not JSON.
#[cold]
fn not_object(text: &str, depth_max: usize) -> JsonError {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0, keys: Vec::new(), depth_max };
    scan.skip_blank();
    match scan.value(1) {
        Ok(()) => JsonError::NotObject { found: kind_of(text) },
        Err(error) => error,
    }
}

/// A key in an object that is not closed yet.
struct ObjectKey<'a> {
    text: Cow<'a, str>,
    at: usize,
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Keys of all open objects, the innermost object's last.
    keys: Vec<ObjectKey<'a>>,
    depth_max: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn skip_blank(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(self.syntax(expected));
        }
        self.at += 1;
        Ok(())
    }

    #[cold]
    fn syntax(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { expected, at: self.at }
    }

    fn check_depth(&self, depth: usize) -> Result<(), JsonError> {
        let max = self.depth_max.min(DEPTH_CAP);
        if depth > max { Err(JsonError::TooDeep { max }) } else { Ok(()) }
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(depth, &mut |_, _| ()),
            Some(b'[') => self.array(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.syntax("a value")),
        }
    }

    fn object(&mut self, depth: usize, on_field: &mut impl FnMut(Cow<'a, str>, &'a str)) -> Result<(), JsonError> {
        self.check_depth(depth)?;
        self.at += 1;
        let first_key = self.keys.len();
        self.skip_blank();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key_at = self.at;
            let key = self.key()?;
            self.skip_blank();
            self.expect(b':', "a colon")?;
            self.skip_blank();
            let value_at = self.at;
            self.keys.push(ObjectKey { text: key.clone(), at: key_at });
            self.value(depth + 1)?;
            on_field(key, &self.text[value_at..self.at]);
            self.skip_blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.syntax("a comma or the end of the object")),
            }
            self.skip_blank();
        }
        self.at += 1;
        check_unique(&mut self.keys[first_key..])?;
        self.keys.truncate(first_key);
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.check_depth(depth)?;
        self.at += 1;
        self.skip_blank();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.skip_blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.syntax("a comma or the end of the array")),
            }
            self.skip_blank();
        }
        self.at += 1;
        Ok(())
    }

    fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("a key in quotes"));
        }
        let start = self.at;
        let escaped = self.string()?;
        let quoted = &self.text[start..self.at];
        if !escaped {
            return Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]));
        }
        serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| JsonError::Syntax { expected: "a key", at: start })
    }

    /// Skips a string; returns whether it contains escapes.
    fn string(&mut self) -> Result<bool, JsonError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            while self.bytes.get(self.at).is_some_and(|byte| PLAIN[usize::from(*byte)]) {
                self.at += 1;
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.syntax("an escaped control character")),
                None => return Err(self.syntax("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return Err(self.syntax("an escape sequence")),
        }
        match self.hex4()? {
            0xD800..=0xDBFF => {
                let pair = self.bytes[self.at..].starts_with(b"\\u");
                self.at += 1;
                if !pair || !matches!(self.hex4()?, 0xDC00..=0xDFFF) {
                    return Err(JsonError::LoneSurrogate { at: start });
                }
                Ok(())
            }
            0xDC00..=0xDFFF => Err(JsonError::LoneSurrogate { at: start }),
            _ => Ok(()),
        }
    }

    /// Parses the four digits after the `u` at `at`.
    fn hex4(&mut self) -> Result<u16, JsonError> {
        self.at += 1;
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        self.at += 4;
        code.ok_or(JsonError::Syntax { expected: "four hexadecimal digits", at: self.at - 4 })
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if exponent {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        // Without an exponent, only more than 308 digits can exceed the range of a double.
        let written = &self.text[start..self.at];
        if (exponent || written.len() > 308) && !written.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(JsonError::NumberRange { at: start });
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax("a digit")) } else { Ok(()) }
    }

    fn word(&mut self, word: &'static str) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax("true, false or null"));
        }
        self.at += word.len();
        Ok(())
    }
}

/// The bytes of a string that need no further check: all but quote, backslash and control characters.
static PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

/// Refuses an object with a duplicate key. Most objects are small; large ones are sorted, so that many keys cannot
/// cause quadratic time.
fn check_unique(keys: &mut [ObjectKey<'_>]) -> Result<(), JsonError> {
    if keys.len() <= PAIRWISE_KEYS_MAX {
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].iter().any(|before| before.text == key.text) {
                return Err(JsonError::DuplicateKey { at: key.at });
            }
        }
        return Ok(());
    }
    keys.sort_unstable_by(|a, b| a.text.cmp(&b.text).then(a.at.cmp(&b.at)));
    match keys.windows(2).find(|pair| pair[0].text == pair[1].text) {
        Some(pair) => Err(JsonError::DuplicateKey { at: pair[1].at }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) -> Result<(), JsonError> {
        scan_object(text, 32, |_, _| ())
    }

    #[test]
    fn fields_are_returned_as_written() {
        let mut fields = Vec::new();
        let text = r#" { "a" : 1.50 , "\u0062":[ {"c":1} ],"d":"x\"y" } "#;
        scan_object(text, 32, |key, value| fields.push((key.into_owned(), value))).unwrap();
        let expected = [("a", "1.50"), ("b", r#"[ {"c":1} ]"#), ("d", r#""x\"y""#)];
        assert_eq!(fields, expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn depth_includes_the_object_itself() {
        let nested = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert_eq!(check(&nested(32)), Ok(()));
        assert_eq!(check(&nested(33)), Err(JsonError::TooDeep { max: 32 }));
        assert_eq!(check(&nested(10_000)), Err(JsonError::TooDeep { max: 32 }));
        assert_eq!(check(&"[".repeat(100_000)), Err(JsonError::TooDeep { max: 32 }));
        assert_eq!(scan_object(&nested(5_000), usize::MAX, |_, _| ()), Err(JsonError::TooDeep { max: DEPTH_CAP }));
    }

    #[test]
    fn a_duplicate_key_is_found_however_it_is_escaped_and_however_many_keys_there_are() {
        assert_eq!(check(r#"{"a":1,"b":{"a":2},"\u0061":3}"#), Err(JsonError::DuplicateKey { at: 19 }));
        assert!(matches!(check(r#"{"x":[{"a":1,"a":2}]}"#), Err(JsonError::DuplicateKey { .. })));
        let many: Vec<_> = (0..5_000).map(|n| format!(r#""k{n}":{n}"#)).collect();
        assert_eq!(check(&format!("{{{}}}", many.join(","))), Ok(()));
        let twice = format!(r#"{{{},"k77":0}}"#, many.join(","));
        assert_eq!(check(&twice), Err(JsonError::DuplicateKey { at: twice.len() - 8 }));
    }

    #[test]
    fn numbers_stay_within_a_double() {
        for good in ["1e308", "-1.7976931348623157e308", "1e-400", "0.1", "-0", "12345678901234567890123", "0e400"] {
            assert_eq!(check(&format!(r#"{{"n":{good}}}"#)), Ok(()), "{good}");
        }
        for bad in ["1e400".to_owned(), "-1e400".to_owned(), "9".repeat(400), format!("{}.5", "9".repeat(310))] {
            assert_eq!(check(&format!(r#"{{"n":{bad}}}"#)), Err(JsonError::NumberRange { at: 5 }), "{bad}");
        }
    }

    #[test]
    fn a_value_that_is_not_an_object_is_named() {
        for (text, found) in [("[1]", "an array"), (" \"x\"", "a string"), ("3", "a number"), ("null", "null")] {
            assert_eq!(check(text), Err(JsonError::NotObject { found }), "{text}");
        }
        for text in
            ["", "   ", "hello", "{", "{]", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1,}"#, "{'a':1}", "nul", "\u{feff}{}"]
        {
            assert!(matches!(check(text), Err(JsonError::Syntax { .. })), "{text}");
        }
        assert_eq!(check("{} {}"), Err(JsonError::Trailing { at: 3 }));
    }

    #[test]
    fn strings_follow_the_grammar() {
        for good in [r"\u00e9", r"\ud83d\ude00", r"\u0000", r#"\"\\\/\b\f\n\r\t"#, "é😀"] {
            assert_eq!(check(&format!(r#"{{"s":"{good}"}}"#)), Ok(()), "{good}");
        }
        for bad in [r"\ud83d", r"\ude00", r"\ud83dx", r"\ud83d\u0041", r"\x", r"\u12", r"\u12é4", "\n", "\0", r"\"] {
            assert!(check(&format!(r#"{{"s":"{bad}"}}"#)).is_err(), "{bad}");
        }
    }

    /// Text similar to JSON: fragments that challenge a scanner, in any order.
    fn near_json() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"b\"",
            "\"a\":",
            "\"b\":1",
            "1",
            "-",
            "0",
            "01",
            ".5",
            "1.5",
            "e400",
            "1e400",
            "1e-400",
            "true",
            "false",
            "null",
            "nul",
            " ",
            "\n",
            "\\",
            "\\u0061",
            "\\ud800",
            "\"\\udc00\"",
            "é",
            "\u{0}",
            "{}",
            "[]",
            "{\"a\":1}",
        ]);
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1e300..1e300).prop_map(|n: f64| n.into()),
            ".*".prop_map(|s: String| s.into()),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(".{0,4}", inner, 0..6)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Where the scan is not deliberately stricter, it agrees with serde_json.
        #[test]
        fn agrees_with_serde_json(text in prop_oneof![near_json(), ".*", near_json().prop_map(|inner| format!("{{{inner}}}"))]) {
            let ours = scan_object(&text, 100, |_, _| ());
            let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            if !matches!(ours, Err(JsonError::DuplicateKey { .. })) {
                prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
            }
        }

        #[test]
        fn accepts_everything_that_serde_json_writes(value in any_json()) {
            let text = format!(r#"{{"value":{value}}}"#);
            let mut seen = None;
            prop_assert_eq!(scan_object(&text, 32, |_, value| seen = Some(value)), Ok(()));
            prop_assert_eq!(seen.unwrap(), value.to_string());
        }
    }
}
