//! Executes what the session decided, one message at a time in order. Never decodes a message and never decides what is
//! allowed.

use std::{
    fmt,
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use serde_json::json;
use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    command::{HistoryFrom, Ingest, Json, Request, Token},
    model::{SessionSecret, UserId},
    reply::{
        AuthenticatedReply, CommandAccepted, Configured, Details, EndedNotice, ErrorObject, FailureReply, HistoryReply,
        Ingested, Pong, PresenceReply, PublishedReply, Reply, UnsubscribedReply,
    },
    run::RunCommand,
    time::Timestamp,
};

use super::{
    admission, attempt::Attempt, echo::CommandEcho, history, inbound::Inbound, ingest, opening, state::Connection,
    user_place,
};
use crate::{
    auth::{TokenError, TokenIdentity},
    backplane::ReadLimits,
    clock,
    hub::Outbox,
    metrics::{self, AuthFailure, DisconnectReason, HandshakeResult, KeyUse, PublicationSource, RateScope},
    problem::millis,
    publisher::{MsgName, PublishFailure, PublishRequest, PublisherName},
    registry::RevokedToken,
    session::{ChannelRefusal, MessageFault, ResolvedChannel, SessionAction},
};

/// Retry delay after a temporary failure.
const RETRY_AFTER_MS: u64 = 1_000;
/// The shortest heartbeat interval that a client can choose.
const HEARTBEAT_MIN: Duration = Duration::from_secs(5);

impl Connection {
    /// Processes the messages of one read in order, until one closes the connection. Stops sending replies to a client
    /// that does not read them.
    pub(super) async fn act(&mut self, inbound: Vec<Inbound>) {
        for next in inbound {
            let outbox = &self.handle.outbox;
            if !poll_fn(|cx| poll_room_for_replies(outbox, cx)).await {
                return;
            }
            match next {
                Inbound::Command(Request { id, command, ignored }) => {
                    self.trace("command", || json!({ "command": command.name() }));
                    let echo = CommandEcho { id, ignored };
                    match self.session.decide(command, &self.replica.rules) {
                        Ok(action) => self.perform(echo, action).await,
                        Err(fault) => self.report(&echo, fault),
                    }
                }
                Inbound::Fault(fault) => {
                    let id = fault.id.clone();
                    self.report(&CommandEcho { id, ignored: Vec::new() }, fault);
                }
            }
        }
    }

    /// Executes an action and sends the reply. Actions whose reply comes first, such as a subscribe, send it
    /// themselves.
    async fn perform(&mut self, echo: CommandEcho, action: SessionAction) {
        let id = echo.id.clone();
        let answer = match action {
            SessionAction::Subscribe { .. } if self.handle.outbox.is_held_full() => {
                Err(later("earlier messages have not been read yet"))
            }
            SessionAction::Subscribe { wanted, refused } => {
                self.subscribe(&echo, wanted, refused).await;
                return;
            }
            SessionAction::Unsubscribe { channels, refused } => {
                return self.unsubscribe(&echo, channels, refused).await;
            }
            SessionAction::Authenticate { token } => return self.authenticate(&echo, &token).await,
            SessionAction::Pong { timestamp } => Ok(pong(id, timestamp)),
            SessionAction::History { resolved, from, count } => {
                self.history(&echo, resolved, from, count).await.unwrap_or_else(|fault| self.report(&echo, fault));
                return;
            }
            SessionAction::Publish { channel, user, data, msg_id, count } => {
                let (payload, user) = (Bytes::copy_from_slice(data.get().as_bytes()), user.as_deref());
                let msg = msg_id.as_deref().map(|msg_id| MsgName::new(msg_id, self.publishes_as()));
                let request = PublishRequest { channel: &channel, user, payload, msg, door: PublicationSource::Socket };
                self.publish(id, request, count).await
            }
            SessionAction::Command { topic, command, args, msg_id } => {
                self.command(id, &topic, (&command, args.as_ref()), msg_id.as_deref()).await
            }
            SessionAction::Presence { resolved } => self.presence(id, resolved).await,
            SessionAction::Configure { heartbeat_s } => Ok(self.configure(id, heartbeat_s)),
            SessionAction::Ingest(ingest) => self.ingest(id, &ingest).await,
        };
        match answer {
            Ok(reply) => self.handle.send(&reply, &echo.ignored),
            Err(fault) => self.report(&echo, fault),
        }
    }

    async fn unsubscribe(&mut self, echo: &CommandEcho, channels: Vec<String>, refused: Vec<ChannelRefusal>) {
        self.subscriptions.unsubscribe(&self.handle, &channels);
        self.count_refused(&refused);
        let (id, errors) = (echo.id.clone(), refused.into_iter().map(Into::into).collect());
        self.handle.send(&Reply::Unsubscribed(UnsubscribedReply { id, channels, errors }), &echo.ignored);
        let _ = self.subscriptions.catch_up(&self.handle).await;
        self.note_followed();
    }

