//! The byte stream below HTTP, with or without TLS. Under an event stream of values it holds only what the reader
//! accepts within a fraction of a second; the rest stays in the outbox. Records whose turn it is; knows nothing else
//! about HTTP.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use rustls::pki_types::CertificateDer;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::turns::ConnectionTurns;
use crate::{
    hub::{OutboxSocket, UnsentLimit, check_drained, try_write_if_drained},
    tls::TlsSocket,
};

/// Maximum unsent bytes in the kernel for a reader of unknown speed: a slow one needs seconds for them.
const FIRST_UNSENT: u32 = 16 * 1024;
/// The limit with which the kernel reports a socket as writable once everything is sent.
const NOTHING_UNSENT: u32 = 1;

/// Coordinates a response body and its TCP connection on how much is taken from the outbox. A request extension.
#[derive(Clone, Debug, Default)]
pub(super) struct Backpressure(Arc<BackpressureState>);

#[derive(Debug, Default)]
struct BackpressureState {
    /// Set if the response carries values: the maximum size of a write. 0: no limit.
    piece_max: AtomicUsize,
    /// A piece was passed on and is not completely written.
    handed: AtomicBool,
    /// Nothing was queued for the reader.
    idle: AtomicBool,
    body: AtomicWaker,
}

impl Backpressure {
    /// Limits the connection from now on, because it carries values.
    pub(super) fn limit(&self) {
        self.0.piece_max.store(UnsentLimit::starting_with(FIRST_UNSENT).chunk(), Ordering::Relaxed);
    }

    /// For the body: how much it may pass on once its previous piece is written.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        self.0.body.register(cx.waker());
        match self.0.piece_max.load(Ordering::Relaxed) {
            0 => Poll::Ready(usize::MAX),
            _ if self.0.handed.load(Ordering::Relaxed) => Poll::Pending,
            piece_max => Poll::Ready(piece_max),
        }
    }

    /// The body passed on a piece, or had none.
    pub(super) fn handed(&self, any: bool) {
        let mark = if any { &self.0.handed } else { &self.0.idle };
        mark.store(true, Ordering::Relaxed);
    }
}

/// The transport below HTTP.
#[derive(Debug)]
pub(super) enum Carrier {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Carrier {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The client's verified certificate.
    pub(super) fn client_certificate(&self) -> Option<CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1.peer_certificates()?.first()?.clone().into_owned()),
        }
    }

    /// Writes a part, unless `check` is set and the kernel still holds too much.
    fn try_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>], check: bool) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) if check => try_write_if_drained(tcp, slices),
            Self::Plain(tcp) => tcp.try_write_vectored(slices),
            Self::Tls(tls) => {
                if check {
                    check_drained(tls.get_ref().0)?;
                }
                match Pin::new(tls).poll_write_vectored(cx, slices) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }
}

/// An HTTP connection.
#[derive(Debug)]
pub(super) struct HttpStream {
    carrier: Carrier,
    /// A byte read while checking for the end of the connection.
    ahead: Option<u8>,
    turns: ConnectionTurns,
    backpressure: Backpressure,
    limit: UnsentLimit,
    behind: bool,
    limited: bool,
    /// The last piece is written, and the next one follows once the kernel has sent it.
    drains: bool,
    /// How long the kernel waits for a client that accepts nothing of a response.
    write_timeout: Duration,
    /// An event stream is being written: the stream's own timeout applies, which knows the reason for closing.
    endless: bool,
}

impl HttpStream {
    pub(super) fn new(
        carrier: Carrier,
        turns: ConnectionTurns,
        backpressure: Backpressure,
        write_timeout: Duration,
    ) -> Self {
        let _ = SockRef::from(carrier.tcp()).set_tcp_user_timeout(Some(write_timeout));
        let limit = UnsentLimit::starting_with(FIRST_UNSENT);
        Self {
            carrier,
            ahead: None,
            turns,
            backpressure,
            limit,
            behind: false,
            limited: false,
            drains: false,
            write_timeout,
            endless: false,
        }
    }

    /// Prepares for a write.
    fn writes(&mut self) {
        self.turns.wrote();
        let endless = self.turns.is_endless();
        if std::mem::replace(&mut self.endless, endless) != endless {
            // Fails only if the client has already closed the connection.
            let tcp = self.carrier.tcp();
            let _ = SockRef::from(tcp).set_tcp_user_timeout((!endless).then_some(self.write_timeout));
        }
    }

    /// The connection after an upgrade. Nothing was read ahead: that happens only under an event stream.
    pub(super) fn into_socket(self) -> OutboxSocket {
        match self.carrier {
            Carrier::Plain(tcp) => OutboxSocket::Tcp(tcp),
            Carrier::Tls(tls) => {
                let (tcp, session) = tls.into_inner();
                OutboxSocket::Tls(Box::new(TlsSocket::new(tcp, session)))
            }
        }
    }

    /// Sets how much the kernel and the body may buffer. A reader that lags confirms nothing, and its kernel frees
    /// space in bursts: what is buffered between two bursts gets old. So it is one small piece, taken from the outbox
    /// as late as possible.
    fn set_limit(&mut self) {
        let bytes = if self.behind { NOTHING_UNSENT } else { self.limit.bytes() };
        // A kernel without this option limits the connection by its buffers.
        let _ = SockRef::from(self.carrier.tcp()).set_tcp_notsent_lowat(bytes);
        self.backpressure.0.piece_max.store(self.piece_max(), Ordering::Relaxed);
    }

