//! The search: traces from seeds, and all traces over a small alphabet; a failing trace is shrunk to the fewest steps
//! that still fail in the same way.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    judge::{FaultKind, LossFault},
    net,
    step::{KeptData, Old, SimStep},
    world::{Played, play},
};

/// A failing trace and its faults.
#[derive(Clone, Debug)]
pub struct FoundFailure {
    pub seed: u64,
    pub steps: Vec<SimStep>,
    pub fault: LossFault,
    pub told: String,
}

impl FoundFailure {
    pub fn tell(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(ToString::to_string).collect();
        let LossFault { kind, text } = &self.fault;
        format!("{kind:?} (seed {}): {text}\n    {}\n{}", self.seed, steps.join("\n    "), self.told)
    }

    /// Identifies the fault independently of the seed: its kind, and the kinds of its steps.
    pub fn signature(&self) -> (FaultKind, BTreeSet<String>) {
        (self.fault.kind, self.steps.iter().filter(|step| !is_ordinary(step)).map(name).collect())
    }
}

/// Steps that are part of every trace.
fn is_ordinary(step: &SimStep) -> bool {
    matches!(step, SimStep::Wait(_) | SimStep::Publish { .. } | SimStep::Connect { .. } | SimStep::Leave { .. })
}

/// The kind of a step.
fn name(step: &SimStep) -> String {
    if let SimStep::BeginOther { rules: true, .. } = step {
        return "BeginOtherRules".to_owned();
    }
    step.to_string().split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct Survey {
    pub runs: u64,
    pub steps: u64,
    pub seconds: f64,
    /// One shrunk trace per signature, in the order of discovery.
    pub found: Vec<FoundFailure>,
}

impl Survey {
    pub fn tell(&self) -> String {
        let Self { runs, steps, seconds, found } = self;
        format!("{steps} steps in {runs} runs, {:.0} steps a second; {} found", *steps as f64 / seconds, found.len())
    }
}

/// When a search without a last trace ends.
#[derive(Clone, Copy, Debug)]
pub struct SearchLimits {
    pub time: Duration,
    pub steps: u64,
}

/// How often a long search reports its progress.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Plays traces from the given number on, until there are no more, or a limit is reached. A fault is known if the steps
/// of a known signature reproduce it.
pub fn survey(
    threads: u64,
    from: u64,
    limits: SearchLimits,
    trace: impl Fn(u64) -> Option<Option<Vec<SimStep>>> + Sync,
) -> Survey {
    let (begun, next, over) = (Instant::now(), AtomicU64::new(from), AtomicBool::new(false));
    let told = AtomicU64::new(1);
    let (runs, steps) = (AtomicU64::new(0), AtomicU64::new(0));
    let known = Mutex::new((BTreeSet::new(), Vec::new()));
    let look = |seed: u64, trace: &[SimStep]| {
        let Played { faults, told } = play(seed, trace);
        for fault in faults {
            let rough = FoundFailure { seed, steps: trace.to_vec(), fault, told: told.clone() };
            let (kind, names) = rough.signature();
            let within = |(other, set): &&(FaultKind, BTreeSet<String>)| *other == kind && set.is_subset(&names);
            let candidates: Vec<_> = known.lock().0.iter().filter(within).map(|(_, set)| set.clone()).collect();
            let is_enough = |set: &BTreeSet<String>| {
                let steps: Vec<_> =
                    trace.iter().filter(|step| is_ordinary(step) || set.contains(&name(step))).copied().collect();
                steps.len() == trace.len() || try_out(seed, &steps, Some(kind)).is_some()
            };
            if candidates.iter().any(is_enough) {
                continue;
            }
            let shrunk = shrink(&rough);
            let mut known = known.lock();
            if known.0.insert(shrunk.signature()) {
                known.1.push(shrunk);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let played = steps.load(Ordering::Relaxed);
                    if begun.elapsed() >= limits.time || played >= limits.steps {
                        break;
                    }
                    let times = told.load(Ordering::Relaxed);
                    if begun.elapsed() >= TOLD_EVERY * u32::try_from(times).expect("a few")
                        && told.compare_exchange(times, times + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                    {
                        let found = known.lock().1.len();
                        eprintln!(
                            "{times} min: {played} steps, up to trace {}, {found} found",
                            next.load(Ordering::Relaxed)
                        );
                    }
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match trace(number) {
                        None => over.store(true, Ordering::Relaxed),
                        Some(None) => {}
                        Some(Some(trace)) => {
                            runs.fetch_add(1, Ordering::Relaxed);
                            steps.fetch_add(trace.len() as u64, Ordering::Relaxed);
                            look(number, &trace);
                        }
                    }
                }
            });
        }
    });
    let (runs, steps) = (runs.into_inner(), steps.into_inner());
    Survey { runs, steps, seconds: begun.elapsed().as_secs_f64(), found: known.into_inner().1 }
}

