//! A gauge that counts what is alive: up when it begins, down when it ends, on whatever way it ends.

use prometheus::IntGauge;

/// One of what a gauge counts, for as long as it lives.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    /// Counts one more.
    #[must_use]
    pub fn one(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}
