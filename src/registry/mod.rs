//! Who is connected where, by leases: admission, session records, control messages, presence. One contract for all back
//! ends.
//!
//! - A user's connections are counted over all replicas, exactly, in one atomic step ([`Registry::admit`]). Each has a lease
//!   that ends by itself, so the slots of a killed replica are freed without anybody's help (`session_ttl`), and sooner when
//!   another replica sweeps them after the replica's own lease has ended (`replica_ttl`).
//! - While the back end can't count, each replica holds the limit for its own connections. Afterwards a connection whose
//!   client named a session takes that session's place, and of the others so many stay as the limit allows: those that
//!   are there for the longest, or the newest where the oldest is to give way. Order of arrival does not matter.
//! - A session replaces its own ghost: a reconnect is never refused because of the connection it replaces.
//! - A session lives in one place. When it is admitted (or, anonymous, recorded) elsewhere, or when another connection took
//!   its slot, the replica that still serves it has to close it (4501): at once by a control message, and again when
//!   that replica next renews or records the session. So a replica that slept through its lease can't count twice.
//! - A [`Control`] message reaches the replica that owns a session within a second, also when that is this replica. A
//!   replica whose link was down receives it when it is back (within ten minutes). It never concerns a connection that was
//!   opened later.
//! - Users and sessions are independent of each other and of topics: each may be on another server.
//!
//! The calls of one connection: [`Registry::admit`] (users only), [`Registry::opened`], [`Registry::record`] at
//! once where it has a session that can be taken over, [`Registry::follows`] whenever subscriptions change,
//! [`Registry::closed`] once. When the user becomes known later, call `admit` then, and
//! `opened` again. A session has one connection on a replica: `opened` puts it in the place of an older one, for which
//! `closed` must not be called any more.
//!
//! Never knows sockets, topics' contents or dialects.

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

/// Connections counted for the view by user: a bound on the work of one request.
const VIEW_CONNECTIONS_MAX: usize = 100_000;

/// The back end did not answer in time. Nothing is known of the effect.
#[derive(Clone, Debug, Error)]
#[error("the registry is unavailable: {0}")]
pub struct Unavailable(pub Arc<str>);

/// A request for a slot among the user's connections.
#[derive(Clone, Debug)]
pub struct Admission {
    pub user: UserId,
    pub session: SessionId,
    /// The session whose place the client wants, which could not be looked up: its place is taken as soon as that is
    /// possible.
    pub replaces: Option<SessionId>,
    /// Greatest number of the user's connections, including the new one.
    pub connections_max: u32,
    /// Whether the oldest connection is closed when the limit is reached (otherwise the new one is refused).
    pub evict_oldest: bool,
    /// When the token was issued; refused when at or before the user's revocation. A token that does not say so counts as
    /// older.
    pub issued_at: Option<IssuedAt>,
}

/// What [`Registry::admit`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `connections` counts the new one. The registry itself tells `evicted` to close (4501).
    Admitted { connections: u32, evicted: Option<SessionId> },
    /// Over the limit (4003); `connections` are open elsewhere.
    Refused { connections: u32 },
    /// The user's tokens of this age were revoked (4002), or may have been.
    Revoked(Revoked),
}

/// What became of an operator's word: connections of this replica are closed in any case.
#[derive(Clone, Debug)]
pub struct Carried {
    /// All replicas that are linked heard it.
    pub told: Result<(), Unavailable>,
    /// It is kept for replicas that are cut off now, and a revocation for those that start later.
    pub stored: Result<(), Unavailable>,
}

impl Carried {
    /// Nothing is left to do.
    pub const DONE: Self = Self { told: Ok(()), stored: Ok(()) };

    /// # Errors
    /// Why something is left to do.
    pub fn done(self) -> Result<(), Unavailable> {
        self.told.and(self.stored)
    }
}

/// What is kept of a session: whose it is, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the profile, and the path's parameter where it has one.
    pub profile: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}

/// An instruction from one replica to another, or to all.
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
    /// What its operator calls it; empty for one that does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
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

