//! Starts, changes, catches up and ends the subscriptions of one connection. Never decides what is allowed.
//!
//! The private channels that share the user's stream form one subscription with one position, so that the client's
//! cursors are always consistent.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

mod pending;
mod selection;

use pending::{BacklogEnds, PendingChannel, PendingSubscription, unavailable};
use selection::{TopicSelection, earlier};
use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    model::{Class, Topic},
    protocol::Protocol,
    reply::{EndedNotice, ErrorObject, Reply, SubscribedChannel, SubscribedReply, USER_STREAM},
};

use super::{echo::CommandEcho, handle::ConnectionHandle};
use crate::{
    hub::{BacklogProgress, CatchUpStep, Form, Hub, ReplayLimits, SlotId, Subscriber, TopicHandle, caught_up},
    metrics::DisconnectReason,
    session::{ChannelRefusal, RequestedChannel, ResolvedChannel},
};

/// Maximum time for all topics of a request to become consistent with their streams.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after a failed read, in which the client is not read from either.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// After this time, a subscription whose stream cannot be read ends, if the client knows how to restart it.
const UNREADABLE_MAX: Duration = Duration::from_secs(10);

/// Retry delay for channels that are unavailable.
const RESUBSCRIBE_AFTER_MS: u64 = 1_000;

/// All subscriptions of a connection.
#[derive(Debug)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    protocol: Protocol,
    limits: ReplayLimits,
    /// The client restarts subscriptions that the server ends.
    explicit: bool,
    /// The subscription that cannot be caught up, and since when.
    unreadable: Option<Box<(SlotId, Instant)>>,
}

/// One subscription. Kept small, because every connection has some.
#[derive(Debug)]
struct Subscription {
    wants: TopicSelection,
    interest: TopicHandle,
    subscriber: Subscriber,
    /// Present until the client has received all of the backlog.
    past: Option<Box<BacklogProgress>>,
    /// Not yet among the topic's live subscribers.
    fresh: bool,
}

impl Subscription {
    fn in_user_stream(&self) -> bool {
        matches!(self.wants, TopicSelection::OfUser(_))
    }

    /// Notifies the fan-out of a change.
    fn change(&self, protocol: Protocol) {
        self.interest.change(self.subscriber.clone(), self.wants.form(protocol));
    }
}

impl Subscriptions {
    #[must_use]
    pub(super) fn new(protocol: Protocol, limits: ReplayLimits, explicit: bool) -> Self {
        Self { all: Vec::new(), protocol, limits, explicit, unreadable: None }
    }

    /// Refuses channels beyond `max`. One that is already subscribed counts once.
    pub(super) fn within(
        &self,
        max: usize,
        wanted: Vec<RequestedChannel>,
        refused: &mut Vec<ChannelRefusal>,
    ) -> Vec<RequestedChannel> {
        // Only new channels are looked up, so that adding one is cheap even with many.
        let (before, mut new) = (self.channels_count(), HashSet::new());
        let fits = |wanted: &RequestedChannel| {
            let channel = &wanted.resolved.channel;
            let known = new.contains(channel) || self.is_subscribed(channel);
            let fits = known || before + new.len() < max && new.insert(channel.clone());
            if !fits {
                let message = format!("a connection has at most {max} subscriptions");
                refused.push(ChannelRefusal::new(&**channel, ErrorCode::TooManySubscriptions, message));
            }
            fits
        };
        wanted.into_iter().filter(fits).collect()
    }

