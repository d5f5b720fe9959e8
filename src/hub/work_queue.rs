//! Queues of topics for one kind of work, such as being compared with their streams. Never blocks while it contains a
//! topic, and never holds a topic that was unfollowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{standing::UnpublishedStanding, tickets::QueueTickets, topic::TopicState};
use crate::{fairness::Rounds, metrics::WorkQueueKind};

/// The work queues of a hub.
#[derive(Debug)]
pub(super) struct WorkQueues {
    /// Topics whose position must be compared with the head of their stream.
    pub(super) compare: WorkQueue,
    /// Topics whose stream must be read after their position.
    pub(super) read: WorkQueue,
}

impl WorkQueues {
    pub(super) fn new() -> Self {
        Self { compare: WorkQueue::new(WorkQueueKind::Compare), read: WorkQueue::new(WorkQueueKind::Read) }
    }

    pub(super) const fn all(&self) -> [&WorkQueue; 2] {
        [&self.compare, &self.read]
    }

    /// Moves a topic whose subscribers changed to its place in each queue that it is in.
    pub(super) fn reorder(&self, topic: &TopicState) {
        self.all().iter().for_each(|queue| queue.reorder(topic));
    }

    /// Removes an unfollowed topic from the queues permanently.
    pub(super) fn close(&self, topic: &TopicState) {
        self.all().iter().for_each(|queue| queue.close(topic));
    }
}

/// The priority of a topic's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// It has subscribers (including pending ones) and is not consistent with its stream: a client waits for the reply
    /// to its subscribe, or may be missing messages.
    Awaited,
    /// Everything else: the periodic comparison of quiet topics, and topics without subscribers.
    Routine,
}

/// A queue of topics with two priorities. Awaited topics without known publications are taken from their addresses in
/// turn; otherwise it is first in, first out.
///
/// - A topic is in a queue at most once, and is removed when it is unfollowed. So a queue has no more entries than the
///   hub follows topics (`hub.topics_max`, and the users' own), of about 112 bytes each.
/// - Workers take topics of one priority. With separate workers, neither priority waits for the other: awaited topics
///   are served at once, and routine work does not starve.
#[derive(Debug)]
pub(super) struct WorkQueue {
    kind: WorkQueueKind,
    /// Taken before any topic's lock.
    state: Mutex<WorkQueueState>,
    /// By priority.
    wake: [Notify; 2],
}

/// Keys are tickets: in order of insertion.
#[derive(Debug, Default)]
struct WorkQueueState {
    /// By priority.
    waiting: [BTreeMap<u64, QueuedTopic>; 2],
    /// Since when the oldest topic of each batch in progress has waited, by its ticket.
    under_way: BTreeMap<u64, Instant>,
    last_ticket: u64,
    /// The awaited topics in the order in which they are taken: by round and ticket.
    turns: BTreeSet<(u64, u64)>,
    rounds: Rounds,
}

#[derive(Debug)]
struct QueuedTopic {
    topic: Arc<TopicState>,
    since: Instant,
    /// The round of an awaited topic, assigned on insertion.
    round: u64,
}

/// The state of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueStatus {
    /// Number of queued topics.
    pub(super) depth: usize,
    /// How long the oldest topic has waited, including those of batches in progress. Zero if there is none.
    pub(super) oldest: Duration,
}

impl WorkQueue {
    fn new(kind: WorkQueueKind) -> Self {
        Self { kind, state: Mutex::default(), wake: [Notify::new(), Notify::new()] }
    }

    pub(super) const fn kind(&self) -> WorkQueueKind {
        self.kind
    }

    /// Adds a topic. One that is already queued keeps its place within its priority.
    pub(super) fn push(&self, topic: &Arc<TopicState>) {
        let mut state = self.state.lock();
        match topic.tickets.get(self.kind) {
            QueueTickets::CLOSED => {}
            QueueTickets::NONE => {
                state.last_ticket += 1;
                let ticket = state.last_ticket;
                self.insert(&mut state, ticket, QueuedTopic { topic: topic.clone(), since: Instant::now(), round: 0 });
            }
            ticket => self.reinsert(&mut state, ticket),
        }
    }

    fn insert(&self, state: &mut WorkQueueState, ticket: u64, mut entry: QueuedTopic) {
        entry.topic.tickets.set(self.kind, ticket);
        let priority = if entry.topic.is_awaited() { Priority::Awaited } else { Priority::Routine };
        if priority == Priority::Awaited {
            let owner = match entry.topic.standing() {
                UnpublishedStanding::Counted(reader) | UnpublishedStanding::OnTrial(reader) => Some(reader.0),
                UnpublishedStanding::Free => None,
            };
            entry.round = state.rounds.next(owner);
            state.turns.insert((entry.round, ticket));
        }
        state.waiting[priority as usize].insert(ticket, entry);
        self.wake[priority as usize].notify_one();
    }

