//! Interest in a topic, and the backlog of a subscription: from nothing, from a cursor, or from the end of the history.
//!
//! Every subscription starts lagging at its cursor; `catch_up` brings it to the live stream without gap or duplicate.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tickgate_wire::{
    model::{Class, StartAt, StreamId},
    push::GapReason,
};

use super::{
    Hub,
    backlog::{Backlog, ReplayLimits},
    batch::PushFlags,
    form::Form,
    gap::GapRange,
    outbox::Outbox,
    queue::SlotId,
    subscriber::Subscriber,
    topic::TopicState,
};
use crate::{
    backplane::{NextPage, ReadLimits, StreamUnavailable},
    metrics,
};

/// Maximum number of entries and bytes of a page that is read.
const PAGE_MAX: usize = 500;
const PAGE_BYTES: usize = 1 << 20;
/// Approximate size of one value, in bytes.
const VALUE_BYTES: usize = 64 << 10;

/// A counted interest in a topic: the replica follows the topic while one exists, and for the linger time afterwards.
#[derive(Debug)]
pub struct TopicHandle {
    pub(super) hub: Arc<Hub>,
    pub(super) topic: Arc<TopicState>,
}

impl TopicHandle {
    /// Waits until the topic's position is known.
    ///
    /// # Errors
    /// [`StreamUnavailable`] after `timeout`.
    pub async fn ready(&self, timeout: Duration) -> Result<(), StreamUnavailable> {
        while let Some(synced) = self.topic.synced() {
            // It may be queued with the low priority of a topic without subscribers.
            self.hub.queues.reorder(&self.topic);
            if tokio::time::timeout(timeout, synced).await.is_err() {
                return Err(StreamUnavailable("the topic is not in step with its stream yet".into()));
            }
            if self.topic.is_withdrawn() {
                break;
            }
        }
        if self.topic.is_withdrawn() { Err(StreamUnavailable("there is no room for the topic".into())) } else { Ok(()) }
    }

    /// Collects the backlog of a subscription, within `limits`.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the stream cannot be read now.
    pub async fn backlog(&self, start: StartAt, limits: ReplayLimits) -> Result<Backlog, StreamUnavailable> {
        let at = self.topic.head().0.unwrap_or_default();
        match start {
            StartAt::Live => Ok(Backlog { from: at, cursor: at, ..Backlog::default() }),
            StartAt::Snapshot { least } => self.snapshot(at, least, limits).await,
            StartAt::Last(count) => self.last(count, at, limits).await,
            StartAt::Since(cursor) => self.since(cursor, limits).await,
            StartAt::Earliest => self.earliest(limits).await,
        }
    }

    /// The newest value; from the stream itself if the client has a newer one than this replica.
    async fn snapshot(
        &self,
        at: StreamId,
        least: StreamId,
        limits: ReplayLimits,
    ) -> Result<Backlog, StreamUnavailable> {
        let flags = PushFlags { snapshot: true, ..PushFlags::default() };
        let mut hold = None;
        let newest = match self.topic.head().1 {
            Some(newest) if newest.id >= Some(least) => Some(newest),
            None if at.max(least) == StreamId::ZERO => None,
            _ => {
                let turn = self.hub.turn(limits.reader, VALUE_BYTES).await?;
                let newest = self.hub.backplane.newest(&self.topic.topic, ReadLimits::ONE).await?.messages.pop();
                hold = turn.end(newest.as_ref().map_or(0, |message| message.payload_bytes())).await;
                newest
            }
        };
        let cursor = newest.as_ref().and_then(|m| m.id).unwrap_or(at);
        let messages = newest.into_iter().collect();
        Ok(Backlog { messages, from: StreamId::ZERO, cursor, flags, hold, ..Backlog::default() })
    }

