//! A checker of the protocol by which the gateways keep what they acknowledged (docs/adr/0010): a model of servers,
//! gateways and clients, and a search of every order of events within a budget. README.md explains how to read it.
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    missing_debug_implementations,
    reason = "a model reads like the protocol on paper"
)]

pub mod epochs;
pub mod search;

use epochs::{Epochs, EventBudget, NOTHING, OmittedSafeguard};
use search::{SearchOutcome, StateLimits, search};

/// Bounds of one search.
#[derive(Debug)]
pub struct SearchBounds {
    pub name: &'static str,
    pub budget: EventBudget,
    pub clients: usize,
}

const fn scope(name: &'static str, clients: usize, budget: EventBudget) -> SearchBounds {
    SearchBounds { name, budget, clients }
}

/// The events of one run, in any order, at any point.
pub const SCOPES: &[SearchBounds] = &[
    scope("zone", 1, EventBudget { publish: 2, server: 2, crash: 1, leave: 1, ..NOTHING }),
    scope("two-clients", 2, EventBudget { publish: 3, server: 1, crash: 1, leave: 1, ..NOTHING }),
    scope("unknown", 1, EventBudget { publish: 3, unknown: 1, cut: 1, server: 1, crash: 1, leave: 1, ..NOTHING }),
    scope("failover", 1, EventBudget { publish: 2, promote: 1, server: 1, crash: 1, ..NOTHING }),
    scope("flip", 1, EventBudget { publish: 2, promote: 1, flip: 2, leave: 1, ..NOTHING }),
    scope("split", 1, EventBudget { publish: 2, promote: 1, flip: 1, crash: 1, order: 1, ..NOTHING }),
    scope("order", 1, EventBudget { publish: 2, promote: 1, flip: 2, order: 1, ..NOTHING }),
    scope("verdicts", 1, EventBudget { publish: 1, server: 1, crash: 1, del_gen: 1, leave: 1, ..NOTHING }),
    scope("newcomer", 1, EventBudget { publish: 1, start: 1, server: 1, crash: 2, ..NOTHING }),
    scope("newcomer-twice", 1, EventBudget { publish: 1, start: 1, server: 2, crash: 1, ..NOTHING }),
    scope("emptied", 1, EventBudget { publish: 1, start: 1, empty: 1, ..NOTHING }),
    scope("primaries", 1, EventBudget { publish: 1, promote: 1, flip: 1, lapse: 1, ..NOTHING }),
    scope("drain", 1, EventBudget { publish: 3, drain: 1, server: 1, ..NOTHING }),
    scope("lapse", 1, EventBudget { publish: 1, start: 1, lapse: 2, server: 1, crash: 1, ..NOTHING }),
    scope("frozen", 1, EventBudget { publish: 2, lapse: 1, server: 1, crash: 1, ..NOTHING }),
    scope("collide", 1, EventBudget { publish: 2, promote: 1, flip: 1, server: 1, order: 1, ..NOTHING }),
    scope("replaced-inside", 1, EventBudget { publish: 3, replace: 1, server: 1, leave: 1, ..NOTHING }),
    scope("removed", 1, EventBudget { publish: 2, del_stream: 1, del_gen: 1, server: 1, leave: 1, ..NOTHING }),
    scope("holes", 1, EventBudget { publish: 4, xdel: 1, trim: 1, server: 1, leave: 1, ..NOTHING }),
];

/// Safeguards that are left out, the scope in which that is detected, and within how many states.
pub const DEFECTS: &[(OmittedSafeguard, &str, usize)] = &[
    (OmittedSafeguard::NoConfirm, "newcomer", 500_000),
    (OmittedSafeguard::ListedIsConfirmed, "newcomer-twice", 2_500_000),
    (OmittedSafeguard::ConfirmByPresentOnly, "newcomer-twice", 3_000_000),
    (OmittedSafeguard::CountOrphans, "split", 200_000),
    (OmittedSafeguard::TrustDataset, "newcomer", 4_000_000),
    (OmittedSafeguard::CertForEver, "lapse", 10_000_000),
    (OmittedSafeguard::AckAfterLapse, "frozen", 200_000),
    (OmittedSafeguard::ForgetDropped, "newcomer", 15_000_000),
    (OmittedSafeguard::SameNameAgain, "frozen", 500_000),
    (OmittedSafeguard::DrainWithoutClaims, "drain", 50_000),
    (OmittedSafeguard::OnePrimary, "primaries", 200_000),
    (OmittedSafeguard::MeetAsKnown, "emptied", 200_000),
    (OmittedSafeguard::ForgetOpenBorder, "zone", 500_000),
    (OmittedSafeguard::VerdictsInRedisOnly, "verdicts", 100_000),
    (OmittedSafeguard::NoIdentityFence, "replaced-inside", 100_000),
    (OmittedSafeguard::PlainCounter, "collide", 1_000_000),
    (OmittedSafeguard::BeginAtGeneration, "removed", 100_000),
    (OmittedSafeguard::UnknownIsFirst, "removed", 500_000),
    (OmittedSafeguard::FirstStepOnly, "holes", 500_000),
    (OmittedSafeguard::NoTombstone, "holes", 100_000),
    (OmittedSafeguard::NoAnchor, "removed", 10_000_000),
];

/// The scope with that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static SearchBounds> {
    SCOPES.iter().find(|scope| scope.name == name)
}

/// Searches at most this many states of a scope, without one safeguard or with all.
#[must_use]
pub fn run(scope: &SearchBounds, defect: OmittedSafeguard, states: usize) -> SearchOutcome<epochs::ModelAction> {
    let model = Epochs { budget: scope.budget, clients: scope.clients, defect };
    search(&model, &StateLimits { depth: 60, states })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of states of each scope in the short form.
    const STATES: usize = 40_000;

    #[test]
    fn the_first_states_of_every_scope_have_no_violation() {
        for scope in SCOPES {
            let outcome = run(scope, OmittedSafeguard::None, STATES);
            assert!(outcome.violation.is_none(), "{}: {:?}", scope.name, outcome.violation);
        }
    }

    #[test]
    fn each_missing_safeguard_is_detected() {
        for (defect, name, states) in DEFECTS.iter().filter(|(.., states)| *states <= 200_000) {
            let outcome = run(named(name).expect("a scope"), *defect, *states);
            assert!(outcome.violation.is_some(), "{defect:?} does not show in {name}");
        }
    }
}