    /// Handles the first token of a deferred authentication, or a refreshed token.
    async fn authenticate(&mut self, echo: &CommandEcho, token: &Token) {
        let since = Instant::now();
        let identity = match self.replica.verifier.verify(token, SystemTime::now()).await {
            Ok(identity) => identity,
            Err(error) => return self.refuse_token(echo, &error),
        };
        self.replica.metrics.tokens_accepted_total.inc();
        if let Err(fault) = self.session.may_identify(&identity) {
            return self.report(echo, fault);
        }
        let (user, expires_at) = (identity.user.clone(), identity.expires_at);
        let first = self.session.identity().is_none();
        if first {
            let Some(place) = self.admit(identity, since).await else { return };
            opening::greet(self, place);
        } else {
            if let Err(fault) = self.check_revoked(&identity).await {
                return self.report(echo, fault);
            }
            self.replica.registry.reissued(self.session.id, identity.issued_at);
            self.session.identify(identity);
            let phase = self.session.id.low_byte();
            self.handle.with_keep_alive(|keep_alive| keep_alive.set_expiry(expires_at, phase));
        }
        let (id, expires_at) = (echo.id.clone(), Some(Timestamp::from_s(expires_at)));
        self.handle.send(&Reply::Authenticated(AuthenticatedReply { id, user, expires_at }), &echo.ignored);
        if first {
            self.subscribe_on_connect().await;
        } else {
            self.drop_forbidden().await;
        }
    }

    /// Checks a token that would replace the session's: if it is refused, the connection keeps its own. While Redis is
    /// unreachable, revocations known to this replica decide.
    async fn check_revoked(&self, identity: &TokenIdentity) -> Result<(), MessageFault> {
        let revoked = self.replica.registry.is_revoked(&identity.user, identity.issued_at).await;
        let Some(revoked) = revoked.unwrap_or_default() else { return Ok(()) };
        self.replica.metrics.auth_failures_total.of(AuthFailure::Revoked).inc();
        self.log_refusal(HandshakeResult::Forbidden, AuthFailure::Revoked.as_str());
        Err(match revoked {
            RevokedToken::Surely => {
                MessageFault::new(ErrorCode::UserInactive, "the token was revoked, or the user is not active")
            }
            RevokedToken::Perhaps => MessageFault {
                retry_after_ms: Some(RETRY_AFTER_MS),
                ..MessageFault::new(ErrorCode::AuthRequired, admission::DOUBTFUL)
            },
        })
    }

    fn refuse_token(&self, echo: &CommandEcho, error: &TokenError) {
        self.replica.metrics.auth_failures_total.of(error.reason()).inc();
        self.log_refusal(HandshakeResult::Unauthorized, error.reason().as_str());
        if error.is_ours() {
            // The token may be valid: the connection stays open, and its client retries.
            return self.report(echo, later("tokens cannot be verified now"));
        }
        self.report(echo, MessageFault::new(ErrorCode::AuthRequired, error.to_string()));
        if self.session.identity().is_none() {
            self.handle.close(CloseCode::AuthRequired, DisconnectReason::AuthRefused, "Invalid token");
        }
    }

    /// Logs a refusal after the handshake.
    fn log_refusal(&self, outcome: HandshakeResult, reason: impl fmt::Display) {
        let attempt = Attempt { connection_id: self.handle.id(), address: self.permit.address() };
        let from = (attempt.connection_id, attempt.address);
        self.replica.audit.refused_client(&self.session.profile.name, from, outcome, reason);
    }

    /// Admits a connection that authenticated by message under its user's limit. Returns the session's secret, and
    /// whether the session was taken over; `None` if the connection must close.
    async fn admit(&mut self, identity: TokenIdentity, since: Instant) -> Option<(SessionSecret, bool)> {
        let (replica, user) = (self.replica.clone(), identity.user.clone());
        let profile = self.session.profile.clone();
        let wanted = self.arrival.as_ref().and_then(|arrival| arrival.takes_over);
        let chosen = user_place::session_for(&replica, &profile, wanted, Some(&user)).await;
        if let Err(refusal) = user_place::admit_user(&replica, &profile, &identity, chosen).await {
            let refused = admission::ClientRefusal::from(refusal);
            self.log_refusal(refused.outcome, &refused);
            let after_ms = refused.retry_after_s.map(|s| s * 1_000);
            self.handle.close_after(refused.code, refusal.cause(), refused.code.meaning(), after_ms);
            return None;
        }
        opening::identify(self, (identity, chosen.session), since);
        tracing::debug!(connection_id = %self.handle.id(), %user, "connection authenticated");
        Some((chosen.secret, chosen.resumed))
    }

