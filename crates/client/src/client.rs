//! The application's side of a client: events out, commands in. Never does I/O; that is the [`Driver`](crate::Driver)'s
//! part.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::{
    channel::Channel,
    command::DriverCommand,
    defect::{OmittedRule, is},
    error::RequestError,
    event::Event,
    outgoing::{OutgoingRequest, RequestFields},
    positions::Move,
    publish::PublicationRequest,
    queue::Delivery,
    read::{self, AcceptedMessage},
};

/// How long a gateway remembers a `msg_id`. A publication is not repeated for longer than that.
const REPEAT_MAX: Duration = Duration::from_secs(300);

/// Follows channels over as many connections as necessary. See the [documentation of the crate](crate).
#[derive(Debug)]
pub struct Client {
    deliveries: mpsc::Receiver<Delivery>,
    handle: Handle,
    cursors: BTreeMap<String, String>,
    /// The cursors that move once the last event is handled.
    moves: Vec<Move>,
}

impl Client {
    pub(crate) fn new(commander: mpsc::Sender<DriverCommand>, deliveries: mpsc::Receiver<Delivery>) -> Self {
        Self { deliveries, handle: Handle { commander }, cursors: BTreeMap::new(), moves: Vec::new() }
    }

    /// The next event; `None` after the state `closed`. Calling it confirms that the previous event was handled, which moves
    /// the cursors.
    ///
    /// Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        self.handled();
        loop {
            let Delivery { event, moves } = self.deliveries.recv().await?;
            self.moves = moves;
            match event {
                Some(event) => {
                    if is(OmittedRule::HandledOnArrival) {
                        self.handled();
                    }
                    return Some(event);
                }
                None => self.handled(),
            }
        }
    }

    fn handled(&mut self) {
        for (channel, cursor) in self.moves.drain(..) {
            match cursor {
                Some(cursor) => self.cursors.insert(channel, cursor),
                None => self.cursors.remove(&channel),
            };
        }
    }

    /// The cursor of each channel up to which events were handled. Store them and pass them to [`Channel::since`] to continue
    /// after a restart of the application.
    #[must_use]
    pub fn cursors(&self) -> &BTreeMap<String, String> {
        &self.cursors
    }

    /// A handle for other tasks.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// Sends commands to a client. Clones belong to the same client.
#[derive(Clone, Debug)]
pub struct Handle {
    commander: mpsc::Sender<DriverCommand>,
}

/// An accepted publication or command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id; `None` if the topic is not retained.
    pub id: Option<String>,
    /// It was accepted before with the same `msg_id`; `id` is that of the first time.
    pub duplicate: bool,
}

impl Handle {
    /// Subscribes to more channels. The result for each is an [`Event`]. If a channel is already wanted, its options are
    /// replaced.
    pub async fn subscribe<C: Into<Channel>>(&self, channels: impl IntoIterator<Item = C>) {
        self.give(DriverCommand::Subscribe(channels.into_iter().map(Into::into).collect())).await;
    }

    /// Unsubscribes from channels and forgets their cursors.
    pub async fn unsubscribe<C: Into<String>>(&self, channels: impl IntoIterator<Item = C>) {
        self.give(DriverCommand::Unsubscribe(channels.into_iter().map(Into::into).collect())).await;
    }

    /// Publishes over the connection within a time limit of at most 5 minutes. Until a reply arrives, it is sent again
    /// with the same `msg_id`, which is generated if there is none. Nothing is sent after the time limit.
    ///
    /// # Errors
    /// [`RequestError`] states whether it may have been stored.
    pub async fn publish(
        &self,
        publication: &PublicationRequest<'_>,
        within: Duration,
    ) -> Result<Accepted, RequestError> {
        let fields =
            RequestFields::new("publish").text("channel", publication.channel).json("data", publication.data.get());
        let fields = publication.user.into_iter().fold(fields, |fields, user| fields.text("user", user));
        self.once(fields, publication.msg_id, within).await
    }

    /// Sends a command to the engine of the endpoint's run, with the same retries as [`Handle::publish`].
    ///
    /// # Errors
    /// [`RequestError`] states whether it may have been stored.
    pub async fn command(
        &self,
        name: &str,
        arguments: Option<&RawValue>,
        within: Duration,
    ) -> Result<Accepted, RequestError> {
        let fields = RequestFields::new("command").text("command", name);
        let fields = arguments.into_iter().fold(fields, |fields, arguments| fields.json("args", arguments.get()));
        self.once(fields, None, within).await
    }

    /// Sends any other request, such as `history` or `presence`, with the fields of a JSON object. Returns the text of the
    /// reply. The request is sent once: if the connection ends before the reply, the outcome is unknown.
    ///
    /// # Errors
    /// [`RequestError`] states whether it may have been acted on; a request that is not an object is not sent.
    pub async fn request(&self, kind: &str, fields: &RawValue, within: Duration) -> Result<String, RequestError> {
        let parsed: Result<BTreeMap<String, Box<RawValue>>, _> = serde_json::from_str(fields.get());
        let parsed = parsed.map_err(|error| RequestError::NotSent(error.to_string()))?;
        let named = parsed.iter().filter(|(name, _)| !["id", "type"].contains(&name.as_str()));
        let fields = named.fold(RequestFields::new(kind), |fields, (name, value)| fields.json(name, value.get()));
        self.ask(fields, None, within).await
    }

    /// Stops the client: closes the connection with 1000. The only event after that is the state `closed`.
    pub async fn stop(&self) {
        self.give(DriverCommand::Stop).await;
    }

    async fn once(
        &self,
        fields: RequestFields,
        msg_id: Option<&str>,
        within: Duration,
    ) -> Result<Accepted, RequestError> {
        let msg_id = msg_id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let reply = self.ask(fields, Some(msg_id), within.min(REPEAT_MAX)).await?;
        // The request was accepted even if the rest of the reply cannot be read.
        let unreadable = |_| RequestError::Unknown;
        let AcceptedMessage { publication_id, duplicate } = read::parse(&reply).map_err(unreadable)?;
        Ok(Accepted { id: publication_id, duplicate })
    }

    async fn ask(
        &self,
        fields: RequestFields,
        msg_id: Option<String>,
        within: Duration,
    ) -> Result<String, RequestError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + within.min(REPEAT_MAX);
        self.give(DriverCommand::Request(OutgoingRequest { fields, msg_id, deadline, answer })).await;
        let ended = RequestError::NotSent("the client has stopped".into());
        answered.await.unwrap_or(Err(ended))
    }

    async fn give(&self, command: DriverCommand) {
        // A client that has stopped ignores commands.
        let _ = self.commander.send(command).await;
    }
}
