//! What the API answers while Redis refuses or can't be reached.

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

/// How long each refusal usually lasts, in seconds: a full queue drains at once, a data set loads for a while, a full
/// memory or disk needs a person.
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
        tracing::debug!(%error, "the registry did not answer an api request");
        Self::new(ProblemKind::TryAgainLater, "the registry can't be reached now").retry_after(Duration::from_secs(1))
    }
}

impl From<backplane::Unavailable> for Problem {
    fn from(error: backplane::Unavailable) -> Self {
        tracing::debug!(%error, "a stream could not be read for an api request");
        Self::new(ProblemKind::TryAgainLater, "the history can't be read now").retry_after(Duration::from_secs(1))
    }
}
