//! Where an outbox writes to: a TCP socket, a response body that is pulled, or memory. Never blocks.

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

/// How long the kernel keeps what the peer of a connection that has ended does not take.
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The far end of an outbox.
#[derive(Debug)]
pub enum Socket {
    /// A WebSocket's connection; written to directly by whoever fans out.
    Tcp(TcpStream),
    /// The same through TLS.
    Tls(Box<TlsSocket>),
    /// A response body: its reader pulls what waits, so nothing is ever written into it.
    Body(AtomicWaker),
    /// A bounded piece of memory, for tests and benchmarks of everything above the socket.
    Memory(Box<Mutex<MemorySocket>>),
}

/// Takes bytes until `room` is used up, as a socket whose client reads slowly.
#[derive(Debug, Default)]
pub struct MemorySocket {
    pub written: Vec<u8>,
    pub room: usize,
    /// Whether the bytes themselves are kept, or only counted off `room`.
    pub keep: bool,
}

impl Socket {
    /// Writes as much as fits, in one system call.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits now; anything else ends the connection.
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

    /// The same, but only when the kernel holds less unsent than half of what it may hold.
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

    /// Bounds what the kernel holds unsent. False where there is no kernel in between, or it can't.
    pub(super) fn limit_unsent(&self, bytes: u32) -> bool {
        self.tcp().is_some_and(|stream| SockRef::from(stream).set_tcp_notsent_lowat(bytes).is_ok())
    }

    /// The connection that it leads to, for its options.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(socket) => Some(socket.tcp()),
            Self::Body(_) | Self::Memory(_) => None,
        }
    }

    /// Writes what was taken before and the kernel did not take.
    ///
    /// # Errors
    /// `WouldBlock` when some of it still waits; anything else ends the connection.
    pub fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tls(socket) => socket.try_flush(),
            Self::Tcp(_) | Self::Body(_) | Self::Memory(_) => Ok(()),
        }
    }

    /// Whether something that was taken waits for the kernel.
    pub(super) fn has_pending(&self) -> bool {
        matches!(self, Self::Tls(socket) if socket.has_pending())
    }

    /// Whether a read may bring something; wakes the task when it does.
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
    /// `WouldBlock` when nothing is there now; anything else ends the connection.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Tls(socket) => socket.try_read(buffer),
            Self::Body(_) | Self::Memory(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Closes this side: nothing more comes.
    pub fn finish(&self) {
        match self {
            // The client may have closed first.
            Self::Tcp(stream) => _ = SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Tls(socket) => socket.finish(),
            Self::Body(_) | Self::Memory(_) => {}
        }
    }

    /// From now on the kernel forgets what its peer does not take within a few seconds: nobody waits for it any more.
    pub(super) fn end_soon(&self) {
        if let Some(stream) = self.tcp() {
            // A socket that refuses is closed by its client already.
            let _ = SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN_TIMEOUT));
        }
    }

    /// Whether a write would get somewhere; wakes the task when it does.
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

/// Writes in one system call, if the kernel holds less unsent than half of what it may hold.
///
/// The limit alone (`TCP_NOTSENT_LOWAT`) is not enough: a write adds to the last unsent packet, of up to 64 KiB, whatever
/// the limit is. But `poll` obeys it, and by asking makes the kernel wake the task when there is room again.
///
/// # Errors
/// `WouldBlock` when it holds more; anything else ends the connection.
pub(crate) fn try_write_if_drained(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || {
        is_drained(stream)?;
        SockRef::from(stream).send_vectored(slices)
    })
}

/// Whether the kernel holds less unsent than half of what it may hold, for what is written in another way.
///
/// # Errors
/// `WouldBlock` when it holds more; anything else ends the connection.
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
