//! Metrics with a label whose values are an enum: every child is resolved at start and found by index. No name lookups
//! on a hot path.

use std::marker::PhantomData;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

/// The table's definition of one metric.
#[derive(Clone, Copy, Debug)]
pub struct MetricSpec {
    /// Full name, with the prefix.
    pub name: &'static str,
    /// What it measures, in one sentence.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets; empty for everything else.
    pub buckets: &'static [f64],
}

impl MetricSpec {
    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn histogram_opts(&self) -> HistogramOpts {
        HistogramOpts::new(self.name, self.help).buckets(self.buckets.to_vec())
    }
}

/// One or more labels with a fixed set of values.
pub trait Labels: Copy {
    /// The label names.
    const NAMES: &'static [&'static str];
    /// The number of combinations of values.
    const COUNT: usize;
    /// The index of this combination, below [`Labels::COUNT`].
    fn index(self) -> usize;
    /// The values of the combination at an index.
    fn values(index: usize) -> Vec<&'static str>;
}

/// A pair of labels; the first one's value is the more significant digit of the index.
impl<A: Labels, B: Labels> Labels for (A, B) {
    const NAMES: &'static [&'static str] = &[A::NAMES[0], B::NAMES[0]];
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn values(index: usize) -> Vec<&'static str> {
        let mut values = A::values(index / B::COUNT);
        values.extend(B::values(index % B::COUNT));
        values
    }
}

/// No label.
impl Labels for () {
    const NAMES: &'static [&'static str] = &[];
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn values(_: usize) -> Vec<&'static str> {
        Vec::new()
    }
}

/// Three labels, as a pair whose second half is a pair.
impl<A: Labels, B: Labels, C: Labels> Labels for (A, B, C) {
    const NAMES: &'static [&'static str] = &[A::NAMES[0], B::NAMES[0], C::NAMES[0]];
    const COUNT: usize = A::COUNT * B::COUNT * C::COUNT;

    fn index(self) -> usize {
        (self.0, (self.1, self.2)).index()
    }

    fn values(index: usize) -> Vec<&'static str> {
        <(A, (B, C))>::values(index)
    }
}

/// A metric without its own labels, used for the children of a family.
pub trait Child: Clone {
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;
    /// What holds children of this kind.
    type Children: Collector + Clone + std::fmt::Debug + 'static;
    /// Creates and registers the metric.
    fn single(registry: &Registry, spec: &MetricSpec) -> Self;
    /// Creates and registers an empty family with these labels.
    fn family(registry: &Registry, spec: &MetricSpec, names: &[&str]) -> Self::Children;
    /// The child with these values.
    fn child(children: &Self::Children, values: &[&str]) -> Self;
}

/// Registration fails only for a malformed or duplicate name: a mistake in the table, which any test finds.
pub(super) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
    name: &str,
) -> C {
    made.and_then(|metric| registry.register(Box::new(metric.clone())).map(|()| metric))
        .unwrap_or_else(|error| panic!("metric {name} cannot be registered: {error}"))
}

macro_rules! child {
    ($metric:ty, $family:ty, $kind:literal, $opts:ident) => {
        impl Child for $metric {
            const KIND: &'static str = $kind;
            type Children = $family;

            fn single(registry: &Registry, spec: &MetricSpec) -> Self {
                register(registry, Self::with_opts(spec.$opts()), spec.name)
            }

            fn family(registry: &Registry, spec: &MetricSpec, names: &[&str]) -> $family {
                register(registry, <$family>::new(spec.$opts(), names), spec.name)
            }

            fn child(children: &$family, values: &[&str]) -> Self {
                children.with_label_values(values)
            }
        }
    };
}
child!(IntCounter, IntCounterVec, "counter", opts);
child!(IntGauge, IntGaugeVec, "gauge", opts);
child!(Gauge, GaugeVec, "gauge", opts);
child!(Histogram, HistogramVec, "histogram", histogram_opts);

/// A field of the table: a single metric or a family.
pub(super) trait Declared: Sized {
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;
    /// Each label's name and values, for the documentation.
    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        Vec::new()
    }
    /// Creates and registers the metric.
    fn declare(registry: &Registry, spec: &MetricSpec) -> Self;
}

impl<M: Child> Declared for M {
    const KIND: &'static str = M::KIND;

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        M::single(registry, spec)
    }
}

/// A metric with one child per combination of label values.
#[derive(Debug)]
pub struct Family<L, M> {
    children: Box<[M]>,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, M> Family<L, M> {
    /// The child with these label values.
    #[must_use]
    pub fn of(&self, labels: L) -> &M {
        &self.children[labels.index()]
    }
}

impl<L: Labels, M: Child> Declared for Family<L, M> {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        let rows: Vec<_> = (0..L::COUNT).map(L::values).collect();
        let column = |at: usize| {
            let mut values: Vec<&str> = Vec::new();
            for row in &rows {
                if !values.contains(&row[at]) {
                    values.push(row[at]);
                }
            }
            values
        };
        L::NAMES.iter().enumerate().map(|(at, name)| (*name, column(at))).collect()
    }

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        let family = M::family(registry, spec, L::NAMES);
        let child = |index| M::child(&family, &L::values(index));
        Self { children: (0..L::COUNT).map(child).collect(), labels: PhantomData }
    }
}

/// A gauge whose children are exported from their first use on: what a replica does not have is absent instead of 0.
#[derive(Debug)]
pub struct Sparse<L> {
    gauges: IntGaugeVec,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels> Sparse<L> {
    /// The child with these label values. A lookup: not for a hot path.
    #[must_use]
    pub fn of(&self, labels: L) -> IntGauge {
        self.gauges.with_label_values(&L::values(labels.index()))
    }
}

impl<L: Labels> Declared for Sparse<L> {
    const KIND: &'static str = "gauge";

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        Family::<L, IntGauge>::labels()
    }

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        let gauges = register(registry, IntGaugeVec::new(spec.opts(), L::NAMES), spec.name);
        Self { gauges, labels: PhantomData }
    }
}

/// A metric per configured endpoint, with one child per value of its other labels. The configuration, not an enum,
/// bounds the names.
#[derive(Debug)]
pub struct PerEndpoint<L, M: Child> {
    children: M::Children,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, M: Child> PerEndpoint<L, M> {
    /// The metric of a profile. A lookup: call it once per profile at start and keep the handles.
    #[must_use]
    pub fn resolve(&self, profile: &str) -> Family<L, M> {
        let child = |index| M::child(&self.children, &[&[profile], &*L::values(index)].concat());
        Family { children: (0..L::COUNT).map(child).collect(), labels: PhantomData }
    }
}

impl<L: Labels> PerEndpoint<L, IntCounter> {
    /// The sum over all endpoints and labels. A scan: for tests and tools.
    #[must_use]
    pub fn total(&self) -> u64 {
        let families = self.children.collect();
        let counted =
            families.iter().flat_map(|family| family.get_metric()).map(|metric| metric.get_counter().get_value());
        counted.sum::<f64>() as u64
    }
}

impl<L: Labels, M: Child> Declared for PerEndpoint<L, M> {
    const KIND: &'static str = M::KIND;

    fn labels() -> Vec<(&'static str, Vec<&'static str>)> {
        let endpoint = ("endpoint", vec!["name of the profile"]);
        std::iter::once(endpoint).chain(Family::<L, M>::labels()).collect()
    }

    fn declare(registry: &Registry, spec: &MetricSpec) -> Self {
        let names = [&["endpoint"], L::NAMES].concat();
        Self { children: M::family(registry, spec, &names), labels: PhantomData }
    }
}
