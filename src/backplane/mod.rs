//! The message path between replicas: publish, follow, read back. One contract for all back ends.
//!
//! - **One path.** Every publication, including those of this replica's own clients, returns through
//!   [`BackplaneEvent::Arrived`], so all replicas see the same order within a topic.
//! - **Append and publish are one atomic step** for retained topics: the order of arrivals is the order of the stream.
//! - Topics are independent: each may be on another server, with a separate [history](Backplane::history) and separate
//!   failures. There is no order between publications of two topics.
//! - Arrivals of a topic start after [`Backplane::follow`]. They are complete only from a [`BackplaneEvent::Confirmed`] to the
//!   next [`BackplaneEvent::Lost`]: after each confirmation the follower must read the head of the stream and compare. The
//!   follower (`hub`) checks for holes; the backplane never reorders or invents messages, but it may lose them and,
//!   when a link was replaced, repeat them.
//! - Only the [`Generations`] of the dataset decides what a step from one position to another means.
//! - Publishers that bypass the gateway may write anything. An entry with an invalid payload keeps its place: it
//!   arrives, and is read back, as [`Content::Unreadable`](tickgate_wire::model::Content::Unreadable).
//! - A publication ends in one of three ways: accepted with its id, refused (certainly not stored), or unknown. One
//!   whose `msg_id` was used with another content is refused permanently.
//!
//! Knows nothing about subscribers, sessions or wire forms.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tickgate_wire::model::{Message, Publication, StreamId, Topic};

use crate::history::Generations;

mod channel;
mod memory;
mod next_page;
mod redis;
mod turn;

pub use channel::{ChannelMessages, NewestOfChannel};
pub use memory::Memory;
pub use next_page::{MissingRange, NextPage};
pub use redis::{Redis, ReplicaIdentity};
pub use turn::LeaseTurn;

/// The result of a publication that was stored (or, for topics without retention, sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishAck {
    /// `None` for topics without retention.
    pub id: Option<StreamId>,
    /// The same `msg_id` was published before; `id` is the original one.
    pub duplicate: bool,
}

/// Why a publication was not acknowledged.
#[derive(Clone, Debug, Error)]
pub enum PublishError {
    /// Certainly not stored; may be retried.
    #[error("the publication was refused: {0}")]
    Refused(PublishRefusal),
    /// No response in time: it may be stored. Safe to retry with the same `msg_id`.
    #[error("the outcome of the publication is unknown: {0}")]
    Unknown(Arc<str>),
    /// Its `msg_id` was used for another publication. Certainly not stored; retrying is pointless.
    #[error("the msg_id was used for another publication")]
    Reused,
}

/// Why a publication was certainly not stored. The back end logs and counts its more specific cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PublishRefusal {
    /// There is no connection to Redis.
    #[error("no connection to the backplane")]
    Disconnected,
    /// Redis is loading its dataset after a start.
    #[error("the backplane is loading its data")]
    Loading,
    /// The server is a replica of another one.
    #[error("the backplane is read-only")]
    ReadOnly,
    /// Redis has reached `maxmemory`.
    #[error("the backplane is out of memory")]
    OutOfMemory,
    /// Redis cannot write its data to disk.
    #[error("the backplane cannot write to its disk")]
    Disk,
    /// Redis has fewer replicas than its `min-replicas-to-write`.
    #[error("the backplane has too few replicas to accept writes")]
    NoReplicas,
    /// Redis is executing another script that takes too long.
    #[error("the backplane is busy")]
    Busy,
    /// Too many publications wait for Redis.
    #[error("too many publications are queued")]
    Overloaded,
    /// It waited too long before it could be sent.
    #[error("the lease of the publication has expired")]
    Expired,
    /// A publication of that later turn was stored before.
    #[error("another replica holds the lease now")]
    Superseded {
        /// The number of the later turn.
        by: u64,
    },
    /// The Redis user may not execute the command.
    #[error("the backplane rejected the publication")]
    Denied,
}

/// A read failed; nothing is known about the stream.
#[derive(Clone, Debug, Error)]
#[error("the stream is currently unavailable: {0}")]
pub struct StreamUnavailable(pub Arc<str>);

