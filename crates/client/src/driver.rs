//! Runs a client: opens its connections one after another, and decides whether and when to reconnect. Does not read
//! messages itself.

use std::{
    fmt,
    pin::pin,
    time::{Duration, Instant},
};

use tickgate_wire::code::Reconnect;
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until, timeout_at},
};

use crate::{
    backoff::ReconnectBackoff,
    command::DriverCommand,
    defect::{OmittedRule, is},
    error::{Closed, Error},
    event::ClientState,
    headers::Headers,
    lasting::Lasting,
    link::{AttemptEnd, ClientLink, LinkInput},
    outgoing::PendingRequests,
    positions::Positions,
    queue::{Delivery, EventQueue},
    settings::{ClientSettings, TokenPlacement},
    socket::{ClientSocket, Opening},
    token::CurrentToken,
};

/// Time limit from the start of an attempt to the welcome.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that lasted this long after its welcome resets the back-off.
const HELD: Duration = Duration::from_secs(5);
/// How long the gateway may take to respond to the Close frame when the client stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to sleep when nothing is due.
const FAR: Duration = Duration::from_secs(3600);
/// Upper limit for `after_ms`, so that adding it to the current time cannot overflow.
const AFTER_MAX: Duration = Duration::from_secs(86_400);
const PROTOCOL: &str = "tickgate.v1";

/// Percent-encodes a query parameter.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |escaped, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            escaped + char::from(byte).encode_utf8(&mut [0])
        }
        _ => format!("{escaped}%{byte:02X}"),
    })
}

/// What to do after a connection has ended.
enum AfterConnection {
    Stop(Option<Error>),
    Again { least: Option<Duration>, error: Error },
}

/// The first of the events that the driver waits for.
enum DriverInput<T> {
    Worked(T),
    Command(DriverCommand),
    Stop,
    /// The application's queue has room for a pending event.
    Room,
    Due,
}

/// Does the work of a [`Client`](crate::Client). [`Driver::run`] must be polled until it completes, in its own task or
/// concurrently with the application.
pub struct Driver {
    endpoints: Vec<String>,
    headers: Headers,
    /// Send the token as the first message.
    late: bool,
    lasting: Lasting,
    commands: mpsc::Receiver<DriverCommand>,
    backoff: ReconnectBackoff,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("endpoint", &self.lasting.endpoint).finish_non_exhaustive()
    }
}

impl Driver {
    pub(crate) fn new(
        settings: ClientSettings,
        commands: mpsc::Receiver<DriverCommand>,
        deliveries: mpsc::Sender<Delivery>,
    ) -> Self {
        let mut positions = Positions::default();
        settings.channels.into_iter().for_each(|channel| positions.want(channel));
        let (source, late) = match settings.auth {
            TokenPlacement::None => (None, false),
            TokenPlacement::Bearer(source) => (Some(source), false),
            TokenPlacement::Message(source) => (Some(source), true),
        };
        let lasting = Lasting {
            queue: EventQueue::new(deliveries),
            positions,
            outbox: PendingRequests::default(),
            source,
            token: CurrentToken::default(),
            session: None,
            user: None,
            tokens_refused: 0,
            endpoint: 0,
        };
        let (endpoints, headers) = (settings.endpoints, settings.headers);
        Self { endpoints, headers, late, lasting, commands, backoff: ReconnectBackoff::default() }
    }

    /// Runs until the client is stopped or dropped, or must not reconnect. The last event is the state `closed`.
    pub async fn run(mut self) {
        let error = self.follow().await;
        self.lasting.outbox.end("the client has stopped");
        self.lasting.queue.state(ClientState::Closed { error });
        self.lasting.queue.flush().await;
    }

    /// Opens connections one after another. Returns why the client stops.
    async fn follow(&mut self) -> Option<Error> {
        loop {
            self.lasting.queue.state(ClientState::Connecting);
            let (end, welcomed) = self.attempt().await;
            self.lasting.positions.disconnected();
            self.lasting.outbox.disconnected();
            if welcomed.is_some_and(|at| at.elapsed() >= HELD || is(OmittedRule::ResetByWelcome)) {
                self.backoff = ReconnectBackoff::default();
            }
            let (least, error) = match self.next(end, welcomed.is_some()) {
                AfterConnection::Stop(error) => return error,
                AfterConnection::Again { least, error } => (least.filter(|_| !is(OmittedRule::NoAfterMs)), error),
            };
            self.lasting.endpoint = (self.lasting.endpoint + 1) % self.endpoints.len();
            let least = least.map(|least| least.min(AFTER_MAX));
            let wait = self.backoff.next(least, uuid::Uuid::new_v4().as_u128());
            self.lasting.queue.state(ClientState::Waiting { wait, error });
            if self.offline(sleep(wait)).await.is_err() {
                return None;
            }
        }
    }

