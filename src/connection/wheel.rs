//! One timer for all connections of a replica. Holds only weak references.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{handle::ConnectionHandle, keep_alive::KeepAliveConfig};

/// Slots of a tenth of a second; each connection is in one of them.
#[derive(Debug)]
pub struct TimerWheel {
    slots: Vec<Mutex<Vec<Weak<ConnectionHandle>>>>,
    at: AtomicU64,
}

impl Default for TimerWheel {
    fn default() -> Self {
        Self { slots: (0..Self::SLOTS).map(|_| Mutex::default()).collect(), at: AtomicU64::new(0) }
    }
}

impl TimerWheel {
    /// Duration of one slot.
    pub const TICK: Duration = Duration::from_millis(100);
    const SLOTS: u64 = 128;
    /// Connections checked before other tasks get a turn: a millisecond of work if all of them have to close.
    const AT_ONCE: usize = 64;

    /// Checks the connection after `delay_ms` (at most 12 s, one turn of the wheel), and then whenever it is due.
    pub fn add(&self, handle: &Arc<ConnectionHandle>, delay_ms: u64) {
        self.put(Arc::downgrade(handle), delay_ms);
    }

    fn put(&self, handle: Weak<ConnectionHandle>, delay_ms: u64) {
        let ahead = (delay_ms / Self::TICK.as_millis() as u64).clamp(1, Self::SLOTS - 1);
        let slot = (self.at.load(Ordering::Relaxed) + ahead) % Self::SLOTS;
        self.slots[slot as usize].lock().push(handle);
    }

    /// One tick: every connection of the slot performs its due actions and moves to the slot of its next check.
    /// Thousands may be due at once, so other tasks get a turn in between.
    pub async fn turn(&self, now_ms: u64, config: &KeepAliveConfig) {
        let at = self.at.fetch_add(1, Ordering::Relaxed) + 1;
        let due = std::mem::take(&mut *self.slots[(at % Self::SLOTS) as usize].lock());
        for some in due.chunks(Self::AT_ONCE) {
            for handle in some {
                if let Some(open) = handle.upgrade() {
                    let next_ms = open.tick(now_ms, config);
                    self.put(Weak::clone(handle), next_ms.saturating_sub(now_ms));
                }
            }
            tokio::task::yield_now().await;
        }
    }
}