/// Why the head of a topic's stream is unknown.
#[derive(Clone, Debug, Error)]
pub enum HeadError {
    /// Nothing can be read now, probably of other topics either.
    #[error(transparent)]
    Unavailable(#[from] StreamUnavailable),
    /// The topic's key does not hold a stream; other topics are not affected.
    #[error("the key does not hold a stream: {0}")]
    NoStream(Arc<str>),
}

/// The part of a stream that follows a cursor.
#[derive(Clone, Debug)]
pub struct StreamPage {
    /// In order. The reader checks whether they are consecutive.
    pub messages: Vec<Arc<Message>>,
    /// Whether more follows.
    pub more: bool,
    /// The last id that the stream had assigned when the read started, even if its entry has been removed; `None`:
    /// there was no stream.
    pub end: Option<StreamId>,
}

/// The newest messages of a stream.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
    /// False if the limit in bytes was reached and older ones were omitted.
    pub whole: bool,
}

/// Limits of one read. At least one message is always returned, regardless of its size, so that repeated reads make
/// progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Maximum number of messages.
    pub messages_max: usize,
    /// Of payloads.
    pub bytes_max: usize,
}

impl ReadLimits {
    /// One message of any size.
    pub const ONE: Self = Self { messages_max: 1, bytes_max: 0 };

    /// Limits in messages and in bytes of their payloads.
    #[must_use]
    pub const fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { messages_max, bytes_max }
    }

    /// How many of these messages may be added to `taken` messages of `bytes` bytes.
    pub(crate) fn room<'a>(
        self,
        taken: usize,
        mut bytes: usize,
        messages: impl Iterator<Item = &'a Arc<Message>>,
    ) -> usize {
        let fits = |(at, message): &(usize, &Arc<Message>)| {
            bytes += message.payload_bytes();
            bytes <= self.bytes_max || taken + at == 0
        };
        messages.take(self.messages_max.saturating_sub(taken)).enumerate().take_while(fits).count()
    }
}

/// What the backplane reports to the follower.
#[derive(Debug)]
pub enum BackplaneEvent<'a> {
    /// A publication arrived on the topic.
    Arrived {
        /// The topic's name.
        topic: &'a str,
        /// The publication; its id is `None` if the topic is not retained.
        message: Message,
    },
    /// The subscription of the topic is confirmed: everything published from now on arrives. Read the head now.
    Confirmed {
        /// The topic's name.
        topic: &'a str,
    },
    /// Messages of the topic may have been missed; another confirmation will follow.
    Lost {
        /// The topic's name.
        topic: &'a str,
    },
    /// Something arrived on the topic that this replica cannot place. Compare with the stream.
    Foreign {
        /// The topic's name.
        topic: &'a str,
    },
    /// A server was replaced, restarted or emptied: its streams may have lost their last entries.
    GenerationChanged,
}

