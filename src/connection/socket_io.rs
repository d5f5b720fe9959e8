//! A WebSocket on its socket: turns input into events, writes queued output, and reports the end. An idle one holds
//! only its state: the read buffer belongs to the thread. Knows neither sessions nor dialects.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tickgate_wire::websocket::{self, FrameReader, WebSocketEvent};
use tokio::time::timeout;

use crate::{
    hub::{Close, Outbox, OutboxSocket},
    metrics::{self, DisconnectReason},
};

/// Maximum size of one read, and size of the buffer that each thread has.
const READ_BYTES: usize = 64 * 1024;
/// How long input is read and discarded after a Close: closing a socket with unread input resets it, which can destroy
/// the Close frame.
const LINGER: Duration = Duration::from_secs(1);
/// Maximum time for writing queued output before a planned end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// One WebSocket: it reads, and the outbox writes.
#[derive(Debug)]
pub struct SocketIo {
    outbox: Arc<Outbox>,
    reader: FrameReader,
}

/// Why the task of a wire wakes.
#[derive(Debug)]
pub enum WakeReason {
    /// Bytes, the end or an error can be read.
    Readable,
    /// A subscription has to catch up.
    Lagging,
    /// A close was requested.
    Asked(Close),
    /// The socket is broken.
    Gone,
}

/// How a read ended.
#[derive(Debug)]
pub enum ReadOutcome {
    /// More may come.
    More,
    /// The client went away without a Close.
    Gone,
    /// Close the connection: the client closed, violated the protocol, or `on_event` requested it.
    Close(Close),
}

impl SocketIo {
    /// Combines a reader with an outbox that writes to the same socket.
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, reader: FrameReader) -> Self {
        let wire = Self { outbox, reader };
        wire.release_stale_wakers();
        wire
    }

    /// Releases the wakers that the reader of the request may have registered with the socket: they would keep its
    /// memory allocated.
    fn release_stale_wakers(&self) {
        if let Some(stream) = self.outbox.socket().tcp() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = stream.poll_read_ready(&mut cx);
            let _ = stream.poll_write_ready(&mut cx);
        }
    }

    /// Writes queued output until there is something to do.
    pub fn poll_wake(&self, cx: &mut Context<'_>) -> Poll<WakeReason> {
        let outbox = &self.outbox;
        outbox.register(cx);
        let flushed = outbox.poll_flush(cx);
        let status = outbox.status();
        if let Some(close) = status.asked {
            return Poll::Ready(WakeReason::Asked(close));
        }
        if status.shut {
            return Poll::Ready(WakeReason::Gone);
        }
        // A client that does not read its replies is not read from.
        if (flushed.is_ready() || !status.full) && self.outbox.socket().poll_readable(cx).is_ready() {
            return Poll::Ready(WakeReason::Readable);
        }
        if status.lagging { Poll::Ready(WakeReason::Lagging) } else { Poll::Pending }
    }

    /// Reads once, and passes on texts, binaries and pongs. Answers pings.
    pub fn read(&mut self, on_event: impl FnMut(WebSocketEvent<'_>) -> Option<Close>) -> ReadOutcome {
        READ_BUFFER.with_borrow_mut(|buffer| match self.outbox.socket().try_read(buffer) {
            Ok(0) => ReadOutcome::Gone,
            Ok(count) => self.take_in(&mut buffer[..count], on_event).map_or(ReadOutcome::More, ReadOutcome::Close),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::More,
            Err(_) => ReadOutcome::Gone,
        })
    }

    /// Processes bytes that were read from the socket. Returns the close that they cause, if any.
    pub fn take_in(
        &mut self,
        input: &mut [u8],
        on_event: impl FnMut(WebSocketEvent<'_>) -> Option<Close>,
    ) -> Option<Close> {
        self.outbox.shared.metrics.received_bytes_total.inc_by(input.len() as u64);
        // Consecutive pings are answered together, so that a flood of them does not cost a system call each.
        let mut pongs = BytesMut::new();
        let close = self.decode(input, on_event, &mut pongs);
        send(&self.outbox, &mut pongs);
        close
    }

    fn decode(
        &mut self,
        input: &mut [u8],
        mut on_event: impl FnMut(WebSocketEvent<'_>) -> Option<Close>,
        pongs: &mut BytesMut,
    ) -> Option<Close> {
        let mut feed = self.reader.feed(input);
        while let Some(event) = feed.next() {
            match event {
                Ok(WebSocketEvent::Ping(payload)) => websocket::pong(pongs, payload),
                Ok(WebSocketEvent::Close(code, _)) => {
                    return Some(Close::new(code.unwrap_or(0), "", DisconnectReason::Client));
                }
                Ok(event) => {
                    // Answers are sent in the order of the pings.
                    send(&self.outbox, pongs);
                    let close = on_event(event);
                    if close.is_some() {
                        return close;
                    }
                }
                Err(violation) => {
                    let cause =
                        if violation.code == 1009 { DisconnectReason::TooBig } else { DisconnectReason::Protocol };
                    return Some(Close::new(violation.code, violation.reason, cause));
                }
            }
        }
        None
    }

    /// Sends the notice and the Close frame after queued output, and gives the client a moment to read them.
    pub async fn close(&self, close: &Close, notice: &[u8]) {
        let mut out = BytesMut::with_capacity(notice.len() + close.reason.len() + 4);
        out.extend_from_slice(notice);
        websocket::close(&mut out, Some(close.code).filter(|code| *code > 0), &close.reason);
        let outbox = &self.outbox;
        outbox.shared.metrics.close_frames_total.of(metrics::CodeLabel::of(close.code)).inc();
        // Only a planned end waits for queued output, not one caused by a protocol violation or a client that does not
        // read.
        let keep = !matches!(
            close.cause,
            DisconnectReason::Protocol | DisconnectReason::TooBig | DisconnectReason::SlowConsumer
        );
        outbox.shut(Some(out.freeze()), keep);
        let patience = if keep { FLUSH_TIMEOUT } else { LINGER };
        let _ = timeout(patience, poll_fn(|cx| outbox.poll_flush(cx))).await;
        end_stream(outbox.socket()).await;
    }
}

fn send(outbox: &Outbox, frames: &mut BytesMut) {
    outbox.send(frames.split().freeze());
}

/// Closes the sending side, then reads and discards until the client has closed its side.
async fn end_stream(stream: &OutboxSocket) {
    stream.finish();
    let discard = async {
        loop {
            if poll_fn(|cx| stream.poll_readable(cx)).await.is_err() {
                return;
            }
            match READ_BUFFER.with_borrow_mut(|buffer| stream.try_read(buffer)) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, discard).await;
}

/// Sends the reason of a refusal and closes the connection.
pub(super) async fn refuse(stream: OutboxSocket, last: Bytes) {
    let said = timeout(LINGER, write_all(&stream, &last)).await;
    if matches!(said, Ok(Ok(()))) {
        end_stream(&stream).await;
    }
}

async fn write_all(stream: &OutboxSocket, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        let written =
            if bytes.is_empty() { stream.try_flush().map(|()| 0) } else { stream.try_write(&[IoSlice::new(bytes)]) };
        match written {
            Ok(0) => return if bytes.is_empty() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) },
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => poll_fn(|cx| stream.poll_writable(cx)).await?,
            Err(error) => return Err(error),
        }
    }
}
