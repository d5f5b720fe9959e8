//! What the rest of a replica holds of an open connection: its outbox, its keep-alive state, its user. Never reads from
//! the socket.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tickgate_wire::{
    code::CloseCode,
    event_stream,
    model::{ReplicaId, SessionId, StreamId, UserId},
    protocol::Protocol,
    reply::{Heartbeat, Reply, TokenExpiring},
    time::Timestamp,
    transport::Transport,
    websocket,
};

use super::keep_alive::{Facts, KeepAlive, KeepAliveActions, KeepAliveConfig};
use crate::{
    clock,
    hub::{Close, Followed, Outbox, SlotId},
    metrics::Disconnect,
    registry::ConnectionInfo,
};

/// One open connection, as everyone but its own task sees it.
#[derive(Debug)]
pub struct ConnectionHandle {
    pub outbox: Arc<Outbox>,
    pub session: SessionId,
    /// Milliseconds since 1970.
    pub opened_ms: u64,
    protocol: Protocol,
    user: OnceLock<UserId>,
    seen_ms: AtomicU64,
    timing: Mutex<Timing>,
}

#[derive(Debug)]
struct Timing {
    keep_alive: KeepAlive,
    /// Only while a pong is awaited.
    unconfirmed: Option<Box<Unconfirmed>>,
    /// The user's private stream, once subscribed: heartbeats carry its head.
    private: Option<Weak<Followed>>,
}

/// Positions that the next pong confirms.
#[derive(Debug)]
struct Unconfirmed(Vec<(SlotId, StreamId)>);

impl ConnectionHandle {
    #[must_use]
    pub fn new(
        outbox: Arc<Outbox>,
        session: SessionId,
        protocol: Protocol,
        keep_alive: KeepAlive,
        now_ms: u64,
    ) -> Self {
        Self {
            outbox,
            session,
            opened_ms: clock::unix_ms(),
            protocol,
            user: OnceLock::new(),
            seen_ms: AtomicU64::new(now_ms),
            timing: Mutex::new(Timing { keep_alive, unconfirmed: None, private: None }),
        }
    }

    /// The user, once known.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.user.get()
    }

    /// Binds the connection to its user, for good.
    pub fn set_user(&self, user: UserId) {
        // A refreshed token names the same user; the session has checked that.
        let _ = self.user.set(user);
    }

    /// What the registry keeps of the connection.
    #[must_use]
    pub fn info(&self, replica: &ReplicaId, profile: &str) -> ConnectionInfo {
        ConnectionInfo {
            session: self.session.to_string(),
            replica: replica.to_string(),
            user: self.user().map(ToString::to_string),
            profile: profile.to_owned(),
            connected_ms: self.opened_ms,
        }
    }

    /// The client sent something.
    pub fn seen(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Changes the keep-alive state.
    pub fn with_keep_alive<R>(&self, act: impl FnOnce(&mut KeepAlive) -> R) -> R {
        act(&mut self.timing.lock().keep_alive)
    }

    /// From here on heartbeats carry the head of this topic.
    pub fn set_private(&self, topic: Option<&Arc<Followed>>) {
        self.timing.lock().private = topic.map(Arc::downgrade);
    }

    /// A pong arrived: the positions that it confirms.
    pub fn pong(&self, payload: &[u8]) -> Vec<(SlotId, StreamId)> {
        let mut timing = self.timing.lock();
        let number = payload.try_into().map(u32::from_be_bytes);
        match number {
            Ok(number) if timing.keep_alive.pong(number) => timing.unconfirmed.take().map_or(Vec::new(), |of| of.0),
            _ => Vec::new(),
        }
    }

    /// The awaited pong must not confirm anything of this subscription.
    pub fn forget_ping(&self, slot: SlotId) {
        if let Some(unconfirmed) = &mut self.timing.lock().unconfirmed {
            unconfirmed.0.retain(|(of, _)| *of != slot);
        }
    }

    /// Sends a reply; nothing if the endpoint's dialect has no such message.
    pub fn send(&self, reply: &Reply) {
        let mut out = BytesMut::with_capacity(256);
        self.protocol.reply(&mut out, reply, clock::stamp);
        self.outbox.send(out.freeze());
    }

    /// Asks for the end of the connection.
    pub fn close(&self, code: CloseCode, cause: Disconnect, reason: &str) {
        self.outbox.ask_close(Close { code: self.protocol.dialect.close_code(code), reason: reason.to_owned(), cause });
    }

    /// Ends the connection as a control message asks for. An empty reason stands for the meaning of the code.
    pub fn close_on_control(&self, code: u16, reason: &str) {
        let code = CloseCode::from_number(code).unwrap_or(CloseCode::Disconnected);
        let cause = match code {
            CloseCode::Superseded => Disconnect::Superseded,
            CloseCode::UserInactive => Disconnect::Revoked,
            _ => Disconnect::Operator,
        };
        self.close(code, cause, if reason.is_empty() { code.meaning() } else { reason });
    }

    /// Does what is due, and returns when to check again, on the clock of `now_ms`.
    pub fn tick(&self, now_ms: u64, config: &KeepAliveConfig) -> u64 {
        let unix_ms = clock::unix_ms();
        self.outbox.release();
        let (written, blocked) = self.outbox.progress();
        let seen_ms = self.seen_ms.load(Ordering::Relaxed);
        let facts = Facts { now_ms, unix_ms, seen_ms, written, blocked };
        let mut timing = self.timing.lock();
        let (actions, next_ms) = timing.keep_alive.check(&facts, config);
        if let Some((code, cause)) = actions.close {
            self.close(code, cause, code.meaning());
            return next_ms;
        }
        if actions != KeepAliveActions::default() {
            self.send_due(&actions, unix_ms, &mut timing);
            timing.keep_alive.sent(self.outbox.progress().0);
        }
        next_ms
    }

    fn send_due(&self, actions: &KeepAliveActions, unix_ms: u64, timing: &mut Timing) {
        let mut out = BytesMut::with_capacity(192);
        if self.protocol.transport == Transport::EventStream {
            // A reader can't answer on a one-way stream. One that is gone is noticed because it takes nothing.
            event_stream::comment(&mut out);
            if let Some(number) = actions.ping {
                timing.keep_alive.pong(number);
            }
            return self.outbox.send(out.freeze());
        }
        if let Some(expires_at) = actions.expiring {
            let expires_at = Timestamp::from_ms(expires_at.saturating_mul(1_000));
            self.protocol.reply(&mut out, &Reply::TokenExpiring(TokenExpiring { expires_at }), clock::stamp);
        }
        if actions.heartbeat {
            let private = timing.private.as_ref().and_then(Weak::upgrade);
            let (now, cursor) = (Timestamp::from_ms(unix_ms), private.and_then(|topic| topic.position()));
            let heartbeat = Heartbeat { timestamp: now, server_time: now, cursor };
            self.protocol.reply(&mut out, &Reply::Heartbeat(heartbeat), clock::stamp);
        }
        if let Some(number) = actions.ping {
            timing.unconfirmed = Some(Box::new(Unconfirmed(self.outbox.written())));
            websocket::ping(&mut out, &number.to_be_bytes());
        }
        self.outbox.send(out.freeze());
    }
}