    /// Opens a connection and runs it until it ends. Returns why it ended and when the welcome came.
    async fn attempt(&mut self) -> (AttemptEnd, Option<Instant>) {
        let (socket, token, deadline) = match self.open().await {
            Ok(opened) => opened,
            Err(end) => return (end, None),
        };
        let mut link = ClientLink::new(socket, deadline);
        let end = match link.start(token).await {
            Ok(()) => self.online(&mut link).await,
            Err(end) => end,
        };
        let welcomed = link.welcomed_at();
        match end {
            AttemptEnd::Stopped if is(OmittedRule::NoGoodbye) => {}
            // The client stops whether or not the gateway responds to the Close frame.
            AttemptEnd::Stopped => drop(link.socket.close_within(STOP_TIMEOUT).await),
            _ if is(OmittedRule::WaitsForClose) => drop(link.socket.close_within(FAR).await),
            _ => {}
        }
        (end, welcomed)
    }

    /// Opens a socket. Returns it with the token to send as a message, if any, and the deadline for the welcome.
    async fn open(&mut self) -> Result<(ClientSocket, Option<String>, Instant), AttemptEnd> {
        let token = self.token().await?;
        let (mut url, mut protocols) = (self.endpoints[self.lasting.endpoint].clone(), PROTOCOL.to_owned());
        if let Some(session) = self.lasting.session.as_ref().filter(|_| !is(OmittedRule::NoSession)) {
            let mark = if url.contains('?') { '&' } else { '?' };
            url = format!("{url}{mark}session={}", escaped(session));
        }
        let mut unsent = None;
        match token {
            Some(token) if self.late => unsent = Some(token),
            Some(token) if is(OmittedRule::TokenInUrl) => url = format!("{url}?token={token}"),
            Some(token) => protocols = format!("{protocols}, bearer.{token}"),
            None => {}
        }
        let opening = Opening::to(url).headers(&self.headers).header("sec-websocket-protocol", protocols);
        let deadline = Instant::now() + if is(OmittedRule::NoOpeningTimeout) { FAR } else { OPENING_TIMEOUT };
        let late = Error::Timeout { what: "no connection", limit: OPENING_TIMEOUT };
        let opened = self.offline(timeout_at(deadline.into(), opening.connect())).await?;
        Ok((opened.unwrap_or(Err(late))?, unsent, deadline))
    }

    /// The token for the next connection, if it needs one.
    async fn token(&mut self) -> Result<Option<String>, AttemptEnd> {
        let Some(source) = &self.lasting.source else { return Ok(None) };
        if let Some(token) = self.lasting.token.valid(Instant::now()) {
            return Ok(Some(token));
        }
        let getting = source.get();
        let token = self.offline(getting).await??;
        self.lasting.token.set(token.clone());
        Ok(Some(token))
    }

    /// Decides whether and when to reconnect.
    fn next(&mut self, end: AttemptEnd, welcomed: bool) -> AfterConnection {
        let (reconnect, least, error) = match end {
            AttemptEnd::Stopped => return AfterConnection::Stop(None),
            AttemptEnd::Failed(error) if is(OmittedRule::TokenFailureFinal) && matches!(error, Error::Token(_)) => {
                return AfterConnection::Stop(Some(error));
            }
            AttemptEnd::Failed(error @ Error::Invalid(_)) => return AfterConnection::Stop(Some(error)),
            AttemptEnd::Failed(Error::Closed(closed)) => (closed.reconnect(), None, Error::Closed(closed)),
            AttemptEnd::Failed(error) => (Reconnect::Yes, error.retry_after(), error),
            AttemptEnd::Closing(closing) => {
                let least = closing.after();
                let closed = Closed { code: Some(closing.code), reason: closing.message };
                let reconnect = match &*closing.reconnect {
                    "yes" => Reconnect::Yes,
                    "new_token" => Reconnect::WithNewToken,
                    "no" => Reconnect::No,
                    _ => closed.reconnect(),
                };
                (reconnect, least, Error::Closed(closed))
            }
        };
        match reconnect {
            Reconnect::Yes => {}
            Reconnect::No | Reconnect::Never => return AfterConnection::Stop(Some(error)),
            Reconnect::WithNewToken => {
                self.lasting.token.drop();
                self.lasting.tokens_refused += u8::from(!welcomed);
                if self.lasting.tokens_refused > 1 || self.lasting.source.is_none() {
                    return AfterConnection::Stop(Some(error));
                }
            }
        }
        AfterConnection::Again { least, error }
    }

