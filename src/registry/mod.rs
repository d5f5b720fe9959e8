//! Which sessions are connected to which replica, tracked by leases: admission, session records, control messages,
//! presence. One contract for all back ends.
//!
//! - A user's connections are counted exactly over all replicas, in one atomic step ([`Registry::admit`]). Each has a
//!   lease that expires, so the connections of a killed replica stop counting after `session_ttl`, or sooner if another
//!   replica sweeps them once the replica's own lease has expired (`replica_ttl`).
//! - While the back end is unavailable, each replica enforces the limit on its own connections only. Afterwards a
//!   connection that resumed a session replaces that session's previous one, and of the rest only as many stay as the
//!   limit allows: the oldest, or the newest if the policy evicts the oldest. The order in which they are counted does
//!   not matter.
//! - A session replaces its own previous connection: a reconnect is never refused because the connection it replaces
//!   still counts.
//! - A session lives on one replica. When it is admitted (or, if anonymous, recorded) on another replica, or another
//!   connection replaces it, the replica that still serves it must close it (4501): immediately on a control message,
//!   or when that replica next renews or records the session. So the session of a replica that was suspended past its
//!   lease is not counted twice.
//! - The newest connection of a session keeps it: a request that waited while its replica was suspended ends no connection
//!   that may be newer ([`AdmissionVerdict::Late`]).
//! - A [`ControlInstruction`] message reaches the replica that owns a session within a second, even if that is this replica. A
//!   replica whose link was down receives it when the link is back (within ten minutes). It never affects a connection
//!   that was opened later.
//! - Users and sessions are independent of each other and of topics: each may be on a different server.
//!
//! The calls of one connection: [`Registry::admit`] (users only), [`Registry::opened`], [`Registry::record`] at once if
//! its session can be taken over, [`Registry::follows`] whenever subscriptions change, [`Registry::closed`] once. If
//! the user becomes known later, call `admit` then, and `opened` again. A session has one connection on a replica:
//! `opened` replaces an older one, for which `closed` must no longer be called.
//!
//! Knows nothing about sockets, dialects or the contents of topics.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tickgate_wire::model::{IssuedAt, ReplicaId, SessionId, Topic, UserId};

use crate::config;

/// Maximum number of connections that one request for connection counts per user examines.
const VIEW_CONNECTIONS_MAX: usize = 100_000;

/// The back end did not respond in time. The effect is unknown.
#[derive(Clone, Debug, Error)]
#[error("the registry is unavailable: {0}")]
pub struct RegistryUnavailable(pub Arc<str>);

/// The result of an operator's command. This replica always closes its own connections.
#[derive(Clone, Debug)]
pub struct OperationOutcome {
    /// All connected replicas received it.
    pub told: Result<(), RegistryUnavailable>,
    /// It is stored for replicas that are currently disconnected; a revocation also applies to replicas that start
    /// later.
    pub stored: Result<(), RegistryUnavailable>,
}

impl OperationOutcome {
    /// The result of a complete command.
    pub const DONE: Self = Self { told: Ok(()), stored: Ok(()) };

    /// # Errors
    /// The reason why the command is not complete.
    pub fn done(self) -> Result<(), RegistryUnavailable> {
        self.told.and(self.stored)
    }
}

/// The record of a session: its user and its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The user, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the profile, and the path parameter, if it has one.
    pub profile: String,
    /// The path parameter, such as a run id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}

/// Statistics of one replica, renewed with its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFigures {
    /// The name given by the operator; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Open connections.
    pub connections: u64,
    /// Subscriptions of all connections.
    pub subscriptions: u64,
    /// When the process started, in milliseconds since 1970.
    pub started_ms: u64,
    /// It is shutting down.
    pub draining: bool,
}

/// One live connection, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// The session's id.
    pub session: String,
    /// The replica that holds the socket.
    pub replica: String,
    /// The user, once known.
    pub user: Option<String>,
    /// The endpoint.
    pub profile: String,
    /// When it opened, in milliseconds since 1970.
    pub connected_ms: u64,
}

/// Statistics of all live replicas, accurate to within a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFigures {
    /// The live replicas by name.
    pub replicas: Vec<(ReplicaId, ReplicaFigures)>,
}

mod admission;
mod endings;
mod inquiry;
mod instruction;
mod memory;
mod presence;
mod redis;
mod revocations;
mod standings;

