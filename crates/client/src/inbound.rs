//! Handles each message that arrives on a connection. Never waits.

use std::time::{Duration, Instant};

use crate::{
    backoff::ReconnectBackoff,
    defect::{OmittedRule, is},
    error::Error,
    event::{ClientState, Event, ReceivedMessage},
    lasting::Lasting,
    link::{AttemptEnd, ClientLink, InternalRequest, TokenRenewal, Welcomed},
    pace::NameBudget,
    read::{
        self, AuthenticatedMessage, ClosingMessage, Incoming, ServerNotice, SubscribedMessage, Unreadable,
        WelcomeMessage,
    },
    server_error::ServerError,
    socket::IncomingFrame,
    token::ServerClock,
};

impl ClientLink {
    /// Handles a frame.
    pub(crate) fn frame(
        &mut self,
        lasting: &mut Lasting,
        frame: Result<IncomingFrame, Error>,
    ) -> Result<(), AttemptEnd> {
        let frame = frame?;
        self.record_activity();
        if let IncomingFrame::Text(text) = &frame {
            let messages = unless_skipped(read::messages(text))?.unwrap_or_default();
            if is(OmittedRule::WholeArrays) && messages.iter().any(|message| read::message(message).is_err()) {
                return Err(Error::Unreadable("a part of an array".into()).into());
            }
            for message in messages {
                if let Some(end) = unless_skipped(self.message(lasting, message))?.flatten() {
                    return Err(end);
                }
            }
        } else if matches!(frame, IncomingFrame::Binary) {
            unless_skipped::<()>(Err("a binary message".into()))?;
        }
        self.show_progress(lasting);
        Ok(())
    }

    pub(crate) fn show_progress(&self, lasting: &mut Lasting) {
        if self.welcomed.is_some() {
            lasting.queue.state(if lasting.positions.live() { ClientState::Live } else { ClientState::CatchingUp });
        }
    }

    /// Handles one message. Returns how the connection ends, if it does.
    fn message(&mut self, lasting: &mut Lasting, text: &str) -> Result<Option<AttemptEnd>, Unreadable> {
        match read::message(text)? {
            Incoming::Push(meta) => {
                if let Some(moves) = lasting.positions.push(&meta) {
                    lasting.queue.deliver(Some(Event::Message(ReceivedMessage { meta, text: text.to_owned() })), moves);
                }
            }
            Incoming::Reply { id, is_error } => return self.reply(lasting, id, is_error, text),
            Incoming::Notice(notice) => return self.notice(lasting, notice),
            Incoming::Unknown(kind) => lasting.queue.unknown(&kind),
        }
        Ok(None)
    }

    fn notice(&mut self, lasting: &mut Lasting, notice: ServerNotice) -> Result<Option<AttemptEnd>, Unreadable> {
        let now = Instant::now();
        match notice {
            ServerNotice::Welcome(welcome) => self.welcome(lasting, *welcome, now),
            ServerNotice::CaughtUp(end) => {
                for channel in end.channels {
                    if let Some(moves) = lasting.positions.caught_up(&channel) {
                        let event = Event::CaughtUp {
                            channel: channel.channel,
                            replayed: channel.replayed,
                            complete: channel.complete,
                        };
                        lasting.queue.deliver(Some(event), moves);
                    }
                }
            }
            ServerNotice::Gap(mut gap) => {
                let (wanted, moves) = lasting.positions.gap(&gap);
                if !wanted.is_empty() {
                    gap.channels = wanted;
                    lasting.queue.deliver(Some(Event::Gap(gap)), moves);
                }
            }
            ServerNotice::Heartbeat(heartbeat) => {
                let moves = lasting.positions.heartbeat(&heartbeat.cursors);
                lasting.queue.moves(moves);
            }
            ServerNotice::TokenExpiring => self.renew_soon(lasting, now),
            ServerNotice::Unsubscribed(ended) => {
                for event in lasting.positions.unsubscribed(now, &ended.channels, &ended.error) {
                    lasting.queue.event(event);
                }
            }
            ServerNotice::Closing(_) if is(OmittedRule::ClosingIgnored) => {}
            ServerNotice::Closing(closing) => return Ok(Some(AttemptEnd::Closing(closing))),
            ServerNotice::Error(error) if self.welcomed.is_none() => {
                return Ok(Some(AttemptEnd::Closing(ClosingMessage::of(&error))));
            }
            ServerNotice::Error(_) => lasting.queue.unknown("error"),
        }
        Ok(None)
    }

