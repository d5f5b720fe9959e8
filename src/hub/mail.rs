//! What waits for a shard, topic by topic, in the order of the stream. Never loses a step in silence: where a shard has
//! no room for more, a mark stands for what is missing.

use tickgate_wire::{model::StreamId, push::GapReason};

use super::{batch::Batch, form::Form, gap::Gap, member::Member, step::Step};

/// Bytes of steps that wait for one shard; one post may go over it.
pub(super) const BYTES_MAX: usize = 64 << 20;
/// What a step takes beside its payload, about.
const STEP_BYTES: usize = 128;

/// What a shard does for a topic, in this order.
#[derive(Debug)]
pub(super) enum Mail {
    /// The next step after the position `after`.
    Step { after: StreamId, step: Step },
    /// Steps that there was no room for.
    Missed(Missed),
    /// A subscription has caught up to `after`; `rest` brings it to where the mail stands.
    Join { member: Member, form: Form, ticket: u32, after: StreamId, rest: Vec<Step>, fresh: bool },
    /// The topic gave way: its subscribers look again.
    Withdraw,
    /// A subscription wants other channels of the user's stream, or another pace.
    Change { member: Member, form: Form },
}

/// Neighbouring steps that there was no room for: those after `after`, up to `last`. Without ids only their number is
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) after: StreamId,
    pub(super) last: StreamId,
    pub(super) count: u64,
}

impl Missed {
    fn of(steps: &[Step], after: StreamId) -> Self {
        let mut ids = steps.iter().rev().filter_map(Step::position);
        let count = steps.iter().filter(|step| matches!(step, Step::Message(_))).count() as u64;
        Self { after, last: ids.next().unwrap_or(after), count }
    }

    /// Tells it, and takes the position behind it.
    pub(super) fn batch(&self, form: &Form) -> Batch {
        let Self { after, last, count } = *self;
        let before = (last != StreamId::ZERO).then(|| last.next());
        let known = before.and_then(|before| StreamId::missing_between(after, before));
        let gap = Gap { after, before, count: known.or(Some(count)), reason: GapReason::Backplane, cursor: last };
        let bytes = form.encode_gap(gap);
        Batch { bytes, count: 0, skipped: 0, after, last, newest: None, form: form.clone() }
    }
}

/// One topic's mail for one shard.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Vec<Mail>,
    /// Room of the shard that the mail takes.
    bytes: usize,
    /// The shard has been told.
    posted: bool,
}

/// Room that a step takes.
pub(super) fn size(step: &Step) -> usize {
    STEP_BYTES + if let Step::Message(message) = step { message.payload_bytes() } else { 0 }
}

impl Mailbox {
    /// Adds steps that follow the position `after`, all at once: a gap reaches the shard together with the message behind
    /// it, where there is one. They take so many `bytes` of the shard's room, or it has none for them. True when the shard has to be
    /// told.
    pub(super) fn post(&mut self, steps: &[Step], mut after: StreamId, bytes: Option<usize>) -> bool {
        let Some(bytes) = bytes else { return self.miss(Missed::of(steps, after)) };
        self.bytes += bytes;
        self.mail.extend(steps.iter().map(|step| {
            let mail = Mail::Step { after, step: step.clone() };
            after = step.position().unwrap_or(after);
            mail
        }));
        self.tell()
    }

    /// Adds what changes the subscribers.
    pub(super) fn put(&mut self, mail: Mail) -> bool {
        self.mail.push(mail);
        self.tell()
    }

    fn miss(&mut self, missed: Missed) -> bool {
        if let Some(Mail::Missed(before)) = self.mail.last_mut() {
            *before = Missed { after: before.after, last: missed.last, count: before.count + missed.count };
        } else {
            self.mail.push(Mail::Missed(missed));
        }
        self.tell()
    }

    fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.posted, true)
    }

    /// Empties it; how many bytes of room are free again.
    pub(super) fn take(&mut self) -> (Vec<Mail>, usize) {
        self.posted = false;
        (std::mem::take(&mut self.mail), std::mem::take(&mut self.bytes))
    }
}
