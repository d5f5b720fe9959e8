//! State shared by all connections of a replica. Never refers to a single connection: `table` does.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tickgate_wire::model::{ReplicaId, UserId};

use super::{
    address::{self, AddressLimits},
    keep_alive::KeepAliveConfig,
    table::ConnectionTable,
    wheel::TimerWheel,
};
use crate::{
    audit::Audit,
    auth::Verifier,
    backplane::Backplane,
    bucket::Bucket,
    clock::{self, Uptime},
    config::Config,
    hub::Hub,
    metrics::Metrics,
    publisher::Publisher,
    registry::Registry,
    session::SessionRules,
    tasks::{Stop, Tasks},
};

/// The dependencies of a connection.
#[derive(Debug)]
pub struct Replica {
    /// The replica's name.
    pub id: ReplicaId,
    /// The settings.
    pub config: Arc<Config>,
    /// Where connections subscribe.
    pub hub: Arc<Hub>,
    /// Read for histories.
    pub backplane: Backplane,
    /// Takes the publications of clients.
    pub publisher: Publisher,
    /// Admits sessions, and shows connections to other replicas.
    pub registry: Registry,
    /// Verifies tokens and API keys.
    pub verifier: Arc<Verifier>,
    /// The metrics of the replica.
    pub metrics: Arc<Metrics>,
    /// Runs the connections' tasks.
    pub tasks: Tasks,
    /// What all sessions share.
    pub rules: Arc<SessionRules>,
    /// The limits of each address.
    pub addresses: AddressLimits,
    /// The open connections.
    pub connections: Arc<ConnectionTable>,
    /// Runs the keep-alive checks of all connections.
    pub wheel: TimerWheel,
    /// The keep-alive settings.
    pub keep_alive: KeepAliveConfig,
    /// The clock of timers.
    pub uptime: Uptime,
    /// The rate limits of users.
    pub users: UserBuckets,
    /// Records refused clients.
    pub audit: Arc<Audit>,
    /// New connections are refused because the replica is shutting down.
    pub closing: AtomicBool,
    /// New connections are refused: an operator drained the replica.
    pub held: AtomicBool,
}

impl Replica {
    /// The address that limits count, for a peer.
    #[must_use]
    pub fn address(&self, peer: IpAddr, headers: &hyper::HeaderMap) -> IpAddr {
        address::client_address(peer, headers, &self.config.server.proxies)
    }

    /// Whether the replica has room for the connection that was just counted for its address.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.is_closing() && self.addresses.connections() <= self.config.limits.connections_max
    }

    /// Whether new connections are sent elsewhere.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.held.load(Ordering::Relaxed)
    }

    /// Refuses new connections, or accepts them again.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// Turns the wheel until the replica stops.
    pub async fn keep_time(self: Arc<Self>, mut stop: Stop) {
        let mut ticks = tokio::time::interval(TimerWheel::TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    clock::advance_coarse();
                    self.wheel.turn(self.uptime.now_ms(), &self.keep_alive).await;
                }
                () = stop.wait() => return,
            }
        }
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

    /// Users with a connection.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether no user is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a connection's share. The last one removes the bucket.
    pub fn release(&self, user: &UserId, share: Arc<Mutex<Bucket>>) {
        let mut all = self.0.lock();
        drop(share);
        if all.get(user).is_some_and(|bucket| Arc::strong_count(bucket) == 1) {
            all.remove(user);
        }
    }
}
