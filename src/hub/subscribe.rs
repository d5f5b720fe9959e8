//! How a subscription comes to the live stream without gap or repeat: from nothing, from a cursor, or after it lagged.
//!
//! Every subscription begins lagging at its cursor and is caught up: from the ring when that covers it, from the
//! stream otherwise, page by page as the socket drains; then it is joined, atomically, where the two meet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::{
    model::{Class, Start, StreamId},
    push::GapReason,
};

use super::{
    Hub,
    backlog::{Backlog, ReplayLimits},
    batch::{Batch, Mark},
    form::Form,
    gap::{Gap, gap_label},
    member::Member,
    outbox::Outbox,
    position::{Step, reason_between},
    queue::{Slot, SlotId, Stage},
    topic::{Followed, Joining},
};
use crate::{
    backplane::{Page, ReadLimits, Unavailable},
    metrics,
};

/// Entries of one page that is read, and of one that is pushed.
const PAGE_MAX: usize = 500;
const PUSHED_MAX: usize = PAGE_MAX / 5;

/// A counted interest in a topic: the replica follows it as long as one exists (and a while longer).
#[derive(Debug)]
pub struct Interest {
    pub(super) hub: Arc<Hub>,
    pub(super) topic: Arc<Followed>,
}

/// What comes after a position.
struct Onward {
    page: Page,
    /// Told before the page.
    gap: Option<Gap>,
    /// The position before the page, behind the gap where nothing is left to be read.
    at: StreamId,
}