    fn welcome(&mut self, lasting: &mut Lasting, welcome: WelcomeMessage, now: Instant) {
        let nobody =
            |user: &Option<String>| is(OmittedRule::NullIsNobody) && (user.is_none() || welcome.user.is_none());
        if lasting.user.as_ref().is_some_and(|user| *user != welcome.user && !nobody(user)) {
            if !is(OmittedRule::NothingForgotten) {
                let forgotten = lasting.positions.forget();
                lasting.queue.moves(forgotten);
            }
            if !is(OmittedRule::OthersRequests) {
                lasting.outbox.end("another user is logged in");
            }
        }
        if !is(OmittedRule::CountNeverEnds) {
            lasting.tokens_refused = 0;
        }
        lasting.session = welcome.session;
        lasting.user = Some(welcome.user.clone());
        let clock = ServerClock::new(welcome.server_time, now);
        if let Some(ends) = welcome.expires_at.filter(|_| lasting.source.is_some()) {
            self.renewal = TokenRenewal::At(lasting.token.left(now, clock.until(ends, now)));
        }
        let limits = welcome.limits;
        self.welcomed = Some(Welcomed {
            at: now,
            interval: Duration::from_secs(welcome.heartbeat_interval.clamp(1, 3600)),
            limits,
            clock,
            pace: NameBudget::new(now, limits.names_per_second, limits.names_burst),
        });
        lasting.queue.event(Event::Connected { endpoint: lasting.endpoint, user: welcome.user });
    }

    /// Handles the reply to a request.
    fn reply(
        &mut self,
        lasting: &mut Lasting,
        id: &str,
        is_error: bool,
        text: &str,
    ) -> Result<Option<AttemptEnd>, Unreadable> {
        let now = Instant::now();
        let Ok(number) = id.parse::<u64>() else { return Self::reply_to_nobody() };
        let error = if is_error { Some(read::parse::<ServerError>(text)?) } else { None };
        match (self.open.remove(&number).map(|(open, _)| open), error) {
            (Some(InternalRequest::Subscribe), Some(error)) => {
                for event in lasting.positions.request_refused(now, number, &error) {
                    lasting.queue.event(event);
                }
            }
            (Some(InternalRequest::Subscribe), None) => {
                let (events, moves) =
                    lasting.positions.subscribed(now, number, read::parse::<SubscribedMessage>(text)?);
                lasting.queue.moves(moves);
                events.into_iter().for_each(|event| lasting.queue.event(event));
            }
            (Some(InternalRequest::Unsubscribe), _) => {}
            (Some(InternalRequest::Auth(token)), error) => return self.authenticated(lasting, token, error, text),
            (None, error) => {
                let reply = error.map_or(Ok(text), Err);
                if !lasting.outbox.reply(now, number, reply) {
                    return Self::reply_to_nobody();
                }
            }
        }
        Ok(None)
    }

    fn reply_to_nobody() -> Result<Option<AttemptEnd>, Unreadable> {
        if is(OmittedRule::NothingNew) { Err("a reply without a request".into()) } else { Ok(None) }
    }

    fn authenticated(
        &mut self,
        lasting: &mut Lasting,
        token: String,
        error: Option<ServerError>,
        text: &str,
    ) -> Result<Option<AttemptEnd>, Unreadable> {
        let now = Instant::now();
        let Some(error) = error else {
            let AuthenticatedMessage { expires_at } = read::parse(text)?;
            lasting.token.set(token);
            let clock = self.welcomed.as_ref().map(|welcomed| welcomed.clock);
            let left = expires_at.zip(clock).map(|(ends, clock)| clock.until(ends, now));
            self.renewal = TokenRenewal::At(left.and_then(|left| lasting.token.left(now, left)));
            self.renewal_backoff = ReconnectBackoff::default();
            return Ok(None);
        };
        if self.welcomed.is_none() {
            return Ok(Some(AttemptEnd::Closing(ClosingMessage::of(&error))));
        }
        if is(OmittedRule::RefusedAuthIgnored) {
            return Ok(None);
        }
        match error.retry_after() {
            Some(after) => {
                self.defer_auth(now, after);
                Ok(None)
            }
            None => {
                lasting.token.set(token);
                Ok(Some(AttemptEnd::Failed(Error::TokenRefused(error))))
            }
        }
    }
}

/// An unreadable message ends the connection.
fn unless_skipped<T>(result: Result<T, Unreadable>) -> Result<Option<T>, AttemptEnd> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(_) if is(OmittedRule::SkipsUnreadable) => Ok(None),
        Err(why) => Err(Error::Unreadable(why).into()),
    }
}
