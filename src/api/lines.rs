//! Splits a chunked body into numbered lines. Bounded: a line that is too long is skipped, never buffered.
//!
//! Uses `memchr`, because every publication of a stream passes here: tokio-util's codecs examine byte by byte, which
//! costs 2 % of the CPU time of a publication.

use bytes::{Buf, Bytes, BytesMut};

/// One line of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InputLine {
    /// Counted from 1, empty lines included.
    pub(super) number: u64,
    /// Without the line end; `None` if it exceeded the maximum and was skipped.
    pub(super) text: Option<Bytes>,
}

/// Splits chunks into lines. Empty lines are counted but not returned.
#[derive(Debug)]
pub(super) struct LineCutter {
    waiting: BytesMut,
    /// Length of the prefix of `waiting` that contains no line end.
    searched: usize,
    line_bytes_max: usize,
    /// Whether the rest of an overlong line is being skipped.
    skipping: bool,
    number: u64,
}

impl LineCutter {
    /// Lines longer than `line_bytes_max` are skipped.
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self { waiting: BytesMut::new(), searched: 0, line_bytes_max, skipping: false, number: 0 }
    }

    /// Adds a chunk. All complete lines must have been taken out before.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.waiting.extend_from_slice(chunk);
    }

    /// The next complete line.
    pub(super) fn next(&mut self) -> Option<InputLine> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.waiting[self.searched..]) else {
                self.searched = self.waiting.len();
                if self.searched > self.line_bytes_max {
                    // Already too long: discard it and skip to its end.
                    self.skipping = true;
                    self.waiting.clear();
                    self.searched = 0;
                }
                return None;
            };
            let line = self.waiting.split_to(self.searched + end);
            self.waiting.advance(1);
            self.searched = 0;
            if let Some(line) = self.complete(line) {
                return Some(line);
            }
        }
    }

    /// The last line, which may have no line end.
    pub(super) fn finish(&mut self) -> Option<InputLine> {
        let rest = self.waiting.split();
        self.searched = 0;
        if rest.is_empty() && !self.skipping { None } else { self.complete(rest) }
    }

    fn complete(&mut self, line: BytesMut) -> Option<InputLine> {
        self.number += 1;
        let skipped = std::mem::take(&mut self.skipping) || line.len() > self.line_bytes_max;
        if skipped {
            return Some(InputLine { number: self.number, text: None });
        }
        (!line.trim_ascii().is_empty()).then(|| InputLine { number: self.number, text: Some(line.freeze()) })
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
    fn lines_are_found_across_chunks_and_the_last_needs_no_line_end() {
        assert_eq!(cut(&[b"a", b"b\nc", b"\n", b"d"], 9), [line(1, "ab"), line(2, "c"), line(3, "d")]);
        assert_eq!(cut(&[b"a\n"], 9), [line(1, "a")]);
        assert_eq!(cut(&[], 9), []);
    }

    #[test]
    fn empty_lines_are_counted_but_not_returned() {
        assert_eq!(cut(&[b"\n\r\n a\n\n"], 9), [line(3, " a")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_and_the_next_one_is_read() {
        assert_eq!(cut(&[b"1234\n12345\nok\n"], 4), [line(1, "1234"), (2, None), line(3, "ok")]);
        assert_eq!(cut(&[b"123", b"456", b"789", b"\nok"], 4), [(1, None), line(2, "ok")]);
        assert_eq!(cut(&[b"12345678"], 4), [(1, None)]);
    }

    proptest! {
        #[test]
        fn the_size_of_chunks_does_not_matter(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b'a')], 0..80),
            size in 1usize..9,
        ) {
            let chunks: Vec<_> = text.chunks(size).collect();
            prop_assert_eq!(cut(&chunks, 5), cut(&[&text], 5));
        }
    }
}
