//! An exclusive right to publish, held by one replica at a time. What a replica hands over in its turn is not stored once
//! that has ended by its own clock, nor after a publication of a later turn has reached the same server.

use std::time::Instant;

/// A replica's turn to publish under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The lease: one word.
    pub of: &'static str,
    /// Greater than that of every turn before.
    pub number: u64,
    /// When it ends unless it is renewed, by this replica's clock.
    pub until: Instant,
}

impl Turn {
    /// Whether it lasts as of `now`.
    #[must_use]
    pub fn lasts(&self, now: Instant) -> bool {
        now < self.until
    }
}
