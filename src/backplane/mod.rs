//! The message path between replicas: publish, follow, read back. One contract for all back ends.
//!
//! - **One path.** Every publication, those of this replica's own clients included, returns through [`Event::Arrived`], so
//!   all replicas see the same order within a topic.
//! - **Append and publish are one atomic step** for retained topics: the order of arrivals is the order of the stream.
//! - Topics are independent: each may be on another server, with its own [history](Backplane::history) and its own
//!   failures. Nothing orders the publications of two topics.
//! - Arrivals of a topic begin after [`Backplane::follow`]. They are complete only from an [`Event::Confirmed`] to the next
//!   [`Event::Lost`]: after each confirmation the follower must read the head of the stream and compare. The follower
//!   (`hub`) checks for holes; the backplane never reorders and never invents messages, but it may lose them and, when a
//!   link was replaced, repeat them.
//! - What a step from one position to another means, only the [`History`] of the dataset says.
//! - Publishers that bypass the gateway may write anything. An entry whose payload no client could read keeps its place: it
//!   arrives, and is read back, as [`Content::Unreadable`](tickgate_wire::model::Content::Unreadable).
//! - A publication ends in one of three ways: accepted with its id, refused (certainly not stored), or unknown. One that is
//!   named like another one with another content is refused for good.
//!
//! Never knows subscribers, sessions or wire forms.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tickgate_wire::model::{Message, Publication, StreamId, Topic};

use crate::history::History;

mod channel;
mod memory;
mod onward;
mod redis;
mod turn;

pub use channel::{ChannelMessages, NewestOfChannel};
pub use memory::Memory;
pub use onward::{Lack, Onward};
pub use redis::{Identity, Redis};
pub use turn::Turn;

/// A publication was stored (or, for topics without retention, sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// `None` for topics without retention.
    pub id: Option<StreamId>,
    /// The same `msg_id` was published before; `id` is the one of then.
    pub duplicate: bool,
}

/// Why a publication was not acknowledged.
#[derive(Clone, Debug, Error)]
pub enum PublishError {
    /// Certainly not stored; may be tried again.
    #[error("the publication was refused: {0}")]
    Refused(Refusal),
    /// No answer in time: it may or may not be stored. Safe to retry with the same `msg_id`.
    #[error("the outcome of the publication is unknown: {0}")]
    Unknown(Arc<str>),
    /// Its `msg_id` stands for another publication. Certainly not stored, and will never be.
    #[error("the msg_id was used for another publication")]
    Reused,
}

/// Why a publication was certainly not stored. The back end logs and counts its own, more specific cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("no connection to the backplane")]
    Disconnected,
    #[error("the backplane is loading its data")]
    Loading,
    #[error("the backplane is read-only")]
    ReadOnly,
    #[error("the backplane is out of memory")]
    OutOfMemory,
    #[error("the backplane can't write to its disk")]
    Disk,
    #[error("the backplane has too few replicas to accept writes")]
    NoReplicas,
    #[error("the backplane is busy")]
    Busy,
    #[error("too many publications are waiting")]
    Overloaded,
    #[error("the lease under which it was handed over has ended")]
    Expired,
    /// A publication of that later turn was stored before.
    #[error("another replica publishes this now")]
    Superseded { by: u64 },
    #[error("the backplane rejected the publication")]
    Denied,
}

/// A read failed; nothing is known about the stream.
#[derive(Clone, Debug, Error)]
#[error("the stream can't be read now: {0}")]
pub struct Unavailable(pub Arc<str>);

/// Why the head of a topic's stream is not known.
#[derive(Clone, Debug, Error)]
pub enum HeadError {
    /// Nothing can be read now; other topics probably neither.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// What is under this topic's key is not a stream: that says nothing of other topics.
    #[error("the key does not hold a stream: {0}")]
    NoStream(Arc<str>),
}

/// The part of a stream that follows a cursor.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order. Their reader judges whether they are neighbours.
    pub messages: Vec<Arc<Message>>,
    /// Whether more follows.
    pub more: bool,
    /// The last id that the stream had given when the read began, whether its entry is still there or not; `None`: there
    /// was no stream.
    pub end: Option<StreamId>,
}

/// The newest messages of a stream.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
    /// False: the limit in bytes was reached, and older ones were left out.
    pub whole: bool,
}

/// Bounds of one read. One message is always returned, however large it is, so that reading on makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    pub messages_max: usize,
    /// Of payloads.
    pub bytes_max: usize,
}

impl ReadLimits {
    /// One message, of any size.
    pub const ONE: Self = Self { messages_max: 1, bytes_max: 0 };

    #[must_use]
    pub const fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { messages_max, bytes_max }
    }

    /// How many of these messages, in this order, may be added to `taken` messages of `bytes` bytes.
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

