//! The subscriptions of one connection: how each begins, changes, is caught up, and ends.
//!
//! The private channels that share the user's stream are one subscription with one position, so that the client's one
//! cursor is always true.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

mod wants;

use tickgate_wire::{
    code::ErrorCode,
    model::{Class, Start, StreamId},
    reply,
};
use wants::{Wants, earlier};

use super::link::Link;
use crate::{
    backplane::Unavailable,
    hub::{Backlog, CaughtUp, FormKind, Hub, Interest, Member, Narrowed, Outbox, ReplayLimits, SlotId},
    registry::SubscriptionRecord,
    session::{Refused, Resolved, Wanted},
};

/// How long a request waits for its topics to be in step with their streams, all together.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after a failed read, in which nothing is read from the client either.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// All subscriptions of a connection.
#[derive(Debug)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    kind: FormKind,
    limits: ReplayLimits,
    /// All that the session had is subscribed: only then may its record be replaced.
    pub(super) are_complete: bool,
}

/// Small: every connection has some.
#[derive(Debug)]
struct Subscription {
    wants: Wants,
    interest: Interest,
    member: Member,
    max_rate: Option<u32>,
    /// The position that the client surely has, where the topic is retained.
    confirmed: StreamId,
    /// Not yet among the topic's live subscribers.
    fresh: bool,
}

impl Subscription {
    fn in_user_stream(&self) -> bool {
        matches!(self.wants, Wants::OfUser(_))
    }

    fn confirmed(&self) -> Option<StreamId> {
        self.interest.is_retained().then_some(self.confirmed)
    }
}

/// A subscription on its way: what it wants, and what it gets first.
struct Plan {
    channels: Vec<Arc<str>>,
    in_user_stream: bool,
    interest: Interest,
    start: Start,
    max_rate: Option<u32>,
    /// Channels are added to this subscription rather than begun.
    extends: Option<usize>,
    /// Where the extended subscription was paused.
    paused: Option<StreamId>,
    /// The position before all that the client is owed.
    begins: StreamId,
    backlog: Backlog,
}

impl Subscriptions {
    #[must_use]
    pub(super) fn new(kind: FormKind, limits: ReplayLimits) -> Self {
        Self { all: Vec::new(), kind, limits, are_complete: true }
    }

    /// Refuses what would be more than `max` channels. One that is subscribed already, or named twice, is no more.
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

    /// Begins subscriptions: answers, then replays and snapshots, then live. False when one could not begin because
    /// its stream can't be read now.
    pub(super) async fn subscribe(
        &mut self,
        hub: &Arc<Hub>,
        link: &Link,
        id: Option<&str>,
        wanted: Vec<Wanted>,
        mut refused: Vec<Refused>,
    ) -> bool {
        // A channel that is subscribed again from a position on begins anew: all that lies after the position is owed.
        let anew = |w: &&Wanted| matches!(w.start, Start::Since(_) | Start::Last(_));
        let anew: Vec<_> = wanted.iter().filter(anew).map(|w| w.resolved.channel.to_string()).collect();
        self.unsubscribe(link, &anew);
        let known: Vec<_> = wanted.iter().filter(|w| self.is_subscribed(&w.resolved.channel)).cloned().collect();
        let new = wanted.into_iter().filter(|w| !known.iter().any(|k| k.resolved.channel == w.resolved.channel));
        let plans = self.plan(hub, new.collect(), &mut refused);
        let until = Instant::now() + READY_TIMEOUT;
        let (mut ready, mut bytes) = (Vec::with_capacity(plans.len()), 0);
        for mut plan in plans {
            match self.prepare(&mut plan, link, until).await {
                Ok(()) => {
                    // The private channels have one plan, whose messages are counted by channel.
                    bytes = if plan.in_user_stream { bytes } else { plan.backlog.share(bytes, self.limits) };
                    ready.push(plan);
                }
                Err(error) => {
                    tracing::debug!(%error, "a subscription can't begin now");
                    self.resume_paused(&plan);
                    refused.extend(plan.channels.iter().map(|channel| unavailable(channel)));
                }
            }
        }
        self.answer(link, id, &ready, &known, &refused);
        for plan in ready {
            self.begin(plan, link).await;
        }
        self.catch_up(&link.outbox).await;
        let private = self.all.iter().find(|s| s.in_user_stream());
        link.set_private(private.map(|s| s.interest.topic()));
        refused.iter().all(|refusal| refusal.code != ErrorCode::TryAgainLater)
    }

    fn is_subscribed(&self, channel: &str) -> bool {
        self.all.iter().any(|s| s.wants.has(channel))
    }

