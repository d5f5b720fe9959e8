//! An interest in a topic, and what a subscription begins with: from nothing, from a cursor, from the end of the history.
//!
//! Every subscription begins lagging at its cursor; `catch_up` brings it to the live stream without gap or repeat.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tickgate_wire::{
    model::{Class, Start, StreamId},
    push::GapReason,
};

use super::{
    Hub,
    backlog::{Backlog, ReplayLimits},
    batch::Mark,
    form::Form,
    gap::Gap,
    member::Member,
    outbox::Outbox,
    queue::SlotId,
    topic::Followed,
};
use crate::{
    backplane::{Onward, ReadLimits, Unavailable},
    metrics,
};

/// Entries of one page that is read, and their bytes.
const PAGE_MAX: usize = 500;
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of one value, about.
const VALUE_BYTES: usize = 64 << 10;

/// A counted interest in a topic: the replica follows it as long as one exists (and a while longer).
#[derive(Debug)]
pub struct Interest {
    pub(super) hub: Arc<Hub>,
    pub(super) topic: Arc<Followed>,
}

impl Interest {
    /// Waits until the replica knows where the topic stands.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not within `timeout`.
    pub async fn ready(&self, timeout: Duration) -> Result<(), Unavailable> {
        while let Some(synced) = self.topic.synced() {
            // Where it waits already since nobody was interested, it is somebody's turn now.
            self.hub.queues.reorder(&self.topic);
            if tokio::time::timeout(timeout, synced).await.is_err() {
                return Err(Unavailable("the topic is not in step with its stream yet".into()));
            }
            if self.topic.is_withdrawn() {
                break;
            }
        }
        if self.topic.is_withdrawn() { Err(Unavailable("there is no room for the topic".into())) } else { Ok(()) }
    }

    /// Gathers what the subscription gets before it goes live. Bounded by `limits`.
    ///
    /// # Errors
    /// [`Unavailable`] when the stream can't be read now.
    pub async fn backlog(&self, start: Start, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        let at = self.topic.head().0.unwrap_or_default();
        match start {
            Start::Live => Ok(Backlog { from: at, cursor: at, ..Backlog::default() }),
            Start::Snapshot { least } => self.snapshot(at, least, limits).await,
            Start::Last(count) => self.last(count, at, limits).await,
            Start::Since(cursor) => self.since(cursor, limits).await,
            Start::Earliest => self.earliest(limits).await,
        }
    }

    /// The newest value; where the client has a newer one than this replica, that of the stream itself.
    async fn snapshot(&self, at: StreamId, least: StreamId, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        let mark = Mark { snapshot: true, ..Mark::default() };
        let mut hold = None;
        let newest = match self.topic.head().1 {
            Some(newest) if newest.id >= Some(least) => Some(newest),
            None if at.max(least) == StreamId::ZERO => None,
            _ => {
                let turn = self.hub.turn(limits.reader, VALUE_BYTES).await?;
                let newest = self.hub.backplane.newest(&self.topic.topic, ReadLimits::ONE).await?.messages.pop();
                hold = turn.end(newest.as_ref().map_or(0, |message| message.payload_bytes()));
                newest
            }
        };
        let cursor = newest.as_ref().and_then(|m| m.id).unwrap_or(at);
        let messages = newest.into_iter().collect();
        Ok(Backlog { messages, from: StreamId::ZERO, cursor, mark, hold, ..Backlog::default() })
    }

