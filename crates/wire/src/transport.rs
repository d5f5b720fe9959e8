//! How messages are carried: the same text becomes a WebSocket frame or a Server-Sent Event. Never depends on the dialect.

use bytes::BytesMut;

use crate::{event_stream, websocket};

/// How messages reach a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket, in both directions.
    #[default]
    WebSocket,
    /// Server-Sent Events: only to the client.
    EventStream,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::WebSocket, Self::EventStream];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::EventStream => "event-stream",
        }
    }

    /// Appends one message with the text that `write` appends, about `len` bytes. Without text, appends nothing.
    pub fn message(self, out: &mut BytesMut, len: usize, write: impl FnOnce(&mut BytesMut)) {
        match self {
            Self::WebSocket => websocket::text(out, len, write),
            Self::EventStream => event_stream::event(out, write),
        }
    }
}