    /// One plan per topic; the private channels of a user's stream are planned together.
    fn plan(&self, hub: &Arc<Hub>, wanted: Vec<Wanted>, refused: &mut Vec<Refused>) -> Vec<Plan> {
        let mut plans: Vec<Plan> = Vec::with_capacity(wanted.len());
        for Wanted { resolved, start, max_rate } in wanted {
            let Resolved { channel, topic, rule, in_user_stream } = resolved;
            if in_user_stream && let Some(plan) = plans.iter_mut().find(|plan| plan.in_user_stream) {
                if !plan.channels.contains(&channel) {
                    plan.channels.push(channel);
                    plan.start = earlier(plan.start, start);
                }
                continue;
            }
            if plans.iter().any(|plan| plan.channels.contains(&channel)) {
                continue;
            }
            let Some(interest) = hub.interest(&topic, &rule) else {
                refused.push(unavailable(&channel));
                continue;
            };
            plans.push(Plan {
                channels: vec![wants::shared(channel, &interest)],
                in_user_stream,
                interest,
                start,
                max_rate,
                extends: self.all.iter().position(|s| in_user_stream && s.in_user_stream()),
                paused: None,
                begins: StreamId::ZERO,
                backlog: Backlog::default(),
            });
        }
        plans
    }

    async fn prepare(&self, plan: &mut Plan, link: &Link, until: Instant) -> Result<(), Unavailable> {
        plan.interest.ready(until.saturating_duration_since(Instant::now())).await?;
        if let Some(at) = plan.extends {
            plan.paused = link.outbox.pause(self.all[at].member.slot);
        }
        plan.backlog = plan.interest.backlog(plan.start, self.limits).await?;
        plan.begins = match plan.start {
            Start::Since(cursor) | Start::Resumed { after: cursor, .. } => cursor,
            Start::Snapshot { least } => plan.backlog.cursor.max(least),
            // The last publications are a courtesy: what is owed begins with the live ones.
            Start::Live | Start::Last(_) => plan.backlog.cursor,
        };
        if plan.in_user_stream {
            if let Some(position) = plan.paused {
                plan.backlog.end_at(position);
            }
            let wanted = &plan.channels;
            plan.backlog.messages.retain(|m| m.channel.as_ref().is_none_or(|c| wanted.contains(c)));
        }
        Ok(())
    }

    /// A subscription that was paused for one that then could not begin goes on by its next catch-up.
    fn resume_paused(&self, plan: &Plan) {
        if let Some(at) = plan.extends {
            self.all[at].member.outbox.wake();
        }
    }

    fn answer(&self, link: &Link, id: Option<&str>, plans: &[Plan], known: &[Wanted], refused: &[Refused]) {
        let begun = plans.iter().flat_map(|plan| plan.channels.iter().map(move |channel| subscribed(plan, channel)));
        let again = known.iter().map(|wanted| reply::Subscribed {
            channel: &wanted.resolved.channel,
            class: wanted.resolved.rule.class,
            cursor: self.cursor_of(&wanted.resolved.channel),
            replayed: 0,
            complete: true,
            snapshot: false,
        });
        let channels: Vec<_> = begun.chain(again).collect();
        let errors: Vec<_> =
            refused.iter().map(|r| reply::Refused { channel: &r.channel, code: r.code, message: &r.message }).collect();
        link.say(|out| reply::subscribed(out, id, &channels, &errors));
    }

    fn cursor_of(&self, channel: &str) -> Option<StreamId> {
        let found = self.all.iter().find(|s| s.wants.has(channel))?;
        found.member.outbox.queued(found.member.slot).filter(|_| found.interest.is_retained())
    }

    /// Pushes the backlog; from here on the subscription is one of those that are caught up.
    async fn begin(&mut self, plan: Plan, link: &Link) {
        let outbox = &link.outbox;
        let drained = || std::future::poll_fn(|cx| outbox.poll_room(cx));
        if let Some(at) = plan.extends {
            let subscription = &mut self.all[at];
            let narrowed = Narrowed::new(Some(plan.channels.clone()), None);
            let replay = Member { narrowed: Some(narrowed), ..subscription.member.clone() };
            subscription.interest.push_beside(&replay, &subscription.wants.form(self.kind), &plan.backlog);
            // The client has what was pushed only when it answers a ping that is sent from here on.
            link.forget_ping(subscription.member.slot);
            subscription.confirmed = subscription.confirmed.min(plan.begins);
            if let Wants::OfUser(channels) = &mut subscription.wants {
                channels.extend(plan.channels);
                subscription.member.narrowed = Some(Narrowed::new(Some(channels.clone()), None));
            }
            subscription.interest.change(subscription.member.clone());
            return;
        }
        let slot = plan.interest.open(outbox, plan.backlog.cursor, plan.begins);
        let mut channels = plan.channels;
        let wants = if plan.in_user_stream { Wants::OfUser(channels) } else { Wants::Topic(channels.swap_remove(0)) };
        let narrowed = wants.narrowed(plan.max_rate);
        let subscription = Subscription {
            member: Member { outbox: outbox.clone(), slot, narrowed },
            wants,
            interest: plan.interest,
            max_rate: plan.max_rate,
            // What came before the beginning is not owed; a stream without entries begins at zero.
            confirmed: plan.begins,
            fresh: true,
        };
        let form = subscription.wants.form(self.kind);
        subscription.interest.push_backlog(&subscription.member, &form, &plan.backlog, drained).await;
        if self.all.len() == self.all.capacity() && self.all.len() < 4 {
            // Few are the rule: the first takes room for itself alone.
            self.all.reserve_exact(1);
        }
        self.all.push(subscription);
    }

