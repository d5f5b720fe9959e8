//! Metrics of the process: its build, its resources, its panics, and how busy its workers are. Never about a connection
//! or topic.

use std::{
    sync::{Arc, Once, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{IntGauge, Opts, Registry};

use super::{Metrics, resources::Resources};
use crate::tasks::Stop;

/// The documentation lines of the metrics that are registered here with the gateway's prefix.
#[cfg(test)]
pub(super) const BUILD_ROWS: [&str; 1] =
    ["| `tickgate_build_info` | gauge | `version`, `commit`, `rustc` | Always 1; the labels identify the build. |"];

/// Time between two samples of the event loop.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// Registers the process and build metrics.
pub(super) fn register(registry: &Registry) {
    let build = Opts::new("tickgate_build_info", "Always 1; the labels identify the build.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("commit", option_env!("TICKGATE_COMMIT").unwrap_or("unknown"))
        .const_label("rustc", env!("TICKGATE_RUSTC"));
    let registered = IntGauge::with_opts(build).and_then(|gauge| {
        gauge.set(1);
        registry.register(Box::new(gauge))?;
        registry.register(Box::new(Resources::new()?))
    });
    if let Err(error) = registered {
        tracing::warn!(%error, "process metrics are not exported");
    }
}

/// The panic counters of this process: one per replica; tests run several replicas.
static COUNTING: Mutex<Vec<Weak<Metrics>>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// Counts every panic of the process from now on, as long as the metrics live; panics are also reported as before.
pub fn count_panics(metrics: &Arc<Metrics>) {
    let mut counting = COUNTING.lock();
    counting.retain(|metrics| metrics.strong_count() > 0);
    counting.push(Arc::downgrade(metrics));
    drop(counting);
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            for metrics in COUNTING.lock().iter().filter_map(Weak::upgrade) {
                metrics.panics_total.inc();
            }
            report(info);
        }));
    });
}

/// Measures how late timers fire, until the replica stops.
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

    #[test]
    fn every_live_replica_counts_the_panics_of_its_process() {
        let (one, other, gone) = (Metrics::new(), Metrics::new(), Metrics::new());
        for metrics in [&one, &other, &gone] {
            count_panics(metrics);
        }
        let left = Arc::downgrade(&gone);
        drop(gone);
        assert!(left.upgrade().is_none(), "the counter keeps nothing alive");
        let counts = || [one.panics_total.get(), other.panics_total.get()];
        let before = counts();
        assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err());
        // Other tests of this process may also panic on purpose.
        assert!(counts().iter().zip(before).all(|(after, before)| *after > before), "{before:?} {:?}", counts());
    }

    #[tokio::test]
    async fn the_event_loop_is_sampled_until_the_stop() {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        tasks.spawn("event-loop-lag", watch_event_loop(Arc::clone(&metrics), tasks.stop()));
        while metrics.event_loop_lag_seconds.get_sample_count() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.end(Duration::from_secs(5)).await, 0);
    }
}
