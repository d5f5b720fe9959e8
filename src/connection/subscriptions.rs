//! The subscriptions of one connection: how each starts, changes, is caught up, and ends. Never decides what a client may
//! subscribe.
//!
//! The private channels that share the user's stream are one subscription with one position, so that the client's one
//! cursor is always true.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

mod pending;
mod wants;

use pending::{PendingSubscription, unavailable};
use tickgate_wire::{
    code::ErrorCode,
    command::Json,
    model::{Class, Start, StreamId},
    protocol::Protocol,
    reply::{RefusedChannel, Reply, Subscribed, SubscribedChannel},
};
use wants::{Wants, earlier};

use super::handle::ConnectionHandle;
use crate::{
    hub::{CaughtUp, Form, Hub, Interest, Member, Outbox, ReplayLimits, SlotId},
    registry::SubscriptionRecord,
    session::{Refused, Resolved, Wanted},
};

/// How long a request waits until its topics are in step with their streams, all of them together.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after a failed read. Nothing is read from the client either in that time.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// All subscriptions of a connection.
#[derive(Debug)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    protocol: Protocol,
    limits: ReplayLimits,
    /// Everything that the session had is subscribed: only then may its record be replaced.
    pub(super) are_complete: bool,
}

/// Kept small: every connection has some.
#[derive(Debug)]
struct Subscription {
    wants: Wants,
    interest: Interest,
    member: Member,
    max_rate: Option<u32>,
    /// The position that the client confirmed, where the topic is retained.
    confirmed: StreamId,
    /// Not yet among the topic's live subscribers.
    fresh: bool,
}

impl Subscription {
    fn in_user_stream(&self) -> bool {
        matches!(self.wants, Wants::OfUser(_))
    }

    /// Tells the fan-out what changed.
    fn change(&self, protocol: Protocol) {
        self.interest.change(self.member.clone(), self.wants.form(protocol));
    }

    fn confirmed(&self) -> Option<StreamId> {
        self.interest.is_retained().then_some(self.confirmed)
    }
}

impl Subscriptions {
    #[must_use]
    pub(super) fn new(protocol: Protocol, limits: ReplayLimits) -> Self {
        Self { all: Vec::new(), protocol, limits, are_complete: true }
    }

    /// Refuses what would exceed `max` channels. One that is already subscribed, or is named twice, counts once.
    pub(super) fn within(&self, max: usize, wanted: Vec<Wanted>, refused: &mut Vec<Refused>) -> Vec<Wanted> {
        let mut names: HashSet<_> = self.all.iter().flat_map(|s| s.wants.channels().iter().cloned()).collect();
        let fits = |wanted: &Wanted| {
            let channel = &wanted.resolved.channel;
            let fits = names.len() < max || names.contains(channel);
            if fits {
                names.insert(channel.clone());
            } else {
                let message = format!("a connection has at most {max} subscriptions");
                let channel = channel.to_string();
                refused.push(Refused { channel, code: ErrorCode::TooManySubscriptions, message });
            }
            fits
        };
        wanted.into_iter().filter(fits).collect()
    }

    /// Starts subscriptions: first the reply, then replays and snapshots, then live messages. False when one could not
    /// start because its stream can't be read now.
    pub(super) async fn subscribe(
        &mut self,
        hub: &Arc<Hub>,
        handle: &ConnectionHandle,
        id: Option<Json>,
        wanted: Vec<Wanted>,
        mut refused: Vec<Refused>,
    ) -> bool {
        // A channel that is subscribed again from a position starts again: everything after the position is owed.
        let again = |w: &&Wanted| matches!(w.start, Start::Since(_) | Start::Last(_));
        let again: Vec<_> = wanted.iter().filter(again).map(|w| w.resolved.channel.to_string()).collect();
        self.unsubscribe(handle, &again);
        let known: Vec<_> = wanted.iter().filter(|w| self.is_subscribed(&w.resolved.channel)).cloned().collect();
        let new = wanted.into_iter().filter(|w| !known.iter().any(|k| k.resolved.channel == w.resolved.channel));
        let pending = self.prepare(hub, new.collect(), &mut refused);
        let until = Instant::now() + READY_TIMEOUT;
        let (mut ready, mut bytes) = (Vec::with_capacity(pending.len()), 0);
        for mut next in pending {
            let extends = next.extends.map(|at| &self.all[at].member);
            match next.load(extends, until, self.limits).await {
                Ok(()) => {
                    // The private channels are one pending subscription, whose messages are counted by channel.
                    bytes = if next.in_user_stream { bytes } else { next.backlog.share(bytes, self.limits) };
                    ready.push(next);
                }
                Err(error) => {
                    tracing::debug!(%error, "can't start a subscription now");
                    if let Some(extends) = extends {
                        // It was paused for the channels that can't be added now; its next catch-up continues it.
                        extends.outbox.wake();
                    }
                    refused.extend(next.channels.iter().map(|channel| unavailable(channel)));
                }
            }
        }
        self.answer(handle, id, &ready, &known, &refused);
        for next in ready {
            self.start(next, handle).await;
        }
        self.catch_up(&handle.outbox).await;
        let private = self.all.iter().find(|s| s.in_user_stream());
        handle.set_private(private.map(|s| s.interest.topic()));
        refused.iter().all(|refusal| refusal.code != ErrorCode::TryAgainLater)
    }

