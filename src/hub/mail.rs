//! The mailbox of a topic for one shard, in stream order. Never drops a step silently: if a shard has no room, a marker
//! replaces what is missing.

use tickgate_wire::{model::StreamId, push::GapReason};

use super::{batch::PushBatch, form::Form, gap::GapRange, step::Step, subscriber::Subscriber};

/// Maximum size of the steps queued for one shard, in bytes; one post may exceed it.
pub(super) const BYTES_MAX: usize = 64 << 20;
/// Approximate size of a step apart from its payload.
const STEP_BYTES: usize = 128;

/// Work of a shard for a topic, processed in order.
#[derive(Debug)]
pub(super) enum Mail {
    /// The next step after the position `after`.
    Step { after: StreamId, step: Step },
    /// Steps for which there was no room.
    Missed(MissedSteps),
    /// A subscription has caught up to `after`; `rest` brings it to the position of the mailbox.
    Join { subscriber: Subscriber, form: Form, ticket: u32, after: StreamId, rest: Vec<Step>, fresh: bool },
    /// The topic was withdrawn: its subscribers check again.
    Withdraw,
    /// A subscription changes its channels of the user's stream, or its rate.
    Change { subscriber: Subscriber, form: Form },
}

/// Consecutive steps for which there was no room: those after `after`, up to `last`. Without ids, only their number is
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MissedSteps {
    pub(super) after: StreamId,
    pub(super) last: StreamId,
    pub(super) count: u64,
}

impl MissedSteps {
    fn of(steps: &[Step], after: StreamId) -> Self {
        let mut ids = steps.iter().rev().filter_map(Step::position);
        let count = steps.iter().filter(|step| matches!(step, Step::Message(_))).count() as u64;
        Self { after, last: ids.next().unwrap_or(after), count }
    }

    /// A gap for the missing steps, with the position after them.
    pub(super) fn batch(&self, form: &Form) -> PushBatch {
        let Self { after, last, count } = *self;
        let before = (last != StreamId::ZERO).then(|| last.next());
        let known = before.and_then(|before| StreamId::missing_between(after, before));
        let gap = GapRange { after, before, count: known.or(Some(count)), reason: GapReason::Backplane, cursor: last };
        let bytes = form.encode_gap(gap);
        PushBatch { bytes, count: 0, skipped: 0, after, last, newest: None, form: form.clone() }
    }
}

/// The mailbox of one topic for one shard.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Vec<Mail>,
    /// Bytes reserved from the shard.
    bytes: usize,
    /// Whether the shard has been notified.
    posted: bool,
}

/// The size of a step in bytes.
pub(super) fn size(step: &Step) -> usize {
    STEP_BYTES + if let Step::Message(message) = step { message.payload_bytes() } else { 0 }
}

impl Mailbox {
    /// Adds the steps after position `after` at once, so that a gap reaches the shard together with the message after
    /// it. They take `bytes` of the shard's room, or are replaced by a marker if there is none. True if the shard must
    /// be notified.
    pub(super) fn post(&mut self, steps: &[Step], mut after: StreamId, bytes: Option<usize>) -> bool {
        let Some(bytes) = bytes else { return self.miss(MissedSteps::of(steps, after)) };
        self.bytes += bytes;
        self.mail.extend(steps.iter().map(|step| {
            let mail = Mail::Step { after, step: step.clone() };
            after = step.position().unwrap_or(after);
            mail
        }));
        self.tell()
    }

    /// Adds a change of the subscribers.
    pub(super) fn put(&mut self, mail: Mail) -> bool {
        self.mail.push(mail);
        self.tell()
    }

    fn miss(&mut self, missed: MissedSteps) -> bool {
        if let Some(Mail::Missed(before)) = self.mail.last_mut() {
            *before = MissedSteps { after: before.after, last: missed.last, count: before.count + missed.count };
        } else {
            self.mail.push(Mail::Missed(missed));
        }
        self.tell()
    }

    fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.posted, true)
    }

    /// Empties it; also returns the number of released bytes.
    pub(super) fn take(&mut self) -> (Vec<Mail>, usize) {
        self.posted = false;
        (std::mem::take(&mut self.mail), std::mem::take(&mut self.bytes))
    }
}
