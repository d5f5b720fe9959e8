//! Pushes backlogs and catches up lagging subscriptions without gap or duplicate: from the ring if it covers the
//! cursor, else from the stream, page by page as the socket drains; then the subscription atomically joins the live
//! stream. Never keeps what the client does not accept.

use std::sync::Arc;

use serde_json::json;
use tickgate_wire::{
    model::{Class, Message, StreamId},
    push::GapReason,
};

use super::{
    backlog::Backlog,
    backlog_progress::BacklogProgress,
    batch::{PushBatch, PushFlags},
    form::Form,
    gap::{GapRange, gap_label},
    outbox::Outbox,
    queue::{Cursor, SlotId, SubscriptionSlot, SubscriptionStage},
    step::Step,
    subscribe::TopicHandle,
    subscriber::Subscriber,
    topic::JoiningSubscription,
    turns::ReaderAddress,
};
use crate::{
    backplane::{ReadLimits, StreamUnavailable},
    metrics,
};

/// Maximum number of entries in a pushed page.
const PUSHED_MAX: usize = 100;

/// The result of a catch-up step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUpStep {
    /// Now live.
    Live,
    /// More follows when the socket has drained.
    More,
    /// The topic was withdrawn: the subscription must end.
    Withdrawn,
}

impl TopicHandle {
    /// Opens the subscription in the outbox, lagging `at` the end of its backlog; the client has everything up to
    /// `has`.
    #[must_use]
    pub fn open(&self, outbox: &Outbox, at: StreamId, has: StreamId) -> SlotId {
        let has = if has > at { self.believed(has, at) } else { has };
        let class = self.topic.rule.class;
        let urgent = class == Class::Reliable && self.topic.topic.owner().is_some();
        let (stage, cursor) =
            (SubscriptionStage::Lagging, if self.is_retained() { Cursor::Known } else { Cursor::None });
        outbox.open(SubscriptionSlot { class, urgent, cursor, stage, ticket: 0, queued: at, written: has })
    }

    /// Pushes a backlog page by page as the socket drains; `drained` resolves when it has. A backlog larger than an
    /// outbox is not kept for a socket that is behind, nor any backlog for a client that has to confirm first: the
    /// subscription lags, and the catch-up continues. True if everything was pushed.
    pub async fn push_backlog<D>(
        &self,
        (subscriber, form): (&Subscriber, &Form),
        past: &mut BacklogProgress,
        backlog: &Backlog,
        drained: impl Fn() -> D,
    ) -> bool
    where
        D: Future<Output = ()>,
    {
        self.trace_beginning(subscriber, backlog);
        if let Some(gap) = &backlog.gap {
            past.gap();
            self.tell((subscriber, form), gap, backlog.from, true);
        }
        let (mut after, mut rest) = (backlog.from, &backlog.messages[..]);
        let limits = ReadLimits::new(PUSHED_MAX, page_bytes(subscriber));
        let is_large = backlog.bytes() > subscriber.outbox.bytes_max();
        // The catch-up delivers what is guaranteed; it would skip the requested last publications of a channel, which
        // are extra.
        let is_owed = subscriber.outbox.known(subscriber.slot) < Some(backlog.cursor) && backlog.cut.is_none();
        while !rest.is_empty() {
            let (page, later) = rest.split_at(limits.room(0, 0, rest.iter()));
            rest = later;
            past.count(form, page);
            past.spend(page);
            self.count_losses(subscriber, page);
            let batch = self.hub.pages.encode(form, after, page, backlog.flags);
            after = batch.last;
            subscriber.outbox.catch_up(subscriber.slot, batch);
            let may_stop = is_owed && (is_large || subscriber.outbox.is_held());
            if may_stop && !rest.is_empty() && !subscriber.outbox.has_room() {
                return false;
            }
            drained().await;
        }
        if let Some(cut) = &backlog.cut {
            past.gap();
            self.tell((subscriber, form), cut, cut.cursor, true);
        }
        !backlog.goes_on
    }

