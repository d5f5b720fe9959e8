//! The membership on one server as the rest of the replica sees it: whether it may acknowledge, in which generation,
//! and what is known about boundaries. Never queries the server: `member` does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::Notify, time::Instant};

use crate::{
    history::Generations,
    redis_link::{RedisFailure, RefusalKind},
};

/// The greatest valid epoch: epochs are below 2^53.
const EPOCH_MAX: u64 = 1 << 53;

/// State shared by the member's task and the rest of the replica.
#[derive(Debug)]
pub(super) struct Membership {
    standing: ArcSwapOption<MemberStanding>,
    history: RwLock<Arc<Generations>>,
    /// Why it does not acknowledge, for operators and publishers.
    obstacle: Mutex<Option<Arc<str>>>,
    hindrance: Mutex<Option<RedisFailure>>,
    wake: Notify,
    known: AtomicU64,
    went_back: AtomicBool,
}

/// The right to acknowledge.
#[derive(Clone, Debug)]
pub(super) struct MemberStanding {
    pub(super) generation: u64,
    /// The server for which the generation was created.
    pub(super) identity: Arc<str>,
    /// The other members rely on it until then.
    pub(super) until: Instant,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            standing: ArcSwapOption::empty(),
            history: RwLock::default(),
            obstacle: Mutex::new(Some("this replica has not joined redis yet".into())),
            hindrance: Mutex::default(),
            wake: Notify::new(),
            known: AtomicU64::new(0),
            went_back: AtomicBool::new(false),
        }
    }
}

impl Membership {
    /// The right to acknowledge, if there is one.
    pub(super) fn standing(&self) -> Option<Arc<MemberStanding>> {
        self.standing.load_full().filter(|standing| Instant::now() < standing.until)
    }

    /// Whether a response to what was sent in this generation may be acknowledged now.
    pub(super) fn vouches(&self, generation: u64) -> bool {
        self.standing().is_some_and(|standing| standing.generation == generation)
    }

    pub(super) fn grant(&self, standing: MemberStanding) {
        self.standing.store(Some(Arc::new(standing)));
        *self.obstacle.lock() = None;
        *self.hindrance.lock() = None;
    }

    /// Records that the server did not accept the last beat.
    pub(super) fn hinder(&self, failure: RedisFailure) {
        *self.hindrance.lock() = Some(failure);
    }

    /// Records that the server refuses the replica until something is changed.
    pub(super) fn shut_out(&self, failure: &RedisFailure) {
        *self.hindrance.lock() = failure.refusal().is_some().then(|| failure.clone());
        self.revoke(Some(failure.to_string().into()));
    }

    /// The error for publishers while nothing is acknowledged.
    pub(super) fn hindrance(&self) -> RedisFailure {
        self.hindrance.lock().clone().unwrap_or(RedisFailure::Disconnected)
    }

    /// Revokes the right. What was already sent is not acknowledged from here on.
    pub(super) fn revoke(&self, why: Option<Arc<str>>) {
        self.standing.store(None);
        if why.is_some() {
            *self.obstacle.lock() = why;
        }
    }

    /// Why it does not acknowledge, if the reason is not just a missing link.
    pub(super) fn obstacle(&self) -> Option<Arc<str>> {
        self.obstacle.lock().clone()
    }

    /// The known generations.
    pub(super) fn history(&self) -> Arc<Generations> {
        Arc::clone(&self.history.read())
    }

    /// Updates the history. True if the generation changed.
    pub(super) fn learn(&self, mut history: Generations) -> bool {
        let mut known = self.history.write();
        let changed = known.generation != history.generation;
        if !changed {
            // It may have been read before an epoch was given that is already known.
            history.alloc = history.alloc.max(known.alloc);
        }
        if **known != history {
            *known = Arc::new(history);
        }
        changed
    }

    /// Wakes the member to read the server's state at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Records an epoch: no later one may be below it.
    pub(super) fn saw(&self, epoch: u64) {
        if epoch < EPOCH_MAX {
            self.known.fetch_max(epoch, Ordering::Relaxed);
        }
    }

    /// Records an epoch that a script gave or used in this generation: its messages need not be verified.
    pub(super) fn gave(&self, generation: u64, epoch: u64) {
        let is_news =
            |history: &Generations| history.generation == generation && history.alloc < epoch && epoch < EPOCH_MAX;
        if !is_news(&self.history.read()) {
            return;
        }
        let mut history = self.history.write();
        if is_news(&history) {
            Arc::make_mut(&mut history).alloc = epoch;
        }
    }

    /// The greatest epoch that is known to have been given in this generation; 0 if it is not the current one.
    pub(super) fn given(&self, generation: u64) -> u64 {
        let history = self.history.read();
        if history.generation == generation { history.alloc } else { 0 }
    }

    /// The greatest epoch that was seen.
    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// Records that a stream is older than before, in the same generation.
    pub(super) fn doubt_dataset(&self) {
        self.went_back.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.went_back.swap(false, Ordering::AcqRel)
    }

    /// Records that the server reports another state than the replica assumes.
    pub(super) fn doubt(&self, failure: &RedisFailure) {
        let RedisFailure::Refused { kind: RefusalKind::Stale, text } = failure else { return };
        // If the stream has a greater epoch than the hash: it is reported when the replica attaches.
        if let Some(epoch) = text.rsplit_once("the stream has epoch ").and_then(|(_, epoch)| epoch.parse().ok()) {
            self.saw(epoch);
        }
        self.standing.store(None);
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_given_in_this_generation_are_known_before_the_next_beat_and_stay_known() {
        let membership = Membership::default();
        let alloc = || membership.history().alloc;
        membership.learn(Generations::single(8));
        membership.gave(8, 11);
        membership.gave(8, 10);
        membership.gave(4, 20);
        membership.gave(8, EPOCH_MAX);
        assert_eq!(alloc(), 11, "neither an epoch of another generation nor an impossible one");
        assert!(!membership.learn(Generations { alloc: 9, ..Generations::single(8) }));
        assert_eq!(alloc(), 11, "the response to a beat may be older");
        assert_eq!((membership.given(8), membership.given(7)), (11, 0), "a dataset without it went back");
        assert!(membership.learn(Generations { alloc: 9, ..Generations::single(9) }));
        assert_eq!(alloc(), 9, "another generation");
    }

    #[test]
    fn publishers_receive_the_most_recent_cause() {
        let membership = Membership::default();
        let refused = |text: &str| RedisFailure::of_text(text).expect("a failure");
        let (too_few, no_right) = (refused("NOREPLICAS Not enough good replicas"), refused("NOPERM no permissions"));
        membership.hinder(too_few.clone());
        assert_eq!(membership.hindrance(), too_few);
        membership.shut_out(&no_right);
        assert_eq!(membership.hindrance(), no_right);
        assert_eq!(membership.obstacle().as_deref(), Some(&*no_right.to_string()));
        membership.shut_out(&RedisFailure::Other("the dataset of redis was replaced".into()));
        assert_eq!(membership.hindrance(), RedisFailure::Disconnected);
    }
}
