//! Inputs derived from a corpus: cut, spliced, repeated, with words of the corpus in odd places. The same seed gives
//! the same inputs.

/// Bytes with a special meaning to parsers.
const BYTES: &[u8] = b"\0\x01\x7f\x80\x81\x82\x88\x89\x8a\xc0\xed\xf4\xfe\xff\"\\{}[]:,.*-_/@ \r\n\t%=&0919";
/// Numbers at the limits where parsers disagree.
const NUMBERS: &[&str] = &[
    "-1",
    "0",
    "1e400",
    "-0.0",
    "1e-400",
    "4294967296",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "253402300800",
];
const INPUT_BYTES_MAX: usize = 4_096;

pub(crate) struct Mutator<'a> {
    random: u64,
    corpus: &'a [Vec<u8>],
    /// Words that occur in the corpus.
    words: Vec<&'a [u8]>,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, corpus: &'a [Vec<u8>]) -> Self {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
        let words = corpus.iter().flat_map(|input| input.split(move |byte| !is_word(byte)));
        let mut words: Vec<_> = words.filter(|word| (1..40).contains(&word.len())).collect();
        words.sort_unstable();
        words.dedup();
        Self { random: seed | 1, corpus, words }
    }

    /// xorshift64*: short, and random enough.
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let drawn = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        drawn as usize % below.max(1)
    }

    fn any<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.draw(all.len())]
    }

    /// The next input.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let corpus = self.corpus;
        let chosen = self.draw(corpus.len());
        let mut input = corpus[chosen].clone();
        for _ in 0..=self.draw(6) {
            self.mutate(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.draw(input.len() + 1);
        let end = (at + self.draw(16)).min(input.len());
        match self.draw(9) {
            0 if at < input.len() => input[at] ^= 1 << self.draw(8),
            1 => {
                let byte = self.any(BYTES);
                input.insert(at, byte);
            }
            2 if at < input.len() => input[at] = self.any(BYTES),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].repeat(1 + self.draw(40));
                input.splice(at..at, piece);
            }
            5 if !self.words.is_empty() => {
                let drawn = self.draw(self.words.len());
                let word = self.words[drawn];
                input.splice(at..end, word.iter().copied());
            }
            6 => {
                let number = self.any(NUMBERS);
                input.splice(at..end, number.bytes());
            }
            7 => {
                let corpus = self.corpus;
                let other = &corpus[self.draw(corpus.len())];
                let from = self.draw(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
}
