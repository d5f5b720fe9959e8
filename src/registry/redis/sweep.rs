//! Decides what follows a renewal of the replica's lease, and the steps of sweeping after another replica whose lease
//! has expired. Pure: `replica` talks to Redis.

use std::{collections::HashMap, time::Duration};

use tickgate_wire::model::{ReplicaId, SessionId};

use super::{leases::IndexEntry, owner::member};
use crate::registry::UserPlaces;

/// Pause after a failed renewal: short, because before the first lease this replica would not be swept.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// This replica's own lease.
#[derive(Debug)]
pub(super) struct OwnLease {
    ttl: Duration,
    /// Whether it was renewed since the start.
    stood: bool,
}

/// The consequences of an attempt to renew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseRenewal {
    pub(super) pause: Duration,
    /// The lease had expired, and other replicas may have swept: all sessions must be registered again.
    pub(super) rewrite: bool,
}

impl OwnLease {
    pub(super) const fn new(ttl: Duration) -> Self {
        Self { ttl, stood: false }
    }

    /// It was renewed. `was_running`: it had not expired before.
    pub(super) fn renewed(&mut self, was_running: bool) -> LeaseRenewal {
        let rewrite = self.stood && !was_running;
        self.stood = true;
        LeaseRenewal { pause: self.ttl / 3, rewrite }
    }

    /// Redis did not respond.
    pub(super) fn failed(&self) -> LeaseRenewal {
        LeaseRenewal { pause: (self.ttl / 3).min(RETRY_PAUSE), rewrite: false }
    }
}

/// A sweep of one shard after an ended replica. It may be interrupted at any step, and another sweep starts over.
#[derive(Debug)]
pub(super) struct Sweep {
    replica: ReplicaId,
    next: SweepStep,
    /// An earlier sweep was interrupted, so the index itself is still there.
    left_over: bool,
    sessions: usize,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SweepStep {
    /// Move the index aside, unless an interrupted sweep left one there. First, because a replica that only slept
    /// writes a new index, which must stay.
    MoveAside,
    /// Read a page of it.
    Scan { cursor: u64 },
    /// Remove these leases from their users' sets, and continue there.
    Remove { leases: Vec<(UserPlaces, String)>, cursor: u64 },
    /// Remove the index that was moved aside.
    Drop,
    /// Finished: the number of swept sessions, and whether nothing is left.
    Done { sessions: usize, is_clean: bool },
}

impl Sweep {
    pub(super) const fn new(replica: ReplicaId) -> Self {
        Self { replica, next: SweepStep::MoveAside, left_over: false, sessions: 0 }
    }

    pub(super) fn next(&self) -> SweepStep {
        self.next.clone()
    }

    /// Whether the index was moved; `None` if there is none.
    pub(super) fn moved(&mut self, moved: Option<bool>) {
        self.left_over = moved == Some(false);
        self.next = SweepStep::Scan { cursor: 0 };
    }

    /// A page of the index was read.
    pub(super) fn scanned(&mut self, cursor: u64, page: &HashMap<String, String>) {
        self.sessions += page.len();
        let lease = |(session, slot): (&String, &String)| {
            let (session, slot) = (SessionId::parse(session)?, serde_json::from_str::<IndexEntry>(slot).ok()?);
            Some((slot.places()?, member(slot.stamp, &self.replica, session)))
        };
        self.next = SweepStep::Remove { leases: page.iter().filter_map(lease).collect(), cursor };
    }

    /// The leases of a page were removed. The scan ends when the cursor is back at its start.
    pub(super) fn removed(&mut self, cursor: u64) {
        self.next = if cursor == 0 { SweepStep::Drop } else { SweepStep::Scan { cursor } };
    }

    /// The index that was moved aside is removed.
    pub(super) fn dropped(&mut self) {
        self.next = SweepStep::Done { sessions: self.sessions, is_clean: !self.left_over };
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::UserId;

    use super::*;

    #[test]
    fn after_an_expired_lease_everything_is_written_again() {
        let mut lease = OwnLease::new(Duration::from_secs(9));
        let renewed = |rewrite| LeaseRenewal { pause: Duration::from_secs(3), rewrite };
        assert_eq!(lease.renewed(false), renewed(false), "the first one");
        assert_eq!(lease.renewed(true), renewed(false));
        assert_eq!(lease.failed(), LeaseRenewal { pause: RETRY_PAUSE, rewrite: false });
        assert_eq!(lease.renewed(false), renewed(true), "slept through it");
    }

    fn sweep(moved: Option<bool>) -> (Vec<SweepStep>, SweepStep) {
        let replica = ReplicaId::new("gone").unwrap();
        let session = SessionId::parse("6f1e0e5e-7f1c-4a43-9f5f-0b8a4ab5a0f1").unwrap();
        let page = |slot: &str| HashMap::from([(session.to_string(), slot.to_owned())]);
        let (mut sweep, mut steps) = (Sweep::new(replica), Vec::new());
        for _ in 0..9 {
            let step = sweep.next();
            match &step {
                SweepStep::MoveAside => sweep.moved(moved),
                SweepStep::Scan { cursor: 0 } => {
                    sweep.scanned(7, &page(r#"{"u":"alice","p":"trading","a":true,"c":1,"s":10}"#));
                }
                SweepStep::Scan { .. } => sweep.scanned(0, &page(r#"{"p":"market","c":1,"s":11}"#)),
                SweepStep::Remove { cursor, .. } => sweep.removed(*cursor),
                SweepStep::Drop => sweep.dropped(),
                SweepStep::Done { .. } => return (steps, step),
            }
            steps.push(step);
        }
        panic!("no end: {steps:?}");
    }

    #[test]
    fn a_sweep_removes_every_lease_of_the_index_page_by_page() {
        let (steps, done) = sweep(Some(true));
        let places = UserPlaces { user: UserId::new("alice").unwrap(), apart: Some("trading".into()) };
        let lease = (places, "10:gone:6f1e0e5e7f1c4a439f5f0b8a4ab5a0f1".to_owned());
        let expected = [
            SweepStep::MoveAside,
            SweepStep::Scan { cursor: 0 },
            SweepStep::Remove { leases: vec![lease], cursor: 7 },
            SweepStep::Scan { cursor: 7 },
            SweepStep::Remove { leases: vec![], cursor: 0 },
            SweepStep::Drop,
        ];
        assert_eq!((steps.as_slice(), done), (&expected[..], SweepStep::Done { sessions: 2, is_clean: true }));
    }

    #[test]
    fn what_an_interrupted_sweep_left_is_only_a_part() {
        assert_eq!(sweep(Some(false)).1, SweepStep::Done { sessions: 2, is_clean: false });
        assert_eq!(
            sweep(None).1,
            SweepStep::Done { sessions: 2, is_clean: true },
            "no index, or one that was swept already"
        );
    }
}