pub use admission::{Admission, AdmissionVerdict, UserPlaces};
use endings::{
    INACTIVE_REASON, REVOKED_REASON, SUPERSEDED, TOO_MANY, TOO_MANY_REASON, USER_INACTIVE, revoked, superseded,
    too_many,
};
pub use inquiry::{
    ConnectionFilter, ConnectionPage, Inquiry, InquiryAnswers, OpenConnection, ReplicaAnswer, SendResult,
};
pub use instruction::ControlInstruction;
pub use memory::Memory;
pub use presence::{TopicPresence, USERS_MAX};
pub use redis::Redis;
pub use revocations::RevokedToken;

/// Called with each control message that reaches this replica. Must not block.
pub type ControlReceiver = Box<dyn Fn(ControlInstruction) + Send + Sync>;

/// Returns this replica's statistics whenever its lease is renewed. Must not block.
pub type FiguresSource = Box<dyn Fn() -> ReplicaFigures + Send + Sync>;

/// Called with each inquiry and, if it names a topic, with the sessions that subscribe to it here. Must not block.
pub type InquirySource = Box<dyn Fn(&Inquiry, Option<&HashSet<SessionId>>) -> ReplicaAnswer + Send + Sync>;

/// The replica that the registry works for: its name, its timeouts, and its callbacks.
pub struct LocalReplica {
    /// Its name.
    pub replica: ReplicaId,
    /// The lifetimes of sessions and leases.
    pub session: config::Session,
    /// Executes instructions from other replicas.
    pub control: ControlReceiver,
    /// Supplies the statistics that are renewed with the lease.
    pub figures: FiguresSource,
    /// Answers inquiries about this replica's connections.
    pub answer: InquirySource,
}

impl fmt::Debug for LocalReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// The back ends behind one contract.
#[derive(Clone, Debug)]
pub enum Registry {
    /// For a single replica.
    Memory(Memory),
    /// For any number of replicas.
    Redis(Redis),
}

macro_rules! each {
    ($self:ident, $registry:ident => $call:expr) => {
        match $self {
            Registry::Memory($registry) => $call,
            Registry::Redis($registry) => $call,
        }
    };
}

impl Registry {
    /// Counts and adds the session to its user's set, or refuses it, in one atomic step. If the back end does not
    /// respond or accepts no writes, this replica's own count decides.
    pub async fn admit(&self, admission: &Admission) -> AdmissionVerdict {
        each!(self, r => r.admit(admission).await)
    }

    /// Records an open connection of this replica (including anonymous ones) for operators. Never waits.
    pub fn opened(&self, info: ConnectionInfo) {
        each!(self, r => r.opened(info));
    }

    /// Removes a closed connection, or one that was admitted and never opened, from its user's set and from this
    /// replica's index. Never waits: the work is queued, bounded, and done in batches; what the queue drops expires
    /// with the lease.
    pub fn closed(&self, session: SessionId) {
        each!(self, r => r.closed(session));
    }

    /// Stores the session's record. Never waits: the newest record wins, records are written in batches, and an
    /// unchanged one costs nothing. The record lives as long as the connection, and `resume_ttl` after that. The first
    /// record after [`Registry::opened`] takes the session over from its previous place; call it between `opened` and
    /// `closed`, later ones are ignored.
    pub fn record(&self, session: SessionId, record: SessionRecord) {
        each!(self, r => r.record(session, record));
    }

    /// Counts a connection among the subscribers of exactly these topics. Never waits; ignored before
    /// [`Registry::opened`] and after [`Registry::closed`].
    pub fn follows(&self, session: SessionId, topics: Vec<Topic>) {
        each!(self, r => r.follows(session, topics));
    }

