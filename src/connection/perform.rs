//! Carries out what the session decided, one message after the other, in the order in which they came. Never decodes a
//! message and never decides what is allowed.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    command::{Json, Request, Token},
    envelope::{self, Envelope, EnvelopeFailure, InvalidEnvelope, Sender},
    model::{StreamId, UserId},
    reply::{self, Details, Failure},
    run::{self, RunCommand},
};
use uuid::Uuid;

use super::{admission, history, inbound::Inbound, ingest, state::Connection};
use crate::{
    auth::TokenError,
    backplane::ReadLimits,
    clock,
    config::Dialect,
    hub::Outbox,
    metrics::{self, Disconnect, Door},
    publisher::{PublishFailure, PublishRequest},
    session::{Action, Fault, Resolved},
};

/// The shortest heartbeat interval that a client can choose: shorter ones would be load without benefit.
const HEARTBEAT_MIN: Duration = Duration::from_secs(5);
/// How the gateway names itself in envelopes: their `source`.
const SOURCE: &str = "server";

impl Connection {
    /// Does everything that one read brought, until the connection has to end: after a message that closes the
    /// connection, the next one is not carried out. A client that does not read its replies gets no more of them.
    pub(super) async fn act(&mut self, inbound: Vec<Inbound>) {
        for next in inbound {
            let outbox = &self.handle.outbox;
            if !poll_fn(|cx| poll_room_for_replies(outbox, cx)).await {
                return;
            }
            match next {
                Inbound::Command(Request { id, command }) => match self.session.decide(command, &self.replica.rules) {
                    Ok(action) => self.perform(id.as_deref(), action).await,
                    Err(fault) => self.report(&Fault { id, ..fault }),
                },
                Inbound::Fault(fault) => self.report(&fault),
                Inbound::Confirmed(positions) => {
                    if self.subscriptions.confirm(&positions) {
                        self.record();
                    }
                }
                Inbound::Envelope(envelope) => self.ingest(envelope).await,
            }
        }
    }

