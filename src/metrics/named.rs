//! Metrics with a label whose values are names from the configuration, which bounds them: the replica's name, and the
//! API keys that were configured since the start.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{
    family::{Declared, MetricSpec, register},
    labels::KeyUse,
};

/// A counter by configured API key and result of its request. The number of names is bounded: all keys configured since
/// the start.
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

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        Self(register(registry, IntCounterVec::new(spec.opts(), &["key", "result"]), spec.name))
    }
}

/// A gauge by topic rule.
#[derive(Debug)]
pub struct ByTopicRule(IntGaugeVec);

impl ByTopicRule {
    /// The gauge of a rule. A lookup: not for a hot path.
    #[must_use]
    pub fn of(&self, rule: &str) -> IntGauge {
        self.0.with_label_values(&[rule])
    }
}

impl Declared for ByTopicRule {
    const KIND: &'static str = "gauge";

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![("topics", vec!["pattern of their rule, or `user_stream`"])]
    }

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        Self(register(registry, IntGaugeVec::new(spec.opts(), &["topics"]), spec.name))
    }
}

/// A gauge that is always 1, with the replica's name as its label.
#[derive(Debug)]
pub struct NamedGauge(IntGaugeVec);

impl NamedGauge {
    /// Exports the name. Called once.
    pub fn name(&self, name: &str) {
        self.0.with_label_values(&[name]).set(1);
    }
}

impl Declared for NamedGauge {
    const KIND: &'static str = "gauge";

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![("name", vec!["the configured name"])]
    }

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        Self(register(registry, IntGaugeVec::new(spec.opts(), &["name"]), spec.name))
    }
}
