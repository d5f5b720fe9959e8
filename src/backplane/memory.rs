//! The backplane of a single process: for trying it out, and for tests of everything above it.

use super::*;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Memory;

impl Memory {
    pub(super) fn start(&self, _receiver: Receiver) {
        unimplemented!()
    }
    pub(super) fn publish(&self, _p: Publication) -> Ticket {
        unimplemented!()
    }
    pub(super) fn want(&self, _topic: &Topic) {
        unimplemented!()
    }
    pub(super) fn unwant(&self, _topic: &Topic) {
        unimplemented!()
    }
    pub(super) async fn read(&self, _topic: &Topic, _after: StreamId, _limit: usize) -> Result<Page, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn newest(&self, _topic: &Topic, _limit: usize) -> Result<Vec<Arc<Message>>, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn heads(&self, _topics: &[Topic]) -> Result<Vec<StreamId>, Unavailable> {
        unimplemented!()
    }
    pub(super) fn health(&self) -> Health {
        unimplemented!()
    }
}
