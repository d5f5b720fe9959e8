//! The search: traces from seeds, and all traces over a small alphabet; a trace that fails is shrunk to the fewest steps
//! that still fail in the same way.

use crate::{
    judge::{Fault, Kind},
    step::{Keep, Step},
    world::{Played, play},
};

/// A trace that fails, and why.
#[derive(Clone, Debug)]
pub struct Found {
    pub seed: u64,
    pub steps: Vec<Step>,
    pub fault: Fault,
    pub told: String,
}

impl Found {
    pub fn tell(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(ToString::to_string).collect();
        format!(
            "{:?}: {} (seed {})\n  {}\n{}",
            self.fault.kind,
            self.fault.text,
            self.seed,
            steps.join("\n  "),
            self.told
        )
    }
}

/// Plays a trace; what it shows, if it fails.
pub fn try_out(seed: u64, steps: &[Step]) -> Option<Found> {
    let Played { verdict, told } = play(seed, steps);
    verdict.err().map(|fault| Found { seed, steps: steps.to_vec(), fault, told })
}

/// The fewest steps that fail in the same way: first halves are left out, then quarters, then single steps, until no
/// single one can be; then each step is made as simple as it can be.
pub fn shrink(found: &Found) -> Found {
    let mut best = found.clone();
    let fails = |steps: &[Step], kind: Kind| try_out(found.seed, steps).filter(|other| other.fault.kind == kind);
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut is_smaller = false;
        while at < best.steps.len() {
            let mut steps = best.steps.clone();
            steps.drain(at..(at + size).min(steps.len()));
            match fails(&steps, best.fault.kind) {
                Some(smaller) => (best, is_smaller) = (smaller, true),
                None => at += size,
            }
        }
        if size == 1 && is_smaller {
            continue;
        }
        size = if size == 1 { 0 } else { size.div_ceil(2).min(size - 1) };
    }
    for at in 0..best.steps.len() {
        for simpler in simpler(best.steps[at]) {
            let mut steps = best.steps.clone();
            steps[at] = simpler;
            if let Some(other) = fails(&steps, best.fault.kind) {
                best = other;
                break;
            }
        }
    }
    best
}

/// The same step with less in it.
fn simpler(step: Step) -> Vec<Step> {
    match step {
        Step::Crash { machine, keep } => {
            let simpler = [Keep::All, Keep::But(1), Keep::Nothing].into_iter().filter(|other| *other < keep);
            simpler.map(|keep| Step::Crash { machine, keep }).collect()
        }
        Step::Start { machine, keep } if keep != Keep::All => vec![Step::Start { machine, keep: Keep::All }],
        Step::Publish { gateway: 1, topic } => vec![Step::Publish { gateway: 0, topic }],
        Step::Connect { client, gateway: 1 } => vec![Step::Connect { client, gateway: 0 }],
        Step::Xdel { topic, at } if at > 0 => vec![Step::Xdel { topic, at: 0 }],
        Step::Lead { gateway, kind: None, machine, cut } => crate::net::Kind::ALL
            .into_iter()
            .map(|kind| Step::Lead { gateway, kind: Some(kind), machine, cut })
            .collect(),
        _ => Vec::new(),
    }
}
