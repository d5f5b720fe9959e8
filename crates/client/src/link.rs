//! One connection of a client: what is sent on it and when, and when it counts as lost. Does not decide whether to
//! reconnect.

use std::{
    collections::BTreeMap,
    future::pending,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    backoff::ReconnectBackoff,
    defect::{OmittedRule, is},
    error::Error,
    event::ClientState,
    lasting::Lasting,
    outgoing::RequestFields,
    pace::NameBudget,
    read::{ClosingMessage, WelcomeMessageLimits},
    socket::{ClientSocket, IncomingFrame},
    token::{Getting, ServerClock},
};

/// Time limit for the reply to a request: 10 seconds by the contract, plus a margin for the network.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// Minimum time between two `auth` messages.
const AUTH_INTERVAL_MIN: Duration = Duration::from_secs(1);
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Upper limit for the bytes of a `subscribe` besides its elements.
const ENVELOPE_BYTES: usize = 64;

/// How a connection, or an attempt, ended.
#[derive(Debug)]
pub(crate) enum AttemptEnd {
    /// The application stopped the client.
    Stopped,
    /// The gateway sent `closing`.
    Closing(ClosingMessage),
    /// It was lost, closed, or could not be established.
    Failed(Error),
}

impl From<Error> for AttemptEnd {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A request of the client itself without a reply.
#[derive(Debug)]
pub(crate) enum InternalRequest {
    Subscribe,
    Unsubscribe,
    /// A token.
    Auth(String),
}

/// Content of the welcome.
#[derive(Debug)]
pub(crate) struct Welcomed {
    pub at: Instant,
    /// Interval between heartbeats.
    pub interval: Duration,
    pub limits: WelcomeMessageLimits,
    pub clock: ServerClock,
    pub pace: NameBudget,
}

/// How the token is renewed.
pub(crate) enum TokenRenewal {
    /// Due at this time, if any.
    At(Option<Instant>),
    /// Waiting for a token from the source.
    Getting(Getting),
    Sent,
}

/// Input of a connection.
pub(crate) enum LinkInput {
    Frame(Result<IncomingFrame, Error>),
    /// The new token, or why there is none.
    Token(Result<String, Error>),
}

/// One connection.
pub(crate) struct ClientLink {
    pub socket: ClientSocket,
    /// Deadline for the welcome.
    opening_deadline: Instant,
    pub welcomed: Option<Welcomed>,
    /// When something was received last.
    last_activity: Instant,
    /// Requests by their number, with the time when they were sent.
    pub open: BTreeMap<u64, (InternalRequest, Instant)>,
    number: u64,
    pub renewal: TokenRenewal,
    /// When `auth` may be sent again.
    auth_not_before: Option<Instant>,
    pub renewal_backoff: ReconnectBackoff,
}

impl ClientLink {
    pub(crate) fn new(socket: ClientSocket, opening_deadline: Instant) -> Self {
        Self {
            socket,
            opening_deadline,
            welcomed: None,
            last_activity: Instant::now(),
            open: BTreeMap::new(),
            number: 0,
            renewal: TokenRenewal::At(None),
            auth_not_before: None,
            renewal_backoff: ReconnectBackoff::default(),
        }
    }

    /// When the welcome came.
    pub(crate) fn welcomed_at(&self) -> Option<Instant> {
        self.welcomed.as_ref().map(|welcomed| welcomed.at)
    }

    /// Records a sign of life.
    pub(crate) fn record_activity(&mut self) {
        self.last_activity = Instant::now();
    }

