//! Builds a client: where it connects, with which token, and what it subscribes to.

use std::{fmt, future::Future};

use tokio::sync::mpsc;

use crate::{
    application::Client,
    channel::Channel,
    driver::Driver,
    headers::Headers,
    settings::{Auth, Settings},
    token::TokenSource,
};

/// Commands of the application that may wait for the driver.
const COMMANDS_MAX: usize = 64;
/// Events that may wait for the application unless [`Builder::queue_max`] says otherwise.
const QUEUE_MAX: usize = 1024;

/// A client to be built.
#[derive(Clone, Debug)]
pub struct Builder(Settings);

impl Builder {
    /// A client of an endpoint, such as `wss://gateway.example.com/ws/trading`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(Settings {
            endpoints: vec![url.into()],
            auth: Auth::None,
            headers: Headers::default(),
            channels: Vec::new(),
            queue_max: QUEUE_MAX,
        })
    }

    /// Another replica that serves the same endpoint: the next attempt after a failure goes to the next of them.
    #[must_use]
    pub fn replica(mut self, url: impl Into<String>) -> Self {
        self.0.endpoints.push(url.into());
        self
    }

    /// A token that does not change. When it ends, so does the client.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.0.auth = Auth::Bearer(TokenSource::fixed(token.into()));
        self
    }

    /// Where tokens come from: called before the first connection, when a token nears its end, and when one was refused.
    /// An error is a failed attempt, and the function is called again.
    #[must_use]
    pub fn token_source<F, R, E>(mut self, function: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.0.auth = Auth::Bearer(TokenSource::function(function));
        self
    }

    /// Sends the token as the first message instead of with the handshake.
    #[must_use]
    pub fn late_token(mut self) -> Self {
        if let Auth::Bearer(source) = self.0.auth {
            self.0.auth = Auth::Message(source);
        }
        self
    }

    /// A header of the handshake.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.push(name, value);
        self
    }

    /// A channel to subscribe to: a name, or a [`Channel`] with options.
    #[must_use]
    pub fn channel(mut self, channel: impl Into<Channel>) -> Self {
        self.0.channels.push(channel.into());
        self
    }

    /// Channels to subscribe to.
    #[must_use]
    pub fn channels<C: Into<Channel>>(mut self, channels: impl IntoIterator<Item = C>) -> Self {
        self.0.channels.extend(channels.into_iter().map(Into::into));
        self
    }

    /// How many events may wait for the application: 1,024 unless given, at least 1. When they do, nothing more is read,
    /// and the gateway treats the client as slow.
    #[must_use]
    pub fn queue_max(mut self, queue_max: usize) -> Self {
        self.0.queue_max = queue_max.max(1);
        self
    }

    /// The client, and the driver that has to run for it.
    #[must_use]
    pub fn build(self) -> (Client, Driver) {
        let (commander, commands) = mpsc::channel(COMMANDS_MAX);
        let (deliver, deliveries) = mpsc::channel(self.0.queue_max);
        (Client::new(commander, deliveries), Driver::new(self.0, commands, deliver))
    }
}