    /// Waits for `work` without a connection, and handles commands and deadlines in the meantime.
    async fn offline<T>(&mut self, work: impl Future<Output = T>) -> Result<T, AttemptEnd> {
        let mut work = pin!(work);
        loop {
            let now = Instant::now();
            self.lasting.outbox.expire(now);
            let wake = self.lasting.outbox.due(now, false);
            match self.step(wake, work.as_mut()).await {
                DriverInput::Worked(result) => return Ok(result),
                DriverInput::Stop => return Err(AttemptEnd::Stopped),
                DriverInput::Command(command) => drop(self.take(command)),
                DriverInput::Room => self.lasting.queue.pass_on(),
                DriverInput::Due => {}
            }
        }
    }

    /// Runs a connection until it ends.
    async fn online(&mut self, link: &mut ClientLink) -> AttemptEnd {
        loop {
            let now = Instant::now();
            if let Err(end) = link.act(&mut self.lasting, now).await {
                return end;
            }
            let wake = link.due(&self.lasting, now);
            let reads = self.lasting.queue.has_room() || is(OmittedRule::EndlessQueue);
            let done = match self.step(wake, link.input(reads)).await {
                DriverInput::Worked(LinkInput::Frame(frame)) => link.frame(&mut self.lasting, frame),
                DriverInput::Worked(LinkInput::Token(token)) => link.renew(token).await,
                DriverInput::Stop => Err(AttemptEnd::Stopped),
                DriverInput::Command(command) => {
                    let dropped = self.take(command);
                    link.show_progress(&mut self.lasting);
                    link.unsubscribe(&dropped).await
                }
                DriverInput::Room => {
                    self.lasting.queue.pass_on();
                    link.record_activity();
                    Ok(())
                }
                DriverInput::Due => Ok(()),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Waits for the first event.
    async fn step<T>(&mut self, wake: Option<Instant>, work: impl Future<Output = T>) -> DriverInput<T> {
        let wake = wake.unwrap_or_else(|| Instant::now() + FAR);
        let queue = &self.lasting.queue;
        tokio::select! {
            biased;
            command = self.commands.recv() => match command {
                None | Some(DriverCommand::Stop) => DriverInput::Stop,
                Some(command) => DriverInput::Command(command),
            },
            () = queue.closed() => DriverInput::Stop,
            () = queue.room(), if !queue.has_room() => DriverInput::Room,
            worked = work => DriverInput::Worked(worked),
            () = sleep_until(wake.into()) => DriverInput::Due,
        }
    }

    /// Executes a command. Returns the channels that the gateway must unsubscribe.
    fn take(&mut self, command: DriverCommand) -> Vec<String> {
        let Lasting { positions, queue, outbox, .. } = &mut self.lasting;
        let mut dropped = Vec::new();
        match command {
            DriverCommand::Subscribe(channels) => channels.into_iter().for_each(|channel| positions.want(channel)),
            DriverCommand::Unsubscribe(channels) => {
                queue.moves(channels.iter().map(|channel| (channel.clone(), None)).collect());
                dropped.extend(channels.into_iter().filter(|channel| positions.drop(channel)));
            }
            DriverCommand::Request(request) => outbox.add(request),
            DriverCommand::Stop => {}
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_cannot_break_the_address() {
        assert_eq!(escaped("0f0c-5c5e_~."), "0f0c-5c5e_~.");
        assert_eq!(escaped("a b&c=\u{e9}"), "a%20b%26c%3D%C3%A9");
    }
}
