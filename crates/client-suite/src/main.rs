//! `tickgate-client-suite`: plays a scripted gateway for a client that is given as a command, prints a table, and exits
//! with status 1 if a scenario fails.

use std::{collections::BTreeSet, process::ExitCode, thread::available_parallelism, time::Instant};

use clap::Parser;
use tickgate_client_suite::{RULES, SCENARIOS, Scenario, ScenarioOutcome, SuitePlan, play};

const EXAMPLES: &str = "\
Examples:
  tickgate-client-suite --list
  tickgate-client-suite --run 'node adapter.js'
  tickgate-client-suite --run 'python3 adapter.py' resume gap-in-replay

The command is started at least once for each scenario. docs/client-suite.md
describes what it reads and writes, docs/client.md what a client does. Scenarios
run concurrently; all of them take less than a minute on two cores.";

/// Test a client of Tickgate against a scripted gateway
#[derive(Debug, Parser)]
#[command(name = "tickgate-client-suite", version, after_help = EXAMPLES)]
struct Args {
    /// Scenarios to play; all if none is named
    scenarios: Vec<String>,
    /// The client: a program with its arguments
    #[arg(long, value_name = "CMD", required_unless_present = "list")]
    run: Option<String>,
    /// Print the scenarios and exit
    #[arg(long)]
    list: bool,
    /// Scenarios that run concurrently; by default four per core
    #[arg(long)]
    jobs: Option<usize>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let scenarios = match chosen(&args.scenarios) {
        Ok(scenarios) => scenarios,
        Err(unknown) => {
            eprintln!("no such scenario: {unknown}; --list prints them");
            return ExitCode::from(2);
        }
    };
    let Some(command) = args.run.filter(|_| !args.list) else {
        scenarios.iter().for_each(|scenario| println!("{}", row(scenario)));
        return ExitCode::SUCCESS;
    };
    let began = Instant::now();
    let jobs = args.jobs.unwrap_or_else(|| 4 * available_parallelism().map_or(1, usize::from));
    let plan = SuitePlan { command, scenarios, jobs };
    let outcomes = play(&plan, |outcome| eprint!("{}", if outcome.fault.is_some() { 'F' } else { '.' })).await;
    eprintln!();
    for outcome in &outcomes {
        let word = if outcome.fault.is_some() { "FAIL" } else { "ok" };
        println!("{word:<4} {:>5.1} s  {}", outcome.took.as_secs_f64(), row(outcome.scenario));
    }
    outcomes.iter().for_each(explain);
    let failed = outcomes.iter().filter(|outcome| outcome.fault.is_some());
    let rules: BTreeSet<_> = failed.clone().map(|outcome| outcome.scenario.rule).collect();
    let (failed, took) = (failed.count(), began.elapsed().as_secs_f64());
    if failed == 0 {
        println!("\nall {} scenarios passed in {took:.1} s", outcomes.len());
        return ExitCode::SUCCESS;
    }
    let rules: Vec<_> = rules.iter().map(u8::to_string).collect();
    println!("\n{failed} of {} scenarios failed in {took:.1} s: rules {}", outcomes.len(), rules.join(", "));
    ExitCode::FAILURE
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| SCENARIOS.iter().find(|scenario| scenario.name == name).ok_or_else(|| name.clone());
    names.iter().map(find).collect()
}

fn row(scenario: &Scenario) -> String {
    format!("{:<24} rule {:>2}  {}", scenario.name, scenario.rule, scenario.about)
}

/// Prints why a scenario failed, and what happened before.
fn explain(outcome: &ScenarioOutcome) {
    let (Some(fault), scenario) = (&outcome.fault, outcome.scenario) else { return };
    let title = RULES.iter().find(|rule| rule.number == scenario.rule).map_or("", |rule| rule.title);
    println!("\n{}: {}", scenario.name, scenario.about);
    println!("  rule {}: {title}", scenario.rule);
    println!("  expected: {}", fault.expected);
    println!("  got:      {}", fault.got);
    println!("  what happened (#0, #1 … are connections):");
    print!("{}", outcome.trace);
}
