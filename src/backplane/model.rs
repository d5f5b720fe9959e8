//! A road that a test builds: a simulated server answers in place of Redis, with whatever faults it likes. Present with
//! the feature `simulation` only, which tests enable and a shipped program never has.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use tickgate_wire::model::{Publication, StreamId, Topic};

use super::{Health, Newest, Page, PublishError, ReadLimits, Receiver, Refusal, Ticket, Unavailable};

/// An answer on its way.
pub type Reading<T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send>>;

/// What a simulated server does for one replica. Means what [`super::Backplane`] means by the same names.
pub trait Road: fmt::Debug + Send + Sync {
    fn start(&self, receiver: Receiver);
    fn want(&self, topic: &Topic);
    fn unwant(&self, topic: &Topic);
    fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> Reading<Page>;
    fn newest(&self, topic: &Topic, limits: ReadLimits) -> Reading<Newest>;
    fn generation(&self) -> u64;
    fn heads(&self, topics: &[Topic]) -> Reading<Vec<StreamId>>;
}

/// The road as a back end. Publications are the simulation's own affair.
#[derive(Clone, Debug)]
pub struct Model(pub Arc<dyn Road>);

impl Model {
    pub(super) fn start(&self, receiver: Receiver) {
        self.0.start(receiver);
    }

    #[expect(clippy::unused_self, reason = "the contract's form")]
    pub(super) fn publish(&self, _: Publication) -> Ticket {
        Ticket::Ready(Err(PublishError::Refused(Refusal::Denied)))
    }

    pub(super) fn want(&self, topic: &Topic) {
        self.0.want(topic);
    }

    pub(super) fn unwant(&self, topic: &Topic) {
        self.0.unwant(topic);
    }

    pub(super) async fn read(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> Result<Page, Unavailable> {
        self.0.read(topic, after, limits).await
    }

    pub(super) async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
        self.0.newest(topic, limits).await
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.generation()
    }

    pub(super) async fn heads(&self, topics: &[Topic]) -> Result<Vec<StreamId>, Unavailable> {
        self.0.heads(topics).await
    }

    #[expect(clippy::unused_self, reason = "the contract's form")]
    pub(super) fn health(&self) -> Health {
        Health { kind: "model", reached: true, commands_down: Duration::ZERO, pubsub_down: Duration::ZERO }
    }
}