    /// Ends subscriptions that a refreshed token no longer allows.
    async fn drop_forbidden(&mut self) {
        let view = self.session.view(&self.replica.rules);
        let channels = self.subscriptions.channels_where(|channel| view.resolve(channel).is_err());
        if channels.is_empty() {
            return;
        }
        self.subscriptions.unsubscribe(&self.handle, &channels);
        let object = ErrorObject::new(ErrorCode::Forbidden, "the new token does not allow the channel");
        self.handle.notify(&Reply::Ended(EndedNotice { channels, object }));
        let _ = self.subscriptions.catch_up(&self.handle).await;
        self.note_followed();
    }

    async fn history(
        &self,
        echo: &CommandEcho,
        resolved: ResolvedChannel,
        from: HistoryFrom,
        count: usize,
    ) -> Result<(), MessageFault> {
        // A page is large: the next one is read only once the client has received the previous one.
        poll_fn(|cx| poll_drained(&self.handle.outbox, cx)).await;
        let limits = &self.replica.config.limits;
        let bounds = history::HistoryBounds {
            page: ReadLimits::new(count, limits.replay_bytes_max.min(history::MESSAGE_BYTES_MAX)),
            looked_at: ReadLimits::new(limits.replay_entries_max, limits.replay_bytes_max),
        };
        let in_turn = (&*self.replica.hub, self.permit.reader());
        let page = history::read(&self.replica.backplane, in_turn, (resolved, from), bounds).await;
        let (page, hold) = page.map_err(|_| later("the history is unavailable"))?;
        self.handle.send(&Reply::History(HistoryReply { id: echo.id.clone(), ..page }), &echo.ignored);
        // The reservation is held until the client has received the page.
        hold.into_iter().for_each(|hold| self.handle.outbox.keep(hold));
        Ok(())
    }

    /// The identity under which the client publishes.
    fn publishes_as(&self) -> PublisherName<'_> {
        match (self.session.identity(), self.session.key()) {
            (Some(identity), _) => PublisherName::User(identity.user.as_str()),
            (None, Some(key)) => PublisherName::Key(&key.name),
            (None, None) => PublisherName::Nobody,
        }
    }

    async fn publish(&self, id: Option<Json>, request: PublishRequest<'_>, count: bool) -> Result<Reply, MessageFault> {
        let (publisher, channel) = (&self.replica.publisher, request.channel.to_owned());
        let audience = if count { publisher.audience(&channel, request.user) } else { None };
        let stored = publisher.publish(request).await.map_err(|failure| fault_of(&failure))?;
        let (channel, left_out) = (channel.into(), stored.is_none());
        let Some(stored) = stored else {
            let published =
                PublishedReply { id, channel, publication_id: None, duplicate: false, left_out, subscribers: None };
            return Ok(Reply::Published(published));
        };
        let subscribers = self.replica.registry.count(audience.as_ref()).await;
        let (publication_id, duplicate) = (stored.id, stored.duplicate);
        Ok(Reply::Published(PublishedReply { id, channel, publication_id, duplicate, left_out, subscribers }))
    }

    /// Stores a command for the engine of the run.
    async fn command(
        &self,
        id: Option<Json>,
        topic: &str,
        (command, args): (&str, Option<&Json>),
        msg_id: Option<&str>,
    ) -> Result<Reply, MessageFault> {
        let command = RunCommand {
            run_id: self.session.param.as_deref().unwrap_or_default(),
            command,
            args,
            user: self.handle.user().map(UserId::as_str),
            timestamp: Timestamp::from_ms(clock::unix_ms()),
        };
        // A retry has another timestamp.
        let content = RunCommand { timestamp: Timestamp::from_ms(0), ..command }.payload();
        let name = |msg_id| MsgName { content: Some(&content), ..MsgName::new(msg_id, self.publishes_as()) };
        let (payload, msg) = (command.payload(), msg_id.map(name));
        let request = PublishRequest { channel: topic, user: None, payload, msg, door: PublicationSource::Command };
        let stored = self.replica.publisher.publish(request).await.map_err(|failure| fault_of(&failure))?;
        let (publication_id, duplicate) = stored.map_or((None, false), |stored| (stored.id, stored.duplicate));
        Ok(Reply::CommandAccepted(CommandAccepted { id, publication_id, duplicate }))
    }

    async fn presence(&self, id: Option<Json>, resolved: ResolvedChannel) -> Result<Reply, MessageFault> {
        if self.session.identity().is_none() && !self.subscriptions.has(&resolved.channel) {
            return Err(MessageFault::new(
                ErrorCode::Forbidden,
                "without a token, presence is available for subscribed channels only",
            ));
        }
        let presence = self.replica.registry.presence(&resolved.audience()).await;
        let presence = presence.map_err(|_| later("presence is unavailable"))?;
        let (connections, users, more) = (presence.connections, presence.users, presence.more);
        Ok(Reply::Presence(PresenceReply { id, channel: resolved.channel, connections, users, more }))
    }

    fn configure(&mut self, id: Option<Json>, heartbeat_s: Option<u32>) -> Reply {
        let longest = self.replica.config.session.heartbeat_interval;
        let granted = self.handle.with_keep_alive(|keep_alive| {
            if let Some(s) = heartbeat_s {
                keep_alive.set_heartbeat(Duration::from_secs(s.into()).max(HEARTBEAT_MIN).min(longest));
            }
            keep_alive.heartbeat()
        });
        Reply::Configured(Configured { id, heartbeat_interval: granted.as_secs() })
    }

    /// Stores a producer's message.
    async fn ingest(&self, id: Option<Json>, ingest: &Ingest) -> Result<Reply, MessageFault> {
        if let Some(key) = self.session.key() {
            // One publication per topic.
            for _ in &ingest.topics {
                key.spend(Instant::now()).map_err(|wait| {
                    self.replica.metrics.rate_limited_total.of(RateScope::Api).inc();
                    self.replica.metrics.api_key_requests_total.of(&key.name, KeyUse::RateLimited).inc();
                    let message = format!("the API key {} exceeds its rate limit", key.name);
                    MessageFault {
                        retry_after_ms: Some(millis(wait)),
                        ..MessageFault::new(ErrorCode::RateLimited, message)
                    }
                })?;
            }
        }
        ingest::store(&self.replica.publisher, self.publishes_as(), ingest)
            .await
            .map_err(|failure| fault_of(&failure))?;
        Ok(Reply::Ingested(Ingested { id }))
    }

    /// Reports a fault to the client.
    fn report(&self, echo: &CommandEcho, fault: MessageFault) {
        self.replica.metrics.errors_total.of(metrics::CodeLabel::of(fault.code.number())).inc();
        self.trace("error", || json!({ "code": fault.code.number(), "message": fault.message }));
        let MessageFault { code, message, field, retry_after_ms, outcome, id: _, close: _ } = fault;
        let mut failure = FailureReply::new(code, message, echo.id.clone(), clock::unix_ms());
        failure.object.details = Details { retry_after_ms, outcome: outcome.map(Into::into), field };
        self.handle.send(&Reply::Error(failure), &echo.ignored);
    }
}

