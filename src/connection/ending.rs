//! The end of a connection, for every transport and cause. Never waits: the registry is notified through a queue.

use std::time::Duration;

use serde_json::json;

use super::state::Connection;
use crate::metrics::DisconnectReason;

/// Releases everything that the connection holds.
pub(super) fn end(mut connection: Connection, cause: DisconnectReason) {
    let replica = connection.replica.clone();
    let handle = connection.handle.clone();
    // A transport that still has something to send has already shut the outbox.
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
    let figures = &handle.outbox.shared.figures;
    figures.connections.dec();
    let age = Duration::from_millis(handle.age_ms(replica.uptime.now_ms()));
    figures.connection_duration.observe(age.as_secs_f64());
    tracing::debug!(connection_id = %handle.id(), cause = cause.as_str(), "connection closed");
    drop(connection.permit);
}
