//! The standing of a topic among those without publications. Changed only under the lock of `unpublished`.

use super::turns::ReaderAddress;

/// The standing of a topic among those without publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum UnpublishedStanding {
    /// Not counted: it has publications, belongs to a user, or was unfollowed.
    #[default]
    Free,
    /// Counted for this address.
    Counted(ReaderAddress),
    /// There was no room for it; decided when its stream has been compared.
    OnTrial(ReaderAddress),
}
