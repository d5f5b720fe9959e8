//! When a token was issued, with the precision of the token.

/// The time of a token's `iat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuedAt {
    ms: u64,
    /// It is known to the millisecond, not only to the second.
    is_exact: bool,
}

impl IssuedAt {
    /// A token with a whole second: it was issued at some time in that second.
    #[must_use]
    pub const fn in_second(seconds: u64) -> Self {
        Self { ms: seconds.saturating_mul(1_000), is_exact: false }
    }

    /// A token with a fraction of a second.
    #[must_use]
    pub const fn at_ms(ms: u64) -> Self {
        Self { ms, is_exact: true }
    }

    /// The earliest possible time, in milliseconds since 1970.
    #[must_use]
    pub const fn earliest_ms(self) -> u64 {
        self.ms
    }

    /// The time in milliseconds since 1970, if the token is that precise.
    #[must_use]
    pub const fn exact_ms(self) -> Option<u64> {
        if self.is_exact { Some(self.ms) } else { None }
    }

    /// The second since 1970 in which it was issued.
    #[must_use]
    pub const fn second(self) -> u64 {
        self.ms / 1_000
    }

    /// Whether it may have been issued after this moment, because its time is not precise enough to decide.
    #[must_use]
    pub const fn may_be_later_than(self, ms: u64) -> bool {
        !self.is_exact && self.ms <= ms && self.second() == ms / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_second_leaves_the_fraction_open() {
        let whole = IssuedAt::in_second(12);
        assert_eq!((whole.earliest_ms(), whole.second()), (12_000, 12));
        assert!(whole.may_be_later_than(12_000) && whole.may_be_later_than(12_999));
        assert!(!whole.may_be_later_than(13_000) && !whole.may_be_later_than(11_999));
        let exact = IssuedAt::at_ms(12_500);
        assert!(!exact.may_be_later_than(12_400) && !exact.may_be_later_than(12_600));
    }
}
