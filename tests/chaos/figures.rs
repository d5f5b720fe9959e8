//! The results of a run, as JSON for programs and as the tables of docs/guarantees.md.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::faults::{InjectedFault, PermittedEffect};

/// Times of one kind of fault.
#[derive(Default)]
pub struct FaultTimes {
    pub injected: usize,
    /// From its start until a replica counted it.
    pub noticed: Vec<Duration>,
    /// From its end until every client had everything.
    pub healed: Vec<Duration>,
    /// Gaps reported while it was the only fault.
    pub gaps: usize,
}

#[derive(Default)]
pub struct ChaosFigures {
    pub seed: u64,
    pub seconds: f64,
    pub faults: BTreeMap<InjectedFault, FaultTimes>,
    /// Faults with separate clients.
    pub specials: usize,
    pub accepted: usize,
    pub delivered: usize,
    pub refused: u64,
    pub unknown: u64,
    pub duplicates: u64,
    pub gaps: usize,
    pub connections: usize,
    pub lost: usize,
    pub repeated: usize,
    pub misordered: usize,
    pub other: usize,
    /// Time from the last fault until every client had everything.
    pub converged: Duration,
    /// Time from the kill of a replica until the counts were those of the living ones.
    pub counted: Duration,
}

impl ChaosFigures {
    pub fn row(&mut self, fault: InjectedFault) -> &mut FaultTimes {
        self.faults.entry(fault).or_default()
    }

    pub fn injected(&self) -> usize {
        self.specials + self.faults.values().map(|row| row.injected).sum::<usize>()
    }

    /// Classifies the violations.
    pub fn count(&mut self, violations: &[String]) {
        for violation in violations {
            let kind = |name: &str| violation.contains(name);
            let place = match () {
                () if kind("Lost(") || kind("Hole ") => &mut self.lost,
                () if kind("Repeated(") || kind("PublishedTwice") => &mut self.repeated,
                () if kind("Misordered") => &mut self.misordered,
                () => &mut self.other,
            };
            *place += 1;
        }
    }

    fn json(&self) -> Value {
        let faults = self.faults.iter().map(|(fault, row)| {
            json!({
                "fault": fault.text(),
                "injected": row.injected,
                "noticed_ms": { "p50": quantile(&row.noticed, 0.5), "p99": quantile(&row.noticed, 0.99) },
                "healed_ms": { "p50": quantile(&row.healed, 0.5), "p99": quantile(&row.healed, 0.99) },
                "gaps": row.gaps,
            })
        });
        let all =
            |of: fn(&FaultTimes) -> &Vec<Duration>| self.faults.values().flat_map(of).copied().collect::<Vec<_>>();
        let (noticed, healed) = (all(|row| &row.noticed), all(|row| &row.healed));
        json!({
            "seed": self.seed,
            "seconds": self.seconds,
            "faults_injected": self.injected(),
            "publications_accepted": self.accepted,
            "publications_refused_attempts": self.refused,
            "publications_unknown_attempts": self.unknown,
            "publications_deduplicated": self.duplicates,
            "deliveries": self.delivered,
            "connections": self.connections,
            "lost": self.lost,
            "repeated": self.repeated,
            "misordered": self.misordered,
            "other_violations": self.other,
            "gaps_told": self.gaps,
            "noticed_ms": { "p50": quantile(&noticed, 0.5), "p99": quantile(&noticed, 0.99) },
            "healed_ms": { "p50": quantile(&healed, 0.5), "p99": quantile(&healed, 0.99) },
            "converged_after_last_fault_ms": self.converged.as_millis(),
            "counts_right_after_kill_ms": self.counted.as_millis(),
            "by_fault": faults.collect::<Vec<_>>(),
        })
    }

    /// The table of docs/guarantees.md.
    pub fn table(&self) -> String {
        let mut table =
            String::from("| Fault | injected | noticed after | healed after | gaps |\n|---|---|---|---|---|\n");
        for (fault, row) in &self.faults {
            let (noticed, healed) = (shown(&row.noticed), shown(&row.healed));
            let gaps = if fault.effect() == PermittedEffect::Forgets { row.gaps.to_string() } else { "0".into() };
            let _ = writeln!(table, "| {} | {} | {noticed} | {healed} | {gaps} |", fault.text(), row.injected);
        }
        table
    }

    /// Writes both forms to the build directory.
    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).expect("a directory for the figures");
        let json = serde_json::to_string_pretty(&self.json()).expect("json");
        fs::write(dir.join("figures.json"), json).expect("the figures to be written");
        fs::write(dir.join("figures.md"), self.table()).expect("the table to be written");
    }

    /// One paragraph for people who run the suite.
    pub fn summary(&self) -> String {
        format!(
            "{} faults in {:.0} s: {} accepted, {} delivered, lost {}, repeated {}, misordered {}, other {}; {} gaps told; \
             converged {:?} after the last fault; counts right {:?} after a kill",
            self.injected(),
            self.seconds,
            self.accepted,
            self.delivered,
            self.lost,
            self.repeated,
            self.misordered,
            self.other,
            self.gaps,
            self.converged,
            self.counted,
        )
    }
}

fn quantile(times: &[Duration], part: f64) -> Option<u64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn shown(times: &[Duration]) -> String {
    match (quantile(times, 0.5), quantile(times, 0.99)) {
        (Some(half), Some(most)) if times.len() > 1 => format!("{half} ms, at most {most}"),
        (Some(half), _) => format!("{half} ms"),
        _ => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let times: Vec<_> = [5, 1, 3, 2, 4].map(Duration::from_millis).to_vec();
        assert_eq!((quantile(&times, 0.5), quantile(&times, 0.99)), (Some(3), Some(5)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
