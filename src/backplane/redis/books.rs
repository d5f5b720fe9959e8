//! What the lanes of a shard and its verification share: the ledger, and the signal that claims wait.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ledger::Ledger;

/// What the lanes of a shard and its verification share.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) ledger: Mutex<Ledger>,
    pub(super) claimed: Notify,
}

impl Books {
    /// The server changed: what the one before acknowledged may be gone.
    pub(super) fn adopt(&self, generation: u64) {
        self.ledger.lock().adopt(generation, Instant::now());
        self.notify_claims();
    }

    /// Wakes the verification if something waits for it.
    pub(super) fn notify_claims(&self) {
        if !self.ledger.lock().claims.is_empty() {
            self.claimed.notify_one();
        }
    }
}
