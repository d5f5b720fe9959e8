//! A log of what happened between a client and the scripted gateway, printed when a scenario fails.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write},
    rc::Rc,
    time::{Duration, Instant},
};

/// Maximum number of lines kept for a run, the newest ones.
const LINES_MAX: usize = 400;
/// Maximum number of characters of a line that are shown.
const CHARS_MAX: usize = 300;

/// Why a scenario failed.
#[derive(Clone, Debug)]
pub struct ScenarioFailure {
    /// What the rule requires.
    pub expected: String,
    /// What happened instead.
    pub got: String,
}

impl ScenarioFailure {
    pub(crate) fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into() }
    }
}

/// The result of a step of a scenario.
pub(crate) type StepResult<T = ()> = Result<T, ScenarioFailure>;

/// A shared log with times.
#[derive(Clone)]
pub(crate) struct EventLog {
    began: Instant,
    lines: Rc<RefCell<Vec<(Duration, String)>>>,
    failed: Rc<Cell<bool>>,
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("lines", &self.lines.borrow().len()).finish()
    }
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Rc::default(), failed: Rc::default() }
    }

    pub(crate) fn note(&self, at: Instant, line: &str) {
        let mut lines = self.lines.borrow_mut();
        if lines.len() == LINES_MAX {
            lines.remove(0);
        }
        lines.push((at.saturating_duration_since(self.began), shortened(line)));
    }

    /// Marks the run in which the scenario failed.
    pub(crate) fn fail(&self) {
        self.failed.set(true);
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }

    /// All lines, ordered by time.
    pub(crate) fn text(&self) -> String {
        let mut lines = self.lines.borrow().clone();
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().fold(String::new(), |mut text, (at, line)| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "    {:>8.3} s  {line}", at.as_secs_f64());
            text
        })
    }
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}… ({} bytes)", &line[..at], line.len()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_shortened_and_the_order_is_that_of_the_times() {
        let trace = EventLog::new();
        let now = Instant::now();
        trace.note(now + Duration::from_secs(2), &"é".repeat(400));
        trace.note(now + Duration::from_secs(1), "first");
        let text = trace.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with("first") && lines[1].ends_with("é… (800 bytes)"), "{text}");
    }
}
