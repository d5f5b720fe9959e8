//! What waits to be told to Redis. Bounded; handing over never waits.
//!
//! A session's data stay in the index and are read when the queue is written, so a session waits here at most once for
//! its opening and once for its record, however often they change.

use std::sync::atomic::{AtomicBool, Ordering};

use tickgate_wire::model::{ReplicaId, SessionId, UserId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{sessions::Ended, wire::Message};

/// Operations that wait at once. Past it they are dropped and all is written anew when Redis has caught up.
const QUEUE_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) enum Op {
    /// Put the session into this replica's index.
    Opened(SessionId),
    /// Write the session's record.
    Record(SessionId),
    /// Take the session out of everything.
    Closed(SessionId, Ended),
    /// Take a member out whose admission ended in doubt.
    Release { session: SessionId, user: UserId, stamp: u64 },
    /// Send a message to one replica.
    Tell(ReplicaId, Message),
    /// Answer when everything before is written.
    Flushed(oneshot::Sender<()>),
}

/// The queue's entrance.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Op>,
    /// Whether something was dropped or may have been lost, so that all has to be written anew.
    stale: AtomicBool,
    rewrite: Notify,
}

impl Queue {
    pub(super) fn new() -> (Self, mpsc::Receiver<Op>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        (Self { sender, stale: AtomicBool::new(false), rewrite: Notify::new() }, receiver)
    }

    /// Hands an operation over.
    pub(super) fn push(&self, op: Op) {
        if self.sender.try_send(op).is_err() {
            self.mark_stale();
        }
    }

    /// Asks for everything to be written anew.
    pub(super) fn mark_stale(&self) {
        if !self.stale.swap(true, Ordering::AcqRel) {
            self.rewrite.notify_one();
        }
    }

    /// Resolves when everything has to be written anew.
    pub(super) async fn stale(&self) {
        self.rewrite.notified().await;
    }

    /// A rewrite begins; what happens from now on may ask for another.
    pub(super) fn begin_rewrite(&self) {
        self.stale.store(false, Ordering::Release);
    }
}
