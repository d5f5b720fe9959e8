//! Which replica runs a feed: the one that holds its lease. Never assumes that it holds the lease while the registry is
//! unreachable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    backplane::LeaseTurn,
    registry::Registry,
    tasks::{Stop, Tasks},
};

/// How long the lease lasts, how often it is renewed, and how much earlier its holder stops by its own clock.
const TTL: Duration = Duration::from_secs(5);
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_millis(500);

/// The exclusive lease of a feed, as known to this replica. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct FeedLease {
    turn: watch::Receiver<Option<LeaseTurn>>,
    /// The number of this replica's turn must exceed this.
    above: Arc<AtomicU64>,
}

impl FeedLease {
    /// This replica's turn while it lasts, as of `now` by its own clock, regardless of renewals.
    pub(super) fn turn(&self, now: Instant) -> Option<LeaseTurn> {
        self.turn.borrow().filter(|turn| turn.lasts(now))
    }

    /// Something was published in that turn. If this replica still holds the lease (the server that numbers the turns
    /// was replaced by one whose clock is behind), its next renewal starts a later turn.
    pub(super) fn superseded(&self, by: u64) {
        self.above.fetch_max(by, Ordering::Relaxed);
    }
}

/// Keeps the lease in its own task, so that a slow response delays no reader and a late one grants nothing.
pub(super) fn start(registry: Registry, name: &'static str, tasks: &Tasks) -> FeedLease {
    let (sender, turn) = watch::channel(None);
    let held = FeedLease { turn, above: Arc::default() };
    tasks.spawn("feed lease", keep(registry, name, sender, held.above.clone(), tasks.stop()));
    held
}

async fn keep(
    registry: Registry,
    name: &'static str,
    sender: watch::Sender<Option<LeaseTurn>>,
    above: Arc<AtomicU64>,
    mut stop: Stop,
) {
    loop {
        let asked = Instant::now();
        match registry.hold(name, TTL, above.load(Ordering::Relaxed)).await {
            Ok(number) => {
                let turn = number.map(|number| LeaseTurn { of: name, number, until: asked + TTL - MARGIN });
                let before = sender.send_replace(turn);
                if turn.is_some() != before.is_some() {
                    tracing::info!(lease = name, held = turn.is_some(), "lease changed hands");
                }
            }
            // Held until it expires by this replica's own clock.
            Err(error) => tracing::debug!(lease = name, %error, "lease not renewed"),
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(RENEW_INTERVAL) => {}
        }
    }
}
