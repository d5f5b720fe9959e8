//! Publications of one topic, encoded once for all subscribers that share a wire form.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tickgate_wire::{
    model::{Class, Content, Message, StreamId},
    push::PushMeta,
};

use super::{form::Form, gap::GapRange, step::Step};
use crate::defect::{self, Defect};

/// Consecutive publications as bytes, shared by all subscribers.
#[derive(Debug)]
pub struct PushBatch {
    /// One or more complete messages in the wire form, with their framing.
    pub bytes: Bytes,
    /// Number of publications; 0 for a gap or for messages that the subscriber filters out.
    pub count: u32,
    /// Number of older values that were left out before its values.
    pub skipped: u32,
    /// The position before the first.
    pub after: StreamId,
    /// The position after the last.
    pub last: StreamId,
    /// The last publication, for conflation.
    pub newest: Option<Arc<Message>>,
    /// Which subscribers may receive the bytes.
    pub form: Form,
}

/// Flags of a push, the same for a whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushFlags {
    /// Sent from the stream or from memory, not as it arrived.
    pub replayed: bool,
    /// The current value, as the first message of a `state` topic.
    pub snapshot: bool,
    /// Only the newest value is owed: each push has the number of those left out before it.
    pub counts: bool,
}

impl PushFlags {
    /// The flags of live publications of a topic.
    #[must_use]
    pub const fn live(class: Class) -> Self {
        Self { replayed: false, snapshot: false, counts: matches!(class, Class::State) }
    }
}

impl PushBatch {
    /// Encodes the steps after position `after`. A filtered-out message still moves the position.
    #[must_use]
    pub fn encode(form: &Form, after: StreamId, steps: &[Step], flags: PushFlags) -> Self {
        let mut buf = BytesMut::with_capacity(steps.iter().map(size_hint).sum());
        let mut batch =
            Self { bytes: Bytes::new(), count: 0, skipped: 0, after, last: after, newest: None, form: form.clone() };
        let mut newest = None;
        for step in steps {
            match step {
                Step::Message(message) => batch.add(&mut buf, message, flags, &mut newest),
                Step::Gap(gap) => {
                    form.gap(&mut buf, *gap);
                    batch.last = gap.cursor;
                }
            }
        }
        batch.newest = newest.cloned();
        batch.bytes = buf.freeze();
        batch
    }

    /// Whether the topic is retained: otherwise positions are meaningless.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        self.last != StreamId::ZERO
    }

    fn add<'a>(
        &mut self,
        buf: &mut BytesMut,
        message: &'a Arc<Message>,
        flags: PushFlags,
        newest: &mut Option<&'a Arc<Message>>,
    ) {
        let left_out = message.id.filter(|_| flags.counts).and_then(|id| StreamId::missing_between(self.last, id));
        self.last = message.id.unwrap_or(self.last);
        let payload = match &message.content {
            Content::Data(payload) => payload,
            Content::Unreadable => return self.form.gap(buf, GapRange::unreadable(self.last)),
        };
        let Some(channel) = self.form.channel_of(message) else { return };
        let id = message.id.filter(|_| !(flags.replayed && defect::is(Defect::NoReplayIds)));
        let conflated = left_out.unwrap_or(0);
        let meta = PushMeta {
            replayed: flags.replayed,
            snapshot: flags.snapshot,
            conflated,
            ..PushMeta::live(&**channel, id)
        };
        self.form.push(buf, &meta, payload);
        self.count += 1;
        self.skipped = self.skipped.saturating_add(u32::try_from(conflated).unwrap_or(u32::MAX));
        *newest = Some(message);
    }

    /// A batch with only the newest publication.
    #[must_use]
    pub fn only_newest(&self, skipped: u32) -> Self {
        Self {
            bytes: self.encode_newest(skipped).unwrap_or_else(|| self.bytes.clone()),
            count: self.count.min(1),
            skipped,
            after: self.after,
            last: self.last,
            newest: self.newest.clone(),
            form: self.form.clone(),
        }
    }

    /// The newest publication only, with the number of skipped ones. `None` if there is none.
    #[must_use]
    pub fn encode_newest(&self, skipped: u32) -> Option<Bytes> {
        let message = self.newest.as_ref()?;
        let Content::Data(payload) = &message.content else { return None };
        let channel = self.form.channel_of(message)?;
        let mut buf = BytesMut::with_capacity(payload.len() + 160);
        let meta = PushMeta { conflated: skipped.into(), ..PushMeta::live(&**channel, message.id) };
        self.form.push(&mut buf, &meta, payload);
        Some(buf.freeze())
    }
}

fn size_hint(step: &Step) -> usize {
    match step {
        Step::Message(message) => match &message.content {
            Content::Data(payload) => payload.len() + 96,
            Content::Unreadable => 192,
        },
        Step::Gap(_) => 192,
    }
}