    /// Maximum size of one write.
    fn piece_max(&self) -> usize {
        if self.behind { self.limit.chunk() / 4 } else { self.limit.chunk() }
    }

    /// Writes a part of a response that carries values.
    fn poll_write_limited(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.limited, true) {
            self.set_limit();
        }
        if self.backpressure.0.idle.swap(false, Ordering::Relaxed) && std::mem::take(&mut self.behind) {
            self.limit.recovered(Instant::now());
            self.set_limit();
        }
        loop {
            ready!(self.carrier.tcp().poll_write_ready(cx))?;
            let (piece, len) = cut(slices, self.piece_max());
            let checks = self.behind || self.limit.needs_check(len);
            match self.carrier.try_write(cx, &piece, checks) {
                Ok(count) => {
                    self.wrote(count, checks);
                    if count == slices.iter().map(|slice| slice.len()).sum::<usize>() {
                        // Nothing is buffered between the outbox and the kernel.
                        self.drains = self.behind;
                        if !self.drains {
                            self.ask_for_more();
                        }
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut self.behind, true) {
                        self.limit.fell_behind(Instant::now());
                        self.set_limit();
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Lets the body pass on the next piece.
    fn ask_for_more(&self) {
        self.backpressure.0.handed.store(false, Ordering::Relaxed);
        self.backpressure.0.body.wake();
    }

    /// Requests the next piece once the kernel has sent the last one; until then, a newer value can replace it.
    fn check_sent(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.drains && self.carrier.tcp().poll_write_ready(cx)?.is_ready() {
            match check_drained(self.carrier.tcp()) {
                Ok(()) => {
                    self.drains = false;
                    self.ask_for_more();
                }
                // The failed write cleared the readiness, so that polling registers again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wrote(&mut self, count: usize, checked: bool) {
        if checked {
            self.limit.is_writable();
            if self.behind && self.limit.drained(Instant::now()) {
                self.set_limit();
            }
        }
        self.limit.wrote(count);
    }

    /// Whether the reader has closed its side; wakes the task when it does.
    fn has_ended(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        match &mut self.carrier {
            Carrier::Plain(tcp) => Ok(matches!(tcp.poll_peek(cx, &mut read)?, Poll::Ready(0))),
            Carrier::Tls(_) if self.ahead.is_some() => Ok(false),
            Carrier::Tls(tls) => {
                if Pin::new(tls).poll_read(cx, &mut read)?.is_pending() {
                    return Ok(false);
                }
                self.ahead = read.filled().first().copied();
                Ok(self.ahead.is_none())
            }
        }
    }

    fn carries_values(&self) -> bool {
        self.backpressure.0.piece_max.load(Ordering::Relaxed) > 0
    }
}

/// The first bytes of the slices, and their number.
fn cut<'a>(slices: &'a [IoSlice<'_>], bytes_max: usize) -> (Vec<IoSlice<'a>>, usize) {
    let (mut piece, mut len) = (Vec::with_capacity(slices.len()), 0);
    for slice in slices {
        let part = &slice[..slice.len().min(bytes_max - len)];
        len += part.len();
        piece.push(IoSlice::new(part));
    }
    (piece, len)
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Some(byte) = self.ahead.filter(|_| buf.remaining() > 0) {
            buf.put_slice(&[byte]);
            self.ahead = None;
        } else {
            match &mut self.carrier {
                Carrier::Plain(tcp) => ready!(Pin::new(tcp).poll_read(cx, buf))?,
                Carrier::Tls(tls) => ready!(Pin::new(tls).poll_read(cx, buf))?,
            }
        }
        if buf.filled().len() > before {
            self.turns.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes();
        if self.carries_values() {
            return self.poll_write_limited(cx, &[IoSlice::new(bytes)]);
        }
        match &mut self.carrier {
            Carrier::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Carrier::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes();
        if self.carries_values() {
            return self.poll_write_limited(cx, slices);
        }
        match &mut self.carrier {
            Carrier::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Carrier::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Checked after each write and whenever the connection's task runs, because HTTP does not read during a
        // response.
        if self.turns.is_endless() && self.has_ended(cx)? {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.carrier {
            Carrier::Plain(tcp) => ready!(Pin::new(tcp).poll_flush(cx))?,
            Carrier::Tls(tls) => ready!(Pin::new(tls).poll_flush(cx))?,
        }
        Poll::Ready(self.check_sent(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Carrier::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::{Response, header};
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// A stream reports why it ends when its reader accepts nothing, unless the kernel ends the connection first.
    #[tokio::test]
    async fn the_kernels_timeout_applies_only_to_plain_responses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let (turns, timeout) = (ConnectionTurns::new(), Duration::from_secs(35));
        let mut stream = HttpStream::new(Carrier::Plain(tcp), turns.clone(), Backpressure::default(), timeout);
        let waits = |stream: &HttpStream| SockRef::from(stream.carrier.tcp()).tcp_user_timeout().unwrap();
        for (kind, patience) in
            [("application/json", Some(timeout)), ("text/event-stream", None), ("application/json", Some(timeout))]
        {
            turns.asked();
            let response = Response::builder().header(header::CONTENT_TYPE, kind).body(()).unwrap();
            let _body = turns.answer(response);
            stream.write_all(b"x").await.unwrap();
            assert_eq!(waits(&stream).filter(|timeout| !timeout.is_zero()), patience, "{kind}");
        }
    }
}
