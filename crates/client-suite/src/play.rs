//! Runs scenarios concurrently, each with a time limit, and collects the results.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::{scenarios::Scenario, suite::Suite, trace::ScenarioFailure};

/// Time limit of a scenario.
const SCENARIO_TIMEOUT: Duration = Duration::from_secs(60);

/// What to play.
#[derive(Clone, Debug)]
pub struct SuitePlan {
    /// The command that starts the client: a program with its arguments, split by the shell.
    pub command: String,
    /// The scenarios, in the order of the result.
    pub scenarios: Vec<&'static Scenario>,
    /// Maximum number of concurrent scenarios.
    pub jobs: usize,
}

/// The result of a scenario.
#[derive(Debug)]
pub struct ScenarioOutcome {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Why it failed; `None` if it passed.
    pub fault: Option<ScenarioFailure>,
    /// What happened, one line per event; empty if it passed.
    pub trace: String,
    /// How long it took.
    pub took: Duration,
}

/// Plays the scenarios; `done` is called with each as it ends.
pub async fn play(plan: &SuitePlan, mut done: impl FnMut(&ScenarioOutcome)) -> Vec<ScenarioOutcome> {
    let running = stream::iter(plan.scenarios.iter().enumerate())
        .map(async |(at, scenario)| (at, outcome(&plan.command, scenario).await))
        .buffer_unordered(plan.jobs.max(1));
    let mut outcomes: Vec<_> = running.inspect(|(_, outcome)| done(outcome)).collect().await;
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

async fn outcome(command: &str, scenario: &'static Scenario) -> ScenarioOutcome {
    let suite = Suite::new(command);
    let began = Instant::now();
    let result = timeout(SCENARIO_TIMEOUT, (scenario.script)(suite.clone())).await;
    let late = || Err(ScenarioFailure::new(format!("the scenario ends within {SCENARIO_TIMEOUT:?}"), "it did not"));
    let fault = result.unwrap_or_else(|_| late()).err();
    let trace = if fault.is_some() { suite.trace() } else { String::new() };
    ScenarioOutcome { scenario, fault, trace, took: began.elapsed() }
}
