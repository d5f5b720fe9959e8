//! Carries out what the session decided, one message after the other, in the order in which they came. Never decodes a
//! message and never decides what is allowed.

use std::{
    fmt,
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    command::{Ingest, Json, Request, Token},
    model::{StreamId, UserId},
    reply::{
        Acknowledged, Authenticated, Configured, Details, Failure, History, Ingested, Pong, Presence, Reply,
        Unsubscribed,
    },
    run::RunCommand,
    time::Timestamp,
};

use super::{admission, history, inbound::Inbound, ingest, refusal_log::Attempt, state::Connection};
use crate::{
    auth::TokenError,
    backplane::ReadLimits,
    clock,
    hub::Outbox,
    metrics::{self, Disconnect, Door, Handshake as Outcome},
    publisher::{PublishFailure, PublishRequest},
    session::{Action, Fault, Resolved},
};

/// When to retry a publication that failed temporarily.
const RETRY_AFTER_MS: u64 = 1_000;
/// The shortest heartbeat interval that a client can choose: shorter ones would be load without benefit.
const HEARTBEAT_MIN: Duration = Duration::from_secs(5);

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
                    Ok(action) => self.perform(id, action).await,
                    Err(fault) => self.report(Fault { id, ..fault }),
                },
                Inbound::Fault(fault) => self.report(fault),
                Inbound::Confirmed(positions) => {
                    if self.subscriptions.confirm(&positions) {
                        self.record();
                    }
                }
            }
        }
    }

    /// Carries out an action and sends the reply. Actions whose reply comes first, such as a subscribe, send it themselves.
    async fn perform(&mut self, id: Option<Json>, action: Action) {
        let answer = match action {
            Action::Subscribe { wanted, refused } => {
                self.subscribe(id, wanted, refused).await;
                return;
            }
            Action::Unsubscribe { channels } => return self.unsubscribe(id, channels).await,
            Action::Authenticate { token } => return self.authenticate(id, &token).await,
            Action::Pong { timestamp } => Ok(pong(id.clone(), timestamp)),
            Action::History { resolved, since, last } => self.history(id.clone(), resolved, since, last).await,
            Action::Publish { channel, user, data, msg_id } => {
                let (payload, user, msg_id) =
                    (Bytes::copy_from_slice(data.get().as_bytes()), user.as_deref(), msg_id.as_deref());
                let request = PublishRequest { channel: &channel, user, payload, msg_id, door: Door::Socket };
                self.publish(id.clone(), request).await.map(Reply::Published)
            }
            Action::Command { topic, command, args } => self.command(id.clone(), &topic, &command, args.as_ref()).await,
            Action::Presence { resolved } => self.presence(id.clone(), resolved).await,
            Action::Configure { max_rate, heartbeat_s } => Ok(self.configure(id.clone(), max_rate, heartbeat_s)),
            Action::Ingest(ingest) => self.ingest(id.clone(), &ingest).await,
        };
        match answer {
            Ok(reply) => self.handle.send(&reply),
            Err(fault) => self.report(Fault { id, ..fault }),
        }
    }

    async fn unsubscribe(&mut self, id: Option<Json>, channels: Vec<String>) {
        self.subscriptions.unsubscribe(&self.handle, &channels);
        self.handle.send(&Reply::Unsubscribed(Unsubscribed { id, channels }));
        self.subscriptions.catch_up(&self.handle.outbox).await;
        self.record();
    }

    /// The first token of a deferred authentication, or the refresh of a token.
    async fn authenticate(&mut self, id: Option<Json>, token: &Token) {
        let identity = match self.replica.verifier.verify(token, SystemTime::now()).await {
            Ok(identity) => identity,
            Err(error) => return self.refuse_token(id, &error),
        };
        self.replica.metrics.tokens_accepted_total.inc();
        let (user, expires_at, issued_at) = (identity.user.clone(), identity.expires_at, identity.issued_at);
        let first = match self.session.authenticate(identity) {
            Ok(first) => first,
            Err(fault) => return self.report(Fault { id, ..fault }),
        };
        if first && !self.admit(&user, issued_at).await {
            return;
        }
        let phase = self.session.id.low_byte();
        self.handle.with_keep_alive(|keep_alive| keep_alive.set_expiry(expires_at, phase));
        let expires_at = Timestamp::from_ms(expires_at.saturating_mul(1_000));
        self.handle.send(&Reply::Authenticated(Authenticated { id: id.clone(), user, expires_at }));
        if first {
            self.subscribe_on_connect().await;
        } else {
            self.drop_forbidden(id).await;
        }
    }

    fn refuse_token(&self, id: Option<Json>, error: &TokenError) {
        self.replica.metrics.auth_failures_total.of(error.reason()).inc();
        self.log_refusal(Outcome::Unauthorized, error.reason().as_str());
        self.report(Fault { id, ..Fault::new(ErrorCode::AuthRequired, error.to_string()) });
        if self.session.identity().is_none() {
            self.handle.close(CloseCode::AuthRequired, Disconnect::AuthRefused, "Invalid token");
        }
    }

    /// Logs a refusal after the handshake.
    fn log_refusal(&self, outcome: Outcome, reason: impl fmt::Display) {
        let attempt = Attempt { session: self.session.id, address: self.permit.address() };
        self.replica.refusals.write(&self.session.profile.name, attempt, outcome, reason);
    }

    /// Counts a connection that authenticated by message among its user's. False when it has to end.
    async fn admit(&mut self, user: &UserId, issued_at: Option<u64>) -> bool {
        let since = Instant::now();
        if let Err(refusal) = admission::admit_user(&self.replica, user, issued_at, self.session.id).await {
            let code = refusal.code();
            let refused = admission::Refused::from(refusal);
            self.log_refusal(refused.outcome, &refused);
            self.handle.close(code, refusal.cause(), code.meaning());
            return false;
        }
        self.handle.set_user(user.clone());
        tracing::debug!(connection_id = %self.session.id.connection_id(), %user, "connection authenticated");
        self.replica.connections.end_with_user(&self.handle, since);
        self.user_bucket = Some(self.replica.users.share(user));
        self.announce();
        true
    }

    /// A refreshed token may allow less than the one before.
    async fn drop_forbidden(&mut self, id: Option<Json>) {
        let view = self.session.view(&self.replica.rules);
        let forbidden = self.subscriptions.channels_where(|channel| view.resolve(channel).is_err());
        if !forbidden.is_empty() {
            self.unsubscribe(id, forbidden).await;
        }
    }

    async fn history(
        &self,
        id: Option<Json>,
        resolved: Resolved,
        since: Option<StreamId>,
        last: usize,
    ) -> Result<Reply, Fault> {
        let limits = ReadLimits::new(last, self.replica.config.limits.replay_bytes_max);
        let page = history::read(&self.replica.backplane, &resolved, since, limits).await;
        let page = page.map_err(|_| Fault::new(ErrorCode::TryAgainLater, "the history can't be read now"))?;
        let (channel, messages, complete) = (resolved.channel, page.messages, page.is_complete);
        Ok(Reply::History(History { id, channel, messages, complete }))
    }

    async fn publish(&self, id: Option<Json>, request: PublishRequest<'_>) -> Result<Acknowledged, Fault> {
        let channel = request.channel.to_owned();
        let published = self.replica.publisher.publish(request).await.map_err(|failure| fault_of(&failure))?;
        Ok(Acknowledged::new(id, channel, published.id, published.duplicate))
    }

    /// Stores a command for the engine that executes the run.
    async fn command(&self, id: Option<Json>, topic: &str, command: &str, args: Option<&Json>) -> Result<Reply, Fault> {
        let command = RunCommand {
            run_id: self.session.param.as_deref().unwrap_or_default(),
            command,
            args,
            user: self.handle.user().map(UserId::as_str),
            timestamp: Timestamp::from_ms(clock::unix_ms()),
        };
        let payload = command.payload();
        let request = PublishRequest { channel: topic, user: None, payload, msg_id: None, door: Door::Command };
        self.publish(id, request).await.map(Reply::CommandAccepted)
    }

    async fn presence(&self, id: Option<Json>, resolved: Resolved) -> Result<Reply, Fault> {
        let presence = self.replica.registry.presence(&resolved.topic).await;
        let presence = presence.map_err(|_| Fault::new(ErrorCode::TryAgainLater, "presence can't be read now"))?;
        let (connections, users, more) = (presence.connections, presence.users, presence.more);
        Ok(Reply::Presence(Presence { id, channel: resolved.channel, connections, users, more }))
    }

    fn configure(&mut self, id: Option<Json>, max_rate: Option<u32>, heartbeat_s: Option<u32>) -> Reply {
        let default = self.replica.config.session.heartbeat_interval;
        let granted = heartbeat_s.map_or(default, |s| Duration::from_secs(s.into()).max(HEARTBEAT_MIN).min(default));
        if heartbeat_s.is_some() {
            self.handle.with_keep_alive(|keep_alive| keep_alive.set_heartbeat(granted));
        }
        if max_rate.is_some() {
            self.session.set_max_rate(max_rate.filter(|rate| *rate > 0));
            self.subscriptions.set_max_rate(max_rate.filter(|rate| *rate > 0));
        }
        Reply::Configured(Configured { id, max_rate, heartbeat_interval: granted.as_secs() })
    }

    /// Stores a producer's message.
    async fn ingest(&self, id: Option<Json>, ingest: &Ingest) -> Result<Reply, Fault> {
        ingest::store(&self.replica.publisher, ingest).await.map_err(|failure| fault_of(&failure))?;
        Ok(Reply::Ingested(Ingested { id }))
    }

    /// Reports a fault to the client.
    fn report(&self, fault: Fault) {
        self.replica.metrics.errors_total.of(metrics::Code::of(fault.code.number())).inc();
        let Fault { id, code, message, field, retry_after_ms, outcome, close: _ } = fault;
        let details = Details { retry_after_ms, outcome: outcome.map(Into::into), field };
        let failure = Failure::new(code, message, id, clock::unix_ms());
        self.handle.send(&Reply::Error(Failure { details, ..failure }));
    }
}

