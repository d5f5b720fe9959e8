//! A saturating counter in half the size of a `usize`, because every connection has two. Never wraps.

use std::ops::{AddAssign, SubAssign};

/// A number of queued items; stays at `u32::MAX` once it is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount(u32);

impl Amount {
    pub(super) fn of(number: usize) -> Self {
        Self(u32::try_from(number).unwrap_or(u32::MAX))
    }

    pub(super) fn get(self) -> usize {
        self.0 as usize
    }

    /// Subtracts a number, saturating at zero.
    pub(super) fn take(&mut self, number: usize) {
        self.0 = self.0.saturating_sub(Self::of(number).0);
    }
}

impl AddAssign<usize> for Amount {
    fn add_assign(&mut self, number: usize) {
        self.0 = self.0.saturating_add(Self::of(number).0);
    }
}

impl SubAssign<usize> for Amount {
    fn sub_assign(&mut self, number: usize) {
        debug_assert!(self.get() >= number, "{number} of {self:?}");
        self.take(number);
    }
}
