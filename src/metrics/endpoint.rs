//! The metrics of the clients of one endpoint. Handles are resolved once, so counting is one atomic addition. Knows no
//! clients.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::{Family, GapLabel, Metrics, TopicClass};

/// The metrics of one endpoint.
#[derive(Debug)]
pub struct EndpointFigures {
    pub connections: IntGauge,
    pub connection_duration: Histogram,
    pub slow_consumers: IntGauge,
    pub conflated: IntCounter,
    pub dropped: IntCounter,
    pub deliveries: Family<TopicClass, IntCounter>,
    pub latency: Family<TopicClass, Histogram>,
    pub lagged: Family<TopicClass, IntCounter>,
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