    /// Starts subscriptions: sends the reply, then replays and snapshots, then live messages. False if one could not
    /// start because its stream cannot be read now.
    pub(super) async fn subscribe(
        &mut self,
        hub: &Arc<Hub>,
        handle: &ConnectionHandle,
        echo: &CommandEcho,
        wanted: Vec<RequestedChannel>,
        mut refused: Vec<ChannelRefusal>,
    ) -> bool {
        // A channel that is subscribed again with a position restarts from there.
        let again: Vec<_> = wanted.iter().filter(|w| w.restarts).map(|w| w.resolved.channel.to_string()).collect();
        self.unsubscribe(handle, &again);
        let (known, new): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|w| self.is_subscribed(&w.resolved.channel));
        self.change_options(&known);
        let pending = self.prepare(hub, new, &mut refused);
        let mut ready = self.load(pending, handle.outbox.bytes_max(), &mut refused).await;
        if !self.protocol.dialect.acknowledges_subscriptions(echo.id.is_some()) {
            // Without an acknowledgement there is no end notice either.
            ready.iter_mut().for_each(|next| next.past.hush());
        }
        self.answer(handle, echo, (&ready, &known), &refused);
        let mut ends = BacklogEnds::default();
        for next in ready {
            self.start(next, handle, &mut ends).await;
        }
        let outbox = &handle.outbox;
        caught_up(self.protocol, ends.urgent).into_iter().for_each(|notice| outbox.send_end(notice, true));
        caught_up(self.protocol, ends.public).into_iter().for_each(|notice| outbox.send_end(notice, false));
        let _ = self.catch_up(handle).await;
        handle.set_private(self.all.iter().find(|s| s.in_user_stream()).map(|s| s.subscriber.slot));
        refused.iter().all(|refusal| refusal.code != ErrorCode::TryAgainLater)
    }

    fn channels_count(&self) -> usize {
        self.all.iter().map(|s| s.wants.channels().len()).sum()
    }

    fn is_subscribed(&self, channel: &str) -> bool {
        self.all.iter().any(|s| s.wants.has(channel))
    }

    /// Replaces the options of existing subscriptions.
    fn change_options(&mut self, known: &[RequestedChannel]) {
        for wanted in known {
            let of = self.all.iter_mut().find(|s| s.wants.has(&wanted.resolved.channel));
            let Some(subscription) = of.filter(|s| s.interest.class() == Class::State) else { continue };
            let (pacer, before) = (selection::pacer(wanted.max_rate), &subscription.subscriber.pacer);
            if pacer.as_ref().map(|p| p.interval()) != before.as_ref().map(|p| p.interval()) {
                subscription.subscriber.pacer = pacer;
                subscription.change(self.protocol);
            }
        }
    }

    /// Creates one pending subscription per topic; private channels of a user's stream share one.
    fn prepare(
        &self,
        hub: &Arc<Hub>,
        wanted: Vec<RequestedChannel>,
        refused: &mut Vec<ChannelRefusal>,
    ) -> Vec<PendingSubscription> {
        let mut all: Vec<PendingSubscription> = Vec::with_capacity(wanted.len());
        for RequestedChannel { resolved, start, max_rate, .. } in wanted {
            let ResolvedChannel { channel, topic, rule, in_user_stream } = resolved;
            if in_user_stream && let Some(pending) = all.iter_mut().find(|pending| pending.in_user_stream) {
                pending.start = earlier(pending.start, start);
                pending.wishes.push(PendingChannel::new(channel, start));
                continue;
            }
            let Some(interest) = hub.interest(&topic, &rule, self.limits.reader) else {
                refused.push(unavailable(&channel));
                continue;
            };
            let wish = PendingChannel::new(selection::shared(channel, &interest), start);
            let extends = self.all.iter().position(|s| in_user_stream && s.in_user_stream());
            all.push(PendingSubscription::new(wish, in_user_stream, interest, (max_rate, extends), self.limits));
        }
        all
    }

    /// Loads the backlogs, and returns the subscriptions that can start.
    async fn load(
        &self,
        pending: Vec<PendingSubscription>,
        outbox_bytes_max: usize,
        refused: &mut Vec<ChannelRefusal>,
    ) -> Vec<PendingSubscription> {
        let until = Instant::now() + READY_TIMEOUT;
        let (mut ready, mut bytes) = (Vec::with_capacity(pending.len()), 0);
        for mut next in pending {
            let extends = next.extends.map(|at| &self.all[at].subscriber);
            // Channels added to a subscription get their whole backlog separately.
            let limits = self.limits.of_beginning(bytes > 0, extends.is_some());
            match next.load(extends, until, limits).await {
                Ok(()) => {
                    bytes = if next.extends.is_some() { bytes } else { next.backlog.share(bytes, outbox_bytes_max) };
                    ready.push(next);
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot start a subscription now");
                    if let Some(extends) = extends {
                        // The subscription was paused for channels that cannot be added now; its next catch-up
                        // continues it.
                        extends.outbox.wake();
                    }
                    refused.extend(next.wishes.iter().map(|wish| unavailable(&wish.channel)));
                }
            }
        }
        ready
    }

    fn answer(
        &self,
        handle: &ConnectionHandle,
        echo: &CommandEcho,
        (ready, known): (&[PendingSubscription], &[RequestedChannel]),
        refused: &[ChannelRefusal],
    ) {
        let started = ready.iter().flat_map(|next| next.wishes.iter().map(move |wish| next.answer(wish)));
        let again = known.iter().filter_map(|wanted| {
            let found = self.all.iter().find(|s| s.wants.has(&wanted.resolved.channel))?;
            Some(SubscribedChannel {
                channel: wanted.resolved.channel.clone(),
                class: wanted.resolved.rule.class,
                stream: wanted.resolved.in_user_stream.then_some(USER_STREAM.into()),
                // Without queued messages: they are written after this reply.
                cursor: found.subscriber.outbox.known(found.subscriber.slot).filter(|_| found.interest.is_retained()),
                live: found.past.is_none(),
            })
        });
        let (channels, errors) = (started.chain(again).collect(), refused.iter().cloned().map(Into::into).collect());
        handle.send(&Reply::Subscribed(SubscribedReply { id: echo.id.clone(), channels, errors }), &echo.ignored);
    }

    /// Pushes the backlog; from here on the subscription is caught up like any other.
    async fn start(&mut self, mut pending: PendingSubscription, handle: &ConnectionHandle, ends: &mut BacklogEnds) {
        let outbox = &handle.outbox;
        let drained = || std::future::poll_fn(|cx| outbox.poll_room(cx));
        let names = || pending.wishes.iter().map(|wish| wish.channel.clone());
        if let Some(at) = pending.extends {
            let subscription = &mut self.all[at];
            let form = Form::of_user(self.protocol, names().collect());
            let Subscription { interest, subscriber, .. } = &*subscription;
            interest.push_beside((subscriber, &form), &mut pending.past, &pending.backlog, drained).await;
            pending.backlog.take_hold().into_iter().for_each(|hold| outbox.keep(hold));
            ends.urgent.extend(pending.past.ended(pending.end()));
            let channels = subscription.wants.channels().iter().cloned().chain(names());
            subscription.wants = TopicSelection::OfUser(channels.collect());
            if let Some(past) = &mut subscription.past {
                names().for_each(|channel| past.add(channel, pending.end(), false));
            }
            subscription.change(self.protocol);
            return;
        }
        let slot = pending.interest.open(outbox, pending.backlog.cursor, pending.has);
        let wants = match names().next() {
            Some(channel) if !pending.in_user_stream => TopicSelection::Topic(channel),
            _ => TopicSelection::OfUser(names().collect()),
        };
        let form = wants.form(self.protocol);
        let subscriber = Subscriber { outbox: outbox.clone(), slot, pacer: selection::pacer(pending.max_rate) };
        let end = pending.end();
        let PendingSubscription { interest, mut backlog, mut past, .. } = pending;
        let whole = interest.push_backlog((&subscriber, &form), &mut past, &backlog, drained).await;
        backlog.take_hold().into_iter().for_each(|hold| outbox.keep(hold));
        if whole {
            // Skips past messages that the client did not request.
            outbox.pass(slot, end);
            let lane = if outbox.is_urgent(slot) { &mut ends.urgent } else { &mut ends.public };
            lane.extend(past.ended(end));
        }
        if self.all.len() == self.all.capacity() && self.all.len() < 4 {
            // Most connections have few subscriptions: reserve room for the first only.
            self.all.reserve_exact(1);
        }
        let past = (!whole).then(|| Box::new(past));
        self.all.push(Subscription { wants, interest, subscriber, past, fresh: true });
    }

    /// Catches up lagging subscriptions: to the live stream, or by one page. A failed read is retried next time. True
    /// if some had to end.
    #[must_use]
    pub(super) async fn catch_up(&mut self, handle: &ConnectionHandle) -> bool {
        let mut ended = false;
        while let Some((slot, _)) = handle.outbox.lagging() {
            let Some(subscription) = self.all.iter_mut().find(|s| s.subscriber.slot == slot) else { return ended };
            let form = subscription.wants.form(self.protocol);
            let Subscription { interest, subscriber, past, fresh, .. } = subscription;
            match interest.catch_up(subscriber, &form, *fresh, past.as_deref_mut(), self.limits.reader).await {
                Ok(CatchUpStep::Live) => (*fresh, *past) = (false, None),
                Ok(CatchUpStep::More) => {}
                Ok(CatchUpStep::Withdrawn) => {
                    self.end(handle, slot, "the channel has no publications, and other channels need its place");
                    ended = true;
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot catch up a subscription now");
                    if self.is_given_up(slot) {
                        self.unreadable = None;
                        self.end(handle, slot, "the stream is currently unavailable");
                        ended = true;
                        continue;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                    return ended;
                }
            }
            self.unreadable = None;
        }
        ended
    }

    /// Whether a subscription has been unreadable for too long. Never for clients that cannot restart it.
    fn is_given_up(&mut self, slot: SlotId) -> bool {
        let now = Instant::now();
        let unreadable = self.unreadable.get_or_insert_with(|| Box::new((slot, now)));
        if unreadable.0 != slot {
            **unreadable = (slot, now);
        }
        self.explicit && now - unreadable.1 > UNREADABLE_MAX
    }

    /// Ends a subscription that the client may restart shortly. If the client cannot be notified or cannot restart it,
    /// the connection closes instead, and the client reconnects.
    fn end(&mut self, handle: &ConnectionHandle, slot: SlotId, reason: &'static str) {
        let of = self.all.iter().find(|s| s.subscriber.slot == slot);
        let channels = of.map_or(Vec::new(), |s| s.wants.channels().iter().map(ToString::to_string).collect());
        self.unsubscribe(handle, &channels);
        let mut object = ErrorObject::new(ErrorCode::TryAgainLater, reason);
        object.details.retry_after_ms = Some(RESUBSCRIBE_AFTER_MS);
        if !self.protocol.tells_ends() {
            let code = CloseCode::TryAgainLater;
            return handle.close_after(code, DisconnectReason::Internal, reason, Some(RESUBSCRIBE_AFTER_MS));
        }
        handle.notify(&Reply::Ended(EndedNotice { channels, object }));
    }

    /// Ends subscriptions: nothing of them is written afterwards. Unknown channels are ignored.
    pub(super) fn unsubscribe(&mut self, handle: &ConnectionHandle, channels: &[String]) {
        for name in channels {
            let Some(at) = self.all.iter().position(|s| s.wants.has(name)) else { continue };
            let subscription = &mut self.all[at];
            let left = subscription.wants.channels().iter().filter(|channel| ***channel != **name);
            let left: Vec<_> = left.cloned().collect();
            if !left.is_empty() {
                subscription.wants = TopicSelection::OfUser(left.into());
                subscription.past.iter_mut().for_each(|past| past.remove(name));
                handle.outbox.pause(subscription.subscriber.slot);
                subscription.change(self.protocol);
                continue;
            }
            let ended = self.all.swap_remove(at);
            ended.interest.leave(&handle.outbox, ended.subscriber.slot);
        }
        if !self.all.iter().any(Subscription::in_user_stream) {
            handle.set_private(None);
        }
    }

    /// Ends all subscriptions, because the connection has closed.
    pub(super) fn clear(&mut self, handle: &ConnectionHandle) {
        for ended in self.all.drain(..) {
            ended.interest.leave(&handle.outbox, ended.subscriber.slot);
        }
    }

    /// Whether the channel is subscribed.
    #[must_use]
    pub(super) fn has(&self, channel: &str) -> bool {
        self.all.iter().flat_map(|s| s.wants.channels()).any(|own| **own == *channel)
    }

    /// The subscribed channels that are `forbidden`.
    #[must_use]
    pub(super) fn channels_where(&self, forbidden: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.all.iter().flat_map(|s| s.wants.channels());
        all.filter(|channel| forbidden(channel)).map(|channel| channel.to_string()).collect()
    }

    /// The names of all subscribed channels.
    #[must_use]
    pub(super) fn channels(&self) -> Vec<Arc<str>> {
        self.all.iter().flat_map(|s| s.wants.channels().iter().cloned()).collect()
    }

    /// The topics under which the connection is counted for presence.
    #[must_use]
    pub(super) fn audiences(&self) -> Vec<Topic> {
        let all = self.all.iter().map(|s| (&s.interest.topic().topic, s.wants.channels()));
        all.flat_map(|(topic, channels)| channels.iter().map(|channel| topic.audience(channel))).collect()
    }
}