    async fn last(&self, count: usize, at: StreamId, limits: ReplayLimits) -> Result<Backlog, StreamUnavailable> {
        let count = count.min(limits.entries_max as usize);
        let mut hold = None;
        let messages = match self.topic.last(count) {
            Some(messages) => messages,
            None => {
                // As many as one page holds.
                let bytes_max = limits.bytes_max().min(PAGE_BYTES);
                let turn = self.hub.turn(limits.reader, bytes_max).await?;
                let limits = ReadLimits::new(count, bytes_max);
                let messages = self.hub.backplane.newest(&self.topic.topic, limits).await?.messages;
                hold = turn.end(messages.iter().map(|message| message.payload_bytes()).sum()).await;
                messages
            }
        };
        let cursor = messages.last().and_then(|m| m.id).unwrap_or(at);
        let flags = PushFlags { replayed: true, ..PushFlags::default() };
        Ok(Backlog { messages, from: StreamId::ZERO, cursor, flags, hold, ..Backlog::default() })
    }

    /// All retained messages: what is not retained is not a loss to a new client.
    async fn earliest(&self, limits: ReplayLimits) -> Result<Backlog, StreamUnavailable> {
        // Its start is known only from its first message.
        let limits = limits.of_beginning(false, limits.at_once);
        let mut backlog = self.since(StreamId::ZERO, limits).await?;
        backlog.gap = None;
        if let Some(first) = backlog.messages.first().and_then(|message| message.id) {
            backlog.from = first.previous();
        }
        Ok(backlog)
    }

    /// Everything after the cursor, counted by its source.
    async fn since(&self, cursor: StreamId, limits: ReplayLimits) -> Result<Backlog, StreamUnavailable> {
        let begun = Instant::now();
        let gathered = self.gather(cursor, limits).await;
        let answered_by = match &gathered {
            Err(_) => metrics::ReplayResult::Unavailable,
            Ok((_, backlog)) if backlog.cut.is_some() => metrics::ReplayResult::TooLong,
            Ok((_, backlog)) if backlog.gap.is_some() => metrics::ReplayResult::Gap,
            Ok((false, backlog)) if backlog.messages.is_empty() => metrics::ReplayResult::Live,
            Ok((was_read, _)) => {
                if *was_read {
                    metrics::ReplayResult::Stream
                } else {
                    metrics::ReplayResult::Ring
                }
            }
        };
        let metrics = &self.hub.metrics;
        metrics.replay_requests_total.of(answered_by).inc();
        let (_, backlog) = gathered?;
        metrics.replayed_messages_total.inc_by(backlog.messages.len() as u64);
        metrics.replay_duration_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(backlog)
    }

    /// Everything after the cursor, and whether the stream had to be read.
    async fn gather(&self, cursor: StreamId, limits: ReplayLimits) -> Result<(bool, Backlog), StreamUnavailable> {
        let flags = PushFlags { replayed: true, ..PushFlags::default() };
        let mut backlog = Backlog { from: cursor, cursor, flags, ..Backlog::default() };
        let mut bytes = 0;
        let mut was_read = false;
        let mut long = None;
        loop {
            if let Some((rest, at)) = self.topic.since(backlog.cursor) {
                backlog.messages.extend(rest);
                backlog.cursor = at;
                break;
            }
            was_read = true;
            let page_bytes = PAGE_BYTES.min(limits.bytes_max() - bytes);
            if bytes > 0 && long.is_none() {
                // Collected messages are held in memory, so only a few resumes may collect more than one page.
                long = self.hub.long_turns.try_take(limits.reader, 0);
            }
            let turn = match &backlog.hold {
                None if !limits.has_some => Some(self.hub.turn(limits.reader, page_bytes).await?),
                // A request must not wait while it holds what others wait for.
                Some(_) if long.is_none() => None,
                _ => self.hub.turns.try_take(limits.reader, page_bytes),
            };
            let Some(turn) = turn else {
                if limits.at_once {
                    return Err(StreamUnavailable("too many read what they missed".into()));
                }
                backlog.goes_on = true;
                break;
            };
            let page = self.read_on(backlog.cursor, page_bytes).await?;
            backlog.keep(turn.end(page.messages.iter().map(|message| message.payload_bytes()).sum()).await);
            if let Some(gap) = page.lack.as_ref().map(GapRange::of) {
                if !backlog.messages.is_empty() {
                    // Lost or trimmed while it was being read: the catch-up reports it in its place.
                    backlog.goes_on = true;
                    break;
                }
                (backlog.from, backlog.cursor) = (gap.cursor, gap.cursor);
                backlog.gap = Some(gap);
            }
            if page.messages.is_empty() {
                backlog.cursor = page.cursor;
                break;
            }
            bytes += page.messages.iter().map(|m| m.payload_bytes()).sum::<usize>();
            backlog.messages.extend(page.messages);
            backlog.cursor = page.cursor;
            if backlog.messages.len() >= limits.entries_max as usize || bytes >= limits.bytes_max() {
                self.cut(&mut backlog);
                break;
            }
        }
        let has = self.believed(cursor, backlog.from);
        backlog.messages.retain(|message| message.id > Some(has));
        Ok((was_read, backlog))
    }

