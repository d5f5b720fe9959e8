//! Every background task: named, counted, told of the drain, awaited at its end.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::sync::watch;

/// Runs what blocks for a moment (files) off the threads that serve. `None` when it panicked, which is logged.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    // Not aborted and not awaited by the drain: it ends by itself.
    tokio::task::spawn_blocking(work).await.ok()
}

/// Spawns tasks and waits for them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    stop: watch::Sender<bool>,
    running: watch::Sender<usize>,
    /// The vital task that panicked first.
    broken: watch::Sender<Option<&'static str>>,
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
        Self { stop: watch::Sender::new(false), running: watch::Sender::new(0), broken: watch::Sender::new(None) }
    }

    /// Tasks that are stopped and awaited apart from these. A vital one among them is as vital as one of these.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { broken: self.broken.clone(), ..Self::new() }
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
        self.supervise(name, task, |_| {});
    }

    /// Runs a task that a replica can't do without: after a panic in it [`Tasks::broken`] resolves, and the replica ends.
    pub fn spawn_vital<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let broken = self.broken.clone();
        self.supervise(name, task, move |name| {
            broken.send_if_modified(|first| first.replace(first.unwrap_or(name)).is_none());
        });
    }

    /// Resolves with the name of the first vital task that panicked.
    pub async fn broken(&self) -> &'static str {
        let mut broken = self.broken.subscribe();
        match broken.wait_for(Option::is_some).await.map(|name| *name) {
            Ok(Some(name)) => name,
            // The sender is `self`, so the wait can't fail.
            _ => std::future::pending().await,
        }
    }

    fn supervise<F, P>(&self, name: &'static str, task: F, panicked: P)
    where
        F: Future<Output = ()> + Send + 'static,
        P: FnOnce(&'static str) + Send + 'static,
    {
        let running = Running::enter(&self.running);
        // What a panicked task leaves behind is its own connection's state, which goes with it.
        // Combinators: an `async` block would hold the task twice, as what it captured and as what it awaits.
        let supervised = AssertUnwindSafe(task).catch_unwind().map(move |ended| {
            if ended.is_err() {
                tracing::error!(task = name, "a task panicked");
                panicked(name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_breaks_the_replica_only_in_a_vital_task() {
        let tasks = Tasks::new();
        tasks.spawn("connection", async { panic!("on purpose") });
        assert_eq!(tasks.end(Duration::from_secs(5)).await, 0);
        assert!(futures_util::poll!(std::pin::pin!(tasks.broken())).is_pending());
        tasks.apart().spawn_vital("shard", async { panic!("on purpose") });
        assert_eq!(tasks.broken().await, "shard");
        tasks.spawn_vital("linger", async { panic!("on purpose") });
        assert_eq!(tasks.end(Duration::from_secs(5)).await, 0);
        assert_eq!(tasks.broken().await, "shard", "the first one is the cause");
    }
}