    fn reinsert(&self, state: &mut WorkQueueState, ticket: u64) {
        if let Some(entry) = state.remove(ticket) {
            self.insert(state, ticket, entry);
        }
    }

    fn reorder(&self, topic: &TopicState) {
        let mut state = self.state.lock();
        // The two special values never match a ticket.
        self.reinsert(&mut state, topic.tickets.get(self.kind));
    }

    fn close(&self, topic: &TopicState) {
        let mut state = self.state.lock();
        let entry = state.remove(topic.tickets.get(self.kind));
        topic.tickets.set(self.kind, QueueTickets::CLOSED);
        drop(state);
        drop(entry);
    }

    /// Takes up to `max` topics of a priority. Waits only while there is none. A taken topic may be added again at
    /// once.
    pub(super) async fn take(&self, priority: Priority, max: usize) -> TopicBatch<'_> {
        loop {
            if let Some(batch) = self.try_take(priority, max) {
                return batch;
            }
            self.wake[priority as usize].notified().await;
        }
    }

    fn try_take(&self, priority: Priority, max: usize) -> Option<TopicBatch<'_>> {
        let mut state = self.state.lock();
        let entries: Vec<_> = std::iter::from_fn(|| state.pop(priority)).take(max).collect();
        let (oldest, since) = entries.iter().map(|(ticket, entry)| (*ticket, entry.since)).min()?;
        entries.iter().for_each(|(_, entry)| entry.topic.tickets.set(self.kind, QueueTickets::NONE));
        state.under_way.insert(oldest, since);
        if !state.waiting[priority as usize].is_empty() {
            // Wakes another worker: several topics may have been added before one woke.
            self.wake[priority as usize].notify_one();
        }
        Some(TopicBatch { queue: self, entries, oldest })
    }

    /// The state of the queue at `now`.
    pub(super) fn status(&self, now: Instant) -> QueueStatus {
        let state = self.state.lock();
        let waiting = state.waiting.iter().filter_map(|waiting| Some(waiting.first_key_value()?.1.since));
        let under_way = state.under_way.first_key_value().map(|(_, since)| *since);
        let oldest = waiting.chain(under_way).min();
        let oldest = oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        QueueStatus { depth: state.len(), oldest }
    }
}

impl WorkQueueState {
    fn len(&self) -> usize {
        self.waiting.iter().map(BTreeMap::len).sum()
    }

    fn remove(&mut self, ticket: u64) -> Option<QueuedTopic> {
        let entry = self.waiting.iter_mut().find_map(|waiting| waiting.remove(&ticket))?;
        self.turns.remove(&(entry.round, ticket));
        Some(entry)
    }

    /// The next topic of a priority.
    fn pop(&mut self, priority: Priority) -> Option<(u64, QueuedTopic)> {
        if priority == Priority::Routine {
            return self.waiting[priority as usize].pop_first();
        }
        let (round, ticket) = self.turns.pop_first()?;
        self.rounds.served(round);
        Some((ticket, self.waiting[priority as usize].remove(&ticket)?))
    }
}

/// Topics taken for processing. Never empty.
#[derive(Debug)]
pub(super) struct TopicBatch<'a> {
    queue: &'a WorkQueue,
    entries: Vec<(u64, QueuedTopic)>,
    /// The lowest ticket.
    oldest: u64,
}

impl TopicBatch<'_> {
    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<TopicState>> {
        self.entries.iter().map(|(_, entry)| &entry.topic)
    }

    /// The topics, if the queue need not track how long the work takes.
    pub(super) fn into_topics(mut self) -> impl Iterator<Item = Arc<TopicState>> {
        std::mem::take(&mut self.entries).into_iter().map(|(_, entry)| entry.topic)
    }

    /// Requeues the topics that `failed`, in the order of [`TopicBatch::topics`], at their old places. Not those that were
    /// unfollowed meanwhile.
    pub(super) fn put_back(mut self, failed: &[bool]) {
        let (queue, entries) = (self.queue, std::mem::take(&mut self.entries));
        let mut state = queue.state.lock();
        let failed = entries.into_iter().zip(failed).filter(|(_, failed)| **failed);
        for ((ticket, entry), _) in failed {
            match entry.topic.tickets.get(queue.kind) {
                QueueTickets::CLOSED => continue,
                QueueTickets::NONE => {}
                // It was added again meanwhile.
                newer => drop(state.remove(newer)),
            }
            queue.insert(&mut state, ticket, entry);
        }
    }
}

impl Drop for TopicBatch<'_> {
    fn drop(&mut self) {
        self.queue.state.lock().under_way.remove(&self.oldest);
    }
}

#[cfg(test)]
#[path = "work_queue_tests.rs"]
mod tests;