/// Called for each event, in order per topic, from a task of the back end. Must not block.
pub type Receiver = Box<dyn Fn(BackplaneEvent<'_>) + Send + Sync>;

/// The state of the backplane, for readiness and status. With several servers, that of the best one, because the loss
/// of one affects only its own topics.
#[derive(Clone, Debug)]
pub struct Health {
    /// Name of the back end.
    pub kind: &'static str,
    /// Whether the backplane has worked since the start.
    pub reached: bool,
    /// How long commands have been failing; zero when they work.
    pub commands_down: Duration,
    /// Why, if it does not pass by itself.
    pub commands_obstacle: Option<Arc<str>>,
    /// How long arrivals have been impossible; zero when they work.
    pub pubsub_down: Duration,
    /// Why nothing is acknowledged although the server responds.
    pub obstacle: Option<Arc<str>>,
    /// Whether publications can currently be acknowledged on every server.
    pub acknowledges: bool,
}

/// The back ends behind one contract.
#[derive(Clone, Debug)]
pub enum Backplane {
    /// For a single replica: nothing survives a restart.
    Memory(Memory),
    /// For any number of replicas.
    Redis(Redis),
}

macro_rules! each {
    ($self:ident, $backplane:ident => $call:expr) => {
        match $self {
            Backplane::Memory($backplane) => $call,
            Backplane::Redis($backplane) => $call,
        }
    };
}

impl Backplane {
    /// Sets the receiver of all events. Call it once, before anything else.
    pub fn start(&self, receiver: Receiver) {
        each!(self, b => b.start(receiver));
    }

    /// Appends and publishes in one atomic step. The publications of a topic keep the order of the calls: the returned
    /// future only waits for the result, so a caller may have many in flight.
    ///
    /// # Errors
    /// [`PublishError::Refused`] or [`PublishError::Unknown`], within a bounded time.
    pub fn publish(
        &self,
        publication: Publication,
    ) -> impl Future<Output = Result<PublishAck, PublishError>> + Send + use<> {
        self.publish_in_turn(publication, None)
    }

    /// Publishes under a lease.
    ///
    /// # Errors
    /// As [`Backplane::publish`]; [`PublishRefusal::Expired`] and [`PublishRefusal::Superseded`] when the turn is over.
    pub fn publish_in_turn(
        &self,
        publication: Publication,
        turn: Option<LeaseTurn>,
    ) -> impl Future<Output = Result<PublishAck, PublishError>> + Send + use<> {
        let ticket = each!(self, b => b.publish(publication, turn));
        async move { ticket.wait().await }
    }

    /// Starts to follow the topic; [`BackplaneEvent::Confirmed`] follows. Not counted: call it once per topic. `owner`: the
    /// client that caused it. If many wait, topics of different owners take turns.
    pub fn follow(&self, topic: &Topic, owner: Option<u64>) {
        each!(self, b => b.follow(topic, owner));
    }

    /// Stops following the topic.
    pub fn unfollow(&self, topic: &Topic) {
        each!(self, b => b.unfollow(topic));
    }

    /// Reads forward from a cursor, excluding it, within the limits. [`StreamId::ZERO`] is the position before the
    /// first entry.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the back end does not respond in time, or too many reads wait.
    pub async fn read(
        &self,
        topic: &Topic,
        after: StreamId,
        limits: ReadLimits,
    ) -> Result<StreamPage, StreamUnavailable> {
        each!(self, b => b.read(topic, after, limits).await)
    }

    /// Reads the newest messages within the limits. Empty if there never was one.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the back end does not respond in time, or too many reads wait.
    pub async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, StreamUnavailable> {
        each!(self, b => b.newest(topic, limits).await)
    }

    /// The known generations of the topic's server.
    #[must_use]
    pub fn history(&self, topic: &Topic) -> Arc<Generations> {
        each!(self, b => b.history(topic))
    }

    /// Reports that the topic's stream is older than before, in the same generation: its server went back.
    pub fn doubt(&self, topic: &Topic) {
        each!(self, b => b.doubt(topic));
    }

    /// Gives topics without a stream unique positions, and extends the lifetime of existing ones. Returns the last ids
    /// of their streams, which another replica may have started meanwhile, in the order of `topics`. Each has a
    /// separate result: [`StreamUnavailable`] if its server does not respond in time.
    pub async fn anchors(&self, topics: &[Topic]) -> Vec<Result<StreamId, StreamUnavailable>> {
        each!(self, b => b.anchors(topics).await)
    }

    /// Deletes the positions of topics without publications. Topics with publications are not affected.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the back end does not respond in time: the positions then expire.
    pub async fn forget(&self, topics: &[Topic]) -> Result<(), StreamUnavailable> {
        each!(self, b => b.forget(topics).await)
    }

    /// The last ids that many streams have assigned, read together, in the order of `topics`; `None` if there is no
    /// stream. Each has a separate result: [`StreamUnavailable`] if its server does not respond in time.
    pub async fn heads(&self, topics: &[Topic]) -> Vec<Result<Option<StreamId>, HeadError>> {
        each!(self, b => b.heads(topics).await)
    }

    /// Hands over what this replica has acknowledged to the other replicas, and stops acknowledging. Takes a few
    /// seconds at most.
    pub async fn leave(&self) {
        each!(self, b => b.leave().await);
    }

    /// The state of the backplane.
    #[must_use]
    pub fn health(&self) -> Health {
        each!(self, b => b.health())
    }
}

/// The result of a submitted publication.
#[derive(Debug)]
pub enum PendingPublish {
    /// Known at once.
    Ready(Result<PublishAck, PublishError>),
    /// Sent when the server has responded, or after a timeout.
    Waiting(tokio::sync::oneshot::Receiver<Result<PublishAck, PublishError>>),
}

impl PendingPublish {
    async fn wait(self) -> Result<PublishAck, PublishError> {
        match self {
            Self::Ready(result) => result,
            Self::Waiting(receiver) => {
                receiver.await.unwrap_or_else(|_| Err(PublishError::Unknown("the replica is stopping".into())))
            }
        }
    }
}