mod endings;
mod inquiry;
mod memory;
mod presence;
mod redis;
mod revocations;
mod standings;

use endings::{
    INACTIVE_REASON, REVOKED_REASON, SUPERSEDED, TOO_MANY, TOO_MANY_REASON, USER_INACTIVE, revoked, superseded,
    too_many,
};
pub use inquiry::{Answer, Answers, Inquiry, Matching, OpenConnection, Page, Sent};
pub use memory::Memory;
pub use presence::{Presence, USERS_MAX};
pub use redis::Redis;
pub use revocations::Revoked;

/// Called with each control message that reaches this replica. Must not block.
pub type ControlReceiver = Box<dyn Fn(Control) + Send + Sync>;

/// Asked for this replica's figures whenever its lease is renewed. Must not block.
pub type FiguresSource = Box<dyn Fn() -> ReplicaFigures + Send + Sync>;

/// Called with each inquiry, and, where that names a topic, with the sessions that follow it here. Must not block.
pub type InquirySource = Box<dyn Fn(&Inquiry, Option<&HashSet<SessionId>>) -> Answer + Send + Sync>;

/// The replica that the registry works for: its name, its times, and its callbacks.
pub struct Local {
    pub replica: ReplicaId,
    pub session: config::Session,
    pub control: ControlReceiver,
    pub figures: FiguresSource,
    pub answer: InquirySource,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// The back ends behind one contract.
#[derive(Clone, Debug)]
pub enum Registry {
    Memory(Memory),
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
    /// Counts and adds the session to its user's set, or refuses, in one atomic step. When the back end does not answer or
    /// takes no writes, this replica's own count decides.
    pub async fn admit(&self, admission: &Admission) -> Verdict {
        each!(self, r => r.admit(admission).await)
    }

    /// Notes a connection of this replica (anonymous ones too) for the operator's view. Never waits.
    pub fn opened(&self, info: ConnectionInfo) {
        each!(self, r => r.opened(info));
    }

    /// Removes a closed connection, or one that was admitted and never opened, from its user's set and from this replica's
    /// index. Never waits: the work is queued, bounded, and done in batches; what the queue drops heals with the lease.
    pub fn closed(&self, session: SessionId) {
        each!(self, r => r.closed(session));
    }

    /// Keeps (or replaces) what is known of the session. Never waits: the newest record wins, records are written
    /// in batches, and an unchanged one costs nothing. The record lives as long as the connection, and `resume_ttl` after
    /// that. The first record after [`Registry::opened`] takes the session over from wherever it lived before; call it
    /// between `opened` and `closed`, later ones are ignored.
    pub fn record(&self, session: SessionId, record: SessionRecord) {
        each!(self, r => r.record(session, record));
    }

    /// Counts a connection among the followers of these topics, and of no others. Never waits; ignored before
    /// [`Registry::opened`] and after [`Registry::closed`].
    pub fn follows(&self, session: SessionId, topics: Vec<Topic>) {
        each!(self, r => r.follows(session, topics));
    }

    /// The record of a session, whose client may reconnect. A session of this replica is known while the back end is not
    /// there.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn recall(&self, session: SessionId) -> Result<Option<SessionRecord>, Unavailable> {
        each!(self, r => r.recall(session).await)
    }

    /// Acts on a control message here, and sends it to the replica that owns the session, or to all for a user.
    pub async fn control(&self, control: Control) -> Carried {
        each!(self, r => r.control(control).await)
    }

    /// Refuses the user's tokens for `ttl` that were issued until now, and closes the user's connections everywhere (4002).
    /// "Now" is this replica's clock, or when the newest token of the user's connections here was issued, if that is later.
    /// Every replica that heard it holds to it, whatever becomes of the back end. What can't be told or stored now will be
    /// when the back end is there, as long as this replica lives.
    pub async fn revoke(&self, user: &UserId, ttl: Duration) -> Carried {
        each!(self, r => r.revoke(user, ttl).await)
    }