    /// What a client that claims to have reached `cursor` certainly has, if its subscription starts at `from`. It may
    /// be ahead of a server that lost its last entries, which may still arrive from a late read or link. In the current
    /// epoch, a cursor ahead of the stream is a mistake, and must not hide what follows.
    pub(super) fn believed(&self, cursor: StreamId, from: StreamId) -> StreamId {
        let generation = self.hub.backplane.history(&self.topic.topic).generation;
        if cursor > from && cursor.epoch >= generation { from } else { cursor.max(from) }
    }

    /// Reads a page of approximately `bytes_max` bytes after `after`, and determines what is missing from it.
    pub(super) async fn read_on(&self, after: StreamId, bytes_max: usize) -> Result<NextPage, StreamUnavailable> {
        let limits = ReadLimits::new(PAGE_MAX, bytes_max.min(PAGE_BYTES));
        self.hub.backplane.read_on(&self.topic.topic, after, self.topic.head().0, limits).await
    }

    /// More was missed than one resume may fetch: the rest becomes a gap, and the client takes a snapshot.
    fn cut(&self, backlog: &mut Backlog) {
        let (at, _) = self.topic.head();
        let at = at.unwrap_or_default();
        if self.topic.since(backlog.cursor).is_some() || at <= backlog.cursor {
            backlog.goes_on = true;
            return;
        }
        backlog.cut = Some(GapRange::new(backlog.cursor, at.next(), GapReason::Retention));
    }

    /// Changes the form or the maximum rate of the subscription.
    pub fn change(&self, subscriber: Subscriber, form: Form) {
        let shard = self.hub.shard_of(&subscriber.outbox);
        self.topic.change(subscriber, form, shard, &self.hub.shards);
    }

    /// Ends the subscription: nothing of it is written afterwards.
    pub fn leave(&self, outbox: &Arc<Outbox>, slot: SlotId) {
        outbox.close_slot(slot);
        self.trace(outbox, "unsubscribed", || json!({}));
        self.topic.leave(outbox, slot, self.hub.shard_of(outbox));
    }

    /// Reports what happens to the subscription to traces of the topic or client.
    pub(super) fn trace(&self, outbox: &Arc<Outbox>, event: &str, fields: impl FnOnce() -> Value) {
        if self.hub.traces.are_active() {
            self.hub.traces.client(outbox, event, Some(&self.topic.topic), &fields());
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<TopicState> {
        &self.topic
    }

    /// Delivery class of the topic.
    #[must_use]
    pub fn class(&self) -> Class {
        self.topic.rule.class
    }

    /// Whether the topic has a stream, hence ids.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        self.topic.is_retained()
    }

    /// The topic's head as known by this replica.
    #[must_use]
    pub fn head(&self) -> StreamId {
        self.topic.head().0.unwrap_or_default()
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        self.hub.uninterested(&self.topic);
    }
}