/// Plays a trace. Returns its fault of the given kind, or its worst one.
pub fn try_out(seed: u64, steps: &[SimStep], kind: Option<FaultKind>) -> Option<FoundFailure> {
    let Played { faults, told } = play(seed, steps);
    let fault = faults.into_iter().find(|fault| kind.is_none_or(|kind| fault.kind == kind))?;
    Some(FoundFailure { seed, steps: steps.to_vec(), fault, told })
}

/// The fewest steps that fail in the same way: halves are removed first, then quarters, then single steps, until none
/// can be removed; then each step is simplified.
pub fn shrink(found: &FoundFailure) -> FoundFailure {
    let mut best = found.clone();
    let fails = |steps: &[SimStep]| try_out(found.seed, steps, Some(found.fault.kind));
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let (mut at, mut is_smaller) = (0, false);
        while at < best.steps.len() {
            let mut steps = best.steps.clone();
            steps.drain(at..(at + size).min(steps.len()));
            match fails(&steps) {
                Some(smaller) => (best, is_smaller) = (smaller, true),
                None => at += size,
            }
        }
        if size > 1 || !is_smaller {
            size /= 2;
        }
    }
    for at in 0..best.steps.len() {
        for simpler in simpler(best.steps[at]) {
            let mut steps = best.steps.clone();
            steps[at] = simpler;
            if let Some(other) = fails(&steps) {
                best = other;
                break;
            }
        }
    }
    best
}

/// Simpler variants of a step.
fn simpler(step: SimStep) -> Vec<SimStep> {
    match step {
        SimStep::Crash { machine, keep } => {
            let simpler =
                [KeptData::All, KeptData::But(1), KeptData::Nothing].into_iter().filter(|other| *other < keep);
            simpler.map(|keep| SimStep::Crash { machine, keep }).collect()
        }
        SimStep::Start { machine, keep } if keep != KeptData::All => {
            vec![SimStep::Start { machine, keep: KeptData::All }]
        }
        SimStep::Promote { machine, old } if old != Old::Down => vec![SimStep::Promote { machine, old: Old::Down }],
        SimStep::Publish { gateway, topic } => {
            let simpler = [(0, 0), (0, topic), (gateway, 0)].into_iter().filter(|other| *other != (gateway, topic));
            simpler.map(|(gateway, topic)| SimStep::Publish { gateway, topic }).collect()
        }
        SimStep::Once { gateway, topic } => vec![SimStep::Publish { gateway, topic }],
        SimStep::TakeOver { client, gateway } => vec![SimStep::Connect { client, gateway }],
        SimStep::Connect { client, gateway: 1 } => vec![SimStep::Connect { client, gateway: 0 }],
        SimStep::Xdel { topic, at } if at > 0 => vec![SimStep::Xdel { topic, at: 0 }],
        SimStep::Lead { gateway, kind: None, machine, cut } => {
            let kinds = net::ConnectionKind::ALL.into_iter();
            kinds.map(|kind| SimStep::Lead { gateway, kind: Some(kind), machine, cut }).collect()
        }
        _ => Vec::new(),
    }
}
