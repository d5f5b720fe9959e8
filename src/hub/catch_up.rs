//! How what a subscription begins with is pushed, and how one that lags comes to the live stream without gap or repeat: from
//! the ring when that covers its cursor, from the stream otherwise, page by page as the socket drains; then it is joined,
//! atomically, where the two meet. Never keeps what its client does not take.

use std::sync::Arc;

use serde_json::json;
use tickgate_wire::{
    model::{Class, Message, StreamId},
    push::GapReason,
};

use super::{
    backlog::Backlog,
    batch::{Batch, Mark},
    form::Form,
    gap::{Gap, gap_label},
    member::Member,
    outbox::Outbox,
    past::Past,
    queue::{Cursor, Slot, SlotId, Stage},
    step::Step,
    subscribe::Interest,
    topic::Joining,
    turns::Reader,
};
use crate::{
    backplane::{ReadLimits, Unavailable},
    metrics,
};

/// Entries of one page that is pushed.
const PUSHED_MAX: usize = 100;

/// How a catch-up went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaughtUp {
    /// Live from here on.
    Live,
    /// More is to come when the socket has drained.
    More,
    /// The topic gave way to others: the subscription has to end.
    Withdrawn,
}

impl Interest {
    /// Opens the subscription in the outbox, lagging `at` the end of its backlog; the client came with all up to `has`.
    #[must_use]
    pub fn open(&self, outbox: &Outbox, at: StreamId, has: StreamId) -> SlotId {
        let has = if has > at { self.believed(has, at) } else { has };
        let class = self.topic.rule.class;
        let urgent = class == Class::Reliable && self.topic.topic.owner().is_some();
        let (stage, cursor) = (Stage::Lagging, if self.is_retained() { Cursor::Known } else { Cursor::None });
        outbox.open(Slot { class, urgent, cursor, stage, ticket: 0, queued: at, written: has })
    }

    /// Pushes a backlog, a page at a time as the socket drains; `drained` resolves when it has. Of one that is larger
    /// than an outbox nothing is kept for a socket that is behind, nor of any for a client that has to confirm first: the
    /// subscription lags, and the catch-up reads on. True when the whole past was pushed.
    pub async fn push_backlog<D>(
        &self,
        (member, form): (&Member, &Form),
        past: &mut Past,
        backlog: &Backlog,
        drained: impl Fn() -> D,
    ) -> bool
    where
        D: Future<Output = ()>,
    {
        self.trace_beginning(member, backlog);
        if let Some(gap) = &backlog.gap {
            past.gap();
            self.tell((member, form), gap, backlog.from, true);
        }
        let (mut after, mut rest) = (backlog.from, &backlog.messages[..]);
        let limits = ReadLimits::new(PUSHED_MAX, page_bytes(member));
        let is_large = backlog.bytes() > member.outbox.bytes_max();
        // The catch-up brings what is owed; the last publications of a channel are an extra, which it would pass over.
        let is_owed = member.outbox.known(member.slot) < Some(backlog.cursor) && backlog.cut.is_none();
        while !rest.is_empty() {
            let (page, later) = rest.split_at(limits.room(0, 0, rest.iter()));
            rest = later;
            past.count(form, page);
            past.spend(page);
            self.count_losses(member, page);
            let batch = self.hub.pages.encode(form, after, page, backlog.mark);
            after = batch.last;
            member.outbox.catch_up(member.slot, batch);
            let may_stop = is_owed && (is_large || member.outbox.is_held());
            if may_stop && !rest.is_empty() && !member.outbox.has_room() {
                return false;
            }
            drained().await;
        }
        if let Some(cut) = &backlog.cut {
            past.gap();
            self.tell((member, form), cut, cut.cursor, true);
        }
        !backlog.goes_on
    }

