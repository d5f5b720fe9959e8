//! Who is connected where, by leases: admission, session records, replica leases, control messages, tickets.
//!
//! The contract, the same over memory and Redis:
//! - A user's connections are counted over all replicas, exactly, in one atomic step ([`Registry::admit`]). The lease
//!   of each ends by itself, so a killed replica's slots come back without anybody's help (`session_ttl`), and sooner
//!   because another replica sweeps them when the replica's own lease ends (`replica_ttl`).
//! - A session replaces its own ghost: a reconnect is never refused because of the connection it replaces.
//! - Control messages ([`Control`]) reach the replica that owns a session within a second, also its own.
//!
//! Never knows sockets, topics' contents or dialects.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{ReplicaId, SessionId, StreamId, UserId};

/// Redis did not answer in time, or not at all. Nothing is known of the effect.
#[derive(Clone, Debug, Error)]
#[error("the registry is unavailable: {0}")]
pub struct Unavailable(pub Arc<str>);

/// What [`Registry::admit`] is asked.
#[derive(Clone, Debug)]
pub struct Admission {
    pub user: UserId,
    pub session: SessionId,
    /// Greatest number of the user's connections; the new one included.
    pub connections_max: u32,
    /// Whether the oldest connection gives way when the limit is reached (otherwise the new one is refused).
    pub evict_oldest: bool,
    /// When the token was issued, in seconds since 1970; refused when at or before the user's revocation.
    pub issued_at: Option<u64>,
}

/// What [`Registry::admit`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let in. `evicted` was told to close 4501 by the registry itself.
    Admitted { connections: u32, evicted: Option<SessionId> },
    /// Over the limit (4003).
    Refused { connections: u32 },
    /// The user's tokens of this age were revoked (4002).
    Revoked,
}

/// What is kept of a session for the resume window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub user: Option<String>,
    /// Name of the profile, and the path's parameter where it has one.
    pub profile: String,
    pub param: Option<String>,
    pub subscriptions: Vec<SubscriptionRecord>,
}

/// One subscription of a session, with the position that the client confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRecord {
    pub channel: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<StreamId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<u32>,
}

/// What one replica tells another (or all).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Control {
    /// Close this session's connection with the code.
    Close { session: String, code: u16, reason: String },
    /// Close all connections of the user with the code.
    CloseUser { user: String, code: u16, reason: String },
}

/// Figures of one replica, renewed with its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFigures {
    pub connections: u64,
    pub subscriptions: u64,
    /// When the process started, milliseconds since 1970.
    pub started_ms: u64,
    pub draining: bool,
}

/// One live connection as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    pub session: String,
    pub replica: String,
    pub user: Option<String>,
    pub profile: String,
    pub connected_ms: u64,
}

/// Figures over all live replicas, right to within a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFigures {
    pub replicas: Vec<(ReplicaId, ReplicaFigures)>,
}

mod memory;
mod redis;

pub use memory::Memory;
pub use redis::Redis;

/// Called with each control message that reaches this replica. Must not block.
pub type ControlReceiver = Box<dyn Fn(Control) + Send + Sync>;

/// The two back ends behind one contract.
#[derive(Clone, Debug)]
pub enum Registry {
    Memory(Memory),
    Redis(Redis),
}

/// Runs one method on whichever back end it is.
macro_rules! each {
    ($self:ident, $registry:ident => $call:expr) => {
        match $self {
            Registry::Memory($registry) => $call,
            Registry::Redis($registry) => $call,
        }
    };
}

impl Registry {
    /// Counts and adds the session to its user's set, or refuses, in one atomic step.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer; the caller decides whether to let the client in.
    pub async fn admit(&self, admission: &Admission) -> Result<Verdict, Unavailable> {
        each!(self, r => r.admit(admission).await)
    }

    /// Notes a connection of this replica (anonymous ones too) for the operator's view. Never waits for Redis.
    pub fn opened(&self, info: ConnectionInfo) {
        each!(self, r => r.opened(info));
    }

    /// Takes a closed connection out of its user's set and of this replica's index. Never waits for Redis: the work
    /// is queued, bounded, and done in batches; what is lost from the queue heals with the lease.
    pub fn closed(&self, session: SessionId, user: Option<&UserId>) {
        each!(self, r => r.closed(session, user));
    }

    /// Keeps (or replaces) what is needed to resume the session. Never waits: newest wins, written in batches. The
    /// record lives as long as the connection's lease is renewed, and `resume_ttl` after that.
    pub fn record(&self, session: SessionId, record: SessionRecord) {
        each!(self, r => r.record(session, record));
    }

    /// The record of a session that may be resumed.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn recall(&self, session: SessionId) -> Result<Option<SessionRecord>, Unavailable> {
        each!(self, r => r.recall(session).await)
    }

    /// Sends a control message: to the replica that owns the session, or to all for a user.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn control(&self, control: Control) -> Result<(), Unavailable> {
        each!(self, r => r.control(control).await)
    }

    /// Refuses the user's tokens issued until now for `ttl`, and closes the user's connections everywhere (4002).
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn revoke(&self, user: &UserId, ttl: Duration) -> Result<(), Unavailable> {
        each!(self, r => r.revoke(user, ttl).await)
    }

    /// Stores a single-use ticket's token (the JWT it stands for).
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn put_ticket(&self, ticket: &str, token: &str, ttl: Duration) -> Result<(), Unavailable> {
        each!(self, r => r.put_ticket(ticket, token, ttl).await)
    }

    /// Takes a ticket's token out; a second call with the same ticket gets `None`.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, Unavailable> {
        each!(self, r => r.take_ticket(ticket).await)
    }

    /// Figures of all live replicas.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn cluster(&self) -> Result<ClusterFigures, Unavailable> {
        each!(self, r => r.cluster().await)
    }

    /// Live connections over all replicas, `limit` at the most.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn connections(&self, limit: usize) -> Result<Vec<ConnectionInfo>, Unavailable> {
        each!(self, r => r.connections(limit).await)
    }

    /// Connections per user over all replicas, `limit` users at the most.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn users(&self, limit: usize) -> Result<HashMap<String, u32>, Unavailable> {
        let mut counts = HashMap::new();
        for info in self.connections(limit).await? {
            if let Some(user) = info.user {
                *counts.entry(user).or_insert(0) += 1;
            }
        }
        Ok(counts)
    }

    /// Whether this replica currently holds the named exclusive lease (feeds): takes or renews it.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer; the caller then stops what the lease allows.
    pub async fn hold(&self, name: &str, ttl: Duration) -> Result<bool, Unavailable> {
        each!(self, r => r.hold(name, ttl).await)
    }

    /// Ends this replica's own leases (after the drain), so that nobody has to sweep it.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer; the leases then end by themselves.
    pub async fn leave(&self) -> Result<(), Unavailable> {
        each!(self, r => r.leave().await)
    }
}
