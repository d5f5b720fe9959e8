//! The life of one connection: one task that sleeps until the client says something, its outbox needs it, or its end
//! has come. What it hears is decoded at once and acted on in order. Never reads or writes a byte itself.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tickgate_wire::{code::CloseCode, frame, websocket::Event};

use super::{
    address::Permit,
    gateway::Gateway,
    link::Link,
    perform::Inbound,
    subscriptions::Subscriptions,
    wire::{Read, Wake, Wire},
};
use crate::{
    config::Dialect,
    hub::Close,
    metrics::Disconnect,
    registry::SessionRecord,
    session::{Bucket, Session},
};

/// Everything one connection's task owns.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    pub(super) link: Arc<Link>,
    pub(super) session: Session,
    pub(super) subscriptions: Subscriptions,
    pub(super) wire: Wire,
    pub(super) bucket: Option<Arc<parking_lot::Mutex<Bucket>>>,
    pub(super) permit: Permit,
    pub(super) gauge: prometheus::IntGauge,
}

/// The life of a connection, as a task: it serves the client until the end, and cleans up whatever the end was.
///
/// Written by hand, since this is what an idle connection holds: an `async` block keeps room for all that is ever in
/// the making, and for what it captured besides. Here that is on the heap, and only for as long as it takes.
pub(super) struct Life(Stage);

#[expect(clippy::large_enum_variant, reason = "idle is what it nearly always is")]
enum Stage {
    /// Until the client says something, the outbox needs the task, or the end has come.
    Idle(Connection),
    /// Something is in the making.
    Busy(Pin<Box<dyn Future<Output = Stage> + Send>>),
    Over,
}

impl Life {
    pub(super) fn of(connection: Connection) -> Self {
        Self(Stage::Idle(connection))
    }
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.0 = match &mut self.0 {
                Stage::Idle(connection) => {
                    let wake = ready!(connection.wire.poll_wake(cx));
                    match std::mem::replace(&mut self.0, Stage::Over) {
                        Stage::Idle(connection) => connection.wake(wake),
                        other => other,
                    }
                }
                Stage::Busy(making) => ready!(making.as_mut().poll(cx)),
                Stage::Over => return Poll::Ready(()),
            };
        }
    }
}

fn busy(making: impl Future<Output = Stage> + Send + 'static) -> Stage {
    Stage::Busy(Box::pin(making))
}

impl Connection {
    fn wake(mut self, wake: Wake) -> Stage {
        match wake {
            Wake::Asked(close) => self.go_on(Read::Close(close)),
            Wake::Gone => self.go_on(Read::Gone),
            Wake::Lagging => busy(async move {
                self.subscriptions.catch_up(&self.link.outbox).await;
                Stage::Idle(self)
            }),
            Wake::Readable => {
                let (inbound, read) = self.hear(|wire, hearing| wire.read(|event| hearing.of(event)));
                if inbound.is_empty() {
                    return self.go_on(read);
                }
                busy(async move {
                    self.act(inbound).await;
                    self.go_on(read)
                })
            }
        }
    }

    /// What follows when all that a read brought is done.
    fn go_on(self, read: Read) -> Stage {
        match read {
            Read::More => Stage::Idle(self),
            Read::Gone => {
                self.clean_up(Disconnect::IoError);
                Stage::Over
            }
            Read::Close(close) => busy(async move {
                self.wire.say_goodbye(&close).await;
                self.clean_up(close.cause);
                Stage::Over
            }),
        }
    }

    /// Takes what the client sent together with its request.
    pub(super) async fn take_early(&mut self, mut early: Vec<u8>) {
        let (inbound, close) = self.hear(|wire, hearing| wire.take_in(&mut early, |event| hearing.of(event)));
        self.act(inbound).await;
        if let Some(close) = close {
            self.link.outbox.ask_close(close);
        }
    }

    /// Ready when no more answers wait than may; false when the connection is to end.
    pub(super) fn poll_answered(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let outbox = &self.link.outbox;
        outbox.register(cx);
        let flushed = outbox.poll_flush(cx);
        let look = outbox.look();
        let ends = look.asked.is_some() || look.shut;
        if ends || flushed.is_ready() || !look.full { Poll::Ready(!ends) } else { Poll::Pending }
    }

    /// Reads by `read`, and collects what is to be done about it.
    fn hear<R>(&mut self, read: impl FnOnce(&mut Wire, &mut Hearing<'_>) -> R) -> (Vec<Inbound>, R) {
        let Self { gateway, link, session, bucket, wire, .. } = self;
        let now_ms = gateway.clock.now_ms();
        link.seen(now_ms);
        let mut hearing = Hearing { gateway, link, session, bucket, inbound: Vec::new(), now_ms };
        let read = read(wire, &mut hearing);
        (hearing.inbound, read)
    }

    /// Bounded work: nothing here waits for Redis.
    fn clean_up(mut self, cause: Disconnect) {
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
        if self.session.profile.dialect == Dialect::Envelope || !self.subscriptions.are_complete {
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

/// Decodes what one read brings, in the client's own order.
struct Hearing<'a> {
    gateway: &'a Gateway,
    link: &'a Link,
    session: &'a mut Session,
    bucket: &'a Option<Arc<parking_lot::Mutex<Bucket>>>,
    inbound: Vec<Inbound>,
    now_ms: u64,
}

impl Hearing<'_> {
    /// Takes an event; the close, where it asks for one.
    fn of(&mut self, event: Event<'_>) -> Option<Close> {
        match event {
            Event::Text(text) => {
                self.gateway.metrics.messages_received_total.inc();
                let next = match self.session.profile.dialect {
                    Dialect::Json => Inbound::decode_json(self.session, text, self.now_ms, self.bucket, self.gateway),
                    Dialect::Envelope => {
                        Inbound::decode_envelope(self.session, text, self.now_ms, self.bucket, self.gateway)
                    }
                    Dialect::EventStream => return None,
                };
                let closes = next.closes();
                self.inbound.push(next);
                let (code, cause) = closes?;
                Some(Close { code: code.number(), reason: code.meaning().into(), cause })
            }
            Event::Pong(payload) => {
                let positions = self.link.pong(payload);
                if !positions.is_empty() {
                    self.inbound.push(Inbound::Confirmed(positions));
                }
                None
            }
            // The reader refuses binary; pings and closes are the wire's own.
            Event::Binary(_) | Event::Ping(_) | Event::Close(..) => None,
        }
    }
}

/// One text frame.
pub(super) fn text(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    frame::frame_text(&mut out, write);
    out.freeze()
}

/// The end of a connection that is refused after the upgrade.
pub(super) fn refusal(code: CloseCode, reason: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(reason.len() + 4);
    frame::close(&mut out, code, reason);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // Size classes of the allocator: a byte more costs 32 of a link, 64 of an outbox, 128 of a task, which is the
        // state with 120 bytes of the runtime and of its supervision.
        assert!(size_of::<Life>() + 120 <= 384, "{}", size_of::<Life>());
        assert!(size_of::<Link>() + 16 <= 192, "{}", size_of::<Link>());
        assert!(size_of::<crate::hub::Outbox>() + 16 <= 256, "{}", size_of::<crate::hub::Outbox>());
    }
}
