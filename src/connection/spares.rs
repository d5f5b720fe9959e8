//! Places for connections that are accepted although no descriptor is left for clients, because probes must be
//! answered. If all are taken, the oldest idle connection is closed. Never inspects requests.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::abort::AbortHandle;

/// How long a client may take to start its request when others wait for its place.
const SILENT_MAX: Duration = Duration::from_millis(50);
/// How long a request may take when others wait for its place.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// An extension of a request on such a connection: it must not become a WebSocket or a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpareConnection;

/// The places of one listener.
#[derive(Debug)]
pub(super) struct SpareConnections {
    max: usize,
    taken: Mutex<VecDeque<TakenSpares>>,
    freed: Notify,
}

#[derive(Debug)]
struct TakenSpares {
    hang_up: AbortHandle,
    since: Instant,
    has_asked: Arc<AtomicBool>,
    /// It was asked to close, and its descriptor is about to be released.
    ends: bool,
}

/// A place, released when dropped.
#[derive(Debug)]
pub(super) struct SparePlace {
    spares: Arc<SpareConnections>,
    has_asked: Arc<AtomicBool>,
    since: Instant,
}

impl SpareConnections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a place for the connection that `hang_up` closes, once one is free. Closes connections that exceed their
    /// time.
    pub(super) async fn take(self: &Arc<Self>, hang_up: &AbortHandle) -> SparePlace {
        loop {
            match self.try_take(hang_up, Instant::now()) {
                Ok(place) => return place,
                Err(again) => tokio::select! {
                    () = self.freed.notified() => {}
                    () = sleep_until(again) => {}
                },
            }
        }
    }

    /// A place, or when to retry.
    fn try_take(self: &Arc<Self>, hang_up: &AbortHandle, now: Instant) -> Result<SparePlace, Instant> {
        let mut taken = self.taken.lock();
        if taken.len() >= self.max {
            let staying = taken.iter_mut().filter(|taken| !taken.ends);
            let Some(first) = staying.min_by_key(|taken| taken.due()) else { return Err(now + SILENT_MAX) };
            if first.due() > now {
                return Err(first.due());
            }
            first.ends = true;
            first.hang_up.now();
            return Err(now + SILENT_MAX);
        }
        let has_asked = Arc::new(AtomicBool::new(false));
        taken.push_back(TakenSpares {
            hang_up: hang_up.clone(),
            since: now,
            has_asked: has_asked.clone(),
            ends: false,
        });
        Ok(SparePlace { spares: self.clone(), has_asked, since: now })
    }
}

impl TakenSpares {
    /// From when on the place may be taken away.
    fn due(&self) -> Instant {
        self.since + if self.has_asked.load(Ordering::Relaxed) { BUSY_MAX } else { SILENT_MAX }
    }
}

impl SparePlace {
    /// A flag to set when a request begins.
    pub(super) fn has_asked(&self) -> Arc<AtomicBool> {
        self.has_asked.clone()
    }

    /// Resolves at once for a client that is still silent. On a busy machine, a client may have sent its request before
    /// the task checks: that request then gets the full time.
    pub(super) async fn given_up(&self) {
        if self.has_asked.load(Ordering::Relaxed) {
            sleep_until(self.since + BUSY_MAX).await;
        }
    }
}

impl Drop for SparePlace {
    fn drop(&mut self) {
        self.spares.taken.lock().retain(|taken| !Arc::ptr_eq(&taken.has_asked, &self.has_asked));
        self.spares.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_closed_for_others_and_one_being_served_is_not() {
        let spares = SpareConnections::new(2);
        let (busy_end, silent_end, next_end) = (AbortHandle::default(), AbortHandle::default(), AbortHandle::default());
        let busy = spares.take(&busy_end).await;
        busy.has_asked().store(true, Ordering::Relaxed);
        let silent = spares.take(&silent_end).await;
        let began = Instant::now();
        let make_way = async {
            silent_end.asked().await;
            drop(silent);
        };
        let (_next, ()) = tokio::join!(spares.take(&next_end), make_way);
        assert_eq!(began.elapsed().as_millis(), SILENT_MAX.as_millis());
        drop(busy);
        let last = spares.take(&AbortHandle::default()).await;
        // Its request was in flight when its slot was taken away.
        last.has_asked().store(true, Ordering::Relaxed);
        let began = Instant::now();
        last.given_up().await;
        assert_eq!(began.elapsed(), BUSY_MAX);
        let left = tokio::time::timeout(Duration::ZERO, busy_end.asked()).await;
        assert!(left.is_err(), "the connection being served was closed");
    }
}