    /// Pushes a backlog beside a subscription that exists, a page at a time as the socket drains: its position stays what
    /// it is.
    pub async fn push_beside<D>(
        &self,
        (member, form): (&Member, &Form),
        past: &mut Past,
        backlog: &Backlog,
        drained: impl Fn() -> D,
    ) where
        D: Future<Output = ()>,
    {
        self.trace_beginning(member, backlog);
        if backlog.gap.is_some() || backlog.cut.is_some() {
            past.gap();
        }
        let tell = |gap: Gap| {
            self.note_gap(member, &gap, true);
            member.outbox.send(form.encode_gap(gap));
        };
        backlog.gap.into_iter().for_each(tell);
        let (mut after, mut rest) = (backlog.from, &backlog.messages[..]);
        let limits = ReadLimits::new(PUSHED_MAX, page_bytes(member));
        while !rest.is_empty() {
            let (page, later) = rest.split_at(limits.room(0, 0, rest.iter()));
            rest = later;
            past.count(form, page);
            self.count_losses(member, page);
            let batch = self.hub.pages.encode(form, after, page, backlog.mark);
            after = batch.last;
            member.outbox.send(batch.bytes.clone());
            drained().await;
        }
        // What lies behind its position, the subscription brings itself.
        let end = member.outbox.queued(member.slot).unwrap_or_default().next();
        let cut =
            backlog.cut.map(|cut| Gap::new(cut.after, cut.before.map_or(end, |before| before.min(end)), cut.reason));
        cut.into_iter().filter(|cut| cut.before > Some(cut.after)).for_each(tell);
    }

    fn trace_beginning(&self, member: &Member, backlog: &Backlog) {
        self.trace(
            &member.outbox,
            "subscribed",
            || json!({ "after": backlog.from.to_string(), "past_messages": backlog.messages.len() }),
        );
    }

    /// A gap that the client is told; `resumed`: after a position that it brought.
    fn note_gap(&self, member: &Member, gap: &Gap, resumed: bool) {
        member.outbox.count_gap(self.class(), gap_label(gap.reason, resumed));
        self.trace(&member.outbox, "gap", || {
            let before = gap.before.map(|before| before.to_string());
            json!({ "reason": gap.reason.as_str(), "after": gap.after.to_string(), "before": before })
        });
    }

    /// Counts the gaps that stand for publications which can't be shown.
    fn count_losses(&self, member: &Member, messages: &[Arc<Message>]) {
        let losses = messages.iter().filter(|message| message.is_unreadable());
        losses.for_each(|_| member.outbox.count_gap(self.class(), metrics::Gap::InvalidPayload));
    }

    fn tell(&self, (member, form): (&Member, &Form), gap: &Gap, last: StreamId, resumed: bool) {
        self.note_gap(member, gap, resumed);
        let bytes = form.encode_gap(*gap);
        let batch = Batch { bytes, count: 0, skipped: 0, after: gap.after, last, newest: None, form: form.clone() };
        member.outbox.catch_up(member.slot, Arc::new(batch));
    }

    /// One step of a catch-up: joins the live stream if what is missing is at hand, else pushes one page.
    ///
    /// # Errors
    /// [`Unavailable`] when the stream can't be read now; the subscription goes on lagging.
    pub async fn catch_up(
        &self,
        member: &Member,
        form: &Form,
        fresh: bool,
        mut past: Option<&mut Past>,
        reader: Reader,
    ) -> Result<CaughtUp, Unavailable> {
        if self.topic.is_withdrawn() {
            return Ok(CaughtUp::Withdrawn);
        }
        let slot = member.slot;
        let Some(mut at) = member.outbox.queued(slot) else { return Ok(CaughtUp::Live) };
        let has = member.outbox.known(slot).unwrap_or_default();
        if has > at
            && let Some((rest, _)) = self.topic.since(at)
            && let Some(known) = rest.iter().filter_map(|message| message.id).take_while(|id| *id <= has).last()
        {
            member.outbox.pass(slot, known);
            at = known;
        }
        if let Some(past) = &mut past
            && self.send_at_hand((member, form), past, at, has)
        {
            return Ok(CaughtUp::More);
        }
        if self.join((member, form), (fresh, past.as_deref()), at, false) {
            return Ok(CaughtUp::Live);
        }
        if past.as_ref().is_some_and(|past| past.is_spent()) && self.cut_short((member, form), &mut past, at) {
            return Ok(CaughtUp::More);
        }
        let turn = self.hub.turn(reader, page_bytes(member)).await?;
        let mut page = self.read_on(at, page_bytes(member)).await?;
        let gap = page.lack.as_ref().map(Gap::of);
        let hold = turn.end(page.messages.iter().map(|message| message.payload_bytes()).sum());
        if gap.as_ref().is_some_and(|gap| gap.before.is_none()) && !member.outbox.is_drained(slot) {
            // What the client has is known when it has been written.
            return Err(Unavailable("the client has not taken all that the server lost".into()));
        }
        if let Some(gap) = &gap {
            past.iter_mut().for_each(|past| past.gap());
            self.tell((member, form), gap, gap.cursor, fresh || past.is_some());
        }
        let before = at;
        at = gap.map_or(at, |gap| gap.cursor);
        if let Some(last) = page.messages.last().and_then(|message| message.id)
            && has > at
        {
            page.messages.retain(|message| message.id > Some(has));
            if page.messages.is_empty() {
                member.outbox.pass(slot, last);
                return Ok(CaughtUp::More);
            }
        }
        if page.messages.is_empty() {
            if page.cursor > at {
                // Nothing lies in between: another generation has begun.
                member.outbox.pass(slot, page.cursor);
                at = page.cursor;
            }
            if gap.is_none() && self.join((member, form), (fresh, past.as_deref()), at, true) {
                return Ok(CaughtUp::Live);
            }
            // The topic has moved on, and what moved it was not in the stream yet.
            return if at != before {
                Ok(CaughtUp::More)
            } else {
                Err(Unavailable("nothing new in the stream".into()))
            };
        }
        self.push_page((member, form), past, at, page.messages);
        hold.into_iter().for_each(|hold| member.outbox.keep(hold));
        Ok(CaughtUp::More)
    }

