//! Runs the checker: `model`, `model <scope>`, `model defects`, `model defect <name>`.

use std::env;

use tickgate_model::{
    DEFECTS, SCOPES,
    epochs::{Epochs, OmittedSafeguard},
    named, run,
    search::print_trace,
};

/// Maximum number of states of one search: about 30 bytes each when visited, 1 KB each while pending.
const STATES_MAX: usize = 6_000_000;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => SCOPES.iter().for_each(|scope| tell(scope.name, OmittedSafeguard::None, STATES_MAX)),
        ["defects"] => DEFECTS.iter().for_each(|(defect, name, states)| tell(name, *defect, *states)),
        ["defect", wanted] => {
            let found = DEFECTS.iter().filter(|(defect, ..)| format!("{defect:?}") == wanted);
            found.for_each(|(defect, name, states)| tell(name, *defect, *states));
        }
        [name] if named(name).is_some() => tell(name, OmittedSafeguard::None, STATES_MAX),
        _ => eprintln!("model [SCOPE] | defects | defect NAME"),
    }
}

fn tell(name: &str, defect: OmittedSafeguard, states: usize) {
    let Some(scope) = named(name) else { return };
    let outcome = run(scope, defect, states);
    let verdict = match &outcome.violation {
        Some((what, _)) => what,
        None if outcome.complete => "nothing wrong, all states visited",
        None => "nothing wrong to that depth",
    };
    let left_out = if defect == OmittedSafeguard::None { String::new() } else { format!(" without {defect:?}") };
    println!(
        "{name}{left_out}: {} states, depth {}, {:.1} s: {verdict}",
        outcome.states, outcome.depth, outcome.seconds
    );
    if let Some((_, actions)) = &outcome.violation {
        print_trace(&Epochs { budget: scope.budget, clients: scope.clients, defect }, actions);
    }
}