    fn is_subscribed(&self, channel: &str) -> bool {
        self.all.iter().any(|s| s.wants.has(channel))
    }

    /// One pending subscription per topic; the private channels of a user's stream share one.
    fn prepare(&self, hub: &Arc<Hub>, wanted: Vec<Wanted>, refused: &mut Vec<Refused>) -> Vec<PendingSubscription> {
        let mut all: Vec<PendingSubscription> = Vec::with_capacity(wanted.len());
        for Wanted { resolved, start, max_rate } in wanted {
            let Resolved { channel, topic, rule, in_user_stream } = resolved;
            if in_user_stream && let Some(pending) = all.iter_mut().find(|pending| pending.in_user_stream) {
                if !pending.channels.contains(&channel) {
                    pending.channels.push(channel);
                    pending.start = earlier(pending.start, start);
                }
                continue;
            }
            if all.iter().any(|pending| pending.channels.contains(&channel)) {
                continue;
            }
            let Some(interest) = hub.interest(&topic, &rule) else {
                refused.push(unavailable(&channel));
                continue;
            };
            let channel = wants::shared(channel, &interest);
            let extends = self.all.iter().position(|s| in_user_stream && s.in_user_stream());
            all.push(PendingSubscription::new(channel, in_user_stream, interest, (start, max_rate), extends));
        }
        all
    }

    fn answer(
        &self,
        handle: &ConnectionHandle,
        id: Option<Json>,
        ready: &[PendingSubscription],
        known: &[Wanted],
        refused: &[Refused],
    ) {
        let started = ready.iter().flat_map(|next| next.channels.iter().map(move |channel| next.answer(channel)));
        let again = known.iter().map(|wanted| SubscribedChannel {
            channel: wanted.resolved.channel.clone(),
            class: wanted.resolved.rule.class,
            cursor: self.cursor_of(&wanted.resolved.channel),
            replayed: 0,
            complete: true,
            snapshot: false,
        });
        let errors = refused.iter().map(|r| RefusedChannel::new(r.channel.clone(), r.code, r.message.clone()));
        let (channels, errors) = (started.chain(again).collect(), errors.collect());
        handle.send(&Reply::Subscribed(Subscribed { id, channels, errors }));
    }

    fn cursor_of(&self, channel: &str) -> Option<StreamId> {
        let found = self.all.iter().find(|s| s.wants.has(channel))?;
        found.member.outbox.queued(found.member.slot).filter(|_| found.interest.is_retained())
    }

    /// Pushes the backlog; from here on the subscription is caught up like any other.
    async fn start(&mut self, pending: PendingSubscription, handle: &ConnectionHandle) {
        let outbox = &handle.outbox;
        let drained = || std::future::poll_fn(|cx| outbox.poll_room(cx));
        if let Some(at) = pending.extends {
            let subscription = &mut self.all[at];
            let form = Form::of_user(self.protocol, pending.channels.as_slice().into());
            subscription.interest.push_beside(&subscription.member, &form, &pending.backlog);
            // Only a pong to a ping that is sent from here on confirms what was pushed.
            handle.forget_ping(subscription.member.slot);
            subscription.confirmed = subscription.confirmed.min(pending.begins);
            let channels = subscription.wants.channels().iter().cloned().chain(pending.channels);
            subscription.wants = Wants::OfUser(channels.collect());
            subscription.change(self.protocol);
            return;
        }
        let slot = pending.interest.open(outbox, pending.backlog.cursor, pending.begins);
        let mut channels = pending.channels;
        let wants =
            if pending.in_user_stream { Wants::OfUser(channels.into()) } else { Wants::Topic(channels.swap_remove(0)) };
        let subscription = Subscription {
            member: Member { outbox: outbox.clone(), slot, pacer: wants::pacer(pending.max_rate) },
            wants,
            interest: pending.interest,
            max_rate: pending.max_rate,
            // What came before the start is not owed; a stream without entries starts at zero.
            confirmed: pending.begins,
            fresh: true,
        };
        let form = subscription.wants.form(self.protocol);
        subscription.interest.push_backlog(&subscription.member, &form, &pending.backlog, drained).await;
        if self.all.len() == self.all.capacity() && self.all.len() < 4 {
            // Most connections have few subscriptions: the first one takes room for itself alone.
            self.all.reserve_exact(1);
        }
        self.all.push(subscription);
    }