    async fn perform(&mut self, id: Option<&str>, action: Action) {
        match action {
            Action::Subscribe { wanted, refused } => {
                self.subscribe(id, wanted, refused).await;
            }
            Action::Unsubscribe { channels } => self.unsubscribe(id, &channels).await,
            Action::Pong { timestamp } => {
                self.reply(|out| reply::pong(out, id, timestamp.as_deref(), clock::unix_ms()));
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

    async fn unsubscribe(&mut self, id: Option<&str>, channels: &[String]) {
        self.subscriptions.unsubscribe(&self.handle, channels);
        self.reply(|out| reply::unsubscribed(out, id, channels));
        self.subscriptions.catch_up(&self.handle.outbox).await;
        self.record();
    }

    /// The first token of a deferred authentication, or the refresh of a token.
    async fn authenticate(&mut self, id: Option<&str>, token: &Token) {
        let identity = match self.replica.verifier.verify(token, SystemTime::now()).await {
            Ok(identity) => identity,
            Err(error) => return self.refuse_token(id, &error),
        };
        let (user, expires_at, issued_at) = (identity.user.clone(), identity.expires_at, identity.issued_at);
        let first = match self.session.authenticate(identity) {
            Ok(first) => first,
            Err(fault) => return self.report(&Fault { id: id.map(Box::from), ..fault }),
        };
        if first && !self.admit(&user, issued_at).await {
            return;
        }
        let phase = self.session.id.low_byte();
        self.handle.with_keep_alive(|keep_alive| keep_alive.set_expiry(expires_at, phase));
        self.reply(|out| reply::authenticated(out, id, user.as_str(), expires_at));
        if first {
            self.subscribe_on_connect().await;
        } else {
            self.drop_forbidden(id).await;
        }
    }

    fn refuse_token(&self, id: Option<&str>, error: &TokenError) {
        self.replica.metrics.auth_failures_total.of(error.reason()).inc();
        self.refuse(id, ErrorCode::AuthRequired, &error.to_string());
        if self.session.identity().is_none() {
            self.handle.close(CloseCode::AuthRequired, Disconnect::AuthRefused, "Invalid token");
        }
    }

    /// Counts a connection that authenticated by message among its user's. False when it has to end.
    async fn admit(&mut self, user: &UserId, issued_at: Option<u64>) -> bool {
        let since = Instant::now();
        if let Err(refusal) = admission::admit_user(&self.replica, user, issued_at, self.session.id).await {
            let code = refusal.code();
            self.handle.close(code, refusal.cause(), code.meaning());
            return false;
        }
        self.handle.set_user(user.clone());
        self.replica.connections.end_with_user(&self.handle, since);
        self.user_bucket = Some(self.replica.users.share(user));
        self.announce();
        true
    }

    /// A refreshed token may allow less than the one before.
    async fn drop_forbidden(&mut self, id: Option<&str>) {
        let view = self.session.view(&self.replica.rules);
        let forbidden = self.subscriptions.channels_where(|channel| view.resolve(channel).is_err());
        if !forbidden.is_empty() {
            self.unsubscribe(id, &forbidden).await;
        }
    }

    async fn history(&self, id: Option<&str>, resolved: &Resolved, since: Option<StreamId>, last: usize) {
        let limits = ReadLimits::new(last, self.replica.config.limits.replay_bytes_max);
        match history::read(&self.replica.backplane, resolved, since, limits).await {
            Ok(page) => {
                let pushes = page.pushes(&resolved.channel);
                self.reply(|out| reply::history(out, id, &resolved.channel, pushes, page.is_complete));
            }
            Err(_) => self.refuse(id, ErrorCode::TryAgainLater, "the history can't be read now"),
        }
    }

    async fn publish(&self, id: Option<&str>, channel: &str, user: Option<&str>, data: &Json, msg_id: Option<&str>) {
        let payload = Bytes::copy_from_slice(data.get().as_bytes());
        let request = PublishRequest { channel, user, payload, msg_id, door: Door::Socket };
        match self.replica.publisher.publish(request).await {
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
            user: self.handle.user().map(UserId::as_str),
        };
        let mut payload = BytesMut::with_capacity(256);
        run::run_command(&mut payload, &command, clock::unix_ms());
        let payload = payload.freeze();
        let request = PublishRequest { channel: topic, user: None, payload, msg_id: None, door: Door::Command };
        match self.replica.publisher.publish(request).await {
            Ok(published) => {
                let stored = reply::Stored { channel: topic, id: published.id, duplicate: published.duplicate };
                self.reply(|out| reply::command_accepted(out, id, &stored));
            }
            Err(failure) => self.publish_failed(id, &failure),
        }
    }

    async fn presence(&self, id: Option<&str>, resolved: &Resolved) {
        match self.replica.registry.presence(&resolved.topic).await {
            Ok(presence) => self.reply(|out| {
                reply::presence(out, id, &resolved.channel, presence.connections, presence.users, presence.more);
            }),
            Err(_) => self.refuse(id, ErrorCode::TryAgainLater, "presence can't be read now"),
        }
    }

    fn configure(&mut self, id: Option<&str>, max_rate: Option<u32>, heartbeat_s: Option<u32>) {
        let default = self.replica.config.session.heartbeat_interval;
        let granted = heartbeat_s.map_or(default, |s| Duration::from_secs(s.into()).max(HEARTBEAT_MIN).min(default));
        if heartbeat_s.is_some() {
            self.handle.with_keep_alive(|keep_alive| keep_alive.set_heartbeat(granted));
        }
        if max_rate.is_some() {
            self.session.set_max_rate(max_rate.filter(|rate| *rate > 0));
            self.subscriptions.set_max_rate(max_rate.filter(|rate| *rate > 0));
        }
        self.reply(|out| reply::configured(out, id, max_rate, granted.as_secs()));
    }

    /// Stores a producer's message, then acknowledges it if the producer asks for that.
    async fn ingest(&mut self, decoded: Result<(Envelope, Bytes), InvalidEnvelope>) {
        let (envelope, text) = match decoded {
            Ok(envelope) => envelope,
            Err(invalid) => return self.fail_producer(&EnvelopeFailure::from(&invalid)),
        };
        match ingest::store(&self.replica.publisher, self.session.identity(), &envelope, &text).await {
            Ok(()) if envelope.wants_ack() => {
                self.envelope(|out, sender| envelope::ack(out, sender, &envelope.msg_id, clock::unix_ms()));
            }
            Ok(()) => {}
            Err(failure) => self.fail_producer(&EnvelopeFailure {
                code: code_of(&failure),
                message: &failure.to_string(),
                msg_id: Some(&envelope.msg_id),
                retry_after_ms: retry_after_ms(&failure),
            }),
        }
    }

    /// Reports a fault to the client, in its dialect.
    fn report(&self, fault: &Fault) {
        let Fault { code, message, retry_after_ms, .. } = fault;
        if self.session.profile.dialect == Dialect::Envelope {
            let (code, retry_after_ms) = (*code, *retry_after_ms);
            return self.fail_producer(&EnvelopeFailure { code, message, msg_id: None, retry_after_ms });
        }
        let details = match (retry_after_ms, &fault.field) {
            (Some(ms), _) => Details::RetryAfterMs(*ms),
            (None, Some(field)) => Details::Field(field),
            (None, None) => Details::None,
        };
        self.fail(&Failure { code: *code, message, details, id: fault.id.as_deref() });
    }

    fn refuse(&self, id: Option<&str>, code: ErrorCode, message: &str) {
        self.fail(&Failure { code, message, details: Details::None, id });
    }

    fn fail(&self, failure: &Failure<'_>) {
        self.replica.metrics.errors_total.of(metrics::Code::of(failure.code.number())).inc();
        self.reply(|out| reply::error(out, failure, clock::unix_ms()));
    }

    fn fail_producer(&self, failure: &EnvelopeFailure<'_>) {
        self.replica.metrics.errors_total.of(metrics::Code::of(failure.code.number())).inc();
        self.envelope(|out, sender| envelope::error(out, sender, failure, clock::unix_ms()));
    }

    fn envelope(&self, write: impl FnOnce(&mut BytesMut, Sender<'_>)) {
        let sender = Sender { source: SOURCE, msg_id: Uuid::new_v4() };
        self.reply(|out| write(out, sender));
    }
}

/// Ready when fewer replies wait than the limit allows. False when the connection has to end.
fn poll_room_for_replies(outbox: &Outbox, cx: &mut Context<'_>) -> Poll<bool> {
    outbox.register(cx);
    let flushed = outbox.poll_flush(cx);
    let look = outbox.look();
    let ends = look.asked.is_some() || look.shut;
    if ends || flushed.is_ready() || !look.full { Poll::Ready(!ends) } else { Poll::Pending }
}

/// The error code of a failed publication.
fn code_of(failure: &PublishFailure) -> ErrorCode {
    match failure {
        PublishFailure::Invalid(_) | PublishFailure::TooLarge { .. } => ErrorCode::InvalidMessage,
        PublishFailure::Refused(_) | PublishFailure::Unknown(_) => ErrorCode::TryAgainLater,
    }
}

/// When to retry a failed publication, if that can help.
fn retry_after_ms(failure: &PublishFailure) -> Option<u64> {
    matches!(failure, PublishFailure::Refused(_) | PublishFailure::Unknown(_)).then_some(1_000)
}
