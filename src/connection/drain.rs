//! The paced end of a replica: not ready first, still accepting while load balancers notice; then connections are
//! asked to move in waves, each with a delay of its own, so that nobody else is flooded.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tickgate_wire::{code::CloseCode, reply};
use tokio::time::Instant;

use super::{gateway::Gateway, link::Link};
use crate::{metrics::Disconnect, tasks::Tasks};

/// Time between two waves.
const WAVE: Duration = Duration::from_millis(100);
/// After the last wave: for outboxes to be flushed and Close frames to be answered.
const LAST_GRACE: Duration = Duration::from_secs(7);
/// A client is asked to come back after this much at the most.
const RETURN_MAX_MS: u64 = 1_000;

/// Drains: returns when all connections are closed, or their time is over. `doors` are the accept loops.
pub async fn drain(gateway: &Arc<Gateway>, doors: &Tasks) {
    let config = gateway.config.drain.clone();
    tracing::info!(connections = gateway.links.len(), delay = ?config.delay, spread = ?config.spread, "draining");
    if !gateway.links.is_empty() || !gateway.config.development {
        tokio::time::sleep(config.delay).await;
    }
    gateway.closing.store(true, Ordering::Relaxed);
    doors.end(Duration::from_secs(1)).await;
    close_in_waves(gateway, config.spread).await;
    let until = Instant::now() + LAST_GRACE;
    // Whoever was being let in when the door was closed comes late.
    while gateway.addresses.connections() > 0 && Instant::now() < until {
        unasked(gateway).for_each(|link| ask_to_move(&link));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::info!(left = gateway.links.len(), "drained");
}

/// Returns when all that are there have been asked.
async fn close_in_waves(gateway: &Gateway, spread: Duration) {
    let waves = (spread.as_millis() / WAVE.as_millis()).max(1) as usize;
    let mut ticks = tokio::time::interval(WAVE);
    for left in (1..=waves).rev() {
        ticks.tick().await;
        // Sessions are random, so their order is a fair one.
        let open: Vec<_> = unasked(gateway).collect();
        if open.is_empty() {
            return;
        }
        open.iter().take(open.len().div_ceil(left)).for_each(|link| ask_to_move(link));
    }
}

/// Connections that nobody has asked to end.
fn unasked(gateway: &Gateway) -> impl Iterator<Item = Arc<Link>> {
    let asked = |link: &Arc<Link>| {
        let look = link.outbox.look();
        look.shut || look.asked.is_some()
    };
    gateway.links.all().into_iter().filter(move |link| !asked(link))
}

fn ask_to_move(link: &Link) {
    let after_ms = u64::from(link.session.low_byte()) * RETURN_MAX_MS / 256;
    link.say(|out| reply::reconnect(out, after_ms, "draining"));
    link.close(CloseCode::Restarting, Disconnect::Drain, &format!("draining; reconnect after {after_ms} ms"));
}
