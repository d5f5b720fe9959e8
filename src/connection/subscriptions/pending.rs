//! A subscription that is about to start: what it requests, and its backlog. Never pushes anything.

use std::{sync::Arc, time::Instant};

use tickgate_wire::{
    code::ErrorCode,
    model::{Class, Message, StartAt, StreamId},
    reply::{ChannelEnd, SubscribedChannel, USER_STREAM},
};

use super::RESUBSCRIBE_AFTER_MS;
use crate::{
    backplane::StreamUnavailable,
    hub::{Backlog, BacklogProgress, ReplayLimits, Subscriber, TopicHandle},
    session::ChannelRefusal,
};

/// Channels whose backlog was sent, by the lane that carried it.
#[derive(Default)]
pub(super) struct BacklogEnds {
    pub(super) urgent: Vec<ChannelEnd>,
    pub(super) public: Vec<ChannelEnd>,
}

/// One channel, and where it starts.
pub(super) struct PendingChannel {
    pub(super) channel: Arc<str>,
    start: StartAt,
    /// The position before its first message, once loaded.
    begins: StreamId,
    /// Whether no backlog follows, once loaded.
    live: bool,
}

impl PendingChannel {
    pub(super) fn new(channel: Arc<str>, start: StartAt) -> Self {
        Self { channel, start, begins: StreamId::ZERO, live: true }
    }
}

/// A subscription that is about to start.
pub(super) struct PendingSubscription {
    pub(super) wishes: Vec<PendingChannel>,
    pub(super) in_user_stream: bool,
    pub(super) interest: TopicHandle,
    /// The start of the channel that misses most.
    pub(super) start: StartAt,
    pub(super) max_rate: Option<u32>,
    /// The number of the subscription to which its channels are added, if it does not become a separate one.
    pub(super) extends: Option<usize>,
    /// Where the extended subscription was paused.
    paused: Option<StreamId>,
    /// The position up to which the client has everything.
    pub(super) has: StreamId,
    pub(super) backlog: Backlog,
    pub(super) past: BacklogProgress,
}

impl PendingSubscription {
    pub(super) fn new(
        wish: PendingChannel,
        in_user_stream: bool,
        interest: TopicHandle,
        (max_rate, extends): (Option<u32>, Option<usize>),
        limits: ReplayLimits,
    ) -> Self {
        let past = BacklogProgress::new(interest.is_retained(), limits);
        let start = wish.start;
        Self {
            wishes: vec![wish],
            in_user_stream,
            interest,
            start,
            max_rate,
            extends,
            paused: None,
            has: StreamId::ZERO,
            backlog: Backlog::default(),
            past,
        }
    }

    /// Waits until the topic is consistent with its stream, at most until `until`, and reads the backlog. Pauses the
    /// subscription that is extended.
    pub(super) async fn load(
        &mut self,
        extends: Option<&Subscriber>,
        until: Instant,
        limits: ReplayLimits,
    ) -> Result<(), StreamUnavailable> {
        self.interest.ready(until.saturating_duration_since(Instant::now())).await?;
        self.paused = extends.and_then(|subscriber| subscriber.outbox.pause(subscriber.slot));
        let head = self.paused.unwrap_or_else(|| self.interest.head());
        self.backlog = self.interest.backlog(self.start, limits).await?;
        self.has = match self.start {
            StartAt::Since(cursor) => cursor,
            StartAt::Earliest => self.backlog.from,
            StartAt::Snapshot { least } => self.backlog.cursor.max(least),
            // The last publications are extra: guaranteed delivery starts with the live ones.
            StartAt::Live | StartAt::Last(_) => self.backlog.cursor,
        };
        for wish in &mut self.wishes {
            wish.begins = self.backlog.begins(wish.start, self.start, head);
        }
        if let Some(position) = self.paused {
            self.backlog.end_at(position);
        }
        let lives: Vec<_> = self.wishes.iter().map(|wish| self.is_live(wish)).collect();
        for (wish, live) in self.wishes.iter_mut().zip(lives) {
            wish.live = live;
            self.past.add(wish.channel.clone(), wish.begins, !live);
        }
        if self.in_user_stream {
            self.backlog.messages.retain(|message| self.past.wants(message));
        }
        Ok(())
    }

    /// Whether no backlog follows.
    fn is_live(&self, wish: &PendingChannel) -> bool {
        let own = |m: &Arc<Message>| m.channel.as_ref() == Some(&wish.channel) && m.id > Some(wish.begins);
        let (backlog, shared) = (&self.backlog, self.in_user_stream);
        let told = backlog.gap.is_some() || backlog.cut.is_some() || backlog.goes_on;
        let has_own = if shared { backlog.messages.iter().any(own) } else { !backlog.messages.is_empty() };
        wish.start == StartAt::Live || !told && !has_own
    }

    /// The end position of the backlog.
    pub(super) fn end(&self) -> StreamId {
        self.paused.or(self.backlog.cut.map(|cut| cut.cursor)).unwrap_or(self.backlog.cursor)
    }

    /// The reply for one channel, sent before any push.
    pub(super) fn answer(&self, wish: &PendingChannel) -> SubscribedChannel {
        // If the stream was read for other channels, this one skips what lies between.
        let moves = wish.live && self.backlog.is_empty() && self.end() != StreamId::ZERO;
        let cursor = if moves { self.end() } else { wish.begins };
        SubscribedChannel {
            channel: wish.channel.clone(),
            class: if self.in_user_stream { Class::Reliable } else { self.interest.class() },
            stream: self.in_user_stream.then_some(USER_STREAM.into()),
            cursor: self.interest.is_retained().then_some(cursor),
            live: wish.live,
        }
    }
}

/// The refusal of a channel whose stream cannot be read, or that exceeds the number of topics.
pub(super) fn unavailable(channel: &str) -> ChannelRefusal {
    let message = "the channel is currently unavailable";
    let retry_after_ms = Some(RESUBSCRIBE_AFTER_MS);
    ChannelRefusal { retry_after_ms, ..ChannelRefusal::new(channel, ErrorCode::TryAgainLater, message) }
}