fn pong(id: Option<Json>, timestamp: Option<Json>) -> Reply {
    let server_time = Timestamp::from_ms(clock::unix_ms());
    Reply::Pong(Pong { id, timestamp: timestamp.unwrap_or_else(|| Json::of(&server_time)), server_time })
}

/// Ready when fewer replies wait than the limit allows. False when the connection has to end.
fn poll_room_for_replies(outbox: &Outbox, cx: &mut Context<'_>) -> Poll<bool> {
    outbox.register(cx);
    let flushed = outbox.poll_flush(cx);
    let look = outbox.look();
    let ends = look.asked.is_some() || look.shut;
    if ends || flushed.is_ready() || !look.full { Poll::Ready(!ends) } else { Poll::Pending }
}

/// The fault that reports a failed publication.
fn fault_of(failure: &PublishFailure) -> Fault {
    let (code, outcome) = match failure {
        PublishFailure::Invalid(_) | PublishFailure::TooLarge { .. } => (ErrorCode::InvalidMessage, None),
        PublishFailure::Refused(_) => (ErrorCode::TryAgainLater, Some("refused")),
        PublishFailure::Unknown(_) => (ErrorCode::TryAgainLater, Some("unknown")),
    };
    let retry_after_ms = outcome.map(|_| RETRY_AFTER_MS);
    Fault { retry_after_ms, outcome, ..Fault::new(code, failure.to_string()) }
}
