//! How long each key of the registry lives, from the settings. Never without an end.

use super::{Inner, millis};

impl Inner {
    pub(super) fn session_ttl_ms(&self) -> u64 {
        millis(self.local.session.session_ttl)
    }

    /// Lease of a connection until it is in the index: no replica could sweep it, so it ends when a sweep would come.
    pub(super) fn admission_ttl_ms(&self) -> u64 {
        self.replica_ttl_ms().min(self.session_ttl_ms())
    }

    /// Life of a user's set after its last renewal: it outlives the leases in it.
    pub(super) fn member_ttl_ms(&self) -> u64 {
        self.session_ttl_ms() + 5_000
    }

    pub(super) fn replica_ttl_ms(&self) -> u64 {
        millis(self.local.session.replica_ttl)
    }

    pub(super) fn resume_ttl_ms(&self) -> u64 {
        millis(self.local.session.resume_ttl)
    }

    /// Life of a connected session's record: it outlives the lease by the resume window.
    pub(super) fn record_ttl_ms(&self) -> u64 {
        self.session_ttl_ms() + self.resume_ttl_ms()
    }

    /// Life of this replica's index after its last renewal: long enough for another replica to sweep by it, and no
    /// longer than the sessions' own leases make that useful.
    pub(super) fn index_ttl_ms(&self) -> u64 {
        self.session_ttl_ms() + self.replica_ttl_ms() * 3
    }
}
