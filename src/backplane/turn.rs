//! An exclusive right to publish, held by one replica at a time. A publication under it is not stored once the right
//! has expired by the replica's clock, or after a publication of a later turn reached the same server.

use std::time::Instant;

/// A replica's turn to publish under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTurn {
    /// The name of the lease: one word.
    pub of: &'static str,
    /// Greater than that of every earlier turn.
    pub number: u64,
    /// When it expires unless it is renewed, by this replica's clock.
    pub until: Instant,
}

impl LeaseTurn {
    /// Whether it is valid at `now`.
    #[must_use]
    pub fn lasts(&self, now: Instant) -> bool {
        now < self.until
    }
}
