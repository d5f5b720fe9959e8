//! Which replica runs a feed: the one that holds its lease. Never assumes to hold it when the registry is silent.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::{
    registry::Registry,
    tasks::{Stop, Tasks},
};

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

/// How long the kept lease lasts, how often it is renewed, and how much earlier its holder stops, by its own clock.
const KEPT_TTL: Duration = Duration::from_secs(5);
const KEPT_RENEW_INTERVAL: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_millis(500);

/// Until when an exclusive lease is held, by this replica's own clock. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Held(watch::Receiver<Option<Instant>>);

impl Held {
    /// Whether the lease is held as of `now`, whatever became of its renewals.
    pub(super) fn at(&self, now: Instant) -> bool {
        self.0.borrow().is_some_and(|until| now < until)
    }
}

/// Keeps the lease in a task of its own, so that a slow answer keeps nobody from reading and a late one allows nothing.
pub(super) fn start(registry: Registry, name: &'static str, tasks: &Tasks) -> Held {
    let (until, held) = watch::channel(None);
    tasks.spawn("feed lease", keep(registry, name, until, tasks.stop()));
    Held(held)
}

async fn keep(registry: Registry, name: &'static str, until: watch::Sender<Option<Instant>>, mut stop: Stop) {
    loop {
        let asked = Instant::now();
        match registry.hold(name, KEPT_TTL).await {
            Ok(held) => {
                let before = until.send_replace(held.then(|| asked + KEPT_TTL - MARGIN));
                if held != before.is_some() {
                    tracing::info!(lease = name, held, "lease changed hands");
                }
            }
            // Held until its end, which this replica's own clock tells.
            Err(error) => tracing::debug!(lease = name, %error, "lease not renewed"),
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(KEPT_RENEW_INTERVAL) => {}
        }
    }
}