    /// Advances lagging subscriptions: to the live stream, or by a page. What can't be read now is read the next time.
    pub(super) async fn catch_up(&mut self, outbox: &Arc<Outbox>) {
        while let Some((slot, _)) = outbox.lagging() {
            let Some(subscription) = self.all.iter_mut().find(|s| s.member.slot == slot) else { return };
            let form = subscription.wants.form(self.protocol);
            let Subscription { interest, member, fresh, .. } = subscription;
            match interest.catch_up(member, &form, *fresh).await {
                Ok(CaughtUp::Live) => *fresh = false,
                Ok(CaughtUp::More) => {}
                Err(error) => {
                    tracing::debug!(%error, "can't catch up a subscription now");
                    tokio::time::sleep(RETRY_AFTER).await;
                    return;
                }
            }
        }
    }

    /// Ends subscriptions: after this nothing of them is written. Unknown channels are ignored.
    pub(super) fn unsubscribe(&mut self, handle: &ConnectionHandle, channels: &[String]) {
        for name in channels {
            let Some(at) = self.all.iter().position(|s| s.wants.has(name)) else { continue };
            let subscription = &mut self.all[at];
            let left = subscription.wants.channels().iter().filter(|channel| ***channel != **name);
            let left: Vec<_> = left.cloned().collect();
            if !left.is_empty() {
                subscription.wants = Wants::OfUser(left.into());
                handle.outbox.pause(subscription.member.slot);
                subscription.change(self.protocol);
                continue;
            }
            let ended = self.all.swap_remove(at);
            ended.interest.leave(&handle.outbox, ended.member.slot);
        }
        if !self.all.iter().any(Subscription::in_user_stream) {
            handle.set_private(None);
        }
    }

    /// Ends everything: the connection is gone.
    pub(super) fn clear(&mut self, outbox: &Arc<Outbox>) {
        for ended in self.all.drain(..) {
            ended.interest.leave(outbox, ended.member.slot);
        }
    }

    /// The subscribed channels that are `forbidden`.
    #[must_use]
    pub(super) fn channels_where(&self, forbidden: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.all.iter().flat_map(|s| s.wants.channels());
        all.filter(|channel| forbidden(channel)).map(|channel| channel.to_string()).collect()
    }

    /// The client has confirmed these positions. True when that changes something.
    pub(super) fn confirm(&mut self, positions: &[(SlotId, StreamId)]) -> bool {
        let mut changed = false;
        for subscription in &mut self.all {
            let found = positions.iter().find(|(slot, _)| *slot == subscription.member.slot);
            if let Some((_, id)) = found
                && *id > subscription.confirmed
            {
                subscription.confirmed = *id;
                changed = true;
            }
        }
        changed
    }

    /// What a resume needs.
    #[must_use]
    pub(super) fn records(&self) -> Vec<SubscriptionRecord> {
        let of = |s: &Subscription| {
            let (confirmed, max_rate) = (s.confirmed().filter(|_| s.interest.class() != Class::State), s.max_rate);
            let topic = s.interest.topic().topic.as_str();
            let record = move |channel: &Arc<str>| SubscriptionRecord {
                channel: channel.to_string(),
                topic: (**channel != *topic).then(|| topic.to_owned()),
                confirmed,
                max_rate,
            };
            s.wants.channels().iter().map(record).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }

    /// Changes the maximum rate of all `state` subscriptions.
    pub(super) fn set_max_rate(&mut self, max_rate: Option<u32>) {
        for subscription in self.all.iter_mut().filter(|s| s.interest.class() == Class::State) {
            subscription.max_rate = max_rate;
            subscription.member.pacer = wants::pacer(max_rate);
            subscription.change(self.protocol);
        }
    }
}
