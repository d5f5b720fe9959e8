//! A channel with the options of its subscription.

use serde::{Deserialize, Serialize};

/// A channel to subscribe to, as an element of `subscribe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name at the endpoint.
    pub channel: String,
    /// The cursor after which it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How many of the newest publications of an `event` channel to start with if there is no cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// Maximum number of updates per second of a `state` channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<u32>,
    /// `false` omits the current value of a `state` channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
}

impl Channel {
    /// A channel without options.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { channel: name.into(), since: None, last: None, max_rate: None, snapshot: None }
    }

    /// Starts after a cursor, such as one of [`Client::cursors`](crate::Client::cursors).
    #[must_use]
    pub fn since(mut self, cursor: impl Into<String>) -> Self {
        self.since = Some(cursor.into());
        self
    }

    /// Starts with this many of the newest publications of an `event` channel, unless there is a cursor.
    #[must_use]
    pub fn last(mut self, last: u32) -> Self {
        self.last = Some(last);
        self
    }

    /// Maximum number of updates per second of a `state` channel.
    #[must_use]
    pub fn max_rate(mut self, max_rate: u32) -> Self {
        self.max_rate = Some(max_rate);
        self
    }

    /// Whether a `state` channel starts with its current value.
    #[must_use]
    pub fn snapshot(mut self, snapshot: bool) -> Self {
        self.snapshot = Some(snapshot);
        self
    }
}

impl<T: Into<String>> From<T> for Channel {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}
