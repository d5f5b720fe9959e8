//! The metrics of the clients of one endpoint. Handles are resolved once, so counting is one atomic addition. Knows no
//! clients.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::{Family, GapLabel, Metrics, TopicClass};

/// The metrics of one endpoint.
#[derive(Debug)]
pub struct EndpointFigures {
    /// Open connections.
    pub connections: IntGauge,
    /// Seconds from a connection's admission to its end.
    pub connection_duration: Histogram,
    /// Connections that skip values or catch up now, because their client reads too slowly.
    pub slow_consumers: IntGauge,
    /// Values of `state` topics that a newer one replaced before they were sent.
    pub conflated: IntCounter,
    /// Messages of `event` topics dropped for slow clients.
    pub dropped: IntCounter,
    /// Publications queued for subscribers, one per subscriber.
    pub deliveries: Family<TopicClass, IntCounter>,
    /// Seconds from a publication's acceptance to the write to the socket.
    pub latency: Family<TopicClass, Histogram>,
    /// Subscriptions that exceeded their outbox and caught up from the stream.
    pub lagged: Family<TopicClass, IntCounter>,
    /// Gap notices sent to clients.
    pub gaps: Family<(TopicClass, GapLabel), IntCounter>,
}

impl EndpointFigures {
    /// The metrics of the profile with this name; all of them are exported from here on.
    #[must_use]
    pub fn new(metrics: &Metrics, profile: &str) -> Arc<Self> {
        Arc::new(Self {
            connections: metrics.connections.resolve(profile).of(()).clone(),
            connection_duration: metrics.connection_duration_seconds.resolve(profile).of(()).clone(),
            slow_consumers: metrics.slow_consumers.resolve(profile).of(()).clone(),
            conflated: metrics.conflated_total.resolve(profile).of(()).clone(),
            dropped: metrics.dropped_total.resolve(profile).of(()).clone(),
            deliveries: metrics.deliveries_total.resolve(profile),
            latency: metrics.delivery_latency_seconds.resolve(profile),
            lagged: metrics.lagged_total.resolve(profile),
            gaps: metrics.gaps_total.resolve(profile),
        })
    }
}
