//! Does what the session decided. One message after the other, in the order of the client's messages; publications of
//! one read are handed over together and answered in order.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    command::{Json, Request, Token},
    envelope,
    model::{Class, Start, StreamId, UserId},
    reply::{self, Details, Failure},
    run::{self, RunCommand},
};

use super::{gateway::Gateway, link::Clock, run::Connection};
use crate::{
    auth::TokenError,
    config::OverLimit,
    hub::SlotId,
    metrics::{self, Disconnect, Door},
    publisher::{PublishFailure, PublishRequest},
    registry::{Admission, Verdict},
    session::{Action, Bucket, Fault, Refused, Resolved, Session, Wanted},
};

/// One thing to do, in the order in which it came in.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Decided when its turn comes: the messages before it may change what the client is allowed.
    Command(Request),
    Fault(Fault),
    /// A pong confirmed these positions.
    Confirmed(Vec<(SlotId, StreamId)>),
    /// What a producer sent, with its text as it was written.
    Envelope(Result<(envelope::Envelope, Bytes), envelope::InvalidEnvelope>),
    EnvelopeFault(Fault),
}

impl Inbound {
    pub(super) fn decode_json(
        session: &mut Session,
        text: &str,
        now_ms: u64,
        bucket: &Option<Arc<Mutex<Bucket>>>,
        gateway: &Gateway,
    ) -> Self {
        if let Err(fault) = spend(session, now_ms, bucket, gateway) {
            return Self::Fault(fault);
        }
        match session.read(text, now_ms, &gateway.rules) {
            Ok(request) => Self::Command(request),
            Err(fault) => {
                if fault.code == ErrorCode::RateLimited {
                    gateway.metrics.rate_limited_total.of(metrics::RateScope::Connection).inc();
                }
                Self::Fault(fault)
            }
        }
    }

    pub(super) fn decode_envelope(
        session: &mut Session,
        text: &str,
        now_ms: u64,
        bucket: &Option<Arc<Mutex<Bucket>>>,
        gateway: &Gateway,
    ) -> Self {
        if let Err(fault) = spend(session, now_ms, bucket, gateway) {
            return Self::EnvelopeFault(fault);
        }
        let decoded = envelope::decode(text, gateway.config.limits.json_depth_max);
        if let Err(invalid) = &decoded
            && let Some(close) = session.offend(now_ms, &gateway.rules)
        {
            return Self::EnvelopeFault(Fault {
                id: None,
                code: ErrorCode::InvalidMessage,
                message: invalid.message.clone(),
                field: None,
                retry_after_ms: None,
                close: Some(close),
            });
        }
        Self::Envelope(decoded.map(|envelope| (envelope, Bytes::copy_from_slice(text.as_bytes()))))
    }

    /// The close that follows, where this was one offence too many.
    pub(super) fn closes(&self) -> Option<(CloseCode, Disconnect)> {
        let (Self::Fault(fault) | Self::EnvelopeFault(fault)) = self else { return None };
        let code = fault.close?;
        let cause = if code == CloseCode::RateLimited { Disconnect::RateLimited } else { Disconnect::InvalidMessages };
        Some((code, cause))
    }
}

fn spend(
    session: &mut Session,
    now_ms: u64,
    bucket: &Option<Arc<Mutex<Bucket>>>,
    gateway: &Gateway,
) -> Result<(), Fault> {
    let mut user = bucket.as_ref().map(|bucket| bucket.lock());
    session.spend(now_ms, user.as_deref_mut(), &gateway.config.limits).inspect_err(|_| {
        gateway.metrics.rate_limited_total.of(metrics::RateScope::Connection).inc();
    })
}

