//! What an outbox writes to: a TCP socket, a response body that pulls, or memory. Never blocks.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use crate::tls::TlsSocket;

/// How long the kernel keeps what the peer of a closed connection does not accept.
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The destination of an outbox.
#[derive(Debug)]
pub enum OutboxSocket {
    /// A WebSocket's connection; written to directly by the fan-out.
    Tcp(TcpStream),
    /// The same over TLS.
    Tls(Box<TlsSocket>),
    /// A response body, which pulls from the queue: nothing is written into it.
    Body(AtomicWaker),
    /// Bounded memory, for tests and benchmarks of everything above the socket.
    Memory(Box<Mutex<MemorySocket>>),
}

/// Accepts bytes until `room` is used up, like the socket of a slow client.
#[derive(Debug, Default)]
pub struct MemorySocket {
    /// What was accepted so far.
    pub written: Vec<u8>,
    /// Number of bytes that it still accepts.
    pub room: usize,
    /// Whether the bytes are kept, or only deducted from `room`.
    pub keep: bool,
}

impl OutboxSocket {
    /// Writes as much as fits, in one system call.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits now; any other error ends the connection.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => match slices {
                [one] => stream.try_write(one),
                many => stream.try_write_vectored(many),
            },
            Self::Tls(socket) => socket.try_write(slices),
            Self::Body(waker) => {
                waker.wake();
                Err(io::ErrorKind::WouldBlock.into())
            }
            Self::Memory(memory) => memory.lock().take(slices),
        }
    }

    /// The same, but only if the kernel holds less than half of its limit unsent.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub(super) fn try_write_if_drained(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => try_write_if_drained(stream, slices),
            Self::Tls(socket) => {
                check_drained(socket.tcp())?;
                socket.try_write(slices)
            }
            Self::Body(_) | Self::Memory(_) => self.try_write(slices),
        }
    }

    /// Limits the unsent bytes in the kernel. False if there is no kernel socket, or it does not support this.
    pub(super) fn limit_unsent(&self, bytes: u32) -> bool {
        self.tcp().is_some_and(|stream| SockRef::from(stream).set_tcp_notsent_lowat(bytes).is_ok())
    }

    /// The TCP connection below, to set its options.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(socket) => Some(socket.tcp()),
            Self::Body(_) | Self::Memory(_) => None,
        }
    }

    /// Writes buffered output that the kernel did not accept.
    ///
    /// # Errors
    /// `WouldBlock` if some is still buffered; any other error ends the connection.
    pub fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tls(socket) => socket.try_flush(),
            Self::Tcp(_) | Self::Body(_) | Self::Memory(_) => Ok(()),
        }
    }

    /// Whether accepted output is waiting for the kernel.
    pub(super) fn has_pending(&self) -> bool {
        matches!(self, Self::Tls(socket) if socket.has_pending())
    }

    /// Whether reading may succeed; wakes the task when it does.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Tls(socket) => socket.poll_read_ready(cx),
            Self::Body(_) | Self::Memory(_) => Poll::Pending,
        }
    }

    /// Reads what the client sent; 0 at its end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is available; any other error ends the connection.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Tls(socket) => socket.try_read(buffer),
            Self::Body(_) | Self::Memory(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Shuts down the sending side.
    pub fn finish(&self) {
        match self {
            // The client may have closed first.
            Self::Tcp(stream) => _ = SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Tls(socket) => socket.finish(),
            Self::Body(_) | Self::Memory(_) => {}
        }
    }

    /// From now on the kernel discards what its peer does not accept within a few seconds.
    pub(super) fn end_soon(&self) {
        if let Some(stream) = self.tcp() {
            // Fails only if the client has already closed the connection.
            let _ = SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN_TIMEOUT));
        }
    }

    /// Whether writing may succeed; wakes the task when it does.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Tls(socket) => socket.poll_write_ready(cx),
            Self::Body(_) => Poll::Pending,
            Self::Memory(memory) if memory.lock().room > 0 => Poll::Ready(Ok(())),
            Self::Memory(_) => Poll::Pending,
        }
    }
}

/// Writes in one system call, if the kernel holds less than half of its limit unsent.
///
/// The limit alone (`TCP_NOTSENT_LOWAT`) is not enough: a write adds to the last unsent packet, of up to 64 KiB,
/// regardless of the limit. But `poll` obeys it, and also makes the kernel wake the task when there is room again.
///
/// # Errors
/// `WouldBlock` if it holds more; any other error ends the connection.
pub(crate) fn try_write_if_drained(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || {
        is_drained(stream)?;
        SockRef::from(stream).send_vectored(slices)
    })
}

/// Checks that the kernel holds less than half of its limit unsent, for output that is written in another way.
///
/// # Errors
/// `WouldBlock` if it holds more; any other error ends the connection.
pub(crate) fn check_drained(stream: &TcpStream) -> io::Result<()> {
    stream.try_io(Interest::WRITABLE, || is_drained(stream))
}

fn is_drained(stream: &TcpStream) -> io::Result<()> {
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    retry_on_intr(|| poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
    if asked[0].revents().is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

impl MemorySocket {
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(self.room)];
            if self.keep {
                self.written.extend_from_slice(part);
            }
            self.room -= part.len();
            taken += part.len();
            if part.len() < slice.len() {
                break;
            }
        }
        if taken == 0 && slices.iter().any(|s| !s.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }
}