    async fn last(&self, count: usize, at: StreamId, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
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
                hold = turn.end(messages.iter().map(|message| message.payload_bytes()).sum());
                messages
            }
        };
        let cursor = messages.last().and_then(|m| m.id).unwrap_or(at);
        let mark = Mark { replayed: true, ..Mark::default() };
        Ok(Backlog { messages, from: StreamId::ZERO, cursor, mark, hold, ..Backlog::default() })
    }

    /// All that is kept: what is not is no loss to a client that never had any of it.
    async fn earliest(&self, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        // Its beginning is known by its first message only.
        let limits = limits.of_beginning(false, limits.at_once);
        let mut backlog = self.since(StreamId::ZERO, limits).await?;
        backlog.gap = None;
        if let Some(first) = backlog.messages.first().and_then(|message| message.id) {
            backlog.from = first.previous();
        }
        Ok(backlog)
    }

    /// All after the cursor, counted by what answered.
    async fn since(&self, cursor: StreamId, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        let begun = Instant::now();
        let gathered = self.gather(cursor, limits).await;
        let answered_by = match &gathered {
            Err(_) => metrics::Replay::Unavailable,
            Ok((_, backlog)) if backlog.cut.is_some() => metrics::Replay::TooLong,
            Ok((_, backlog)) if backlog.gap.is_some() => metrics::Replay::Gap,
            Ok((false, backlog)) if backlog.messages.is_empty() => metrics::Replay::Live,
            Ok((was_read, _)) => {
                if *was_read {
                    metrics::Replay::Stream
                } else {
                    metrics::Replay::Ring
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

    /// All after the cursor, and whether the stream had to be read for it.
    async fn gather(&self, cursor: StreamId, limits: ReplayLimits) -> Result<(bool, Backlog), Unavailable> {
        let mark = Mark { replayed: true, ..Mark::default() };
        let mut backlog = Backlog { from: cursor, cursor, mark, ..Backlog::default() };
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
                // What is gathered is held, so only some gather more than a page.
                long = self.hub.long_turns.try_take(limits.reader, 0);
            }
            let turn = match &backlog.hold {
                None if !limits.has_some => Some(self.hub.turn(limits.reader, page_bytes).await?),
                // Nobody waits for more while he holds what others wait for.
                Some(_) if long.is_none() => None,
                _ => self.hub.turns.try_take(limits.reader, page_bytes),
            };
            let Some(turn) = turn else {
                if limits.at_once {
                    return Err(Unavailable("too many read what they missed".into()));
                }
                backlog.goes_on = true;
                break;
            };
            let page = self.read_on(backlog.cursor, page_bytes).await?;
            backlog.keep(turn.end(page.messages.iter().map(|message| message.payload_bytes()).sum()));
            if let Some(gap) = page.lack.as_ref().map(Gap::of) {
                if !backlog.messages.is_empty() {
                    // Lost or trimmed while it was being read: the catch-up tells it in its place.
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

    /// What a client surely has that says it came as far as `cursor`, where its subscription begins at `from`. It may be
    /// ahead of a server that lost its last entries, and those may still come, from a read or a link that was late. Of
    /// the epoch that goes on nobody can have what is not there: then it is a mistake, and must not hide what comes.
    pub(super) fn believed(&self, cursor: StreamId, from: StreamId) -> StreamId {
        let generation = self.hub.backplane.history(&self.topic.topic).generation;
        if cursor > from && cursor.epoch >= generation { from } else { cursor.max(from) }
    }

    /// Reads a page of about so many bytes at the most after `after`, and finds out what it can't bring.
    pub(super) async fn read_on(&self, after: StreamId, bytes_max: usize) -> Result<Onward, Unavailable> {
        let limits = ReadLimits::new(PAGE_MAX, bytes_max.min(PAGE_BYTES));
        self.hub.backplane.read_on(&self.topic.topic, after, self.topic.head().0, limits).await
    }

    /// More was missed than one resume may fetch: the rest is told, and the client takes a snapshot.
    fn cut(&self, backlog: &mut Backlog) {
        let (at, _) = self.topic.head();
        let at = at.unwrap_or_default();
        if self.topic.since(backlog.cursor).is_some() || at <= backlog.cursor {
            backlog.goes_on = true;
            return;
        }
        backlog.cut = Some(Gap::new(backlog.cursor, at.next(), GapReason::Retention));
    }

    /// Changes the form or the maximum rate of the subscription.
    pub fn change(&self, member: Member, form: Form) {
        let shard = self.hub.shard_of(&member.outbox);
        self.topic.change(member, form, shard, &self.hub.shards);
    }

    /// Ends the subscription: after this returns nothing of it is written.
    pub fn leave(&self, outbox: &Arc<Outbox>, slot: SlotId) {
        outbox.close_slot(slot);
        self.trace(outbox, "unsubscribed", || json!({}));
        self.topic.leave(outbox, slot, self.hub.shard_of(outbox));
    }

    /// Tells those who trace the topic, or the client, what happens to the subscription.
    pub(super) fn trace(&self, outbox: &Arc<Outbox>, event: &str, fields: impl FnOnce() -> Value) {
        if self.hub.traces.are_active() {
            self.hub.traces.client(outbox, event, Some(&self.topic.topic), &fields());
        }
    }

    /// The topic itself.
    #[must_use]
    pub fn topic(&self) -> &Arc<Followed> {
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

    /// The head of the topic as this replica knows it.
    #[must_use]
    pub fn head(&self) -> StreamId {
        self.topic.head().0.unwrap_or_default()
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.hub.uninterested(&self.topic);
    }
}