/// A fault after which the client should retry.
fn later(message: &str) -> MessageFault {
    MessageFault { retry_after_ms: Some(RETRY_AFTER_MS), ..MessageFault::new(ErrorCode::TryAgainLater, message) }
}

fn pong(id: Option<Json>, timestamp: Option<Json>) -> Reply {
    let server_time = Timestamp::from_ms(clock::unix_ms());
    Reply::Pong(Pong { id, timestamp: timestamp.unwrap_or_else(|| Json::of(&server_time)), server_time })
}

/// Ready when the number of queued replies is below the limit. False if the connection must close.
fn poll_room_for_replies(outbox: &Outbox, cx: &mut Context<'_>) -> Poll<bool> {
    outbox.register(cx);
    let flushed = outbox.poll_flush(cx);
    let status = outbox.status();
    let ends = status.asked.is_some() || status.shut;
    if ends || flushed.is_ready() || !status.full { Poll::Ready(!ends) } else { Poll::Pending }
}

/// Ready when nothing is queued for the client, when the queue waits for a pong that has to be read, or when the
/// connection must close.
fn poll_drained(outbox: &Outbox, cx: &mut Context<'_>) -> Poll<()> {
    outbox.register(cx);
    let flushed = outbox.poll_flush(cx);
    let status = outbox.status();
    if status.asked.is_some() || status.shut || status.held { Poll::Ready(()) } else { flushed.map(drop) }
}

/// The fault for a failed publication.
fn fault_of(failure: &PublishFailure) -> MessageFault {
    let (code, outcome) = match failure {
        PublishFailure::Invalid(_) | PublishFailure::TooLarge { .. } => (ErrorCode::InvalidMessage, None),
        PublishFailure::Refused(_) => (ErrorCode::TryAgainLater, Some("refused")),
        PublishFailure::Unknown(_) => (ErrorCode::TryAgainLater, Some("unknown")),
        PublishFailure::Reused => (ErrorCode::MsgIdReused, None),
    };
    let retry_after_ms = outcome.map(|_| RETRY_AFTER_MS);
    MessageFault { retry_after_ms, outcome, ..MessageFault::new(code, failure.to_string()) }
}
