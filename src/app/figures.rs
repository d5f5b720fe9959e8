//! Gauges that are sampled every few seconds instead of counted as they change. Never in a message's path.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::Topic;
use tokio::runtime::Handle;

use crate::{api::LiveFigures, connection::replica::Replica, tasks::Stop};

/// Time between two samples. Sampling costs less than a microsecond per connection.
const INTERVAL: Duration = Duration::from_secs(5);

/// Samples until the replica stops.
pub(super) async fn watch(replica: Arc<Replica>, mut stop: Stop) {
    let (runtime, metrics) = (Handle::current().metrics(), &replica.metrics);
    let busy = || (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum::<Duration>();
    let (mut since, mut busy_before) = (Instant::now(), busy());
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.wait() => return,
        }
        let (now, busy_now) = (Instant::now(), busy());
        let time = now.duration_since(since).as_secs_f64() * runtime.num_workers() as f64;
        metrics.runtime_busy_ratio.set(busy_now.saturating_sub(busy_before).as_secs_f64() / time);
        (since, busy_before) = (now, busy_now);
        metrics.runtime_tasks.set(gauge(runtime.num_alive_tasks()));
        metrics.runtime_queue_depth.set(gauge(runtime.global_queue_depth()));
        metrics.look_at_allocator();
        let lag = replica.hub.stream_lag().await;
        metrics.topics_behind.set(gauge(lag.topics));
        metrics.stream_lag_messages.set(i64::try_from(lag.messages_max).unwrap_or(i64::MAX));
        metrics.users.set(gauge(replica.users.len()));
        let (mut all, mut highest) = (0, 0);
        let visit = replica.connections.visit(|handle| {
            let waiting = handle.outbox.waiting_bytes();
            all += waiting;
            highest = highest.max(waiting);
        });
        visit.await;
        metrics.outbox_bytes.set(gauge(all));
        metrics.outbox_bytes_highest.set(gauge(highest));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What the API reports about this replica.
pub(super) struct OwnFigures(pub(super) Arc<Replica>);

impl LiveFigures for OwnFigures {
    fn connections(&self) -> usize {
        self.0.connections.len()
    }

    fn subscriptions(&self) -> usize {
        self.0.hub.subscriptions()
    }

    fn topics(&self) -> usize {
        self.0.hub.topics()
    }

    fn busiest(&self, limit: usize) -> Vec<(Topic, usize)> {
        self.0.hub.busiest(limit)
    }

    fn queue_wait(&self) -> Duration {
        self.0.hub.queue_wait()
    }
}
