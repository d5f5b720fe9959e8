//! One shard's part of a topic: its mailbox and its subscribers. Never knows the topic.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{mail::Mailbox, subscriber::FormGroup};

/// One shard's part of a topic.
#[derive(Debug, Default)]
pub(super) struct TopicShard {
    pub(super) mail: Mutex<Mailbox>,
    pub(super) subscribers: Mutex<Vec<FormGroup>>,
    /// Subscribers, including those whose join is in the mailbox: at zero nothing is posted.
    pub(super) count: AtomicUsize,
}

impl TopicShard {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Uncounts a join that came too late, or a subscriber that left.
    pub(super) fn uncount(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
