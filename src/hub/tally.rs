//! Counts the deliveries of one round of a shard by endpoint and class, and adds them to the shared counters once per
//! round. Keeps nothing between rounds but its places.

use std::sync::Arc;

use crate::{
    clock,
    metrics::{EndpointFigures, TopicClass},
};

/// Deliveries that are not counted yet.
#[derive(Debug, Default)]
pub(super) struct DeliveryTally {
    endpoints: Vec<EndpointTally>,
    /// The place that was used last, which is usually also the next.
    last: usize,
}

#[derive(Debug)]
struct EndpointTally {
    figures: Arc<EndpointFigures>,
    classes: [Delivered; TopicClass::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    count: u64,
    newest_ms: u64,
}

/// The origin of deliveries.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliveryOrigin {
    pub(super) class: TopicClass,
    /// When the newest was accepted, in milliseconds since 1970; 0 if unknown or irrelevant.
    pub(super) newest_ms: u64,
}

impl DeliveryTally {
    /// Adds publications that were put into an outbox of this endpoint.
    pub(super) fn add(&mut self, figures: &Arc<EndpointFigures>, origin: DeliveryOrigin, count: u32) {
        if count == 0 {
            return;
        }
        let is_last = self.endpoints.get(self.last).is_some_and(|entry| Arc::ptr_eq(&entry.figures, figures));
        if !is_last {
            self.last = self.place(figures);
        }
        let delivered = &mut self.endpoints[self.last].classes[origin.class as usize];
        delivered.count += u64::from(count);
        delivered.newest_ms = delivered.newest_ms.max(origin.newest_ms);
    }

    fn place(&mut self, figures: &Arc<EndpointFigures>) -> usize {
        let found = self.endpoints.iter().position(|entry| Arc::ptr_eq(&entry.figures, figures));
        found.unwrap_or_else(|| {
            self.endpoints.push(EndpointTally { figures: figures.clone(), classes: <_>::default() });
            self.endpoints.len() - 1
        })
    }

    /// Adds everything to the counters. Returns whether there was anything.
    pub(super) fn count(&mut self) -> bool {
        let mut any = false;
        for EndpointTally { figures, classes } in &mut self.endpoints {
            for (class, delivered) in TopicClass::ALL.iter().zip(classes) {
                let Delivered { count, newest_ms } = std::mem::take(delivered);
                if count == 0 {
                    continue;
                }
                any = true;
                figures.deliveries.of(*class).inc_by(count);
                if newest_ms > 0 {
                    let latency_ms = clock::unix_ms().saturating_sub(newest_ms);
                    figures.latency.of(*class).observe(latency_ms as f64 / 1e3);
                }
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn deliveries_are_counted_once_by_endpoint_and_class() {
        let metrics = Metrics::new();
        let (trading, market) = (EndpointFigures::new(&metrics, "trading"), EndpointFigures::new(&metrics, "market"));
        let mut tally = DeliveryTally::default();
        let origin = |class, newest_ms| DeliveryOrigin { class, newest_ms };
        tally.add(&trading, origin(TopicClass::Reliable, clock::unix_ms()), 2);
        tally.add(&market, origin(TopicClass::State, 0), 3);
        tally.add(&trading, origin(TopicClass::State, 0), 4);
        tally.add(&trading, origin(TopicClass::Event, 1), 0);
        assert!(tally.count());
        assert!(!tally.count(), "not twice");
        let of = |figures: &EndpointFigures| {
            [TopicClass::Reliable, TopicClass::Event, TopicClass::State].map(|class| figures.deliveries.of(class).get())
        };
        assert_eq!([of(&trading), of(&market)], [[2, 0, 4], [0, 0, 3]]);
        let timed = |class| trading.latency.of(class).get_sample_count();
        assert_eq!([TopicClass::Reliable, TopicClass::State, TopicClass::Event].map(timed), [1, 0, 0]);
    }
}
