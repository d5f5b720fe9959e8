//! Starts the runs of one scenario and keeps their traces.

use std::{cell::RefCell, rc::Rc, time::Instant};

use serde_json::Value;

use crate::{
    stage::SuiteRun,
    trace::{EventLog, StepResult},
};

/// Starts the runs of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    command: Rc<str>,
    traces: Rc<RefCell<Vec<EventLog>>>,
}

impl Suite {
    pub(crate) fn new(command: &str) -> Self {
        Self { command: command.into(), traces: Rc::default() }
    }

    /// Starts the client, with a bearer token and these channels.
    pub(crate) async fn start(&self, channels: Value) -> StepResult<SuiteRun> {
        self.start_with(channels, "bearer").await
    }

    pub(crate) async fn start_with(&self, channels: Value, auth: &str) -> StepResult<SuiteRun> {
        let trace = EventLog::new();
        self.traces.borrow_mut().push(trace.clone());
        trace.note(
            Instant::now(),
            &format!("suite: starts the client with TICKGATE_CHANNELS={channels}, TICKGATE_AUTH={auth}"),
        );
        SuiteRun::start(&self.command, &channels, auth, trace).await
    }

    /// The trace of the run that failed; of all runs if that is not known.
    pub(crate) fn trace(&self) -> String {
        let traces = self.traces.borrow();
        let failed: Vec<_> = traces.iter().filter(|trace| trace.failed()).collect();
        let shown = if failed.is_empty() { traces.iter().collect() } else { failed };
        shown.into_iter().map(EventLog::text).collect::<Vec<_>>().join("    --\n")
    }
}
