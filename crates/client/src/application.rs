//! The application's side of a client: what happened, and what is to be done. The work is the [`Driver`](crate::Driver)'s.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::{
    channel::Channel,
    command::Command,
    defect::{Defect, is},
    error::RequestError,
    event::Event,
    outgoing::{Fields, Outgoing},
    positions::Move,
    publish::Publication,
    queue::Delivery,
    read::{self, Accepted as AcceptedReply},
};

/// For so long a gateway knows a `msg_id`: a publication is not repeated for longer.
const REPEAT_MAX: Duration = Duration::from_secs(300);

/// Follows channels over as many connections as it takes. See the [documentation of the crate](crate).
#[derive(Debug)]
pub struct Client {
    deliveries: mpsc::Receiver<Delivery>,
    handle: Handle,
    cursors: BTreeMap<String, String>,
    /// What the event that was handed over last moves.
    moves: Vec<Move>,
}

impl Client {
    pub(crate) fn new(commander: mpsc::Sender<Command>, deliveries: mpsc::Receiver<Delivery>) -> Self {
        Self { deliveries, handle: Handle { commander }, cursors: BTreeMap::new(), moves: Vec::new() }
    }

    /// What happened next; `None` after the state `closed`. The call says that the event before it is handled: its
    /// cursor counts from now on.
    ///
    /// Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        self.handled();
        loop {
            let Delivery { event, moves } = self.deliveries.recv().await?;
            self.moves = moves;
            match event {
                Some(event) => {
                    if is(Defect::HandledOnArrival) {
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

    /// The cursor of each channel up to which events are handled. Stored, and given to [`Channel::since`] after a restart
    /// of the application, they continue where it was.
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

/// Gives a client something to do. Clones give it to the same client.
#[derive(Clone, Debug)]
pub struct Handle {
    commander: mpsc::Sender<Command>,
}

/// An accepted publication or command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id; `None` where the topic keeps nothing.
    pub id: Option<String>,
    /// It had been accepted before under the same `msg_id`; `id` is the one of the first time.
    pub duplicate: bool,
}

impl Handle {
    /// Wants more channels. What becomes of each is an [`Event`]. A channel that is wanted already gets the new options.
    pub async fn subscribe<C: Into<Channel>>(&self, channels: impl IntoIterator<Item = C>) {
        self.give(Command::Subscribe(channels.into_iter().map(Into::into).collect())).await;
    }

    /// No longer wants channels, and forgets their cursors.
    pub async fn unsubscribe<C: Into<String>>(&self, channels: impl IntoIterator<Item = C>) {
        self.give(Command::Unsubscribe(channels.into_iter().map(Into::into).collect())).await;
    }

    /// Publishes over the connection, within a time (5 minutes at the most). It is sent again with the same `msg_id`, made
    /// here where there is none, until it is answered; after the time nothing is sent.
    ///
    /// # Errors
    /// [`RequestError`] says whether it may have been stored.
    pub async fn publish(&self, publication: &Publication<'_>, within: Duration) -> Result<Accepted, RequestError> {
        let fields = Fields::new("publish").text("channel", publication.channel).json("data", publication.data.get());
        let fields = publication.user.into_iter().fold(fields, |fields, user| fields.text("user", user));
        self.once(fields, publication.msg_id, within).await
    }

    /// Sends a command to the engine of the endpoint's run, by the same rules as [`Handle::publish`].
    ///
    /// # Errors
    /// [`RequestError`] says whether it may have been stored.
    pub async fn command(
        &self,
        name: &str,
        arguments: Option<&RawValue>,
        within: Duration,
    ) -> Result<Accepted, RequestError> {
        let fields = Fields::new("command").text("command", name);
        let fields = arguments.into_iter().fold(fields, |fields, arguments| fields.json("args", arguments.get()));
        self.once(fields, None, within).await
    }

    /// Any other request, such as `history` or `presence`, with the fields of a JSON object; its reply's text. It is sent
    /// once: when the connection ends before the reply, the outcome is unknown.
    ///
    /// # Errors
    /// [`RequestError`] says whether it may have been acted on; a request that is not an object is not sent.
    pub async fn request(&self, kind: &str, fields: &RawValue, within: Duration) -> Result<String, RequestError> {
        let parsed: Result<BTreeMap<String, Box<RawValue>>, _> = serde_json::from_str(fields.get());
        let parsed = parsed.map_err(|error| RequestError::NotSent(error.to_string()))?;
        let named = parsed.iter().filter(|(name, _)| !["id", "type"].contains(&name.as_str()));
        let fields = named.fold(Fields::new(kind), |fields, (name, value)| fields.json(name, value.get()));
        self.ask(fields, None, within).await
    }

    /// Stops the client: closes the connection with 1000. Nothing is handed over after it but the state `closed`.
    pub async fn stop(&self) {
        self.give(Command::Stop).await;
    }

    async fn once(&self, fields: Fields, msg_id: Option<&str>, within: Duration) -> Result<Accepted, RequestError> {
        let msg_id = msg_id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let reply = self.ask(fields, Some(msg_id), within.min(REPEAT_MAX)).await?;
        // It was accepted, whatever else the reply says.
        let unreadable = |_| RequestError::Unknown;
        let AcceptedReply { publication_id, duplicate } = read::parse(&reply).map_err(unreadable)?;
        Ok(Accepted { id: publication_id, duplicate })
    }

    async fn ask(&self, fields: Fields, msg_id: Option<String>, within: Duration) -> Result<String, RequestError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + within.min(REPEAT_MAX);
        self.give(Command::Request(Outgoing { fields, msg_id, deadline, answer })).await;
        let ended = RequestError::NotSent("the client has ended".into());
        answered.await.unwrap_or(Err(ended))
    }

    async fn give(&self, command: Command) {
        // A client that has ended has nothing left to do.
        let _ = self.commander.send(command).await;
    }
}