/// How a catch-up went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaughtUp {
    /// Live from here on.
    Live,
    /// More is to come when the socket has drained.
    More,
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
        }
        Ok(())
    }

    /// Gathers what the subscription gets before it goes live. Bounded by `limits`.
    ///
    /// # Errors
    /// [`Unavailable`] when the stream can't be read now.
    pub async fn backlog(&self, start: Start, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        let at = self.topic.head().0.unwrap_or_default();
        match start {
            Start::Live => Ok(Backlog { from: at, cursor: at, ..Backlog::default() }),
            Start::Snapshot { least } => self.snapshot(at, least).await,
            Start::Last(count) => self.last(count, at, limits).await,
            Start::Since(cursor) => self.since(cursor, StreamId::ZERO, limits).await,
            Start::Resumed { after, through } => self.since(after, through, limits).await,
        }
    }

    /// The newest value; where the client has a newer one than this replica, that of the stream itself.
    async fn snapshot(&self, at: StreamId, least: StreamId) -> Result<Backlog, Unavailable> {
        let mark = Mark { snapshot: true, ..Mark::default() };
        let newest = match self.topic.head().1 {
            Some(newest) if newest.id >= Some(least) => Some(newest),
            None if at.max(least) == StreamId::ZERO => None,
            _ => self.hub.backplane.newest(&self.topic.topic, ReadLimits::ONE).await?.messages.pop(),
        };
        let cursor = newest.as_ref().and_then(|m| m.id).unwrap_or(at);
        Ok(Backlog { messages: newest.into_iter().collect(), from: StreamId::ZERO, cursor, mark, ..Backlog::default() })
    }

    async fn last(&self, count: usize, at: StreamId, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        let count = count.min(limits.entries_max as usize);
        let messages = match self.topic.last(count) {
            Some(messages) => messages,
            None => {
                let limits = ReadLimits::new(count, limits.bytes_max());
                self.hub.backplane.newest(&self.topic.topic, limits).await?.messages
            }
        };
        let cursor = messages.last().and_then(|m| m.id).unwrap_or(at);
        let mark = Mark { replayed: true, ..Mark::default() };
        Ok(Backlog { messages, from: StreamId::ZERO, cursor, mark, ..Backlog::default() })
    }

    /// All after the cursor, at least to `through`, which this replica may not have reached yet.
    async fn since(&self, cursor: StreamId, through: StreamId, limits: ReplayLimits) -> Result<Backlog, Unavailable> {
        let begun = Instant::now();
        let mark = Mark { replayed: true, ..Mark::default() };
        let mut backlog = Backlog { from: cursor, cursor, mark, ..Backlog::default() };
        let mut bytes = 0;
        let mut source = metrics::Replay::Ring;
        loop {
            if let Some((rest, at)) = self.topic.since(backlog.cursor).filter(|(_, at)| *at >= through) {
                backlog.messages.extend(rest);
                backlog.cursor = at;
                break;
            }
            source = metrics::Replay::Stream;
            let Onward { page, gap, at } = self.read_on(backlog.cursor, limits.bytes_max() - bytes).await?;
            if let Some(gap) = gap {
                if !backlog.messages.is_empty() {
                    // Lost or trimmed while it was being read: the catch-up tells it in its place.
                    break;
                }
                source = metrics::Replay::Gap;
                (backlog.from, backlog.cursor) = (at, at);
                backlog.gap = Some(gap);
            }
            let Some(last) = page.messages.last().and_then(|m| m.id) else { break };
            bytes += page.messages.iter().map(|m| m.payload_bytes()).sum::<usize>();
            backlog.messages.extend(page.messages);
            backlog.cursor = last;
            if backlog.messages.len() >= limits.entries_max as usize || bytes >= limits.bytes_max() {
                self.cut(&mut backlog);
                break;
            }
        }
        let has = self.believed(cursor, backlog.from);
        backlog.messages.retain(|message| message.id > Some(has));
        let metrics = &self.hub.metrics;
        metrics.replay_requests_total.of(source).inc();
        metrics.replayed_messages_total.inc_by(backlog.messages.len() as u64);
        metrics.replay_duration_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(backlog)
    }

    /// What a client surely has that says it came as far as `cursor`, where its subscription begins at `from`. It may be
    /// ahead of a server that lost its last entries, and those may still come, from a read or a link that was late. Of
    /// the epoch that goes on nobody can have what is not there: then it is a mistake, and must not hide what comes.
    fn believed(&self, cursor: StreamId, from: StreamId) -> StreamId {
        let generation = self.hub.backplane.generation(&self.topic.topic);
        if cursor > from && cursor.epoch >= generation { from } else { cursor.max(from) }
    }

    /// Reads a page of about so many bytes at the most after `after`, and finds out what it can't bring.
    async fn read_on(&self, after: StreamId, bytes_max: usize) -> Result<Onward, Unavailable> {
        let (backplane, topic) = (&self.hub.backplane, &self.topic.topic);
        let limits = ReadLimits::new(PAGE_MAX, bytes_max);
        loop {
            // What this replica had delivered before the read is in the stream, or was lost.
            let head = self.head();
            let page = backplane.read(topic, after, limits).await?;
            let (gap, at) = match page.messages.first().and_then(|m| m.id) {
                Some(before) if !page.contiguous => {
                    (Some(Gap::new(after, before, reason_between(after, before))), after)
                }
                None if head > after => (Some(Gap::new(after, head.next(), GapReason::Failover)), head),
                None if !page.contiguous => {
                    // The cursor is ahead of the stream. Whoever came that far has all that is left in it.
                    let newest = backplane.newest(topic, ReadLimits::ONE).await?;
                    let end = newest.messages.last().and_then(|m| m.id).unwrap_or_default();
                    if end > after {
                        continue;
                    }
                    (Some(Gap { after, before: None, count: None, reason: GapReason::Failover }), head.max(end))
                }
                _ => (None, after),
            };
            return Ok(Onward { page, gap, at });
        }
    }

    /// More was missed than one resume may fetch: the rest is told, and the client takes a snapshot.
    fn cut(&self, backlog: &mut Backlog) {
        let (at, _) = self.topic.head();
        let at = at.unwrap_or_default();
        if self.topic.since(backlog.cursor).is_some() || at <= backlog.cursor {
            return;
        }
        backlog.cut = Some(Gap::new(backlog.cursor, at.next(), GapReason::Retention));
    }

    /// Opens the subscription in the outbox, lagging `at` the end of its backlog; the client came with all up to `has`.
    #[must_use]
    pub fn open(&self, outbox: &Outbox, at: StreamId, has: StreamId) -> SlotId {
        let has = if has > at { self.believed(has, at) } else { has };
        let class = self.topic.rule.class;
        let urgent = class == Class::Reliable && self.topic.topic.owner().is_some();
        let (stage, counted) = (Stage::Lagging, self.is_retained());
        outbox.open(Slot { class, urgent, counted, stage, ticket: 0, queued: at, written: has })
    }

    /// Pushes a backlog, a page at a time as the socket drains; `drained` resolves when it has. Of one that is larger
    /// than an outbox nothing is kept for a socket that is behind: the subscription lags, and the catch-up reads on.
    pub async fn push_backlog<D>(&self, member: &Member, form: &Form, backlog: &Backlog, drained: impl Fn() -> D)
    where
        D: Future<Output = ()>,
    {
        if let Some(gap) = &backlog.gap {
            self.tell(member, form, gap, backlog.from);
        }
        let (mut after, mut rest) = (backlog.from, &backlog.messages[..]);
        let limits = ReadLimits::new(PUSHED_MAX, page_bytes(member));
        let may_stop = backlog.cut.is_none() && backlog.bytes() > member.outbox.bytes_max();
        while !rest.is_empty() {
            let (page, later) = rest.split_at(limits.room(0, 0, rest.iter()));
            rest = later;
            let steps: Vec<_> = page.iter().cloned().map(Step::Message).collect();
            let batch = Batch::encode(form, after, &steps, backlog.mark);
            after = batch.last;
            member.outbox.catch_up(member.slot, Arc::new(batch));
            if may_stop && !member.outbox.has_room() {
                return;
            }
            drained().await;
        }
        if let Some(cut) = &backlog.cut {
            let at = cut.before.map_or(backlog.cursor, |before| StreamId::new(before.epoch, before.seq - 1));
            self.tell(member, form, cut, at);
        }
    }

    /// Pushes a backlog beside a subscription that exists: its position stays what it is.
    pub fn push_beside(&self, member: &Member, form: &Form, backlog: &Backlog) {
        let tell = |gap: Gap| {
            self.hub.metrics.gaps_total.of(gap_label(gap.reason)).inc();
            member.outbox.send(form.encode_gap(gap));
        };
        backlog.gap.into_iter().for_each(tell);
        let steps: Vec<_> = backlog.messages.iter().cloned().map(Step::Message).collect();
        let batch = Batch::encode(form, backlog.from, &steps, backlog.mark);
        member.outbox.send(batch.bytes);
        // What lies behind its position, the subscription brings itself.
        let end = member.outbox.queued(member.slot).unwrap_or_default().next();
        let cut =
            backlog.cut.map(|cut| Gap::new(cut.after, cut.before.map_or(end, |before| before.min(end)), cut.reason));
        cut.into_iter().filter(|cut| cut.before > Some(cut.after)).for_each(tell);
    }

    fn tell(&self, member: &Member, form: &Form, gap: &Gap, last: StreamId) {
        self.hub.metrics.gaps_total.of(gap_label(gap.reason)).inc();
        let bytes = form.encode_gap(*gap);
        let batch = Batch { bytes, count: 0, skipped: 0, after: gap.after, last, newest: None, form: form.clone() };
        member.outbox.catch_up(member.slot, Arc::new(batch));
    }

    /// One step of a catch-up: joins the live stream if what is missing is at hand, else pushes one page.
    ///
    /// # Errors
    /// [`Unavailable`] when the stream can't be read now; the subscription goes on lagging.
    pub async fn catch_up(&self, member: &Member, form: &Form, fresh: bool) -> Result<CaughtUp, Unavailable> {
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
        if self.join(member, form, fresh, at, false) {
            return Ok(CaughtUp::Live);
        }
        let Onward { mut page, gap, at: onward } = self.read_on(at, page_bytes(member)).await?;
        if gap.as_ref().is_some_and(|gap| gap.before.is_none()) && !member.outbox.is_drained(slot) {
            // What the client has is known when it has been written.
            return Err(Unavailable("the client has not taken all that the server lost".into()));
        }
        if let Some(gap) = &gap {
            self.tell(member, form, gap, onward);
        }
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
            let live = gap.is_none() && self.join(member, form, fresh, at, true);
            return Ok(if live { CaughtUp::Live } else { CaughtUp::More });
        }
        let steps: Vec<_> = page.messages.into_iter().map(Step::Message).collect();
        let batch = Batch::encode(form, at, &steps, Mark { replayed: true, snapshot: false });
        self.hub.metrics.replayed_messages_total.inc_by(batch.count.into());
        member.outbox.catch_up(member.slot, Arc::new(batch));
        Ok(CaughtUp::More)
    }

    fn join(&self, member: &Member, form: &Form, fresh: bool, at: StreamId, proven: bool) -> bool {
        let shard = self.hub.shard_of(&member.outbox);
        self.topic.join(Joining { member, form, shard, fresh }, at, proven, &self.hub.shards)
    }

    /// Changes the form or the maximum rate of the subscription.
    pub fn change(&self, member: Member, form: Form) {
        let shard = self.hub.shard_of(&member.outbox);
        self.topic.change(member, form, shard, &self.hub.shards);
    }

    /// Ends the subscription: after this returns nothing of it is written.
    pub fn leave(&self, outbox: &Arc<Outbox>, slot: SlotId) {
        outbox.close_slot(slot);
        self.topic.leave(outbox, slot, self.hub.shard_of(outbox));
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
        self.topic.rule.retain_max > 0
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

/// Bytes of a page that is pushed: an outbox that is half full has room for it.
fn page_bytes(member: &Member) -> usize {
    member.outbox.bytes_max() / 2
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use parking_lot::Mutex;
    use tickgate_wire::{
        model::{Publication, Topic},
        protocol::Protocol,
    };

    use super::*;
    use crate::{
        hub::{MemorySocket, QueueLimits, Shared, Socket, linger::tests::hub},
        metrics::Metrics,
        tasks::Tasks,
    };

    #[tokio::test]
    async fn what_a_stuck_client_missed_is_not_kept_for_it_and_comes_when_it_reads() {
        const OUTBOX_BYTES: usize = 100_000;
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let topic = Topic::public("trades:X").unwrap();
        let interest = hub.interest(&topic, &rule).unwrap();
        interest.ready(Duration::from_secs(5)).await.unwrap();
        let payload = Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(30_000)));
        let mut ids = Vec::new();
        for _ in 0..10 {
            let (topic, rule, payload) = (topic.clone(), rule.clone(), payload.clone());
            let publication = Publication { topic, channel: None, payload, msg_id: None, rule };
            ids.extend(hub.backplane.publish(publication).await.unwrap().id);
        }
        let limits = QueueLimits { messages_max: 100, bytes_max: OUTBOX_BYTES };
        let memory = Mutex::new(MemorySocket { keep: true, ..MemorySocket::default() });
        let socket = Socket::Memory(Box::new(memory));
        let outbox = Outbox::new(socket, Arc::new(Shared { limits, metrics: Metrics::new() }));
        let form = Form::of_topic(Protocol::default(), "trades:X".into());
        let mut backlog = interest.backlog(Start::Since(ids[0]), ReplayLimits::new(1_000, 1 << 20)).await.unwrap();
        assert_eq!((backlog.messages.len(), backlog.end()), (9, ids[9]));
        let slot = interest.open(&outbox, backlog.cursor, ids[0]);
        let member = Member { outbox: outbox.clone(), slot, pacer: None };
        let push = interest.push_backlog(&member, &form, &backlog, || poll_fn(|cx| outbox.poll_room(cx)));
        tokio::time::timeout(Duration::from_secs(5), push).await.expect("nobody waits for the socket");
        let queued = outbox.queued(slot).unwrap();
        assert!(queued >= ids[1] && queued < ids[5], "as much as an outbox holds: {queued} of {ids:?}");

        // Put off, only the first message is kept; it says all the same how many there are.
        backlog.put_off();
        assert_eq!((backlog.messages.len(), backlog.cursor, backlog.end()), (1, ids[1], ids[9]));
        assert_eq!(backlog.later, Some((8, ids[9])));

        let Socket::Memory(memory) = outbox.socket() else { panic!("not in memory") };
        memory.lock().room = usize::MAX;
        poll_fn(|cx| outbox.poll_flush(cx)).await;
        while interest.catch_up(&member, &form, true).await.unwrap() == CaughtUp::More {}
        while outbox.written().iter().all(|(_, written)| *written < ids[9]) {
            tokio::task::yield_now().await;
        }
        let written = std::mem::take(&mut memory.lock().written);
        let text = String::from_utf8_lossy(&written);
        let counts: Vec<_> = ids.iter().map(|id| text.matches(&format!("\"id\":\"{id}\"")).count()).collect();
        assert_eq!(counts, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
