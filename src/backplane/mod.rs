//! The road between replicas: publish, follow, read back. One contract over memory and Redis.
//!
//! - **One road.** Every publication, also of this replica's own clients, comes back through [`Event::Arrived`], so all
//!   replicas see one order per topic.
//! - **Append and publish are one atomic step** for retained topics: the order of arrivals is the order of the stream.
//! - Arrivals of a topic begin after [`Backplane::want`] and are complete only between two link losses: after
//!   [`Event::Confirmed`] whoever follows must read the head of the stream, and compare. The follower (`hub`) does the
//!   hole check; the backplane never reorders and never invents, but it may lose and (across links) repeat.
//! - Who publishes straight into Redis may write anything. An entry whose payload no client could read keeps its place:
//!   it arrives, and is read back, as [`Content::Lost`](tickgate_wire::model::Content::Lost) around itself.
//! - A publication ends in one of three ways: accepted with its id, refused (certainly not stored), or unknown.
//!
//! Never knows subscribers, sessions or wire forms.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tickgate_wire::model::{Message, Publication, StreamId, Topic};

mod memory;
#[cfg(feature = "simulation")]
mod model;
mod redis;

pub use memory::Memory;
#[cfg(feature = "simulation")]
pub use model::{Model, Reading, Road};
pub use redis::Redis;

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
}

/// Why a publication was certainly not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("no connection to redis")]
    Disconnected,
    #[error("redis is loading its data set")]
    Loading,
    #[error("redis is a read-only replica")]
    ReadOnly,
    #[error("redis is out of memory")]
    OutOfMemory,
    #[error("redis is busy with a script")]
    Busy,
    #[error("too many publications are waiting")]
    Overloaded,
    #[error("redis refused the command")]
    Denied,
}

/// A read did not succeed; nothing is known of the stream.
#[derive(Clone, Debug, Error)]
#[error("the stream can't be read now: {0}")]
pub struct Unavailable(pub Arc<str>);

/// What a stream says after a cursor.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order. Contiguous among themselves: they are neighbours in the stream.
    pub messages: Vec<Arc<Message>>,
    /// Whether the first message (or the stream's end) comes directly after the cursor. False: something in between
    /// is missing, or the cursor never was in this stream (a fork), or lies ahead of it.
    pub contiguous: bool,
    /// Whether more follows.
    pub more: bool,
}

/// The newest messages of a stream.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
    /// False: so many bytes were not to be read, and older ones were left out.
    pub whole: bool,
}

/// Bounds of one read. One message always comes, however large it is, so that whoever reads on gets on.
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

    /// How many of these messages, in this order, may be added to so many that take so many bytes.
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

/// What the backplane tells its follower.
#[derive(Debug)]
pub enum Event<'a> {
    /// A publication came in on the topic.
    Arrived { topic: &'a str, message: Message },
    /// The subscription of the topic stands: what is published from now on arrives. Read the head now.
    Confirmed { topic: &'a str },
    /// Something may have been missed on every topic; each will be confirmed anew.
    LinkLost,
    /// The server changed: streams may have lost their last entries.
    GenerationChanged,
}

/// Called for each event, in order per topic, from the link's own task. Must not block.
pub type Receiver = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// How the road is doing, for readiness and status.
#[derive(Clone, Debug)]
pub struct Health {
    /// `memory` or `redis`.
    pub kind: &'static str,
    /// The road has stood at least once since the start.
    pub reached: bool,
    /// How long commands have been failing; zero when they work.
    pub commands_down: Duration,
    /// How long the pub/sub link has been silent or gone; zero when it works.
    pub pubsub_down: Duration,
}

/// The back ends behind one contract.
#[derive(Clone, Debug)]
pub enum Backplane {
    Memory(Memory),
    Redis(Redis),
    /// A simulated server, with the feature `simulation` only.
    #[cfg(feature = "simulation")]
    Model(Model),
}

macro_rules! each {
    ($self:ident, $backplane:ident => $call:expr) => {
        match $self {
            Backplane::Memory($backplane) => $call,
            Backplane::Redis($backplane) => $call,
            #[cfg(feature = "simulation")]
            Backplane::Model($backplane) => $call,
        }
    };
}

impl Backplane {
    /// Gives the receiver of all events. Called once, before anything else.
    pub fn start(&self, receiver: Receiver) {
        each!(self, b => b.start(receiver));
    }

    /// Appends and publishes in one atomic step. Publications are taken in the order of the calls: the returned
    /// future only waits for the answer, so a caller may have many under way and still keep their order.
    ///
    /// # Errors
    /// [`PublishError::Refused`] or [`PublishError::Unknown`], within a bounded time.
    pub fn publish(
        &self,
        publication: Publication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<> {
        let ticket = each!(self, b => b.publish(publication));
        async move { ticket.wait().await }
    }

    /// Starts to follow the topic; [`Event::Confirmed`] comes when it stands. Not counted: call once per topic.
    pub fn want(&self, topic: &Topic) {
        each!(self, b => b.want(topic));
    }

    /// Stops to follow the topic.
    pub fn unwant(&self, topic: &Topic) {
        each!(self, b => b.unwant(topic));
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

    /// The generation of the server: epochs below it were another server's, which may have lost their last entries. 0
    /// where no server ever takes another's place.
    #[must_use]
    pub fn generation(&self) -> u64 {
        each!(self, b => b.generation())
    }

    /// The heads of many streams in pipelined reads, in the order asked; `ZERO` where there is no stream.
    ///
    /// # Errors
    /// [`Unavailable`] when the back end does not answer in time.
    pub async fn heads(&self, topics: &[Topic]) -> Result<Vec<StreamId>, Unavailable> {
        each!(self, b => b.heads(topics).await)
    }

    /// How the road is doing.
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
    /// Told when Redis has answered, or in doubt.
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