    /// The next input: a new token, or a frame if `reads` is set. Cancel safe.
    pub(crate) async fn input(&mut self, reads: bool) -> LinkInput {
        let Self { socket, renewal, .. } = self;
        let token = async {
            match renewal {
                TokenRenewal::Getting(getting) => getting.await,
                _ => pending().await,
            }
        };
        tokio::select! {
            biased;
            token = token => LinkInput::Token(token),
            frame = socket.frame(), if reads => LinkInput::Frame(frame),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    async fn send(&mut self, text: String) -> Result<(), AttemptEnd> {
        let limit = SEND_TIMEOUT;
        let sent = timeout(limit, self.socket.send(text)).await;
        Ok(sent.unwrap_or(Err(Error::Timeout { what: "sending timed out", limit }))?)
    }

    async fn auth(&mut self, token: String) -> Result<(), AttemptEnd> {
        let (number, now) = (self.next_number(), Instant::now());
        let fields = RequestFields::new("auth").json("id", &number.to_string()).text("token", &token);
        self.open.insert(number, (InternalRequest::Auth(token), now));
        self.renewal = TokenRenewal::Sent;
        self.auth_not_before = Some(now + AUTH_INTERVAL_MIN).filter(|_| !is(OmittedRule::NoAuthPace));
        self.send(fields.end()).await
    }

    /// When the connection becomes stale, and when it counts as lost.
    fn silence(&self) -> Option<(Instant, Instant)> {
        let interval = self.welcomed.as_ref()?.interval;
        Some((self.last_activity + interval, self.last_activity + interval * 2))
    }

    /// Deadline for the reply to the oldest request of the client itself.
    fn answer_deadline(&self) -> Option<Instant> {
        let awaited = |open: &&(InternalRequest, Instant)| {
            !is(OmittedRule::AuthMayWait) || !matches!(open.0, InternalRequest::Auth(_))
        };
        let sent = self.open.values().filter(awaited).map(|(_, sent)| *sent).min()?;
        Some(sent + ANSWER_TIMEOUT).filter(|_| !is(OmittedRule::NoAnswerTimeout))
    }

    /// Sends what must be sent before the welcome.
    pub(crate) async fn start(&mut self, token: Option<String>) -> Result<(), AttemptEnd> {
        match token.filter(|_| !is(OmittedRule::NoLateToken)) {
            Some(token) => self.auth(token).await,
            None => Ok(()),
        }
    }

    /// When [`Self::act`] must be called next.
    pub(crate) fn due(&mut self, lasting: &Lasting, now: Instant) -> Option<Instant> {
        let answer = self.answer_deadline();
        let silence = self.silence().filter(|_| lasting.queue.has_room() || is(OmittedRule::StoppedIsSilent));
        let Some(welcomed) = &mut self.welcomed else { return Some(self.opening_deadline) };
        let subscribe = lasting.positions.due(now).map(|at| at.max(welcomed.pace.next(now)));
        let silence = silence.map(|(stale, lost)| if stale > now { stale } else { lost });
        let renewal = match self.renewal {
            TokenRenewal::At(at) => at,
            _ => None,
        };
        [answer, subscribe, silence, renewal, lasting.outbox.due(now, true)].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) async fn act(&mut self, lasting: &mut Lasting, now: Instant) -> Result<(), AttemptEnd> {
        lasting.outbox.expire(now);
        if self.answer_deadline().is_some_and(|deadline| deadline <= now) {
            return Err(Error::Timeout { what: "no reply", limit: ANSWER_TIMEOUT }.into());
        }
        let Some((stale, lost)) = self.silence() else {
            return match self.opening_deadline <= now {
                true => {
                    Err(Error::Timeout { what: "no welcome", limit: self.opening_deadline - self.last_activity }.into())
                }
                false => Ok(()),
            };
        };
        if (lasting.queue.has_room() || is(OmittedRule::StoppedIsSilent)) && !is(OmittedRule::NoWatch) {
            if lost <= now {
                return Err(Error::Timeout { what: "nothing received", limit: lost - self.last_activity }.into());
            }
            if stale <= now {
                lasting.queue.state(ClientState::Stale);
            }
        }
        if matches!(self.renewal, TokenRenewal::At(Some(at)) if at <= now) {
            self.start_renewal(lasting);
        }
        self.subscribe(lasting, now).await?;
        let bytes_max = self.welcomed.as_ref().map_or(0, |welcomed| welcomed.limits.message_bytes);
        while let Some(text) = lasting.outbox.next(now, self.number + 1, bytes_max) {
            self.number += 1;
            self.send(text).await?;
        }
        Ok(())
    }

    /// Subscribes to the channels that are due, as far as the limits allow.
    async fn subscribe(&mut self, lasting: &mut Lasting, now: Instant) -> Result<(), AttemptEnd> {
        while let Some(welcomed) = &mut self.welcomed {
            let most = match is(OmittedRule::NoPace) {
                true => usize::MAX,
                false => welcomed.pace.available(now).min(welcomed.limits.subscriptions),
            };
            if most == 0 {
                return Ok(());
            }
            let bytes_max = welcomed.limits.message_bytes.saturating_sub(ENVELOPE_BYTES);
            let elements = lasting.positions.ask(now, self.number + 1, most, bytes_max);
            if elements.is_empty() {
                return Ok(());
            }
            welcomed.pace.take(elements.len());
            let number = self.next_number();
            let channels = format!("[{}]", elements.join(","));
            let fields = RequestFields::new("subscribe").json("id", &number.to_string()).json("channels", &channels);
            self.open.insert(number, (InternalRequest::Subscribe, now));
            self.send(fields.end()).await?;
            lasting.queue.state(ClientState::CatchingUp);
        }
        Ok(())
    }

    /// Unsubscribes from channels.
    pub(crate) async fn unsubscribe(&mut self, channels: &[String]) -> Result<(), AttemptEnd> {
        if channels.is_empty() || self.welcomed.is_none() {
            return Ok(());
        }
        let number = self.next_number();
        let names = serde_json::to_string(channels).unwrap_or_default();
        let fields = RequestFields::new("unsubscribe").json("id", &number.to_string()).json("channels", &names);
        self.open.insert(number, (InternalRequest::Unsubscribe, Instant::now()));
        self.send(fields.end()).await
    }

    /// Sends the new token, or tries again later if there is none.
    pub(crate) async fn renew(&mut self, token: Result<String, Error>) -> Result<(), AttemptEnd> {
        match token {
            Ok(token) => self.auth(token).await,
            Err(_) => {
                let wait = self.renewal_backoff.next(None, uuid::Uuid::new_v4().as_u128());
                self.renewal = TokenRenewal::At(Some(Instant::now() + wait));
                Ok(())
            }
        }
    }

    /// The token expires soon: renews it as soon as `auth` may be sent.
    pub(crate) fn renew_soon(&mut self, lasting: &Lasting, now: Instant) {
        if matches!(self.renewal, TokenRenewal::At(_)) && lasting.source.is_some() && !is(OmittedRule::NoRenewal) {
            self.renewal = TokenRenewal::At(self.auth_not_before.or(Some(now)));
        }
    }

    /// `auth` was refused: it may be sent again after this time.
    pub(crate) fn defer_auth(&mut self, now: Instant, after: Duration) {
        self.auth_not_before = now.checked_add(after).max(self.auth_not_before);
        self.renewal = TokenRenewal::At(self.auth_not_before);
    }

    fn start_renewal(&mut self, lasting: &Lasting) {
        if let (Some(source), TokenRenewal::At(_)) = (&lasting.source, &self.renewal)
            && !is(OmittedRule::NoRenewal)
        {
            self.renewal = TokenRenewal::Getting(source.get());
        }
    }
}