impl Connection {
    /// Does everything that one read brought, until the connection is to end: whoever is refused by one message is not
    /// obeyed in the next. A client that does not read its answers gets no further ones.
    pub(super) async fn act(&mut self, inbound: Vec<Inbound>) {
        for next in inbound {
            if !poll_fn(|cx| self.poll_answered(cx)).await {
                return;
            }
            match next {
                Inbound::Command(Request { id, command }) => match self.session.decide(command, &self.gateway.rules) {
                    Ok(action) => self.perform(id.as_deref(), action).await,
                    Err(fault) => self.tell(&Fault { id, ..fault }),
                },
                Inbound::Fault(fault) => self.tell(&fault),
                Inbound::Confirmed(positions) => {
                    if self.subscriptions.confirm(&positions) {
                        self.record();
                    }
                }
                Inbound::Envelope(envelope) => self.ingest(envelope).await,
                Inbound::EnvelopeFault(fault) => self.tell_producer(&fault),
            }
        }
    }

    async fn perform(&mut self, id: Option<&str>, action: Action) {
        match action {
            Action::Subscribe { wanted, refused } => {
                self.subscribe(id, wanted, refused).await;
            }
            Action::Unsubscribe { channels } => {
                self.subscriptions.unsubscribe(&self.link, &channels);
                self.reply(|out| reply::unsubscribed(out, id, &channels));
                self.subscriptions.catch_up(&self.link.outbox).await;
                self.subscribed();
            }
            Action::Pong { timestamp } => {
                self.reply(|out| reply::pong(out, id, timestamp.as_deref(), Clock::unix_ms()));
            }
            Action::Authenticate { token } => self.authenticate(id, &token).await,
            Action::History { resolved, since, last } => self.history(id, &resolved, since, last).await,
            Action::Publish { channel, user, data, msg_id } => {
                self.publish(id, &channel, user.as_deref(), &data, msg_id.as_deref()).await;
            }
            Action::Command { topic, command, args } => self.command(id, &topic, &command, args.as_ref()).await,
            Action::Presence { resolved } => self.presence(id, &resolved).await,
            Action::Configure { max_rate, heartbeat_s } => self.configure(id, max_rate, heartbeat_s),
        }
    }

    pub(super) async fn subscribe(&mut self, id: Option<&str>, wanted: Vec<Wanted>, mut refused: Vec<Refused>) -> bool {
        let max = self.gateway.config.limits.subscriptions_max;
        let wanted = self.subscriptions.within(max, wanted, &mut refused);
        for refusal in &refused {
            self.gateway.metrics.errors_total.of(metrics::Code::of(refusal.code.number())).inc();
        }
        let all = self.subscriptions.subscribe(&self.gateway.hub, &self.link, id, wanted, refused).await;
        self.subscribed();
        all
    }

    /// Begins what the client did not ask for by a message. It would not ask again, so where that fails it has to come
    /// again, to what was recorded before.
    pub(super) async fn subscribe_or_close(&mut self, wanted: Vec<Wanted>) {
        self.subscriptions.are_complete = false;
        if self.subscribe(None, wanted, Vec::new()).await {
            self.subscriptions.are_complete = true;
            self.record();
        } else {
            self.postpone();
        }
    }

    /// Has the client come again; what is recorded of its session stays as it is.
    pub(super) fn postpone(&mut self) {
        self.subscriptions.are_complete = false;
        self.link.close(CloseCode::TryAgainLater, Disconnect::Internal, "a channel can't be followed now");
    }

    /// The set of subscriptions changed.
    fn subscribed(&mut self) {
        self.record();
    }

    fn tell(&self, fault: &Fault) {
        let details = match (fault.retry_after_ms, &fault.field) {
            (Some(ms), _) => Details::RetryAfterMs(ms),
            (None, Some(field)) => Details::Field(field),
            (None, None) => Details::None,
        };
        let failure = Failure { code: fault.code, message: &fault.message, details, id: fault.id.as_deref() };
        self.fail(&failure);
    }

    pub(super) fn fail(&self, failure: &Failure<'_>) {
        self.gateway.metrics.errors_total.of(metrics::Code::of(failure.code.number())).inc();
        self.reply(|out| reply::error(out, failure, Clock::unix_ms()));
    }

