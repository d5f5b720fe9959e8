//! Cuts a body that comes in chunks into numbered lines. Bounded: a line that is too long is skipped as it comes, never
//! kept.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder};

/// A line of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, empty lines included.
    pub(super) number: u64,
    /// Without its end; `None` when it was longer than allowed and skipped.
    pub(super) text: Option<Bytes>,
}

/// Takes chunks, returns lines. Empty lines are counted and left out.
#[derive(Debug)]
pub(super) struct LineCutter {
    waiting: BytesMut,
    codec: AnyDelimiterCodec,
    number: u64,
}

impl LineCutter {
    /// Lines longer than `line_bytes_max` are skipped.
    pub(super) fn new(line_bytes_max: usize) -> Self {
        let delimiter = || b"\n".to_vec();
        let codec = AnyDelimiterCodec::new_with_max_length(delimiter(), delimiter(), line_bytes_max);
        Self { waiting: BytesMut::new(), codec, number: 0 }
    }

    /// Takes the next chunk. All complete lines must have been taken out before.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.waiting.extend_from_slice(chunk);
    }

    /// The next complete line.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let cut = self.codec.decode(&mut self.waiting).transpose()?;
            if let Some(line) = self.numbered(cut) {
                return Some(line);
            }
        }
    }

    /// The last line, which needs no line end.
    pub(super) fn finish(&mut self) -> Option<Line> {
        let cut = self.codec.decode_eof(&mut self.waiting).transpose()?;
        self.numbered(cut)
    }

    fn numbered(&mut self, cut: Result<Bytes, AnyDelimiterCodecError>) -> Option<Line> {
        self.number += 1;
        let text = cut.ok();
        let is_empty = text.as_ref().is_some_and(|text| text.trim_ascii().is_empty());
        (!is_empty).then_some(Line { number: self.number, text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]], line_bytes_max: usize) -> Vec<(u64, Option<String>)> {
        let mut cutter = LineCutter::new(line_bytes_max);
        let mut lines = Vec::new();
        for chunk in chunks {
            cutter.push(chunk);
            lines.extend(std::iter::from_fn(|| cutter.next()));
            assert!(cutter.waiting.len() <= line_bytes_max);
        }
        lines.extend(cutter.finish());
        lines.into_iter().map(|line| (line.number, line.text.map(|t| String::from_utf8(t.to_vec()).unwrap()))).collect()
    }

    fn line(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn lines_are_found_across_chunks_and_the_last_needs_no_end() {
        assert_eq!(cut(&[b"a", b"b\nc", b"\n", b"d"], 9), [line(1, "ab"), line(2, "c"), line(3, "d")]);
        assert_eq!(cut(&[b"a\n"], 9), [line(1, "a")]);
        assert_eq!(cut(&[], 9), []);
    }

    #[test]
    fn empty_lines_are_counted_and_left_out() {
        assert_eq!(cut(&[b"\n\r\n a\n\n"], 9), [line(3, " a")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_the_next_one_is_read() {
        assert_eq!(cut(&[b"1234\n12345\nok\n"], 4), [line(1, "1234"), (2, None), line(3, "ok")]);
        assert_eq!(cut(&[b"123", b"456", b"789", b"\nok"], 4), [(1, None), line(2, "ok")]);
        assert_eq!(cut(&[b"12345678"], 4), [(1, None)]);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b'a')], 0..80),
            size in 1usize..9,
        ) {
            let chunks: Vec<_> = text.chunks(size).collect();
            prop_assert_eq!(cut(&chunks, 5), cut(&[&text], 5));
        }
    }
}