    /// Pushes a backlog for channels added to an existing subscription, page by page as the socket drains, without
    /// changing its position.
    pub async fn push_beside<D>(
        &self,
        (subscriber, form): (&Subscriber, &Form),
        past: &mut BacklogProgress,
        backlog: &Backlog,
        drained: impl Fn() -> D,
    ) where
        D: Future<Output = ()>,
    {
        self.trace_beginning(subscriber, backlog);
        if backlog.gap.is_some() || backlog.cut.is_some() {
            past.gap();
        }
        let tell = |gap: GapRange| {
            self.note_gap(subscriber, &gap, true);
            subscriber.outbox.send(form.encode_gap(gap));
        };
        backlog.gap.into_iter().for_each(tell);
        let (mut after, mut rest) = (backlog.from, &backlog.messages[..]);
        let limits = ReadLimits::new(PUSHED_MAX, page_bytes(subscriber));
        while !rest.is_empty() {
            let (page, later) = rest.split_at(limits.room(0, 0, rest.iter()));
            rest = later;
            past.count(form, page);
            self.count_losses(subscriber, page);
            let batch = self.hub.pages.encode(form, after, page, backlog.flags);
            after = batch.last;
            subscriber.outbox.send(batch.bytes.clone());
            drained().await;
        }
        // The subscription itself delivers what follows its position.
        let end = subscriber.outbox.queued(subscriber.slot).unwrap_or_default().next();
        let cut = backlog
            .cut
            .map(|cut| GapRange::new(cut.after, cut.before.map_or(end, |before| before.min(end)), cut.reason));
        cut.into_iter().filter(|cut| cut.before > Some(cut.after)).for_each(tell);
    }

    fn trace_beginning(&self, subscriber: &Subscriber, backlog: &Backlog) {
        self.trace(
            &subscriber.outbox,
            "subscribed",
            || json!({ "after": backlog.from.to_string(), "past_messages": backlog.messages.len() }),
        );
    }

    /// Counts a gap sent to the client; `resumed`: it follows a position that the client supplied.
    fn note_gap(&self, subscriber: &Subscriber, gap: &GapRange, resumed: bool) {
        subscriber.outbox.count_gap(self.class(), gap_label(gap.reason, resumed));
        self.trace(&subscriber.outbox, "gap", || {
            let before = gap.before.map(|before| before.to_string());
            json!({ "reason": gap.reason.as_str(), "after": gap.after.to_string(), "before": before })
        });
    }

    /// Counts the gaps for publications that cannot be shown.
    fn count_losses(&self, subscriber: &Subscriber, messages: &[Arc<Message>]) {
        let losses = messages.iter().filter(|message| message.is_unreadable());
        losses.for_each(|_| subscriber.outbox.count_gap(self.class(), metrics::GapLabel::InvalidPayload));
    }

    fn tell(&self, (subscriber, form): (&Subscriber, &Form), gap: &GapRange, last: StreamId, resumed: bool) {
        self.note_gap(subscriber, gap, resumed);
        let bytes = form.encode_gap(*gap);
        let batch = PushBatch { bytes, count: 0, skipped: 0, after: gap.after, last, newest: None, form: form.clone() };
        subscriber.outbox.catch_up(subscriber.slot, Arc::new(batch));
    }

    /// One step of a catch-up: joins the live stream if the missing messages are in memory, else pushes one page.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the stream cannot be read now; the subscription keeps lagging.
    pub async fn catch_up(
        &self,
        subscriber: &Subscriber,
        form: &Form,
        fresh: bool,
        mut past: Option<&mut BacklogProgress>,
        reader: ReaderAddress,
    ) -> Result<CatchUpStep, StreamUnavailable> {
        if self.topic.is_withdrawn() {
            return Ok(CatchUpStep::Withdrawn);
        }
        let slot = subscriber.slot;
        let Some(mut at) = subscriber.outbox.queued(slot) else { return Ok(CatchUpStep::Live) };
        let has = subscriber.outbox.known(slot).unwrap_or_default();
        if has > at
            && let Some((rest, _)) = self.topic.since(at)
            && let Some(known) = rest.iter().filter_map(|message| message.id).take_while(|id| *id <= has).last()
        {
            subscriber.outbox.pass(slot, known);
            at = known;
        }
        if let Some(past) = &mut past
            && self.send_at_hand((subscriber, form), past, at, has)
        {
            return Ok(CatchUpStep::More);
        }
        if self.join((subscriber, form), (fresh, past.as_deref()), at, false) {
            return Ok(CatchUpStep::Live);
        }
        if past.as_ref().is_some_and(|past| past.is_spent()) && self.cut_short((subscriber, form), &mut past, at) {
            return Ok(CatchUpStep::More);
        }
        let turn = self.hub.turn(reader, page_bytes(subscriber)).await?;
        let mut page = self.read_on(at, page_bytes(subscriber)).await?;
        let gap = page.lack.as_ref().map(GapRange::of);
        let hold = turn.end(page.messages.iter().map(|message| message.payload_bytes()).sum()).await;
        if gap.as_ref().is_some_and(|gap| gap.before.is_none()) && !subscriber.outbox.is_drained(slot) {
            // What the client has is known only when everything is written.
            return Err(StreamUnavailable("the client has not taken all that the server lost".into()));
        }
        if let Some(gap) = &gap {
            past.iter_mut().for_each(|past| past.gap());
            self.tell((subscriber, form), gap, gap.cursor, fresh || past.is_some());
        }
        let before = at;
        at = gap.map_or(at, |gap| gap.cursor);
        if let Some(last) = page.messages.last().and_then(|message| message.id)
            && has > at
        {
            page.messages.retain(|message| message.id > Some(has));
            if page.messages.is_empty() {
                subscriber.outbox.pass(slot, last);
                return Ok(CatchUpStep::More);
            }
        }
        if page.messages.is_empty() {
            if page.cursor > at {
                // Nothing lies in between: a new generation has begun.
                subscriber.outbox.pass(slot, page.cursor);
                at = page.cursor;
            }
            if gap.is_none() && self.join((subscriber, form), (fresh, past.as_deref()), at, true) {
                return Ok(CatchUpStep::Live);
            }
            // The topic has moved on, and the stream did not contain the reason yet.
            return if at != before {
                Ok(CatchUpStep::More)
            } else {
                Err(StreamUnavailable("nothing new in the stream".into()))
            };
        }
        self.push_page((subscriber, form), past, at, page.messages);
        hold.into_iter().for_each(|hold| subscriber.outbox.keep(hold));
        Ok(CatchUpStep::More)
    }