/// What the backplane reports to its follower.
#[derive(Debug)]
pub enum Event<'a> {
    /// A publication came in on the topic.
    Arrived { topic: &'a str, message: Message },
    /// The subscription of the topic stands: everything published from now on arrives. Read the head now.
    Confirmed { topic: &'a str },
    /// Something may have been missed on the topic; it will be confirmed again.
    Lost { topic: &'a str },
    /// Something came in on the topic that this replica can't place. Compare with the stream.
    Foreign { topic: &'a str },
    /// A server was replaced, restarted or emptied: its streams may have lost their last entries.
    GenerationChanged,
}

/// Called for each event, in order per topic, from a task of the back end. Must not block.
pub type Receiver = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// State of the backplane, for readiness and status. Over several servers: that of the best one, since the loss of one
/// affects its own topics only.
#[derive(Clone, Debug)]
pub struct Health {
    /// Name of the back end.
    pub kind: &'static str,
    /// The backplane has worked at least once since the start.
    pub reached: bool,
    /// How long commands have been failing; zero when they work.
    pub commands_down: Duration,
    /// How long arrivals have been impossible; zero when they work.
    pub pubsub_down: Duration,
    /// Why nothing is acknowledged although the server answers.
    pub obstacle: Option<Arc<str>>,
    /// Whether publications can be acknowledged now, on every server.
    pub acknowledges: bool,
}

/// The back ends behind one contract.
#[derive(Clone, Debug)]
pub enum Backplane {
    Memory(Memory),
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
    /// future only waits for the answer, so a caller may have many in flight.
    ///
    /// # Errors
    /// [`PublishError::Refused`] or [`PublishError::Unknown`], within a bounded time.
    pub fn publish(
        &self,
        publication: Publication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<> {
        self.publish_in_turn(publication, None)
    }

    /// Publishes under a lease.
    ///
    /// # Errors
    /// As [`Backplane::publish`]; [`Refusal::Expired`] and [`Refusal::Superseded`] when the turn is over.
    pub fn publish_in_turn(
        &self,
        publication: Publication,
        turn: Option<Turn>,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<> {
        let ticket = each!(self, b => b.publish(publication, turn));
        async move { ticket.wait().await }
    }

    /// Starts to follow the topic; [`Event::Confirmed`] arrives when the subscription stands. Not counted: call it once
    /// per topic. `owner`: on whose behalf. Where many wait, topics of different owners take turns.
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
    /// [`Unavailable`] when the back end does not answer in time, or too many reads wait.
    pub async fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> Result<Page, Unavailable> {
        each!(self, b => b.read(topic, after, limits).await)
    }

    /// The newest messages, as many as the limits allow. Empty when there never was one.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer in time, or too many reads wait.
    pub async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
        each!(self, b => b.newest(topic, limits).await)
    }

    /// What is known of the generations of the topic's server.
    #[must_use]
    pub fn history(&self, topic: &Topic) -> Arc<History> {
        each!(self, b => b.history(topic))
    }

    /// The topic's stream is older than what was read of it before, in the same generation: its server went back.
    pub fn doubt(&self, topic: &Topic) {
        each!(self, b => b.doubt(topic));
    }

    /// Gives topics without a stream positions that nobody else can have; those that are there last for longer. Returns the
    /// last ids of their streams, which somebody else may have begun meanwhile, in the order of `topics`. Each has its own
    /// result: [`Unavailable`] where its server does not answer in time.
    pub async fn anchors(&self, topics: &[Topic]) -> Vec<Result<StreamId, Unavailable>> {
        each!(self, b => b.anchors(topics).await)
    }

    /// Forgets the positions of topics that nobody has published to. What was published to stays.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer in time: they end by themselves.
    pub async fn forget(&self, topics: &[Topic]) -> Result<(), Unavailable> {
        each!(self, b => b.forget(topics).await)
    }

    /// The last ids that many streams have given, read together, in the order of `topics`; `None` where there is no stream.
    /// Each topic has its own result: [`Unavailable`] where its server does not answer in time.
    pub async fn heads(&self, topics: &[Topic]) -> Vec<Result<Option<StreamId>, HeadError>> {
        each!(self, b => b.heads(topics).await)
    }

    /// Hands on what this replica has acknowledged to the others, and acknowledges nothing more. Takes a few seconds at
    /// most.
    pub async fn leave(&self) {
        each!(self, b => b.leave().await);
    }

    /// The state of the backplane.
    #[must_use]
    pub fn health(&self) -> Health {
        each!(self, b => b.health())
    }
}

/// The answer to a publication that was handed over but not yet acknowledged.
#[derive(Debug)]
pub enum Ticket {
    /// Known at once.
    Ready(Result<Published, PublishError>),
    /// Sent when the server has answered, or when it did not in time.
    Waiting(tokio::sync::oneshot::Receiver<Result<Published, PublishError>>),
}

impl Ticket {
    async fn wait(self) -> Result<Published, PublishError> {
        match self {
            Self::Ready(result) => result,
            Self::Waiting(receiver) => {
                receiver.await.unwrap_or_else(|_| Err(PublishError::Unknown("the replica is stopping".into())))
            }
        }
    }
}
