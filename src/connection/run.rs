//! The life of one connection: one task that sleeps until the client says something, its outbox needs it, or its end
//! has come. An idle connection holds nothing here but its state: the read buffer belongs to the thread.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::{
    address::Permit,
    frame::{Event, Reader},
    gateway::Gateway,
    link::Link,
    perform::Inbound,
    subscriptions::Subscriptions,
};
use crate::{
    config::Dialect,
    hub::{Close, Socket},
    metrics::{self, Disconnect},
    protocol::{code::CloseCode, frame},
    registry::SessionRecord,
    session::{Bucket, Session},
};

/// Bytes read in one go; one such buffer per thread.
const READ_BYTES: usize = 64 * 1024;
/// After a Close, what the client still sends is read and thrown away for so long: a socket that is closed with unread
/// input is reset, and the reset can destroy the Close frame.
const LINGER: Duration = Duration::from_secs(1);
/// How long what waits may take to go out before a planned end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Everything one connection's task owns.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    pub(super) link: Arc<Link>,
    pub(super) session: Session,
    pub(super) subscriptions: Subscriptions,
    pub(super) reader: Reader,
    pub(super) bucket: Option<Arc<parking_lot::Mutex<Bucket>>>,
    pub(super) permit: Permit,
    pub(super) gauge: prometheus::IntGauge,
}

/// Why the task wakes.
enum Wake {
    Readable,
    Lagging,
    Asked(Close),
    /// The socket is broken.
    Gone,
}

/// How a read ended.
enum Read {
    More,
    /// The client went away without a Close.
    End(Disconnect),
    /// The connection is to be closed with this.
    Close(Close),
}

impl Connection {
    /// Serves the client until the end, and cleans up whatever the end was.
    pub(super) async fn run(mut self: Box<Self>, early: Vec<u8>) {
        self.release_stale_wakers();
        let cause = match self.serve(early).await {
            Ok(close) => {
                // On the heap, as every step that an idle connection does not take.
                Box::pin(self.say_goodbye(&close)).await;
                close.cause
            }
            Err(cause) => cause,
        };
        self.clean_up(cause);
    }

