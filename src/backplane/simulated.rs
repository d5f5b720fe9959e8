//! A back end for tests: a simulated server answers, with whatever faults the simulation plays. Present with
//! the feature `simulation` only, which tests enable and a shipped program never has.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use tickgate_wire::model::{Publication, StreamId, Topic};

use super::{HeadError, Health, Newest, Page, PublishError, ReadLimits, Receiver, Refusal, Ticket, Unavailable};

/// An answer under way.
pub type SimulatedAnswer<T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send>>;

/// What a simulated server does for one replica. Each function means what it means on [`super::Backplane`].
pub trait SimulatedBackplane: fmt::Debug + Send + Sync {
    fn start(&self, receiver: Receiver);
    fn follow(&self, topic: &Topic);
    fn unfollow(&self, topic: &Topic);
    fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> SimulatedAnswer<Page>;
    fn newest(&self, topic: &Topic, limits: ReadLimits) -> SimulatedAnswer<Newest>;
    fn generation(&self, topic: &Topic) -> u64;
    /// An error is that of each topic.
    fn heads(&self, topics: &[Topic]) -> SimulatedAnswer<Vec<StreamId>>;
}

/// The back end. The simulation publishes by itself.
#[derive(Clone, Debug)]
pub struct Simulated(pub Arc<dyn SimulatedBackplane>);

impl Simulated {
    pub(super) fn start(&self, receiver: Receiver) {
        self.0.start(receiver);
    }

    #[expect(clippy::unused_self, reason = "the contract's form")]
    pub(super) fn publish(&self, _: Publication) -> Ticket {
        Ticket::Ready(Err(PublishError::Refused(Refusal::Denied)))
    }

    pub(super) fn follow(&self, topic: &Topic) {
        self.0.follow(topic);
    }

    pub(super) fn unfollow(&self, topic: &Topic) {
        self.0.unfollow(topic);
    }

    pub(super) async fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> Result<Page, Unavailable> {
        self.0.read(topic, after, limits).await
    }

    pub(super) async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
        self.0.newest(topic, limits).await
    }

    pub(super) fn generation(&self, topic: &Topic) -> u64 {
        self.0.generation(topic)
    }

    pub(super) async fn heads(&self, topics: &[Topic]) -> Vec<Result<StreamId, HeadError>> {
        match self.0.heads(topics).await {
            Ok(heads) => heads.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error.into()); topics.len()],
        }
    }

    #[expect(clippy::unused_self, reason = "the contract's form")]
    pub(super) fn health(&self) -> Health {
        Health { kind: "simulated", reached: true, commands_down: Duration::ZERO, pubsub_down: Duration::ZERO }
    }
}
