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

use epochs::{Budget, Defect, Epochs, NOTHING};
use search::{Limits, Outcome, search};

/// Bounds of one search.
#[derive(Debug)]
pub struct Scope {
    pub name: &'static str,
    pub budget: Budget,
    pub clients: usize,
}

const fn scope(name: &'static str, clients: usize, budget: Budget) -> Scope {
    Scope { name, budget, clients }
}

/// The events of one run, in any order, at any point.
pub const SCOPES: &[Scope] = &[
    scope("zone", 1, Budget { publish: 2, server: 2, crash: 1, leave: 1, ..NOTHING }),
    scope("two-clients", 2, Budget { publish: 3, server: 1, crash: 1, leave: 1, ..NOTHING }),
    scope("unknown", 1, Budget { publish: 3, unknown: 1, cut: 1, server: 1, crash: 1, leave: 1, ..NOTHING }),
    scope("failover", 1, Budget { publish: 2, promote: 1, server: 1, crash: 1, ..NOTHING }),
    scope("flip", 1, Budget { publish: 2, promote: 1, flip: 2, leave: 1, ..NOTHING }),
    scope("split", 1, Budget { publish: 2, promote: 1, flip: 1, crash: 1, order: 1, ..NOTHING }),
    scope("order", 1, Budget { publish: 2, promote: 1, flip: 2, order: 1, ..NOTHING }),
    scope("verdicts", 1, Budget { publish: 1, server: 1, crash: 1, del_gen: 1, leave: 1, ..NOTHING }),
    scope("newcomer", 1, Budget { publish: 1, start: 1, server: 1, crash: 2, ..NOTHING }),
    scope("newcomer-twice", 1, Budget { publish: 1, start: 1, server: 2, crash: 1, ..NOTHING }),
    scope("emptied", 1, Budget { publish: 1, start: 1, empty: 1, ..NOTHING }),
    scope("primaries", 1, Budget { publish: 1, promote: 1, flip: 1, lapse: 1, ..NOTHING }),
    scope("drain", 1, Budget { publish: 3, drain: 1, server: 1, ..NOTHING }),
    scope("lapse", 1, Budget { publish: 1, start: 1, lapse: 2, server: 1, crash: 1, ..NOTHING }),
    scope("frozen", 1, Budget { publish: 2, lapse: 1, server: 1, crash: 1, ..NOTHING }),
    scope("collide", 1, Budget { publish: 2, promote: 1, flip: 1, server: 1, order: 1, ..NOTHING }),
    scope("replaced-inside", 1, Budget { publish: 3, replace: 1, server: 1, leave: 1, ..NOTHING }),
    scope("removed", 1, Budget { publish: 2, del_stream: 1, del_gen: 1, server: 1, leave: 1, ..NOTHING }),
    scope("holes", 1, Budget { publish: 4, xdel: 1, trim: 1, server: 1, leave: 1, ..NOTHING }),
];

/// Safeguards that are left out, the scope in which that is detected, and within how many states.
pub const DEFECTS: &[(Defect, &str, usize)] = &[
    (Defect::NoConfirm, "newcomer", 500_000),
    (Defect::ListedIsConfirmed, "newcomer-twice", 2_500_000),
    (Defect::ConfirmByPresentOnly, "newcomer-twice", 3_000_000),
    (Defect::CountOrphans, "split", 200_000),
    (Defect::TrustDataset, "newcomer", 4_000_000),
    (Defect::CertForEver, "lapse", 10_000_000),
    (Defect::AckAfterLapse, "frozen", 200_000),
    (Defect::ForgetDropped, "newcomer", 15_000_000),
    (Defect::SameNameAgain, "frozen", 500_000),
    (Defect::DrainWithoutClaims, "drain", 50_000),
    (Defect::OnePrimary, "primaries", 200_000),
    (Defect::MeetAsKnown, "emptied", 200_000),
    (Defect::ForgetOpenBorder, "zone", 500_000),
    (Defect::VerdictsInRedisOnly, "verdicts", 100_000),
    (Defect::NoIdentityFence, "replaced-inside", 100_000),
    (Defect::PlainCounter, "collide", 1_000_000),
    (Defect::BeginAtGeneration, "removed", 100_000),
    (Defect::UnknownIsFirst, "removed", 500_000),
    (Defect::FirstStepOnly, "holes", 500_000),
    (Defect::NoTombstone, "holes", 100_000),
    (Defect::NoAnchor, "removed", 10_000_000),
];

/// The scope with that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scope> {
    SCOPES.iter().find(|scope| scope.name == name)
}

/// Searches at most this many states of a scope, without one safeguard or with all.
#[must_use]
pub fn run(scope: &Scope, defect: Defect, states: usize) -> Outcome<epochs::Action> {
    let model = Epochs { budget: scope.budget, clients: scope.clients, defect };
    search(&model, &Limits { depth: 60, states })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of states of each scope in the short form.
    const STATES: usize = 40_000;

    #[test]
    fn the_first_states_of_every_scope_have_no_violation() {
        for scope in SCOPES {
            let outcome = run(scope, Defect::None, STATES);
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
