//! The task of one WebSocket: sleeps until the client sends something, the outbox needs it, or the connection must
//! close. Never decodes a message and never executes a command.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    ending,
    inbound::{Decoder, Inbound},
    socket_io::{ReadOutcome, SocketIo, WakeReason},
    state::Connection,
};
use crate::metrics::DisconnectReason;

/// Serves one client until the end, and cleans up.
///
/// A hand-written future: an `async fn` would reserve space for its largest state in every idle connection. Here that
/// state is on the heap, and only while it is needed.
pub(super) struct ConnectionTask(TaskStage);

#[expect(clippy::large_enum_variant, reason = "almost all connections are idle at any time")]
enum TaskStage {
    /// Waits for the client, the outbox, or a request to close.
    Idle(WebSocket),
    Busy(Pin<Box<dyn Future<Output = TaskStage> + Send>>),
    Over,
}

struct WebSocket {
    connection: Connection,
    wire: SocketIo,
}

impl ConnectionTask {
    /// `early` is what the client sent together with its request.
    pub(super) fn new(connection: Connection, wire: SocketIo, mut early: Vec<u8>) -> Self {
        let mut socket = WebSocket { connection, wire };
        if early.is_empty() {
            return Self(TaskStage::Idle(socket));
        }
        let (inbound, close) = socket.decode(|wire, decoder| wire.take_in(&mut early, |event| decoder.decode(event)));
        Self(socket.act(inbound, close.map_or(ReadOutcome::More, ReadOutcome::Close)))
    }
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.0 = match &mut self.0 {
                TaskStage::Idle(socket) => {
                    let wake = ready!(socket.wire.poll_wake(cx));
                    match std::mem::replace(&mut self.0, TaskStage::Over) {
                        TaskStage::Idle(socket) => socket.wake(wake),
                        other => other,
                    }
                }
                TaskStage::Busy(work) => ready!(work.as_mut().poll(cx)),
                TaskStage::Over => return Poll::Ready(()),
            };
        }
    }
}

fn busy(work: impl Future<Output = TaskStage> + Send + 'static) -> TaskStage {
    TaskStage::Busy(Box::pin(work))
}

impl WebSocket {
    fn wake(mut self, wake: WakeReason) -> TaskStage {
        match wake {
            WakeReason::Asked(close) => self.proceed(ReadOutcome::Close(close)),
            WakeReason::Gone => self.proceed(ReadOutcome::Gone),
            WakeReason::Lagging => busy(async move {
                self.connection.catch_up().await;
                TaskStage::Idle(self)
            }),
            WakeReason::Readable => {
                let (inbound, read) = self.decode(|wire, decoder| wire.read(|event| decoder.decode(event)));
                self.act(inbound, read)
            }
        }
    }

    /// Reads with `read`, and returns what has to be done about it.
    fn decode<R>(&mut self, read: impl FnOnce(&mut SocketIo, &mut Decoder<'_>) -> R) -> (Vec<Inbound>, R) {
        let mut decoder = Decoder::new(&mut self.connection);
        let read = read(&mut self.wire, &mut decoder);
        (decoder.finish(), read)
    }

    fn act(mut self, inbound: Vec<Inbound>, read: ReadOutcome) -> TaskStage {
        if inbound.is_empty() {
            return self.proceed(read);
        }
        busy(async move {
            self.connection.act(inbound).await;
            self.proceed(read)
        })
    }

    /// The next stage after everything of a read is done.
    fn proceed(self, read: ReadOutcome) -> TaskStage {
        match read {
            ReadOutcome::More => TaskStage::Idle(self),
            ReadOutcome::Gone => {
                ending::end(self.connection, DisconnectReason::IoError);
                TaskStage::Over
            }
            ReadOutcome::Close(close) => busy(async move {
                self.wire.close(&close, &self.connection.handle.closing(&close)).await;
                ending::end(self.connection, close.cause);
                TaskStage::Over
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connection::handle::ConnectionHandle, hub::Outbox};

    #[test]
    fn an_idle_connection_is_small() {
        // Size classes of the allocator: one more byte costs 32 bytes of a handle, 64 of an outbox, or 128 of a task,
        // which consists of its state and 120 bytes for the runtime and supervision.
        assert!(size_of::<ConnectionTask>() + 120 <= 384, "{}", size_of::<ConnectionTask>());
        assert!(size_of::<ConnectionHandle>() + 16 <= 192, "{}", size_of::<ConnectionHandle>());
        assert!(size_of::<Outbox>() + 16 <= 320, "{}", size_of::<Outbox>());
    }
}
