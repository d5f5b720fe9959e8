//! Every background task: named, counted, told of the drain, awaited at its end.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::sync::watch;

/// Spawns tasks and waits for them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    stop: watch::Sender<bool>,
    running: watch::Sender<usize>,
}

/// Resolves when the replica stops.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits until the replica stops.
    pub async fn wait(&mut self) {
        // An error means that every `Tasks` is gone, which is an end too.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Whether the replica is stopping.
    #[must_use]
    pub fn stopping(&self) -> bool {
        *self.0.borrow()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    #[must_use]
    pub fn new() -> Self {
        Self { stop: watch::Sender::new(false), running: watch::Sender::new(0) }
    }

    /// The signal that tasks end on.
    #[must_use]
    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Runs a task that ends by itself soon after [`Tasks::stop`] resolves. A panic in it is logged with its name, and
    /// ends nothing else.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = Running::enter(&self.running);
        // What a panicked task leaves behind is its own connection's state, which goes with it.
        // Combinators: an `async` block would hold the task twice, as what it captured and as what it awaits.
        let supervised = AssertUnwindSafe(task).catch_unwind().map(move |ended| {
            if ended.is_err() {
                tracing::error!(task = name, "a task panicked");
            }
            drop(running);
        });
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        tokio::spawn(supervised);
    }

    /// Tells all tasks to end and waits for them, `grace` at the most. Returns how many were still running.
    pub async fn end(&self, grace: Duration) -> usize {
        self.stop.send_replace(true);
        let mut running = self.running.subscribe();
        let _ = tokio::time::timeout(grace, running.wait_for(|count| *count == 0)).await;
        *running.borrow()
    }
}

/// Counts a task as running for as long as it lives, also when it panics.
struct Running(watch::Sender<usize>);

impl Running {
    fn enter(running: &watch::Sender<usize>) -> Self {
        running.send_modify(|count| *count += 1);
        Self(running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