    /// The first token of a deferred authentication, or a refresh in place.
    async fn authenticate(&mut self, id: Option<&str>, token: &Token) {
        let identity = match self.gateway.verifier.verify(token, SystemTime::now()).await {
            Ok(identity) => identity,
            Err(error) => return self.refuse_token(id, &error),
        };
        let first = self.session.identity().is_none();
        if first && self.session.profile.token != crate::config::TokenRule::Required {
            let message = "this connection is anonymous; open a new one with the token";
            return self.fail(&Failure { code: ErrorCode::Forbidden, message, details: Details::None, id });
        }
        let (user, expires_at, issued_at) = (identity.user.clone(), identity.expires_at, identity.issued_at);
        if let Err(fault) = self.session.identify(identity) {
            return self.tell(&Fault { id: id.map(Box::from), ..fault });
        }
        if first && !self.admit(&user, issued_at).await {
            return;
        }
        let phase = self.session.id.low_byte();
        self.link.with_pulse(|pulse| pulse.set_expiry(expires_at, phase));
        self.reply(|out| reply::authenticated(out, id, user.as_str(), expires_at));
        if first {
            let opening = self.session.view(&self.gateway.rules).on_connect();
            self.begin(opening).await;
        } else {
            self.drop_forbidden(id).await;
        }
    }

    fn refuse_token(&self, id: Option<&str>, error: &TokenError) {
        self.gateway.metrics.auth_failures_total.of(error.reason()).inc();
        let message = error.to_string();
        self.fail(&Failure { code: ErrorCode::AuthRequired, message: &message, details: Details::None, id });
        if self.session.identity().is_none() {
            self.link.close(CloseCode::AuthRequired, Disconnect::AuthRefused, "Invalid token");
        }
    }

    /// Begins channels that the endpoint subscribes by itself.
    pub(super) async fn begin(&mut self, opening: Vec<Resolved>) {
        if opening.is_empty() {
            return;
        }
        let wanted = opening.into_iter().map(|resolved| {
            let start = if resolved.rule.class == Class::State {
                Start::Snapshot { least: StreamId::ZERO }
            } else {
                Start::Live
            };
            Wanted { resolved, start, max_rate: None }
        });
        self.subscribe_or_close(wanted.collect()).await;
    }

    /// Counts a connection that authenticated by message. False when it has to end.
    async fn admit(&mut self, user: &UserId, issued_at: Option<u64>) -> bool {
        let since = Instant::now();
        let limits = &self.gateway.config.limits;
        let admission = Admission {
            user: user.clone(),
            session: self.session.id,
            connections_max: limits.connections_per_user_max,
            evict_oldest: limits.over_limit == OverLimit::EvictOldest,
            issued_at,
        };
        let (code, cause) = match self.gateway.registry.admit(&admission).await {
            Ok(Verdict::Admitted { .. }) | Err(_) => {
                self.link.set_user(user.clone());
                self.gateway.links.end_with_user(&self.link, since);
                self.bucket = Some(self.gateway.users.share(user));
                self.note_opened();
                return true;
            }
            Ok(Verdict::Refused { .. }) => (CloseCode::TooManyConnections, Disconnect::UserLimit),
            Ok(Verdict::Revoked) => (CloseCode::UserInactive, Disconnect::Revoked),
        };
        self.link.close(code, cause, code.meaning());
        false
    }

    /// A refreshed token may allow less than the one before.
    async fn drop_forbidden(&mut self, id: Option<&str>) {
        let view = self.session.view(&self.gateway.rules);
        let forbidden = self.subscriptions.channels_where(|channel| view.resolve(channel).is_err());
        if !forbidden.is_empty() {
            Box::pin(self.perform(id, Action::Unsubscribe { channels: forbidden })).await;
        }
    }

