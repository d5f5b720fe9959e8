//! What the rest of a replica sees of its membership on one server: whether it may acknowledge, in which generation, and
//! what is known of the boundaries between them. Never asks the server: `member` does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::Notify, time::Instant};

use crate::{
    history::History,
    redis_link::{Failure, RefusalKind},
};

/// The greatest epoch that is believed: they stay below 2^53.
const EPOCH_MAX: u64 = 1 << 53;

/// What the member's task and everybody else share.
#[derive(Debug)]
pub(super) struct Membership {
    standing: ArcSwapOption<Standing>,
    history: RwLock<Arc<History>>,
    /// Why it does not acknowledge: for operators, and for publishers.
    obstacle: Mutex<Option<Arc<str>>>,
    hindrance: Mutex<Option<Failure>>,
    wake: Notify,
    known: AtomicU64,
    went_back: AtomicBool,
}

/// The right to acknowledge.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) generation: u64,
    /// Of the server that the generation was made for.
    pub(super) identity: Arc<str>,
    /// The others count on it until then.
    pub(super) until: Instant,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            standing: ArcSwapOption::empty(),
            history: RwLock::default(),
            obstacle: Mutex::new(Some("redis has not let this replica in yet".into())),
            hindrance: Mutex::default(),
            wake: Notify::new(),
            known: AtomicU64::new(0),
            went_back: AtomicBool::new(false),
        }
    }
}

impl Membership {
    /// The right to acknowledge, while there is one.
    pub(super) fn standing(&self) -> Option<Arc<Standing>> {
        self.standing.load_full().filter(|standing| Instant::now() < standing.until)
    }

    /// Whether an answer to what was sent in this generation may be acknowledged now.
    pub(super) fn vouches(&self, generation: u64) -> bool {
        self.standing().is_some_and(|standing| standing.generation == generation)
    }

    pub(super) fn grant(&self, standing: Standing) {
        self.standing.store(Some(Arc::new(standing)));
        *self.obstacle.lock() = None;
        *self.hindrance.lock() = None;
    }

    /// The server did not take the last beat.
    pub(super) fn hinder(&self, failure: Failure) {
        *self.hindrance.lock() = Some(failure);
    }

    /// The server does not let the replica in, and will not before something is changed.
    pub(super) fn shut_out(&self, failure: &Failure) {
        *self.hindrance.lock() = failure.refusal().is_some().then(|| failure.clone());
        self.revoke(Some(failure.to_string().into()));
    }

    /// What publishers are told while nothing is acknowledged.
    pub(super) fn hindrance(&self) -> Failure {
        self.hindrance.lock().clone().unwrap_or(Failure::Disconnected)
    }

    /// Takes the right away. What was sent is not acknowledged from here on.
    pub(super) fn revoke(&self, why: Option<Arc<str>>) {
        self.standing.store(None);
        if why.is_some() {
            *self.obstacle.lock() = why;
        }
    }

    /// Why it does not acknowledge, where more is to be said than that there is no link.
    pub(super) fn obstacle(&self) -> Option<Arc<str>> {
        self.obstacle.lock().clone()
    }

    /// What is known of the generations.
    pub(super) fn history(&self) -> Arc<History> {
        Arc::clone(&self.history.read())
    }

    /// True when the generation is another one.
    pub(super) fn learn(&self, mut history: History) -> bool {
        let mut known = self.history.write();
        let changed = known.generation != history.generation;
        if !changed {
            // It may have been read before an epoch was given that is known already.
            history.alloc = history.alloc.max(known.alloc);
        }
        if **known != history {
            *known = Arc::new(history);
        }
        changed
    }

    /// Somebody has a reason to look at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// An epoch was seen: no later one may be below it.
    pub(super) fn saw(&self, epoch: u64) {
        if epoch < EPOCH_MAX {
            self.known.fetch_max(epoch, Ordering::Relaxed);
        }
    }

    /// A script that ran in this generation gave an epoch, or published in it: no message of it has to be looked up.
    pub(super) fn gave(&self, generation: u64, epoch: u64) {
        let is_news =
            |history: &History| history.generation == generation && history.alloc < epoch && epoch < EPOCH_MAX;
        if !is_news(&self.history.read()) {
            return;
        }
        let mut history = self.history.write();
        if is_news(&history) {
            Arc::make_mut(&mut history).alloc = epoch;
        }
    }

    /// The greatest epoch that was seen.
    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// A stream is older than what was read of it before, in the same generation.
    pub(super) fn doubt_dataset(&self) {
        self.went_back.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.went_back.swap(false, Ordering::AcqRel)
    }

    /// The server says that the replica is not where it believes to be.
    pub(super) fn doubt(&self, failure: &Failure) {
        let Failure::Refused { kind: RefusalKind::Stale, text } = failure else { return };
        // Where a stream knows more than the hash: its epoch is shown when the replica attaches.
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
    fn what_this_generation_gave_is_known_before_the_next_beat_and_stays_known() {
        let membership = Membership::default();
        let alloc = || membership.history().alloc;
        membership.learn(History::single(8));
        membership.gave(8, 11);
        membership.gave(8, 10);
        membership.gave(4, 20);
        membership.gave(8, EPOCH_MAX);
        assert_eq!(alloc(), 11, "neither what another generation gave, nor what nobody can have given");
        assert!(!membership.learn(History { alloc: 9, ..History::single(8) }));
        assert_eq!(alloc(), 11, "the answer to a beat may be older");
        assert!(membership.learn(History { alloc: 9, ..History::single(9) }));
        assert_eq!(alloc(), 9, "another generation");
    }

    #[test]
    fn publishers_are_told_the_last_cause_and_no_older_one() {
        let membership = Membership::default();
        let refused = |text: &str| Failure::of_text(text).expect("a failure");
        let (too_few, no_right) = (refused("NOREPLICAS Not enough good replicas"), refused("NOPERM no permissions"));
        membership.hinder(too_few.clone());
        assert_eq!(membership.hindrance(), too_few);
        membership.shut_out(&no_right);
        assert_eq!(membership.hindrance(), no_right);
        assert_eq!(membership.obstacle().as_deref(), Some(&*no_right.to_string()));
        membership.shut_out(&Failure::Other("the dataset of redis was replaced".into()));
        assert_eq!(membership.hindrance(), Failure::Disconnected);
    }
}
