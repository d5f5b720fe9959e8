//! The TCP connection under HTTP. Where it carries an event stream of values, it holds only what the reader takes in a
//! fraction of a second; the rest waits in the outbox. Notes whose turn it is; knows no more of HTTP.

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
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::turns::Turns;
use crate::hub::{UnsentLimit, try_write_if_drained};

/// How the body of a response and its TCP connection agree on what is taken from the outbox. In the extensions of every
/// request.
#[derive(Clone, Debug, Default)]
pub(super) struct Backpressure(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The response carries values: no more of it is written than the limit allows. 0: any amount.
    piece_max: AtomicUsize,
    /// A piece was handed over that is not wholly written yet.
    handed: AtomicBool,
    /// Nothing waited for the reader.
    idle: AtomicBool,
    body: AtomicWaker,
}

impl Backpressure {
    /// From here on the connection carries values.
    pub(super) fn limit(&self) {
        self.0.piece_max.store(UnsentLimit::default().chunk(), Ordering::Relaxed);
    }

    /// For the body: how much it may hand over, once the connection has written what it handed over before.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        self.0.body.register(cx.waker());
        match self.0.piece_max.load(Ordering::Relaxed) {
            0 => Poll::Ready(usize::MAX),
            _ if self.0.handed.load(Ordering::Relaxed) => Poll::Pending,
            piece_max => Poll::Ready(piece_max),
        }
    }

    /// The body handed over a piece, or has none.
    pub(super) fn handed(&self, any: bool) {
        let mark = if any { &self.0.handed } else { &self.0.idle };
        mark.store(true, Ordering::Relaxed);
    }
}

/// A TCP connection that speaks HTTP.
#[derive(Debug)]
pub(super) struct HttpStream {
    tcp: TcpStream,
    turns: Turns,
    backpressure: Backpressure,
    limit: UnsentLimit,
    behind: bool,
    limited: bool,
    /// How long the kernel waits for a client that takes nothing of a response.
    write_timeout: Duration,
    /// An event stream is written: then it waits for as long as the stream itself does, which knows why it ends.
    endless: bool,
}

impl HttpStream {
    pub(super) fn new(tcp: TcpStream, turns: Turns, backpressure: Backpressure, write_timeout: Duration) -> Self {
        let _ = SockRef::from(&tcp).set_tcp_user_timeout(Some(write_timeout));
        let limit = UnsentLimit::default();
        Self { tcp, turns, backpressure, limit, behind: false, limited: false, write_timeout, endless: false }
    }

    /// Something is about to be written.
    fn writes(&mut self) {
        self.turns.wrote();
        let endless = self.turns.is_endless();
        if std::mem::replace(&mut self.endless, endless) != endless {
            // A socket that refuses is closed by its client already.
            let _ = SockRef::from(&self.tcp).set_tcp_user_timeout((!endless).then_some(self.write_timeout));
        }
    }

    /// The connection, for what is no HTTP.
    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    fn set_limit(&mut self) {
        let bytes = self.limit.bytes();
        // A kernel that knows no such limit bounds the connection by its buffers.
        let _ = SockRef::from(&self.tcp).set_tcp_notsent_lowat(bytes);
        self.backpressure.0.piece_max.store(self.limit.chunk(), Ordering::Relaxed);
    }

    /// Writes some of a response that carries values.
    fn poll_write_limited(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.limited, true) {
            self.set_limit();
        }
        if self.backpressure.0.idle.swap(false, Ordering::Relaxed) && std::mem::take(&mut self.behind) {
            self.limit.recovered(Instant::now());
        }
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let (piece, len) = cut(slices, self.limit.chunk());
            let checks = self.behind || self.limit.needs_check(len);
            let written = match checks {
                true => try_write_if_drained(&self.tcp, &piece),
                false => self.tcp.try_write_vectored(&piece),
            };
            match written {
                Ok(count) => {
                    self.wrote(count, checks);
                    if count == slices.iter().map(|slice| slice.len()).sum::<usize>() {
                        // Nothing waits between the outbox and the kernel.
                        self.backpressure.0.handed.store(false, Ordering::Relaxed);
                        self.backpressure.0.body.wake();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut self.behind, true) && self.limit.fell_behind(Instant::now()) {
                        self.set_limit();
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
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

    fn carries_values(&self) -> bool {
        self.backpressure.0.piece_max.load(Ordering::Relaxed) > 0
    }
}

/// The first bytes of the slices, and how many.
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
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
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
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
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
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked after each write, and whenever the connection's task runs. HTTP reads nothing meanwhile.
        if self.turns.is_endless() {
            let mut byte = [0];
            if let Poll::Ready(0) = self.tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte))? {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper::{Response, header};
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// A stream says why it ends when its reader takes nothing. It can't if the kernel ends the connection before.
    #[tokio::test]
    async fn the_kernel_waits_for_plain_responses_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let (turns, timeout) = (Turns::new(), Duration::from_secs(35));
        let mut stream = HttpStream::new(tcp, turns.clone(), Backpressure::default(), timeout);
        let waits = |stream: &HttpStream| SockRef::from(&stream.tcp).tcp_user_timeout().unwrap();
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
