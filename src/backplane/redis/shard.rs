//! The backplane of one server: the membership in its dataset, the lanes that publish to it, and the sweep of its
//! streams.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tickgate_wire::model::Publication;
use tokio::{sync::oneshot, time::timeout};

use super::{
    ReplicaIdentity,
    durable::Dedicated,
    lane::{self, LaneParts, PublishLane, Route},
    ledger::TopicLedger,
    member::{LeaveRequest, MemberTask},
    membership::Membership,
    script, sweep,
};
use crate::{
    backplane::{LeaseTurn, PendingPublish},
    redis_link::{Placement, RedisLink},
    tasks::Tasks,
};

/// Maximum duration of leaving.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(4);

/// One server, for publishers.
#[derive(Debug)]
pub(super) struct BackplaneShard {
    lane: PublishLane,
    /// For topics that are acknowledged only when copies or the disk have them. A topic uses only one of the lanes.
    durable: PublishLane,
    pub(super) membership: Arc<Membership>,
    leave: Mutex<Option<oneshot::Sender<LeaveRequest>>>,
}

impl BackplaneShard {
    /// Starts the tasks of one of `shards` shards.
    pub(super) fn start(
        link: &RedisLink,
        placement: Placement,
        (shards, identity): (usize, &ReplicaIdentity),
        tasks: &Tasks,
    ) -> Self {
        link.preload(lane::SCRIPT);
        script::texts().for_each(|text| link.preload(text));
        let (membership, ledger) = (Arc::<Membership>::default(), Arc::<Mutex<TopicLedger>>::default());
        let lane = |route| {
            let (membership, ledger) = (Arc::clone(&membership), Arc::clone(&ledger));
            PublishLane::start(LaneParts { link: link.clone(), placement, route, membership, ledger, shards }, tasks)
        };
        let (leave, asked) = oneshot::channel();
        let member = MemberTask::new(link.clone(), Arc::clone(&membership), Arc::clone(&ledger), identity);
        tasks.spawn_vital("redis membership", member.run(asked, tasks.stop()));
        tasks.spawn_vital("redis sweep", sweep::run(link.clone(), identity.clone(), tasks.stop()));
        Self {
            lane: lane(Route::Shared),
            durable: lane(Route::Dedicated(Dedicated::default())),
            membership,
            leave: Mutex::new(Some(leave)),
        }
    }

    pub(super) fn publish(&self, publication: Publication, turn: Option<LeaseTurn>) -> PendingPublish {
        let rule = &publication.rule;
        let durable = rule.retain_max > 0 && (rule.wait_replicas > 0 || rule.wait_aof);
        let lane = if durable { &self.durable } else { &self.lane };
        lane.publish(publication, turn)
    }

    /// Hands over what was acknowledged, and leaves the roster.
    pub(super) async fn leave(&self) {
        let Some(leave) = self.leave.lock().take() else { return };
        let (left, done) = oneshot::channel();
        if leave.send(left).is_ok() && timeout(LEAVE_TIMEOUT, done).await.is_err() {
            tracing::debug!("timed out waiting for redis on leaving");
        }
    }
}