    /// What read the request before may have left its wakers with the socket: they would keep its memory.
    fn release_stale_wakers(&self) {
        if let Socket::Tcp(stream) = self.link.outbox.socket() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = stream.poll_read_ready(&mut cx);
            let _ = stream.poll_write_ready(&mut cx);
        }
    }

    async fn serve(&mut self, mut early: Vec<u8>) -> Result<Close, Disconnect> {
        let mut inbound = Vec::new();
        if !early.is_empty() {
            let ended = self.take_in(&mut early, &mut inbound);
            drop(early);
            Box::pin(self.act(&mut inbound)).await;
            if let Some(close) = ended {
                return Ok(close);
            }
        }
        loop {
            let ended = match poll_fn(|cx| self.poll_wake(cx)).await {
                Wake::Asked(close) => return Ok(close),
                Wake::Gone => return Err(Disconnect::IoError),
                Wake::Lagging => {
                    Box::pin(self.subscriptions.catch_up(&self.link.outbox)).await;
                    continue;
                }
                Wake::Readable => self.read(&mut inbound),
            };
            if !inbound.is_empty() {
                // On the heap, so that the state of an action in the making is not part of every idle connection.
                Box::pin(self.act(&mut inbound)).await;
                // An idle connection keeps no room for messages.
                inbound = Vec::new();
            }
            match ended {
                Read::More => {}
                Read::End(cause) => return Err(cause),
                Read::Close(close) => return Ok(close),
            }
        }
    }

    fn poll_wake(&self, cx: &mut Context<'_>) -> Poll<Wake> {
        let outbox = &self.link.outbox;
        outbox.register(cx);
        let flushed = outbox.poll_flush(cx);
        let look = outbox.look();
        if let Some(close) = look.asked {
            return Poll::Ready(Wake::Asked(close));
        }
        if look.shut {
            return Poll::Ready(Wake::Gone);
        }
        // A client that does not read its replies is not read from either.
        let stream = self.stream();
        if (flushed.is_ready() || !look.full) && stream.poll_read_ready(cx).is_ready() {
            return Poll::Ready(Wake::Readable);
        }
        if look.lagging { Poll::Ready(Wake::Lagging) } else { Poll::Pending }
    }

    fn stream(&self) -> &TcpStream {
        match self.link.outbox.socket() {
            Socket::Tcp(stream) => stream,
            Socket::Body(_) | Socket::Memory(_) => unreachable!("a WebSocket's outbox writes to TCP"),
        }
    }

    /// Reads once into the thread's buffer and decodes what came.
    fn read(&mut self, inbound: &mut Vec<Inbound>) -> Read {
        READ_BUFFER.with_borrow_mut(|buffer| match self.stream().try_read(buffer) {
            Ok(0) => Read::End(Disconnect::IoError),
            Ok(count) => match self.take_in(&mut buffer[..count], inbound) {
                Some(close) => Read::Close(close),
                None => Read::More,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::More,
            Err(_) => Read::End(Disconnect::IoError),
        })
    }

    /// Decodes frames into what is to be done; the close, where one of them asks for it.
    fn take_in(&mut self, input: &mut [u8], inbound: &mut Vec<Inbound>) -> Option<Close> {
        let now_ms = self.gateway.clock.now_ms();
        self.link.seen(now_ms);
        let metrics = &self.gateway.metrics;
        metrics.received_bytes_total.inc_by(input.len() as u64);
        // All pings of one read are answered together: a flood of them must not cost a system call each.
        let mut pongs = BytesMut::new();
        let close = self.decode(input, now_ms, inbound, &mut pongs);
        if !pongs.is_empty() {
            self.link.outbox.send(pongs.freeze());
        }
        close
    }

    fn decode(
        &mut self,
        input: &mut [u8],
        now_ms: u64,
        inbound: &mut Vec<Inbound>,
        pongs: &mut BytesMut,
    ) -> Option<Close> {
        let metrics = &self.gateway.metrics;
        let mut feed = self.reader.feed(input);
        while let Some(event) = feed.next() {
            match event {
                Ok(Event::Text(text)) => {
                    metrics.messages_received_total.inc();
                    let next = match self.session.profile.dialect {
                        Dialect::Json => {
                            Inbound::decode_json(&mut self.session, text, now_ms, &self.bucket, &self.gateway)
                        }
                        Dialect::Envelope => {
                            Inbound::decode_envelope(&mut self.session, text, now_ms, &self.bucket, &self.gateway)
                        }
                        Dialect::EventStream => continue,
                    };
                    let closes = next.closes();
                    inbound.push(next);
                    if let Some((code, cause)) = closes {
                        return Some(Close { code: code.number(), reason: code.meaning().into(), cause });
                    }
                }
                Ok(Event::Binary(_)) => {}
                Ok(Event::Ping(payload)) => frame::pong(pongs, payload),
                Ok(Event::Pong(payload)) => {
                    let positions = self.link.pong(payload);
                    if !positions.is_empty() {
                        inbound.push(Inbound::Confirmed(positions));
                    }
                }
                Ok(Event::Close(code, _)) => {
                    return Some(Close { code: code.unwrap_or(0), reason: String::new(), cause: Disconnect::Client });
                }
                Err(violation) => {
                    let cause = if violation.code == 1009 { Disconnect::TooBig } else { Disconnect::Protocol };
                    return Some(Close { code: violation.code, reason: violation.reason.into(), cause });
                }
            }
        }
        None
    }

    /// Sends the Close frame after what waits, and gives the client a moment to see it.
    async fn say_goodbye(&self, close: &Close) {
        let mut out = BytesMut::with_capacity(close.reason.len() + 4);
        if close.code == 0 {
            frame::close_empty(&mut out);
        } else {
            frame::close_number(&mut out, close.code, &close.reason);
        }
        self.gateway.metrics.close_frames_total.of(metrics::Code::of(close.code)).inc();
        let outbox = &self.link.outbox;
        // Only a planned end waits for what is queued; who broke the rules or does not read has no claim to it.
        let keep = !matches!(close.cause, Disconnect::Protocol | Disconnect::TooBig | Disconnect::SlowConsumer);
        outbox.shut(Some(out.freeze()), keep);
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, poll_fn(|cx| outbox.poll_flush(cx))).await;
        end_stream(self.stream()).await;
    }

    /// Bounded work: nothing here waits for Redis.
    fn clean_up(mut self: Box<Self>, cause: Disconnect) {
        let Gateway { links, registry, metrics, users, .. } = &*self.gateway;
        self.link.outbox.shut(None, false);
        if links.remove(&self.link) {
            self.record();
            registry.closed(self.session.id, self.link.user());
        }
        self.subscriptions.clear(&self.link.outbox);
        if let (Some(user), Some(bucket)) = (self.link.user(), self.bucket.take()) {
            users.release(user, bucket);
        }
        metrics.disconnects_total.of(cause).inc();
        self.gauge.dec();
        tracing::debug!(session = ?self.session.id, cause = cause.as_str(), "closed");
        drop(self.permit);
    }

    /// Keeps what a resume needs.
    pub(super) fn record(&self) {
        if self.session.profile.dialect == Dialect::Envelope {
            return;
        }
        let record = SessionRecord {
            user: self.link.user().map(ToString::to_string),
            profile: self.session.profile.name.clone(),
            param: self.session.param.as_deref().map(str::to_owned),
            subscriptions: self.subscriptions.records(),
        };
        self.gateway.registry.record(self.session.id, record);
    }

    /// Sends one text frame.
    pub(super) fn reply(&self, write: impl FnOnce(&mut BytesMut)) {
        self.link.say(write);
    }
}

/// One text frame.
pub(super) fn text(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    frame::frame_text(&mut out, write);
    out.freeze()
}

/// Closes our side, and reads and throws away until the client has closed its own.
async fn end_stream(stream: &TcpStream) {
    // The client may have closed first.
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    let discard = async {
        loop {
            if poll_fn(|cx| stream.poll_read_ready(cx)).await.is_err() {
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
    let _ = tokio::time::timeout(LINGER, discard).await;
}

/// Says why a connection is refused, and ends it.
pub(super) async fn refuse(mut stream: TcpStream, last: Bytes) {
    let said = tokio::time::timeout(LINGER, tokio::io::AsyncWriteExt::write_all(&mut stream, &last)).await;
    if matches!(said, Ok(Ok(()))) {
        end_stream(&stream).await;
    }
}

/// The end of a connection that is refused after the upgrade.
pub(super) fn refusal(code: CloseCode, reason: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(reason.len() + 4);
    frame::close(&mut out, code, reason);
    out.freeze()
}
