//! Named figures, their medians over runs, and their formatting.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Figures reported as the worst value instead of the median.
const WORST: &[&str] = &["lost", "skipped", "disordered", "gaps"];
/// Columns of the table: name, heading.
const COLUMNS: &[(&str, &str)] = &[
    ("deliveries_per_s", "deliveries/s"),
    ("server_us_per_delivery", "µs/delivery"),
    ("redis_us_per_publish", "Redis µs/publish"),
    ("p50_ms", "p50 ms"),
    ("p90_ms", "p90"),
    ("p99_ms", "p99"),
    ("p999_ms", "p99.9"),
    ("max_ms", "max"),
    ("lost", "lost"),
    ("disordered", "out of order"),
    ("kib_per_connection", "KiB/conn."),
    ("writes_per_delivery", "writes/delivery"),
    ("calls_per_delivery", "calls/delivery"),
];

/// The measurements of one run of a workload, in insertion order. Units are in the names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunFigures(Vec<(&'static str, f64)>);

impl RunFigures {
    /// Adds a figure, or replaces it.
    pub(crate) fn set(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            _ if !value.is_finite() => {}
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// The median of each figure over runs; the worst if a median would hide a problem.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let Some(first) = runs.first() else { return Self::default() };
        let value = |name: &'static str| {
            let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(name)).collect();
            values.sort_by(f64::total_cmp);
            let at = if WORST.contains(&name) { values.len() - 1 } else { (values.len() - 1) / 2 };
            (name, values[at])
        };
        Self(first.0.iter().map(|(name, _)| value(name)).collect())
    }

    fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>())
    }
}

/// All runs of one workload.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadRuns {
    pub(crate) workload: &'static str,
    pub(crate) runs: Vec<RunFigures>,
}

impl WorkloadRuns {
    pub(crate) fn json(&self) -> Value {
        let runs: Vec<Value> = self.runs.iter().map(RunFigures::json).collect();
        json!({ "workload": self.workload, "median": RunFigures::median(&self.runs).json(), "runs": runs })
    }
}

/// A Markdown table: the usual figures in columns, all others in the last one.
pub(crate) fn table(outcomes: &[WorkloadRuns]) -> String {
    let mut text = String::from("| workload |");
    COLUMNS.iter().for_each(|(_, heading)| {
        let _ = write!(text, " {heading} |");
    });
    text.push_str(" also |\n|---|");
    text.push_str(&"--:|".repeat(COLUMNS.len()));
    text.push_str("---|\n");
    for outcome in outcomes {
        let median = RunFigures::median(&outcome.runs);
        let _ = write!(text, "| {} |", outcome.workload);
        for (name, _) in COLUMNS {
            let _ = write!(text, " {} |", median.get(name).map_or_else(|| "–".into(), number));
        }
        let others = median.0.iter().filter(|(name, value)| {
            COLUMNS.iter().all(|(column, _)| column != name) && !(WORST.contains(name) && *value == 0.0)
        });
        let others: Vec<String> = others.map(|(name, value)| format!("{name} {}", number(*value))).collect();
        let _ = writeln!(text, " {} |", others.join(", "));
    }
    text
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 999_500.0 => format!("{:.2} M", value / 1e6),
        size if size >= 9_995.0 => format!("{:.0} k", value / 1e3),
        size if size >= 99.5 => format!("{value:.0}"),
        size if size >= 9.95 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(p99_ms: f64, lost: f64) -> RunFigures {
        let mut figures = RunFigures::default();
        figures.set("p99_ms", p99_ms);
        figures.set("lost", lost);
        figures.set("nothing", f64::NAN);
        figures
    }

    #[test]
    fn medians_hide_an_outlier_but_not_a_loss() {
        let runs = [run(3.0, 0.0), run(90.0, 7.0), run(2.0, 0.0)];
        assert_eq!(RunFigures::median(&runs), run(3.0, 7.0));
        assert_eq!(RunFigures::median(&[]), RunFigures::default());
    }

    #[test]
    fn a_table_has_a_row_for_each_workload() {
        let mut figures = run(1.5, 0.0);
        figures.set("connects_per_s", 15_123.0);
        let table = table(&[WorkloadRuns { workload: "storm", runs: vec![figures] }]);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[2].starts_with("| storm | – |"), "{table}");
        assert!(rows[2].contains(" 1.50 |") && rows[2].ends_with("connects_per_s 15 k |"), "{table}");
        assert!(rows.iter().all(|row| row.matches('|').count() == COLUMNS.len() + 3), "{table}");
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 0.0123, 0.5, 12.34, 123.4, 1234.0, 12_345.0, 4_321_000.0].map(number).into();
        assert_eq!(shown, ["0", "0.012", "0.50", "12.3", "123", "1234", "12 k", "4.32 M"]);
    }
}
