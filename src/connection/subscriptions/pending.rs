//! A subscription that is about to start: what it wants, and what it receives first. Never pushes anything.

use std::{sync::Arc, time::Instant};

use tickgate_wire::{
    code::ErrorCode,
    model::{Class, Message, Start, StreamId},
    reply::SubscribedChannel,
};

use crate::{
    backplane::Unavailable,
    hub::{Backlog, Interest, Member, ReplayLimits},
    session::Refused,
};

/// A subscription on its way.
pub(super) struct PendingSubscription {
    pub(super) channels: Vec<Arc<str>>,
    pub(super) in_user_stream: bool,
    pub(super) interest: Interest,
    pub(super) start: Start,
    pub(super) max_rate: Option<u32>,
    /// The number of the subscription to which its channels are added, if it does not become one of its own.
    pub(super) extends: Option<usize>,
    /// Where the extended subscription was paused.
    paused: Option<StreamId>,
    /// The position before everything that the client is owed.
    pub(super) begins: StreamId,
    pub(super) backlog: Backlog,
}

impl PendingSubscription {
    pub(super) fn new(
        channel: Arc<str>,
        in_user_stream: bool,
        interest: Interest,
        (start, max_rate): (Start, Option<u32>),
        extends: Option<usize>,
    ) -> Self {
        Self {
            channels: vec![channel],
            in_user_stream,
            interest,
            start,
            max_rate,
            extends,
            paused: None,
            begins: StreamId::ZERO,
            backlog: Backlog::default(),
        }
    }

    /// Waits until the topic is in step with its stream, at most until `until`, and reads what comes first. Pauses the
    /// subscription that is extended.
    pub(super) async fn load(
        &mut self,
        extends: Option<&Member>,
        until: Instant,
        limits: ReplayLimits,
    ) -> Result<(), Unavailable> {
        self.interest.ready(until.saturating_duration_since(Instant::now())).await?;
        self.paused = extends.and_then(|member| member.outbox.pause(member.slot));
        self.backlog = self.interest.backlog(self.start, limits).await?;
        self.begins = match self.start {
            Start::Since(cursor) | Start::Resumed { after: cursor, .. } => cursor,
            Start::Snapshot { least } => self.backlog.cursor.max(least),
            // The last publications are an extra: what is owed starts with the live ones.
            Start::Live | Start::Last(_) => self.backlog.cursor,
        };
        if self.in_user_stream {
            if let Some(position) = self.paused {
                self.backlog.end_at(position);
            }
            let wanted = &self.channels;
            self.backlog.messages.retain(|m| m.channel.as_ref().is_none_or(|c| wanted.contains(c)));
        }
        Ok(())
    }

    /// What the client is told about one of the channels.
    pub(super) fn answer(&self, channel: &Arc<str>) -> SubscribedChannel {
        let own = |m: &&Arc<Message>| !self.in_user_stream || m.channel.as_ref() == Some(channel);
        let later = self.backlog.later.map_or(0, |(count, _)| count);
        let count = (self.backlog.messages.iter().filter(own).count() + later) as u64;
        let snapshot = self.backlog.mark.snapshot;
        SubscribedChannel {
            channel: channel.clone(),
            class: if self.in_user_stream { Class::Reliable } else { self.interest.class() },
            cursor: Some(self.paused.unwrap_or(self.backlog.end())).filter(|_| self.interest.is_retained()),
            replayed: if snapshot { 0 } else { count },
            complete: self.backlog.gap.is_none() && self.backlog.cut.is_none(),
            snapshot: snapshot && count > 0,
        }
    }
}

/// The refusal of a channel whose stream can't be read, or that would be one topic too many.
pub(super) fn unavailable(channel: &str) -> Refused {
    Refused {
        channel: channel.to_owned(),
        code: ErrorCode::TryAgainLater,
        message: "the channel can't be followed now; try again".into(),
    }
}