    async fn publish(&self, id: Option<&str>, channel: &str, user: Option<&str>, data: &Json, msg_id: Option<&str>) {
        let payload = Bytes::copy_from_slice(data.get().as_bytes());
        let request = PublishRequest { channel, user, payload, msg_id, door: Door::Socket };
        match self.gateway.publisher.publish(request).await {
            Ok(published) => {
                let stored = reply::Stored { channel, id: published.id, duplicate: published.duplicate };
                self.reply(|out| reply::published(out, id, &stored));
            }
            Err(failure) => self.publish_failed(id, &failure),
        }
    }

    fn publish_failed(&self, id: Option<&str>, failure: &PublishFailure) {
        let code = code_of(failure);
        let outcome = if matches!(failure, PublishFailure::Unknown(_)) { "unknown" } else { "refused" };
        let details = retry_after_ms(failure)
            .map_or(Details::None, |retry_after_ms| Details::Outcome { retry_after_ms, outcome });
        self.fail(&Failure { code, message: &failure.to_string(), details, id });
    }

    /// Stores a command for the engine that executes the run.
    async fn command(&self, id: Option<&str>, topic: &str, command: &str, args: Option<&Json>) {
        let command = RunCommand {
            run_id: self.session.param.as_deref().unwrap_or_default(),
            command,
            args: args.map(Json::get),
            user: self.link.user().map(UserId::as_str),
        };
        let mut payload = BytesMut::with_capacity(256);
        run::run_command(&mut payload, &command, Clock::unix_ms());
        let payload = payload.freeze();
        let request = PublishRequest { channel: topic, user: None, payload, msg_id: None, door: Door::Command };
        match self.gateway.publisher.publish(request).await {
            Ok(published) => {
                let stored = reply::Stored { channel: topic, id: published.id, duplicate: published.duplicate };
                self.reply(|out| reply::command_accepted(out, id, &stored));
            }
            Err(failure) => self.publish_failed(id, &failure),
        }
    }

    async fn presence(&self, id: Option<&str>, resolved: &Resolved) {
        match self.gateway.registry.presence(&resolved.topic).await {
            Ok(presence) => self.reply(|out| {
                reply::presence(out, id, &resolved.channel, presence.connections, presence.users);
            }),
            Err(_) => {
                let message = "presence can't be read now";
                self.fail(&Failure { code: ErrorCode::TryAgainLater, message, details: Details::None, id });
            }
        }
    }

    fn configure(&mut self, id: Option<&str>, max_rate: Option<u32>, heartbeat_s: Option<u32>) {
        let default = self.gateway.config.session.heartbeat_interval;
        let granted = heartbeat_s.map_or(default, |s| Duration::from_secs(s.into()).max(HEARTBEAT_MIN).min(default));
        if heartbeat_s.is_some() {
            self.link.with_pulse(|pulse| pulse.set_heartbeat(granted));
        }
        if max_rate.is_some() {
            self.session.set_max_rate(max_rate.filter(|rate| *rate > 0));
            self.subscriptions.set_max_rate(max_rate.filter(|rate| *rate > 0));
        }
        self.reply(|out| reply::configured(out, id, max_rate, granted.as_secs()));
    }
}

/// Heartbeats more often than this would be a load without a use.
const HEARTBEAT_MIN: Duration = Duration::from_secs(5);

/// The error code that a failed publication is told with.
pub(super) fn code_of(failure: &PublishFailure) -> ErrorCode {
    match failure {
        PublishFailure::Invalid(_) | PublishFailure::TooLarge { .. } => ErrorCode::InvalidMessage,
        PublishFailure::Refused(_) | PublishFailure::Unknown(_) => ErrorCode::TryAgainLater,
    }
}

/// When a failed publication is worth another try.
pub(super) fn retry_after_ms(failure: &PublishFailure) -> Option<u64> {
    matches!(failure, PublishFailure::Refused(_) | PublishFailure::Unknown(_)).then_some(1_000)
}
