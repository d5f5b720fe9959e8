//! How a connection ends, whatever its transport and whatever the reason. Never waits: the registry is told by a queue.

<<<<<<< HEAD
use serde_json::json;
=======
use std::time::Duration;
>>>>>>> 0749076 (Count connections by how long they last, and subscriptions by rule)

use super::state::Connection;
use crate::metrics::Disconnect;

/// Gives back everything that the connection holds.
pub(super) fn end(mut connection: Connection, cause: Disconnect) {
    let replica = connection.replica.clone();
    let handle = connection.handle.clone();
    // A transport that still has something to send has shut the outbox before.
    handle.outbox.shut(None, false);
    if replica.connections.remove(&handle) {
        replica.registry.closed(handle.session);
    }
    connection.subscriptions.clear(&handle);
    if let (Some(user), Some(bucket)) = (handle.user(), connection.user_bucket.take()) {
        replica.users.release(user, bucket);
    }
    if replica.hub.traces().are_active() {
        replica.hub.traces().closed(&handle.outbox, &json!({ "cause": cause.as_str() }));
    }
    replica.metrics.disconnects_total.of(cause).inc();
<<<<<<< HEAD
    handle.outbox.shared.figures.connections.dec();
=======
    connection.metrics.connections.dec();
    let age = Duration::from_millis(handle.age_ms(replica.uptime.now_ms()));
    connection.metrics.connection_duration_seconds.observe(age.as_secs_f64());
>>>>>>> 0749076 (Count connections by how long they last, and subscriptions by rule)
    tracing::debug!(connection_id = %handle.id, cause = cause.as_str(), "connection closed");
    drop(connection.permit);
}
