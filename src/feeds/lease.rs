//! Which replica runs a feed: the one that holds its lease. Never assumes to hold it when the registry is silent.

use std::time::{Duration, Instant};

use crate::registry::Registry;

/// How long a feed pauses at most when its replica was killed.
const TTL: Duration = Duration::from_secs(6);
const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// An exclusive lease, asked for now and then.
#[derive(Debug)]
pub(super) struct Lease {
    registry: Registry,
    name: &'static str,
    held: bool,
    asked_at: Option<Instant>,
}

impl Lease {
    pub(super) fn new(registry: Registry, name: &'static str) -> Self {
        Self { registry, name, held: false, asked_at: None }
    }

    /// Whether the lease is held as of `now`; renews it, or tries to take it, when it is time.
    pub(super) async fn is_held(&mut self, now: Instant) -> bool {
        if self.asked_at.is_some_and(|asked_at| now < asked_at + RENEW_INTERVAL) {
            return self.held;
        }
        self.asked_at = Some(now);
        let answer = self.registry.hold(self.name, TTL).await;
        if let Err(error) = &answer {
            tracing::debug!(lease = self.name, %error, "lease not renewed");
        }
        let held = answer.unwrap_or(false);
        if held != self.held {
            tracing::info!(lease = self.name, held, "lease changed hands");
        }
        self.held = held;
        held
    }
}