    /// The platform reports the user as inactive: all tokens are refused, whenever they were issued, and the user's
    /// connections are closed everywhere (4002), for `ttl` or until the user is reported as active, whichever comes first.
    /// The last word counts. For `inactive = false`, `ttl` is the longest life of a word that this one takes back. As with
    /// [`Registry::revoke`], what can't be told or stored now will be.
    pub async fn report(&self, user: &UserId, inactive: bool, ttl: Duration) -> Carried {
        each!(self, r => r.report(user, inactive, ttl).await)
    }

    /// Whether the user was reported as inactive.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer, and this replica has not heard of the user.
    pub async fn is_inactive(&self, user: &UserId) -> Result<bool, Unavailable> {
        each!(self, r => r.is_inactive(user).await)
    }

    /// Whether a token of the user, issued at this time, was revoked, or the user is inactive: it will be refused at the next
    /// admission. `None`: it was not.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer, and this replica has not heard of a revocation.
    pub async fn is_revoked(&self, user: &UserId, issued_at: Option<IssuedAt>) -> Result<Option<Revoked>, Unavailable> {
        each!(self, r => r.is_revoked(user, issued_at).await)
    }

    /// The client of an admitted session has a newer token, which was asked about before. Closes the session if that token
    /// was revoked meanwhile.
    pub fn reissued(&self, session: SessionId, issued_at: Option<IssuedAt>) {
        each!(self, r => r.reissued(session, issued_at));
    }

    /// Stores a single-use ticket's token (the JWT it stands for).
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn put_ticket(&self, ticket: &str, token: &str, ttl: Duration) -> Result<(), Unavailable> {
        each!(self, r => r.put_ticket(ticket, token, ttl).await)
    }

    /// Takes a ticket's token out; a second call with the same ticket returns `None`.
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

    /// Live connections over all replicas, at most `limit`.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn connections(&self, limit: usize) -> Result<Vec<ConnectionInfo>, Unavailable> {
        each!(self, r => r.connections(limit).await)
    }

    /// Asks all replicas about their open connections, and waits two seconds at the most. What is sent to one connection, or
    /// closes it, asks nobody where this replica has it.
    ///
    /// # Errors
    /// [`Unavailable`] when the others can't be asked. What closes connections has closed those of this replica.
    pub async fn inquire(&self, inquiry: &Inquiry) -> Result<Answers, Unavailable> {
        each!(self, r => r.inquire(inquiry).await)
    }

    /// Who follows a topic; up to a second old.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end, or one of the replicas, does not answer.
    pub async fn presence(&self, topic: &Topic) -> Result<Presence, Unavailable> {
        each!(self, r => r.presence(topic).await)
    }

    /// Connections that follow a topic, where one is asked about and the back end answers.
    pub async fn count(&self, topic: Option<&Topic>) -> Option<u64> {
        Some(self.presence(topic?).await.ok()?.connections)
    }

    /// Connections per user over all replicas, at most `limit` users.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn users(&self, limit: usize) -> Result<HashMap<String, u32>, Unavailable> {
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

    /// Takes or renews the named exclusive lease (feeds). While this replica holds it, the number of its turn: greater than
    /// `above`, and than those of the turns before.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer; the caller then stops what the lease allows.
    pub async fn hold(&self, name: &str, ttl: Duration, above: u64) -> Result<Option<u64>, Unavailable> {
        each!(self, r => r.hold(name, ttl, above).await)
    }

    /// Tells under a lease of `ttl` which names this replica wants of a feed. With `read`, returns what any replica wants.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer.
    pub async fn want(
        &self,
        feed: &str,
        names: &[String],
        ttl: Duration,
        read: bool,
    ) -> Result<Vec<String>, Unavailable> {
        each!(self, r => r.want(feed, names, ttl, read).await)
    }

    /// Writes what is still queued and ends this replica's own leases (after the drain), so that nobody has to sweep them.
    /// The last call: nothing is renewed afterwards.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer; the leases then end by themselves.
    pub async fn leave(&self) -> Result<(), Unavailable> {
        each!(self, r => r.leave().await)
    }
}
