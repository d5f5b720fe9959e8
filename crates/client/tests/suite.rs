//! The client against the suite for clients in any language: it passes, and with any one rule omitted it fails that
//! rule.
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]

use std::{collections::BTreeSet, fmt::Write};

use futures_util::{StreamExt, stream};
use tickgate_client::defect::OmittedRule;
use tickgate_client_suite::{RULES, SCENARIOS, ScenarioOutcome, SuitePlan, play};

const ADAPTER: &str = env!("CARGO_BIN_EXE_tickgate-client-adapter");
/// Number of scenarios that run at the same time.
const JOBS: usize = 24;

fn explained(outcome: &ScenarioOutcome) -> Option<String> {
    let fault = outcome.fault.as_ref()?;
    let mut text = format!("{:?}\n  expected: {}\n  got: {}\n", outcome.scenario, fault.expected, fault.got);
    write!(text, "{}", outcome.trace).unwrap();
    Some(text)
}

#[tokio::test]
async fn the_client_passes() {
    let plan = SuitePlan { command: ADAPTER.into(), scenarios: SCENARIOS.iter().collect(), jobs: JOBS };
    let outcomes = play(&plan, |_| ()).await;
    assert!(outcomes.len() >= 30, "only {} scenarios", outcomes.len());
    let faults: Vec<_> = outcomes.iter().filter_map(explained).collect();
    assert!(faults.is_empty(), "{} scenarios failed\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn each_rule_has_a_defect() {
    let rules: BTreeSet<_> = RULES.iter().map(|rule| rule.number).collect();
    assert_eq!(OmittedRule::ALL.iter().map(|(rule, _)| *rule).collect::<BTreeSet<_>>(), rules);
}

#[tokio::test]
async fn without_any_one_rule_it_fails_that_rule() {
    let passing = stream::iter(OmittedRule::ALL)
        .map(async |(rule, defect)| {
            let scenarios = SCENARIOS.iter().filter(|scenario| scenario.rule == *rule).collect();
            let command = format!("env TICKGATE_CLIENT_DEFECT={defect:?} {ADAPTER}");
            let outcomes = play(&SuitePlan { command, scenarios, jobs: JOBS }, |_| ()).await;
            outcomes.iter().all(|outcome| outcome.fault.is_none()).then(|| format!("rule {rule}: {defect:?}"))
        })
        .buffer_unordered(JOBS)
        .filter_map(async |passed| passed);
    let passing: Vec<_> = passing.collect().await;
    assert!(passing.is_empty(), "the suite does not notice\n{}", passing.join("\n"));
}
