//! API responses when Redis refuses or is unreachable.

use std::time::Duration;

use tickgate_wire::code::ProblemKind;

use crate::{
    backplane::{self, Refusal},
    problem::Problem,
    registry,
};

/// A publication that was certainly not stored.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(ProblemKind::TryAgainLater, format!("the publication was not stored: {refusal}"))
            .retry_after(Duration::from_secs(refusal_wait_secs(refusal)))
    }
}

/// Typical duration of each refusal, in seconds: a full queue drains at once, loading takes a while, and full memory or
/// a full disk needs an operator.
const fn refusal_wait_secs(refusal: Refusal) -> u64 {
    match refusal {
        Refusal::Overloaded
        | Refusal::Busy
        | Refusal::Disconnected
        | Refusal::NoReplicas
        | Refusal::Expired
        | Refusal::Superseded { .. } => 1,
        Refusal::Loading | Refusal::ReadOnly => 5,
        Refusal::OutOfMemory | Refusal::Disk | Refusal::Denied => 30,
    }
}

impl From<registry::Unavailable> for Problem {
    fn from(error: registry::Unavailable) -> Self {
        tracing::debug!(%error, "the registry did not respond to an API request");
        Self::new(ProblemKind::TryAgainLater, "the registry is unreachable").retry_after(Duration::from_secs(1))
    }
}

impl From<backplane::Unavailable> for Problem {
    fn from(error: backplane::Unavailable) -> Self {
        tracing::debug!(%error, "a stream could not be read for an API request");
        Self::new(ProblemKind::TryAgainLater, "the history is unavailable").retry_after(Duration::from_secs(1))
    }
}