    /// Brings lagging subscriptions on: to the live stream, or a page further. What can't be read now stays for the
    /// next time.
    pub(super) async fn catch_up(&mut self, outbox: &Arc<Outbox>) {
        while let Some((slot, _)) = outbox.lagging() {
            let Some(subscription) = self.all.iter_mut().find(|s| s.member.slot == slot) else { return };
            let form = subscription.wants.form(self.kind);
            let Subscription { interest, member, fresh, .. } = subscription;
            match interest.catch_up(member, &form, *fresh).await {
                Ok(CaughtUp::Live) => *fresh = false,
                Ok(CaughtUp::More) => {}
                Err(error) => {
                    tracing::debug!(%error, "a subscription can't be caught up now");
                    tokio::time::sleep(RETRY_AFTER).await;
                    return;
                }
            }
        }
    }

    /// Ends subscriptions: after this nothing of them is written. Unknown channels are no mistake.
    pub(super) fn unsubscribe(&mut self, link: &Link, channels: &[String]) {
        for name in channels {
            let Some(at) = self.all.iter().position(|s| s.wants.has(name)) else { continue };
            let Subscription { wants, interest, member, .. } = &mut self.all[at];
            if let Wants::OfUser(channels) = wants
                && channels.len() > 1
            {
                channels.retain(|channel| **channel != **name);
                link.outbox.pause(member.slot);
                member.narrowed = Some(Narrowed::new(Some(channels.clone()), None));
                interest.change(member.clone());
                continue;
            }
            let ended = self.all.swap_remove(at);
            ended.interest.leave(&link.outbox, ended.member.slot);
        }
        if !self.all.iter().any(Subscription::in_user_stream) {
            link.set_private(None);
        }
    }

    /// Ends everything: the connection is gone.
    pub(super) fn clear(&mut self, outbox: &Arc<Outbox>) {
        for ended in self.all.drain(..) {
            ended.interest.leave(outbox, ended.member.slot);
        }
    }

    /// Channels that the token no longer allows, after a refresh.
    #[must_use]
    pub(super) fn channels_where(&self, forbidden: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.all.iter().flat_map(|s| s.wants.channels());
        all.filter(|channel| forbidden(channel)).map(|channel| channel.to_string()).collect()
    }

    /// The client surely has these positions. True when that is news.
    pub(super) fn confirm(&mut self, positions: &[(SlotId, StreamId)]) -> bool {
        let mut news = false;
        for subscription in &mut self.all {
            let found = positions.iter().find(|(slot, _)| *slot == subscription.member.slot);
            if let Some((_, id)) = found
                && *id > subscription.confirmed
            {
                subscription.confirmed = *id;
                news = true;
            }
        }
        news
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

    /// Changes the pace of all `state` subscriptions.
    pub(super) fn set_max_rate(&mut self, max_rate: Option<u32>) {
        for subscription in self.all.iter_mut().filter(|s| s.interest.class() == Class::State) {
            subscription.max_rate = max_rate;
            subscription.member.narrowed = subscription.wants.narrowed(max_rate);
            subscription.interest.change(subscription.member.clone());
        }
    }
}

fn subscribed<'a>(plan: &'a Plan, channel: &'a Arc<str>) -> reply::Subscribed<'a> {
    let own = |m: &&Arc<tickgate_wire::model::Message>| !plan.in_user_stream || m.channel.as_ref() == Some(channel);
    let later = plan.backlog.later.map_or(0, |(count, _)| count);
    let count = (plan.backlog.messages.iter().filter(own).count() + later) as u64;
    let snapshot = plan.backlog.mark.snapshot;
    reply::Subscribed {
        channel,
        class: if plan.in_user_stream { Class::Reliable } else { plan.interest.class() },
        cursor: Some(plan.paused.unwrap_or(plan.backlog.end())).filter(|_| plan.interest.is_retained()),
        replayed: if snapshot { 0 } else { count },
        complete: plan.backlog.gap.is_none() && plan.backlog.cut.is_none(),
        snapshot: snapshot && count > 0,
    }
}

fn unavailable(channel: &str) -> Refused {
    Refused {
        channel: channel.to_owned(),
        code: ErrorCode::TryAgainLater,
        message: "the channel can't be followed now; try again".into(),
    }
}