    /// The record of a session whose client may resume it. A session of this replica is known even if the back end is
    /// unavailable.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn recall(&self, session: SessionId) -> Result<Option<SessionRecord>, RegistryUnavailable> {
        each!(self, r => r.recall(session).await)
    }

    /// Executes a control message here, and sends it to the replica that owns the session, or to all replicas for a
    /// user.
    pub async fn control(&self, control: ControlInstruction) -> OperationOutcome {
        each!(self, r => r.control(control).await)
    }

    /// Refuses the user's tokens issued until now, for `ttl`, and closes the user's connections on all replicas (4002).
    /// "Now" is this replica's clock, or the time at which the newest token of the user's connections here was issued,
    /// if that is later. Every replica that received it enforces it, even while the back end is unavailable. If it
    /// cannot be sent or stored now, this replica retries for as long as it runs.
    pub async fn revoke(&self, user: &UserId, ttl: Duration) -> OperationOutcome {
        each!(self, r => r.revoke(user, ttl).await)
    }

    /// Reports the user as inactive: all tokens are refused, whenever they were issued, and the user's connections are
    /// closed on all replicas (4002), for `ttl` or until the user is reported as active, whichever comes first. The
    /// last report applies. For `inactive = false`, `ttl` is the maximum remaining time of a report that this one
    /// revokes. As with [`Registry::revoke`], this replica retries for as long as it runs.
    pub async fn report(&self, user: &UserId, inactive: bool, ttl: Duration) -> OperationOutcome {
        each!(self, r => r.report(user, inactive, ttl).await)
    }

    /// Whether the user was reported as inactive.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond, and this replica knows no report about the user.
    pub async fn is_inactive(&self, user: &UserId) -> Result<bool, RegistryUnavailable> {
        each!(self, r => r.is_inactive(user).await)
    }

    /// Whether a token of the user, issued at this time, was revoked, or the user is inactive, so that it would be
    /// refused at the next admission. `None`: neither.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond, and this replica knows no revocation.
    pub async fn is_revoked(
        &self,
        user: &UserId,
        issued_at: Option<IssuedAt>,
    ) -> Result<Option<RevokedToken>, RegistryUnavailable> {
        each!(self, r => r.is_revoked(user, issued_at).await)
    }

    /// Records a newer token of an admitted session, which was checked before. Closes the session if that token was
    /// revoked meanwhile.
    pub fn reissued(&self, session: SessionId, issued_at: Option<IssuedAt>) {
        each!(self, r => r.reissued(session, issued_at));
    }

    /// Stores a single-use ticket for this token (a JWT).
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn put_ticket(&self, ticket: &str, token: &str, ttl: Duration) -> Result<(), RegistryUnavailable> {
        each!(self, r => r.put_ticket(ticket, token, ttl).await)
    }

    /// Takes a ticket's token; a second call with the same ticket returns `None`.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, RegistryUnavailable> {
        each!(self, r => r.take_ticket(ticket).await)
    }

    /// Statistics of all live replicas.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn cluster(&self) -> Result<ClusterFigures, RegistryUnavailable> {
        each!(self, r => r.cluster().await)
    }

    /// Live connections of all replicas, at most `limit`.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn connections(&self, limit: usize) -> Result<Vec<ConnectionInfo>, RegistryUnavailable> {
        each!(self, r => r.connections(limit).await)
    }

    /// Asks all replicas about their open connections, and waits at most two seconds. An inquiry that addresses a
    /// single connection is handled locally if this replica has it.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the other replicas cannot be reached. An inquiry that closes connections has then closed
    /// those of this replica.
    pub async fn inquire(&self, inquiry: &Inquiry) -> Result<InquiryAnswers, RegistryUnavailable> {
        each!(self, r => r.inquire(inquiry).await)
    }

    /// The subscribers of a topic; up to a second old.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end or one of the replicas does not respond.
    pub async fn presence(&self, topic: &Topic) -> Result<TopicPresence, RegistryUnavailable> {
        each!(self, r => r.presence(topic).await)
    }

    /// The number of connections that subscribe to a topic, if one is given and the back end responds.
    pub async fn count(&self, topic: Option<&Topic>) -> Option<u64> {
        Some(self.presence(topic?).await.ok()?.connections)
    }

    /// Number of connections per user on all replicas, for at most `limit` users.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn users(&self, limit: usize) -> Result<HashMap<String, u32>, RegistryUnavailable> {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for user in self.connections(VIEW_CONNECTIONS_MAX).await?.into_iter().filter_map(|info| info.user) {
            if let Some(count) = counts.get_mut(&user) {
                *count += 1;
            } else if counts.len() < limit {
                counts.insert(user, 1);
            }
        }
        Ok(counts)
    }

    /// Takes or renews the named exclusive lease (feeds). While this replica holds it, returns a fencing number, which
    /// is greater than `above` and than the numbers of all earlier holders.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond; the caller must then stop the work that requires the lease.
    pub async fn hold(&self, name: &str, ttl: Duration, above: u64) -> Result<Option<u64>, RegistryUnavailable> {
        each!(self, r => r.hold(name, ttl, above).await)
    }

    /// Registers under a lease of `ttl` which names this replica requests from a feed. With `read`, returns what any
    /// replica requests.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond.
    pub async fn want(
        &self,
        feed: &str,
        names: &[String],
        ttl: Duration,
        read: bool,
    ) -> Result<Vec<String>, RegistryUnavailable> {
        each!(self, r => r.want(feed, names, ttl, read).await)
    }

    /// Writes what is still queued and ends this replica's own leases (after the drain), so that they need not be
    /// swept. The last call: nothing is renewed afterwards.
    ///
    /// # Errors
    /// [`RegistryUnavailable`] if the back end does not respond; the leases then expire.
    pub async fn leave(&self) -> Result<(), RegistryUnavailable> {
        each!(self, r => r.leave().await)
    }
}
