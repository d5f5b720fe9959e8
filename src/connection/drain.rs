//! The paced shutdown of a replica. First the replica reports that it is not ready, and still accepts connections until
//! load balancers notice; then it asks connections to move in waves, with a random delay each. Never floods other
//! replicas.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tickgate_wire::code::CloseCode;
use tokio::time::Instant;

use super::{handle::ConnectionHandle, replica::Replica};
use crate::{metrics::DisconnectReason, tasks::Tasks};

/// Time between two waves.
const WAVE: Duration = Duration::from_millis(100);
/// Time after the last wave for flushing outboxes and receiving Close frames.
const LAST_GRACE: Duration = Duration::from_secs(7);
/// The same in development mode, where a developer waits for the exit.
const LAST_GRACE_AT_ONCE: Duration = Duration::from_secs(1);
/// Maximum delay before a client should reconnect.
const RETURN_MAX_MS: u64 = 1_000;

/// How a replica stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainPace {
    /// After `drain.delay`, over `drain.spread`.
    Configured,
    /// All connections are asked to move now, for Ctrl+C in development mode.
    AtOnce,
}

/// Drains the replica. Returns when all connections are closed or the timeout expires. `doors` are the accept loops.
pub async fn drain(replica: &Arc<Replica>, doors: &Tasks, pace: DrainPace) {
    let config = &replica.config.drain;
    let (delay, spread, grace) = match pace {
        DrainPace::Configured => (config.delay, config.spread, LAST_GRACE),
        DrainPace::AtOnce => (Duration::ZERO, Duration::ZERO, LAST_GRACE_AT_ONCE),
    };
    tracing::info!(connections = replica.connections.len(), ?delay, ?spread, "draining");
    if !replica.connections.is_empty() || !replica.config.development {
        tokio::time::sleep(delay).await;
    }
    replica.closing.store(true, Ordering::Relaxed);
    doors.end(Duration::from_secs(1)).await;
    close_in_waves(replica, spread).await;
    let until = Instant::now() + grace;
    // Connections that were being admitted when the listeners closed open late.
    while replica.addresses.connections() > 0 && Instant::now() < until {
        unasked(replica).for_each(|handle| ask_to_move(&handle));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::info!(left = replica.connections.len(), "drained");
}

/// Asks all connections to move, in waves over `spread`, for an operator. Includes those that open meanwhile, while the
/// replica accepts no new ones.
pub async fn move_all(replica: &Replica, spread: Duration) {
    close_in_waves(replica, spread).await;
}

/// Asks a share of the connections (0 to 1) to move, in waves over `spread`. Returns their number.
pub async fn move_share(replica: &Replica, share: f64, spread: Duration) -> usize {
    let open: Vec<_> = unasked(replica).collect();
    let count = ((open.len() as f64 * share).ceil() as usize).min(open.len());
    let waves = (spread.as_millis() / WAVE.as_millis()).max(1) as usize;
    let mut ticks = tokio::time::interval(WAVE);
    // Session ids are random, and so is their order.
    for wave in open[..count].chunks(count.div_ceil(waves).max(1)) {
        ticks.tick().await;
        wave.iter().for_each(|handle| ask_to_move(handle));
    }
    count
}

/// Returns when all open connections have been asked to move.
async fn close_in_waves(replica: &Replica, spread: Duration) {
    let waves = (spread.as_millis() / WAVE.as_millis()).max(1) as usize;
    let mut ticks = tokio::time::interval(WAVE);
    for left in (1..=waves).rev() {
        ticks.tick().await;
        // Session ids are random, so their order is fair.
        let open: Vec<_> = unasked(replica).collect();
        if open.is_empty() {
            return;
        }
        open.iter().take(open.len().div_ceil(left)).for_each(|handle| ask_to_move(handle));
    }
}

/// Connections that have not been asked to close.
fn unasked(replica: &Replica) -> impl Iterator<Item = Arc<ConnectionHandle>> {
    let asked = |handle: &Arc<ConnectionHandle>| {
        let status = handle.outbox.status();
        status.shut || status.asked.is_some()
    };
    replica.connections.all().into_iter().filter(move |handle| !asked(handle))
}

fn ask_to_move(handle: &ConnectionHandle) {
    let after_ms = u64::from(handle.session.low_byte()) * RETURN_MAX_MS / 256;
    let reason = format!("draining; reconnect after {after_ms} ms");
    handle.close_after(CloseCode::Restarting, DisconnectReason::Drain, &reason, Some(after_ms));
}
