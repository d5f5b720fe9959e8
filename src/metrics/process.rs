//! What the process says of itself: its build, its resources, its panics, and how busy its workers are. Never a
//! figure of a connection or topic.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::{IntGauge, Opts, Registry, process_collector::ProcessCollector};

use super::Metrics;
use crate::tasks::Stop;

/// The lines of the documentation for what is registered here under the gateway's own prefix.
#[cfg(test)]
pub(super) const BUILD_ROWS: [&str; 1] = [
    "| `tickgate_build_info` | gauge | `version`, `commit`, `rustc` | Always 1; the labels say what was built of what. |",
];

/// Time between two looks at the event loop.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// Registers the process and build metrics.
pub(super) fn register(registry: &Registry) {
    let build = Opts::new("tickgate_build_info", "Always 1; the labels say what was built of what.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("commit", option_env!("TICKGATE_COMMIT").unwrap_or("unknown"))
        .const_label("rustc", env!("TICKGATE_RUSTC"));
    let registered = IntGauge::with_opts(build).and_then(|gauge| {
        gauge.set(1);
        registry.register(Box::new(gauge))?;
        registry.register(Box::new(ProcessCollector::for_self()))
    });
    if let Err(error) = registered {
        tracing::warn!(%error, "process metrics are not exported");
    }
}

/// Counts every panic of the process from now on, and still reports it as before. Called once by a program; tests that
/// run several replicas in one process leave it.
pub fn count_panics(metrics: &Arc<Metrics>) {
    let panics = metrics.panics_total.clone();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        report(info);
    }));
}

/// Observes how late timers fire, until the replica stops.
pub async fn watch_event_loop(metrics: Arc<Metrics>, mut stop: Stop) {
    loop {
        let due = Instant::now() + LAG_INTERVAL;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = stop.wait() => return,
        }
        metrics.event_loop_lag_seconds.observe(due.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn the_event_loop_is_watched_until_the_stop() {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        tasks.spawn("event-loop-lag", watch_event_loop(Arc::clone(&metrics), tasks.stop()));
        while metrics.event_loop_lag_seconds.get_sample_count() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.end(Duration::from_secs(5)).await, 0);
    }
}
