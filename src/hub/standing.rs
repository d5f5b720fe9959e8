//! Where a topic stands among those that nobody has published to. Changed under the lock of `unpublished` only.

use super::turns::Reader;

/// Where a topic stands that nobody has published to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does not count: it is published to, a user's own, or gone.
    #[default]
    Free,
    /// It counts for this address.
    Counted(Reader),
    /// There was no room for it; what becomes of it is decided when its stream has been looked at.
    OnTrial(Reader),
}