    /// More was missed than one resume may fetch: tells the rest, and goes on from where the topic stands. False where it
    /// stands no further.
    fn cut_short(&self, (member, form): (&Member, &Form), past: &mut Option<&mut Past>, at: StreamId) -> bool {
        let head = self.head();
        if head <= at {
            return false;
        }
        past.iter_mut().for_each(|past| past.gap());
        self.tell((member, form), &Gap::new(at, head.next(), GapReason::Retention), head, true);
        true
    }

    /// Pushes what this replica has after `at`, once, as the past of a subscription that comes from further back. False
    /// when there is none, or it is not known what is between.
    fn send_at_hand(&self, (member, form): (&Member, &Form), past: &mut Past, at: StreamId, has: StreamId) -> bool {
        if self.class() == Class::State || past.at_hand_sent {
            return false;
        }
        let Some((mut rest, _)) = self.topic.since(at) else { return false };
        past.at_hand_sent = true;
        rest.retain(|message| message.id > Some(has));
        let found = !rest.is_empty();
        if found {
            self.push_page((member, form), Some(past), at, rest);
        }
        found
    }

    /// Pushes a page of the past. What its channel does not want is left out, and passed all the same.
    fn push_page(
        &self,
        (member, form): (&Member, &Form),
        past: Option<&mut Past>,
        at: StreamId,
        mut messages: Vec<Arc<Message>>,
    ) {
        let last = messages.last().and_then(|message| message.id);
        if let Some(past) = past {
            past.spend(&messages);
            messages.retain(|message| past.wants(message));
            past.count(form, &messages);
        }
        self.count_losses(member, &messages);
        let steps: Vec<_> = messages.into_iter().map(Step::Message).collect();
        let mut batch = Batch::encode(form, at, &steps, Mark { replayed: true, snapshot: false });
        batch.last = last.map_or(batch.last, |last| last.max(batch.last));
        self.hub.metrics.replayed_messages_total.inc_by(batch.count.into());
        member.outbox.catch_up(member.slot, Arc::new(batch));
    }

    fn join(
        &self,
        (member, form): (&Member, &Form),
        (fresh, past): (bool, Option<&Past>),
        at: StreamId,
        proven: bool,
    ) -> bool {
        let shard = self.hub.shard_of(&member.outbox);
        self.topic.join(Joining { member, form, shard, fresh, past }, at, proven, &self.hub.shards)
    }
}

/// Bytes of a page that is pushed: an outbox that is half full has room for it.
fn page_bytes(member: &Member) -> usize {
    member.outbox.bytes_max() / 2
}

#[cfg(test)]
#[path = "catch_up_tests.rs"]
mod tests;
