//! Background tasks: named, counted, notified of the drain, and awaited at its end.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use pin_project_lite::pin_project;
use prometheus::Histogram;
use tokio::sync::watch;

#[cfg(feature = "simulation")]
pub use frozen::{SuspendableTask, Suspension};

/// Runs a short blocking operation (files) on a blocking thread. `None` if it panicked, which is logged.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    // Neither aborted nor awaited by the drain, because it is short.
    tokio::task::spawn_blocking(work).await.ok()
}

/// Spawns tasks and waits for them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    stop: watch::Sender<bool>,
    account: Arc<TaskStats>,
    /// The first vital task that panicked.
    broken: watch::Sender<Option<&'static str>>,
}

/// Statistics of all tasks.
#[derive(Debug)]
struct TaskStats {
    running: watch::Sender<usize>,
    /// How long each poll took, in seconds.
    polls: OnceLock<Histogram>,
    /// Whether the process of these tasks is suspended.
    #[cfg(feature = "simulation")]
    frost: Suspension,
}

/// Resolves when the replica stops.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits until the replica stops.
    pub async fn wait(&mut self) {
        // An error means that every `Tasks` was dropped, which also means the end.
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
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::timed_by(OnceLock::new())
    }

    fn timed_by(polls: OnceLock<Histogram>) -> Self {
        let account = Arc::new(TaskStats {
            running: watch::Sender::new(0),
            polls,
            #[cfg(feature = "simulation")]
            frost: Suspension::default(),
        });
        Self { stop: watch::Sender::new(false), account, broken: watch::Sender::new(None) }
    }

    /// From now on, measures how long each poll of a task occupies its worker, in seconds. A second call has no effect.
    pub fn time_polls(&self, polls: Histogram) {
        let _ = self.account.polls.set(polls);
    }

    /// A separate group of tasks, stopped and awaited on its own. A vital task in it is vital to the replica.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { broken: self.broken.clone(), ..Self::timed_by(self.account.polls.clone()) }
    }

    /// A handle that suspends these tasks, as if their process were stopped.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn frost(&self) -> Suspension {
        self.account.frost.clone()
    }

    /// The signal on which tasks end.
    #[must_use]
    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Runs a task that ends soon after [`Tasks::stop`] resolves. A panic in it is logged with its name, and ends
    /// nothing else.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.supervise(name, task, |_| {});
    }

    /// Runs a task that the replica requires: after a panic in it, [`Tasks::broken`] resolves and the replica ends.
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
            // `self` owns the sender, so the wait cannot fail.
            _ => std::future::pending().await,
        }
    }

    fn supervise<F, P>(&self, name: &'static str, task: F, panicked: P)
    where
        F: Future<Output = ()> + Send + 'static,
        P: FnOnce(&'static str) + Send + 'static,
    {
        let running = RunningGuard::enter(&self.account);
        // A panicked task leaves only the state of its own connection, which is dropped with it. Combinators, because
        // an `async` block would hold the task twice: captured and awaited.
        let supervised = AssertUnwindSafe(task).catch_unwind().map(move |ended| {
            if ended.is_err() {
                tracing::error!(task = name, "a task panicked");
                panicked(name);
            }
        });
        #[expect(clippy::disallowed_methods, reason = "the only place that spawns")]
        tokio::spawn(Timed { task: supervised, running });
    }

    /// Stops all tasks and waits for them, at most `grace`. Returns how many were still running.
    pub async fn end(&self, grace: Duration) -> usize {
        self.stop.send_replace(true);
        let mut running = self.account.running.subscribe();
        let _ = tokio::time::timeout(grace, running.wait_for(|count| *count == 0)).await;
        *running.borrow()
    }
}

/// Counts a task as running until it is dropped, even if it panics.
struct RunningGuard(Arc<TaskStats>);

impl RunningGuard {
    fn enter(account: &Arc<TaskStats>) -> Self {
        account.running.send_modify(|count| *count += 1);
        Self(account.clone())
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

pin_project! {
    /// A task whose polls are timed.
    struct Timed<F> {
        #[pin]
        task: F,
        running: RunningGuard,
    }
}

impl<F: Future<Output = ()>> Future for Timed<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timed = self.project();
        #[cfg(feature = "simulation")]
        if timed.running.0.frost.holds(cx) {
            return Poll::Pending;
        }
        let Some(polls) = timed.running.0.polls.get() else { return timed.task.poll(cx) };
        let began = Instant::now();
        let outcome = timed.task.poll(cx);
        polls.observe(began.elapsed().as_secs_f64());
        outcome
    }
}

#[cfg(feature = "simulation")]
mod frozen {
    use std::{
        pin::Pin,
        sync::Arc,
        task::{Context, Poll, Waker},
    };

    use parking_lot::Mutex;
    use pin_project_lite::pin_project;

    /// Simulates a process that can be suspended (SIGSTOP) and continued: while suspended, none of its tasks is polled.
    /// Cheap to clone.
    #[derive(Clone, Debug, Default)]
    pub struct Suspension(Arc<Mutex<Option<Vec<Waker>>>>);

    impl Suspension {
        /// Suspends the tasks, or continues them.
        pub fn set(&self, is_suspended: bool) {
            let waiting = std::mem::replace(&mut *self.0.lock(), is_suspended.then(Vec::new));
            waiting.into_iter().flatten().for_each(Waker::wake);
        }

        /// Wraps a task of that process.
        pub fn over<F: Future>(&self, task: F) -> SuspendableTask<F> {
            SuspendableTask { task, frost: self.clone() }
        }

        pub(super) fn holds(&self, cx: &Context<'_>) -> bool {
            let mut frost = self.0.lock();
            if let Some(waiting) = &mut *frost {
                waiting.push(cx.waker().clone());
            }
            frost.is_some()
        }
    }

    pin_project! {
        /// A task of a process that can be suspended.
        #[derive(Debug)]
        pub struct SuspendableTask<F> {
            #[pin]
            task: F,
            frost: Suspension,
        }
    }

    impl<F: Future> Future for SuspendableTask<F> {
        type Output = F::Output;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            let frozen = self.project();
            if frozen.frost.holds(cx) { Poll::Pending } else { frozen.task.poll(cx) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn polls_of_separate_groups_are_timed_as_well() {
        let polls = Histogram::with_opts(prometheus::HistogramOpts::new("polls", "polls")).unwrap();
        let tasks = Tasks::new();
        tasks.time_polls(polls.clone());
        tasks.spawn("yields", async { tokio::task::yield_now().await });
        tasks.apart().spawn("at once", async {});
        assert_eq!(tasks.end(Duration::from_secs(5)).await, 0);
        while polls.get_sample_count() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(polls.get_sample_count(), 3);
    }

    #[tokio::test]
    async fn only_a_panic_in_a_vital_task_breaks_the_replica() {
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
