//! What all connections of a replica share, and the tables that find one of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tickgate_wire::model::{ReplicaId, SessionId, UserId};

use super::{
    address::AddressLimits,
    link::{self, Clock, Links, Wheel},
    pulse::Beats,
};
use crate::{
    auth::Verifier,
    backplane::Backplane,
    config::Config,
    hub::{Hub, Shared},
    metrics::Metrics,
    publisher::Publisher,
    registry::{Control, Registry},
    session::{Bucket, Rules},
    tasks::{Stop, Tasks},
};

/// Everything a connection needs of its replica.
#[derive(Debug)]
pub struct Gateway {
    pub config: Arc<Config>,
    pub replica: ReplicaId,
    pub hub: Arc<Hub>,
    pub backplane: Backplane,
    pub publisher: Publisher,
    pub registry: Registry,
    pub verifier: Arc<Verifier>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    pub rules: Arc<Rules>,
    pub outboxes: Arc<Shared>,
    pub addresses: AddressLimits,
    pub links: Arc<Links>,
    pub wheel: Wheel,
    pub beats: Beats,
    pub clock: Clock,
    pub users: UserBuckets,
    /// New connections are turned away: the replica is about to go.
    pub closing: AtomicBool,
}

impl Gateway {
    /// The address that limits count, given the peer's.
    #[must_use]
    pub fn address(&self, peer: IpAddr, headers: &hyper::HeaderMap) -> IpAddr {
        super::address::client_address(peer, headers, &self.config.server.trusted_proxies)
    }

    /// Whether the replica takes the connection that has just been counted among its address's.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.closing.load(Ordering::Relaxed) && self.addresses.connections() <= self.config.limits.connections_max
    }

    /// Turns the wheel until the replica stops.
    pub async fn keep_time(self: Arc<Self>, mut stop: Stop) {
        let mut ticks = tokio::time::interval(Wheel::TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.wheel.turn(self.clock.now_ms(), &self.beats).await,
                () = stop.wait() => return,
            }
        }
    }
}

/// Acts on a control message of another replica (or our own).
pub fn on_control(links: &Links, control: &Control) {
    match control {
        Control::Close { session, code, reason } => {
            if let Some(link) = SessionId::parse(session).and_then(|session| links.get(session)) {
                link::end(&link, *code, reason);
            }
        }
        Control::CloseUser { user, code, reason } => links.end_user(user, *code, reason),
    }
}

/// One bucket per connected user, shared by the user's connections on this replica.
#[derive(Debug, Default)]
pub struct UserBuckets(Mutex<HashMap<UserId, Arc<Mutex<Bucket>>>>);

impl UserBuckets {
    /// The user's bucket.
    #[must_use]
    pub fn share(&self, user: &UserId) -> Arc<Mutex<Bucket>> {
        self.0.lock().entry(user.clone()).or_default().clone()
    }

    /// A connection gave its share back: the last one takes the bucket away.
    pub fn release(&self, user: &UserId, share: Arc<Mutex<Bucket>>) {
        let mut all = self.0.lock();
        drop(share);
        if all.get(user).is_some_and(|bucket| Arc::strong_count(bucket) == 1) {
            all.remove(user);
        }
    }
}
