//! The search for silent loss on the whole path: the real scripts on a model of Redis, and the real links, backplane,
//! hub and publisher, with time, randomness and connections controlled by a trace of steps.
//!
//! Every run plays the traces found earlier, which `found.md` describes. `just search` is the long form;
//! `TICKGATE_SEARCH_SEED` plays one seed again and shrinks its trace.
#![allow(clippy::disallowed_methods, reason = "what a run starts ends with its runtime")]
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]

mod client;
mod engine;
mod gateway;
mod judge;
mod known;
mod net;
mod places;
mod search;
mod step;
mod still;
mod world;

use std::time::Duration;

use search::{SearchLimits, Survey, shrink, survey, try_out};
use step::StepGroup;
use tickgate::defect::Defect;

/// Every run has a separate thread, for which the system allocator would create an arena page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Default maximum length of a random trace.
const STEPS_MAX: u64 = 24;
/// Default duration of each part of the search.
const SECONDS: u64 = 20;
/// Depth of the exhaustive search.
const DEPTH: usize = 6;
/// Number of random traces within which a deliberate defect must be found.
const DEFECT_RUNS: u64 = 60;

#[expect(clippy::disallowed_methods, reason = "a test's own knobs")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn knob(name: &str) -> Option<u64> {
    text(name).map(|value| value.parse().expect("a number"))
}

/// The groups of faults in `TICKGATE_SEARCH_GROUPS`, or all.
fn groups() -> Vec<StepGroup> {
    let named = |names: String| {
        let is_named = |group: &StepGroup| names.split(',').any(|name| name == format!("{group:?}"));
        StepGroup::ALL.into_iter().filter(is_named).collect()
    };
    text("TICKGATE_SEARCH_GROUPS").map_or(StepGroup::ALL.to_vec(), named)
}

fn random(seed: u64, groups: &[StepGroup]) -> Vec<step::SimStep> {
    step::random(seed, knob("TICKGATE_SEARCH_LENGTH").unwrap_or(STEPS_MAX), groups)
}

/// Searches until the configured limit.
fn search(trace: impl Fn(u64) -> Option<Option<Vec<step::SimStep>>> + Sync) -> Survey {
    let (seconds, total) = (knob("TICKGATE_SEARCH_SECONDS"), knob("TICKGATE_SEARCH_TOTAL"));
    let seconds = seconds.unwrap_or(if total.is_some() { u64::from(u32::MAX) } else { SECONDS });
    let limits = SearchLimits { time: Duration::from_secs(seconds), steps: total.unwrap_or(u64::MAX) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = knob("TICKGATE_SEARCH_THREADS").unwrap_or(threads);
    let survey = survey(threads, knob("TICKGATE_SEARCH_FROM").unwrap_or(0), limits, trace);
    println!("{}", survey.tell());
    survey.found.iter().for_each(|found| println!("{}", found.tell()));
    survey
}

#[test]
fn a_trace_is_deterministic() {
    for seed in 0..10 {
        let steps = random(seed, &StepGroup::ALL);
        let [first, second] = [0, 1].map(|_| world::play(seed, &steps));
        assert_eq!(first.told, second.told, "seed {seed}");
        assert_eq!(first.faults, second.faults, "seed {seed}");
    }
}

#[test]
fn nothing_is_ever_silently_wrong() {
    let groups = groups();
    if let Some(seed) = knob("TICKGATE_SEARCH_SEED") {
        if let Some(found) = try_out(seed, &random(seed, &groups), None) {
            println!("{}\nshrunk {}", found.tell(), shrink(&found).tell());
        }
        return;
    }
    let survey = search(|number| Some(Some(random(number, &groups))));
    assert!(survey.found.is_empty(), "{} traces fail", survey.found.len());
}

#[test]
fn no_short_trace_is_silently_wrong() {
    let survey = search(|number| step::numbered(number, DEPTH));
    assert!(survey.found.is_empty(), "{} traces of {DEPTH} steps fail", survey.found.len());
}

#[test]
fn a_deliberate_defect_is_found() {
    // Each with the groups whose steps lead to it. The fault suite covers those that need steps a trace does not have.
    let defects = [(Defect::NoRepeatFilter, StepGroup::ALL.as_slice()), (Defect::NoReport, &[StepGroup::Failover])];
    for (defect, groups) in defects {
        let finds = |seed: &u64| {
            let steps = random(*seed, groups);
            !world::play_with(Some(defect), *seed, &steps).faults.is_empty()
        };
        let seed = (0..DEFECT_RUNS).find(finds);
        println!("{defect:?}: found by seed {seed:?}");
        assert!(seed.is_some(), "{DEFECT_RUNS} traces do not find {defect:?}");
    }
}

#[test]
fn each_known_trace_behaves_as_described() {
    let told = include_str!("../found.md");
    let mut wrong = Vec::new();
    for (all, is_open) in [(known::OPEN, true), (known::MENDED, false)] {
        for known::KnownFailure { name, kind, seed, steps } in all {
            let played = world::play(*seed, steps);
            if played.faults.iter().any(|own| own.kind == *kind) != is_open {
                wrong.push(format!(
                    "{name}: {kind:?} was {}expected\n{}",
                    if is_open { "" } else { "not " },
                    played.told
                ));
            }
            if !told.contains(&format!("## {name}\n")) {
                wrong.push(format!("{name}: found.md does not tell of it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
