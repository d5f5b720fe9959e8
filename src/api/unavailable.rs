//! API responses when Redis refuses or is unreachable.

use std::time::Duration;

use tickgate_wire::code::ProblemKind;

use crate::{
    backplane::{self, PublishRefusal},
    problem::Problem,
    registry,
};

/// A publication that was certainly not stored.
impl From<PublishRefusal> for Problem {
    fn from(refusal: PublishRefusal) -> Self {
        Self::new(ProblemKind::TryAgainLater, format!("the publication was not stored: {refusal}"))
            .retry_after(Duration::from_secs(refusal_wait_secs(refusal)))
    }
}

/// Typical duration of each refusal, in seconds: a full queue drains at once, loading takes a while, and full memory or
/// a full disk needs an operator.
const fn refusal_wait_secs(refusal: PublishRefusal) -> u64 {
    match refusal {
        PublishRefusal::Overloaded
        | PublishRefusal::Busy
        | PublishRefusal::Disconnected
        | PublishRefusal::NoReplicas
        | PublishRefusal::Expired
        | PublishRefusal::Superseded { .. } => 1,
        PublishRefusal::Loading | PublishRefusal::ReadOnly => 5,
        PublishRefusal::OutOfMemory | PublishRefusal::Disk | PublishRefusal::Denied => 30,
    }
}

impl From<registry::RegistryUnavailable> for Problem {
    fn from(error: registry::RegistryUnavailable) -> Self {
        tracing::debug!(%error, "the registry did not respond to an API request");
        Self::new(ProblemKind::TryAgainLater, "the registry is unreachable").retry_after(Duration::from_secs(1))
    }
}

impl From<backplane::StreamUnavailable> for Problem {
    fn from(error: backplane::StreamUnavailable) -> Self {
        tracing::debug!(%error, "a stream could not be read for an API request");
        Self::new(ProblemKind::TryAgainLater, "the history is unavailable").retry_after(Duration::from_secs(1))
    }
}
