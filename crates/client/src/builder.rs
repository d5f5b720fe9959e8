//! Builds a client: where it connects, with which token, and what it subscribes to.

use std::{fmt, future::Future};

use tokio::sync::mpsc;

use crate::{
    channel::Channel,
    client::Client,
    driver::Driver,
    headers::Headers,
    settings::{ClientSettings, TokenPlacement},
    token::TokenSource,
};

/// Capacity of the queue of commands from the application to the driver.
const COMMANDS_MAX: usize = 64;
/// Default of [`Builder::queue_max`].
const QUEUE_MAX: usize = 1024;

/// Configures a client.
#[derive(Clone, Debug)]
pub struct Builder(ClientSettings);

impl Builder {
    /// A client of an endpoint, such as `wss://gateway.example.com/ws/trading`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(ClientSettings {
            endpoints: vec![url.into()],
            auth: TokenPlacement::None,
            headers: Headers::default(),
            channels: Vec::new(),
            queue_max: QUEUE_MAX,
        })
    }

    /// Adds another replica that serves the same endpoint. After a failure the next attempt goes to the next replica.
    #[must_use]
    pub fn replica(mut self, url: impl Into<String>) -> Self {
        self.0.endpoints.push(url.into());
        self
    }

    /// Uses a fixed token. When it expires, the client stops.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.0.auth = TokenPlacement::Bearer(TokenSource::fixed(token.into()));
        self
    }

    /// Gets tokens from a function. It is called before the first connection, when a token is about to expire, and when one
    /// was refused. An error counts as a failed attempt, after which the function is called again.
    #[must_use]
    pub fn token_source<F, R, E>(mut self, function: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.0.auth = TokenPlacement::Bearer(TokenSource::function(function));
        self
    }

    /// Sends the token as the first message instead of with the handshake.
    #[must_use]
    pub fn late_token(mut self) -> Self {
        if let TokenPlacement::Bearer(source) = self.0.auth {
            self.0.auth = TokenPlacement::Message(source);
        }
        self
    }

    /// Adds a header to the handshake.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.push(name, value);
        self
    }

    /// Adds a channel to subscribe to: a name, or a [`Channel`] with options.
    #[must_use]
    pub fn channel(mut self, channel: impl Into<Channel>) -> Self {
        self.0.channels.push(channel.into());
        self
    }

    /// Adds channels to subscribe to.
    #[must_use]
    pub fn channels<C: Into<Channel>>(mut self, channels: impl IntoIterator<Item = C>) -> Self {
        self.0.channels.extend(channels.into_iter().map(Into::into));
        self
    }

    /// Sets how many events may wait for the application: 1,024 by default, at least 1. While the queue is full, the client
    /// stops reading, and the gateway treats it as slow.
    #[must_use]
    pub fn queue_max(mut self, queue_max: usize) -> Self {
        self.0.queue_max = queue_max.max(1);
        self
    }

    /// Returns the client and the driver, which must run for the client to work.
    #[must_use]
    pub fn build(self) -> (Client, Driver) {
        let (commander, commands) = mpsc::channel(COMMANDS_MAX);
        let (deliver, deliveries) = mpsc::channel(self.0.queue_max);
        (Client::new(commander, deliveries), Driver::new(self.0, commands, deliver))
    }
}
