//! What carries a client's messages, whatever they say: the same text is a frame of a WebSocket or a Server-Sent Event.

use bytes::BytesMut;

use crate::{event_stream, websocket};

/// How messages come to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket, in both directions.
    WebSocket,
    /// Server-Sent Events: to the client only.
    EventStream,
}

impl Transport {
    /// Appends one message that holds what `write` appends, about `len` bytes; nothing where it appends nothing.
    pub fn message(self, out: &mut BytesMut, len: usize, write: impl FnOnce(&mut BytesMut)) {
        match self {
            Self::WebSocket => websocket::text(out, len, write),
            Self::EventStream => event_stream::event(out, write),
        }
    }
}
