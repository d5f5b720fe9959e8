//! The gateway's promise under whatever can go wrong, from seeds: no repeat, no disorder, and nothing missing without a
//! `gap` that covers it. The hub is the real one, with its outboxes; server, links, publisher and clients are simulated.
//!
//! A failing seed is printed. `TICKGATE_SIM_SEED=<seed> cargo test --test sim` plays it again, `TICKGATE_SIM_RUNS=<n>`
//! plays more of them.

#![recursion_limit = "256"]
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]

mod client;
mod oracle;
mod server;
mod stream;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tickgate::defect::Defect;
use tickgate_kit::dice;
use world::{Figures, Weather, play};

/// Seeds that once failed.
const REGRESSIONS: &[u64] = &[10_471, 20_828, 40_840, 114_259, 119_792];
/// Runs of the normal suite.
const RUNS: u64 = 2_000;
/// Runs within which a deliberate defect shows.
const DEFECT_RUNS: u64 = 200;

#[expect(clippy::disallowed_methods, reason = "a test's own knobs")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn nothing_is_ever_silently_wrong() {
    if let Some(seed) = knob("TICKGATE_SIM_SEED") {
        let played = play(seed, Weather::of(seed));
        match &played {
            Ok(figures) => println!("seed {seed}: {figures:?}"),
            Err(error) => println!("seed {seed}: {error}"),
        }
        assert!(played.is_ok(), "seed {seed} fails");
        return;
    }
    let runs = knob("TICKGATE_SIM_RUNS").unwrap_or(RUNS);
    let next = AtomicU64::new(0);
    let (figures, failures) = (Mutex::new(Figures::default()), Mutex::new(Vec::new()));
    let seeds = REGRESSIONS.len() as u64 + runs;
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= seeds {
                        return;
                    }
                    let seed = REGRESSIONS.get(at as usize).copied().unwrap_or_else(|| at - REGRESSIONS.len() as u64);
                    match play(seed, Weather::of(seed)) {
                        Ok(run) => figures.lock().add(&run),
                        Err(error) => failures.lock().push((seed, error)),
                    }
                }
            });
        }
    });
    let figures = figures.into_inner();
    println!("{seeds} runs: {figures:?}");
    let mut failures = failures.into_inner();
    failures.sort();
    if let Some((seed, error)) = failures.first() {
        let seeds: Vec<_> = failures.iter().map(|(seed, _)| seed).take(20).collect();
        panic!(
            "{} of {runs} runs failed: {seeds:?}\nTICKGATE_SIM_SEED={seed} cargo test --test sim\n{error}",
            failures.len()
        );
    }
    assert!(figures.seen.gaps > 0 && figures.seen.told > 0, "the weather was too fine to prove anything");
}

/// Plays until a defect shows.
fn shows(weather: impl Fn(u64) -> Weather) -> Option<(u64, String)> {
    (0..DEFECT_RUNS).find_map(|seed| play(seed, weather(seed)).err().map(|error| (seed, error)))
}

#[test]
fn each_deliberate_defect_shows() {
    for defect in [Defect::NoRepeatFilter, Defect::NoHoleCheck, Defect::NoCompare] {
        let shown = shows(|seed| Weather { defect: Some(defect), ..Weather::of(seed) });
        let (seed, error) = shown.unwrap_or_else(|| panic!("{defect:?} does not show"));
        println!("{defect:?} shows with seed {seed}: {}", error.lines().next().unwrap_or_default());
    }
    let shown = shows(|seed| Weather { blind: true, ..Weather::of(seed) });
    let (seed, error) = shown.expect("a gateway that does not know its servers apart loses messages");
    println!("no generation shows with seed {seed}: {}", error.lines().next().unwrap_or_default());
}

#[test]
fn a_seed_is_one_course_of_events() {
    for seed in 0..20 {
        let [first, second] = [0, 1].map(|_| format!("{:?}", play(seed, Weather::of(seed))));
        assert_eq!(first, second, "seed {seed}");
    }
}
