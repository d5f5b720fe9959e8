//! Metrics with a label whose values are names of the configuration. Bounded by it: at most one replica's name, its endpoints
//! and rules for topics, and the API keys that were configured since the start.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{
    Metrics,
    family::{Declared, Spec, register},
    labels::KeyUse,
};

/// Declares a metric with one label.
macro_rules! by_name {
    ($(#[$about:meta])+ $name:ident($family:ty, $metric:ty), $kind:literal, $label:literal: $values:literal, $opts:ident) => {
        $(#[$about])+
        #[derive(Debug)]
        pub struct $name($family);

        impl $name {
            /// The metric of a name. A lookup: not for a hot path.
            #[must_use]
            pub fn of(&self, name: &str) -> $metric {
                self.0.with_label_values(&[name])
            }
        }

        impl Declared for $name {
            const KIND: &'static str = $kind;

            fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
                vec![($label, vec![$values])]
            }

            fn declare(registry: &Registry, spec: &Spec) -> Self {
                Self(register(registry, <$family>::new(spec.$opts(), &[$label]), spec.name))
            }
        }
    };
}

by_name! {
    /// A gauge by configured endpoint.
    ByEndpoint(IntGaugeVec, IntGauge), "gauge", "endpoint": "name of the profile", opts
}
by_name! {
    /// A histogram by configured endpoint.
    HistogramByEndpoint(HistogramVec, Histogram), "histogram", "endpoint": "name of the profile", histogram_opts
}
by_name! {
    /// A gauge by the rule for topics.
    ByTopicRule(IntGaugeVec, IntGauge), "gauge", "topics": "pattern of their rule, or `user_stream`", opts
}

/// The metrics that one endpoint's connections change.
#[derive(Debug)]
pub struct EndpointMetrics {
    pub connections: IntGauge,
    pub connection_duration_seconds: Histogram,
}

impl Metrics {
    /// Those of an endpoint, to be kept.
    #[must_use]
    pub fn of_endpoint(&self, name: &str) -> EndpointMetrics {
        EndpointMetrics {
            connections: self.connections.of(name),
            connection_duration_seconds: self.connection_duration_seconds.of(name),
        }
    }
}

/// A counter by configured API key, and by what became of its request. The names are bounded by the configuration: those of
/// all that were configured since the start.
#[derive(Debug)]
pub struct ByKey(IntCounterVec);

impl ByKey {
    /// The counter of a key. A lookup: not for a hot path.
    #[must_use]
    pub fn of(&self, key: &str, result: KeyUse) -> IntCounter {
        self.0.with_label_values(&[key, result.as_str()])
    }
}

impl Declared for ByKey {
    const KIND: &'static str = "counter";

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        let results = KeyUse::ALL.iter().map(|result| result.as_str()).collect();
        vec![("key", vec!["name of the key"]), ("result", results)]
    }

    fn declare(registry: &Registry, spec: &Spec) -> Self {
        Self(register(registry, IntCounterVec::new(spec.opts(), &["key", "result"]), spec.name))
    }
}

/// A gauge that is always 1, with the replica's name as its label.
#[derive(Debug)]
pub struct Named(IntGaugeVec);

impl Named {
    /// Exports the name. Called once.
    pub fn name(&self, name: &str) {
        self.0.with_label_values(&[name]).set(1);
    }
}

impl Declared for Named {
    const KIND: &'static str = "gauge";

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![("name", vec!["the configured name"])]
    }

    fn declare(registry: &Registry, spec: &Spec) -> Self {
        Self(register(registry, IntGaugeVec::new(spec.opts(), &["name"]), spec.name))
    }
}
