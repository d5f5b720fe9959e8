//! The search for silent loss over the whole path: the real scripts on a model of Redis, the real links, backplane, hub and
//! publisher, with time, randomness and wires under the control of a trace of steps.
//!
//! `TICKGATE_SEARCH_SEED=<seed> cargo test --test search one` plays a seed again and shrinks it; `just search` is the long
//! form. `found.md` has what the search found, by its traces.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]

mod client;
mod engine;
mod gateway;
mod judge;
mod net;
mod search;
mod step;
mod still;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use judge::{Fault, Kind};
use parking_lot::Mutex;
use search::{Found, shrink, try_out};

#[expect(clippy::disallowed_methods, reason = "a test's own knobs")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Longest trace of the random search.
const STEPS_MAX: usize = 24;

#[test]
fn a_trace_is_one_course_of_events() {
    for seed in 0..20 {
        let steps = step::random(seed, STEPS_MAX);
        let [first, second] = [0, 1].map(|_| world::play(seed, &steps));
        assert_eq!(first.told, second.told, "seed {seed}");
        assert_eq!(first.faults, second.faults, "seed {seed}");
    }
}

#[test]
fn nothing_is_ever_silently_wrong() {
    if let Some(seed) = knob("TICKGATE_SEARCH_SEED") {
        if let Some(found) = try_out(seed, &step::random(seed, STEPS_MAX), None) {
            println!("{}", found.tell());
            println!("shrunk {}", shrink(&found).tell());
        }
        return;
    }
    let seconds = Duration::from_secs(knob("TICKGATE_SEARCH_SECONDS").unwrap_or(20));
    let from = knob("TICKGATE_SEARCH_FROM").unwrap_or(0);
    let (begun, next, steps) = (Instant::now(), AtomicU64::new(from), AtomicU64::new(0));
    let known = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..knob("TICKGATE_SEARCH_THREADS").unwrap_or(1) {
            scope.spawn(|| {
                while begun.elapsed() < seconds {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let trace = step::random(seed, STEPS_MAX);
                    steps.fetch_add(trace.len() as u64, Ordering::Relaxed);
                    for fault in world::play(seed, &trace).faults.into_iter().map(|fault| fault.kind) {
                        let rough =
                            Found { seed, steps: trace.clone(), fault: Fault::new(fault, ""), told: String::new() };
                        // One that has steps of a known kind is taken for known.
                        let is_new = |known: &BTreeMap<_, (u64, String)>| {
                            let (kind, names) = rough.signature();
                            !known.keys().any(|(other, set): &(Kind, BTreeSet<String>)| {
                                *other == kind && !set.is_empty() && set.is_subset(&names)
                            })
                        };
                        if !is_new(&known.lock()) {
                            continue;
                        }
                        let shrunk = shrink(&rough);
                        let mut known = known.lock();
                        if !known.contains_key(&shrunk.signature()) {
                            println!("{}", shrunk.tell());
                            known.insert(shrunk.signature(), (seed, String::new()));
                        }
                    }
                }
            });
        }
    });
    let (steps, runs) = (steps.into_inner(), next.into_inner() - from);
    println!("{steps} steps in {runs} runs, {:.0} steps per second", steps as f64 / begun.elapsed().as_secs_f64());
}
