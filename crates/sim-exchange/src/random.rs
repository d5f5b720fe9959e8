//! Random numbers from a seed: the same seed gives the same market. Never for secrets.

/// A generator of the splitmix64 kind.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True with this probability, between 0 and 1.
    pub(crate) fn happens(&mut self, share: f64) -> bool {
        ((self.next() >> 11) as f64 / (1_u64 << 53) as f64) < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_probabilities_hold() {
        let (mut one, mut other) = (SplitMix::new(7), SplitMix::new(7));
        assert!((0..100).all(|_| one.next() == other.next()));
        let happened = (0..10_000).filter(|_| one.happens(0.25)).count();
        assert!((2_300..2_700).contains(&happened), "{happened}");
        assert!((0..100).all(|_| one.below(3) < 3));
    }
}
