//! The life of one connection: one task that sleeps until the client says something, its outbox needs it, or its end
//! has come. What it hears is decoded at once and acted on in order. Never reads or writes a byte itself.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};

use super::{
    address::Permit,
    frame::Event,
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
    protocol::{code::CloseCode, frame},
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

impl Connection {
    /// Serves the client until the end, and cleans up whatever the end was.
    pub(super) async fn run(mut self: Box<Self>, early: Vec<u8>) {
        let cause = match self.serve(early).await {
            Ok(close) => {
                // On the heap, as every step that an idle connection does not take.
                Box::pin(self.wire.say_goodbye(&close)).await;
                close.cause
            }
            Err(cause) => cause,
        };
        self.clean_up(cause);
    }

    async fn serve(&mut self, mut early: Vec<u8>) -> Result<Close, Disconnect> {
        let mut inbound = Vec::new();
        if !early.is_empty() {
            let closed = self.hear(&mut inbound, |wire, hearing| wire.take_in(&mut early, |event| hearing.of(event)));
            drop(early);
            Box::pin(self.act(&mut inbound)).await;
            if let Some(close) = closed {
                return Ok(close);
            }
        }
        loop {
            let read = match poll_fn(|cx| self.wire.poll_wake(cx)).await {
                Wake::Asked(close) => return Ok(close),
                Wake::Gone => return Err(Disconnect::IoError),
                Wake::Lagging => {
                    Box::pin(self.subscriptions.catch_up(&self.link.outbox)).await;
                    continue;
                }
                Wake::Readable => self.hear(&mut inbound, |wire, hearing| wire.read(|event| hearing.of(event))),
            };
            if !inbound.is_empty() {
                // On the heap, so that the state of an action in the making is not part of every idle connection.
                Box::pin(self.act(&mut inbound)).await;
                // An idle connection keeps no room for messages.
                inbound = Vec::new();
            }
            match read {
                Read::More => {}
                Read::Gone => return Err(Disconnect::IoError),
                Read::Close(close) => return Ok(close),
            }
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
    fn hear<R>(&mut self, inbound: &mut Vec<Inbound>, read: impl FnOnce(&mut Wire, &mut Hearing<'_>) -> R) -> R {
        let Self { gateway, link, session, bucket, wire, .. } = self;
        let now_ms = gateway.clock.now_ms();
        link.seen(now_ms);
        read(wire, &mut Hearing { gateway, link, session, bucket, inbound, now_ms })
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
    inbound: &'a mut Vec<Inbound>,
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
        // Size classes of the allocator: a byte more costs 64.
        assert!(size_of::<Connection>() <= 256, "{}", size_of::<Connection>());
        assert!(size_of::<Link>() + 16 <= 224, "{}", size_of::<Link>());
    }
}