    /// More was missed than one resume may fetch: sends a gap, and continues at the topic's position. False if that is
    /// not further.
    fn cut_short(
        &self,
        (subscriber, form): (&Subscriber, &Form),
        past: &mut Option<&mut BacklogProgress>,
        at: StreamId,
    ) -> bool {
        let head = self.head();
        if head <= at {
            return false;
        }
        past.iter_mut().for_each(|past| past.gap());
        self.tell((subscriber, form), &GapRange::new(at, head.next(), GapReason::Retention), head, true);
        true
    }

    /// Pushes the messages in memory after `at`, once, as the backlog of a subscription from further back. False if
    /// there are none, or what lies between is unknown.
    fn send_at_hand(
        &self,
        (subscriber, form): (&Subscriber, &Form),
        past: &mut BacklogProgress,
        at: StreamId,
        has: StreamId,
    ) -> bool {
        if self.class() == Class::State || past.at_hand_sent {
            return false;
        }
        let Some((mut rest, _)) = self.topic.since(at) else { return false };
        past.at_hand_sent = true;
        rest.retain(|message| message.id > Some(has));
        let found = !rest.is_empty();
        if found {
            self.push_page((subscriber, form), Some(past), at, rest);
        }
        found
    }

    /// Pushes a page of the backlog. Messages that their channel does not want are skipped.
    fn push_page(
        &self,
        (subscriber, form): (&Subscriber, &Form),
        past: Option<&mut BacklogProgress>,
        at: StreamId,
        mut messages: Vec<Arc<Message>>,
    ) {
        let last = messages.last().and_then(|message| message.id);
        if let Some(past) = past {
            past.spend(&messages);
            messages.retain(|message| past.wants(message));
            past.count(form, &messages);
        }
        self.count_losses(subscriber, &messages);
        let steps: Vec<_> = messages.into_iter().map(Step::Message).collect();
        let mut batch =
            PushBatch::encode(form, at, &steps, PushFlags { replayed: true, ..PushFlags::live(self.class()) });
        batch.last = last.map_or(batch.last, |last| last.max(batch.last));
        self.hub.metrics.replayed_messages_total.inc_by(batch.count.into());
        subscriber.outbox.catch_up(subscriber.slot, Arc::new(batch));
    }

    fn join(
        &self,
        (subscriber, form): (&Subscriber, &Form),
        (fresh, past): (bool, Option<&BacklogProgress>),
        at: StreamId,
        proven: bool,
    ) -> bool {
        let shard = self.hub.shard_of(&subscriber.outbox);
        self.topic.join(JoiningSubscription { subscriber, form, shard, fresh, past }, at, proven, &self.hub.shards)
    }
}

/// Maximum size of a pushed page, in bytes: it fits into a half-full outbox.
fn page_bytes(subscriber: &Subscriber) -> usize {
    subscriber.outbox.bytes_max() / 2
}

#[cfg(test)]
#[path = "catch_up_tests.rs"]
mod tests;
