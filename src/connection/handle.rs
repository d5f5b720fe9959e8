//! What the rest of a replica holds of an open connection: its outbox, its keep-alive state, its user. Never reads from
//! the socket.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde_json::json;
use tickgate_wire::{
    code::CloseCode,
    model::{ReplicaId, SessionId, UserId},
    protocol::Protocol,
    push::{Meta, TO_CONNECTION},
    reply::{Closing, Heartbeat, Reply, TokenExpiring, USER_STREAM},
    time::Timestamp,
    transport::Transport,
    websocket,
};

use super::{
    attempt::ConnectionId,
    keep_alive::{Facts, KeepAlive, KeepAliveActions, KeepAliveConfig},
};
use crate::{
    clock,
    config::Profile,
    hub::{Close, Outbox, Progress, SlotId, Traces},
    metrics::Disconnect,
    registry::{ConnectionInfo, Sent},
};

/// One open connection, as everyone but its own task sees it.
#[derive(Debug)]
pub struct ConnectionHandle {
    pub outbox: Arc<Outbox>,
    pub session: SessionId,
    /// On the heap: nothing but operators and the log need it.
    pub origin: Box<Origin>,
    protocol: Protocol,
    user: OnceLock<UserId>,
    seen_ms: AtomicU64,
    timing: Mutex<Timing>,
}

/// Where a connection came from, and to, and what operators see of it.
#[derive(Debug)]
pub struct Origin {
    /// Names the connection in logs and to its client.
    pub id: ConnectionId,
    pub address: IpAddr,
    pub profile: Arc<Profile>,
    /// The path's parameter.
    pub param: Option<String>,
    /// Milliseconds since 1970.
    pub opened_ms: u64,
    /// The same on the replica's monotonic clock.
    pub opened_uptime_ms: u64,
    /// What is subscribed.
    pub channels: Mutex<Box<[Arc<str>]>>,
}

impl Origin {
    /// Of the same connection, before anything is subscribed.
    #[must_use]
    pub fn again(&self) -> Self {
        let Self { id, address, profile, param, opened_ms, opened_uptime_ms, channels: _ } = self;
        Self {
            id: *id,
            address: *address,
            profile: profile.clone(),
            param: param.clone(),
            opened_ms: *opened_ms,
            opened_uptime_ms: *opened_uptime_ms,
            channels: Mutex::default(),
        }
    }
}

#[derive(Debug)]
struct Timing {
    keep_alive: KeepAlive,
    /// The subscription to the user's stream.
    private: Option<SlotId>,
}

impl ConnectionHandle {
    #[must_use]
    pub fn new(
        outbox: Arc<Outbox>,
        session: SessionId,
        protocol: Protocol,
        keep_alive: KeepAlive,
        now_ms: u64,
        origin: Origin,
    ) -> Self {
        Self {
            outbox,
            session,
            origin: Box::new(origin),
            protocol,
            user: OnceLock::new(),
            seen_ms: AtomicU64::new(now_ms),
            timing: Mutex::new(Timing { keep_alive, private: None }),
        }
    }

    /// Names the connection in logs and to its client.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.origin.id
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

    /// Tells those who trace the user that the connection is open; nothing where the user is not known yet.
    pub fn trace_opening(&self, traces: &Traces) {
        if traces.are_active()
            && let Some(user) = self.user()
        {
            let Origin { address, profile, .. } = &*self.origin;
            let fields = json!({ "endpoint": profile.name, "address": address });
            traces.opened(user, (&self.outbox, &self.id().to_string()), &fields);
        }
    }

    /// What the registry keeps of the connection.
    #[must_use]
    pub fn info(&self, replica: &ReplicaId, profile: &str) -> ConnectionInfo {
        ConnectionInfo {
            session: self.session.to_string(),
            replica: replica.to_string(),
            user: self.user().map(ToString::to_string),
            profile: profile.to_owned(),
            connected_ms: self.origin.opened_ms,
        }
    }

    /// For how long the connection has been open, on the clock of `now_ms`.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.origin.opened_uptime_ms)
    }

    /// The client sent something.
    pub fn seen(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How long ago the client sent something, on the clock of `now_ms`.
    #[must_use]
    pub fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.seen_ms.load(Ordering::Relaxed))
    }

    /// Changes the keep-alive state.
    pub fn with_keep_alive<R>(&self, act: impl FnOnce(&mut KeepAlive) -> R) -> R {
        act(&mut self.timing.lock().keep_alive)
    }

    /// The subscription to the user's stream: heartbeats carry its position when it moved without a push.
    pub fn set_private(&self, slot: Option<SlotId>) {
        self.timing.lock().private = slot;
    }

    /// What is subscribed, as the client calls it.
    #[must_use]
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.origin.channels.lock().to_vec()
    }

    /// These channels are subscribed, and no others.
    pub fn set_channels(&self, channels: Vec<Arc<str>>) {
        *self.origin.channels.lock() = channels.into();
    }

    /// Sends a payload, a JSON object, to this connection alone. It belongs to no topic, and nobody keeps it.
    #[must_use]
    pub fn send_push(&self, payload: &[u8]) -> Sent {
        let look = self.outbox.look();
        if look.shut || look.asked.is_some() {
            return Sent::Unknown;
        }
        if self.outbox.waiting_bytes().saturating_add(payload.len()) > self.outbox.bytes_max() {
            return Sent::Full;
        }
        let mut out = BytesMut::new();
        self.protocol.push(&mut out, &Meta::live(TO_CONNECTION, None), payload);
        self.outbox.send(out.freeze());
        Sent::Taken
    }

    /// A pong arrived: of a ping that asked whether the client is there, or of one that asked how far it has read.
    pub fn pong(&self, payload: &[u8]) {
        if let Ok(number) = payload.try_into().map(u32::from_be_bytes) {
            self.timing.lock().keep_alive.pong(number);
        } else if let Ok(position) = payload.try_into().map(u64::from_be_bytes) {
            self.outbox.confirm(position);
        }
    }

    /// Sends a reply; nothing if the endpoint's dialect has no such message. `ignored` names the fields of the command that
    /// meant nothing.
    pub fn send(&self, reply: &Reply, ignored: &[String]) {
        let mut out = BytesMut::with_capacity(256);
        self.protocol.reply(&mut out, reply, ignored, clock::stamp);
        self.outbox.send(out.freeze());
    }

    /// Sends a notice; nothing if the endpoint's dialect has no such message.
    pub fn notify(&self, notice: &Reply) {
        self.send(notice, &[]);
    }

    /// The notice that goes before a Close frame; empty where the end is not the server's wish, or the endpoint's dialect
    /// has no such message.
    #[must_use]
    pub fn closing(&self, close: &Close) -> Bytes {
        let mut out = BytesMut::new();
        if close.code > 0 && close.cause != Disconnect::Client {
            let notice = Closing::new(close.code, close.reason.clone(), close.after_ms);
            self.protocol.notice(&mut out, &Reply::Closing(notice), clock::stamp);
        }
        out.freeze()
    }

    /// Asks for the end of the connection.
    pub fn close(&self, code: CloseCode, cause: Disconnect, reason: &str) {
        self.close_after(code, cause, reason, None);
    }

    /// Asks for the end of the connection, and the client to reconnect after some time.
    pub fn close_after(&self, code: CloseCode, cause: Disconnect, reason: &str, after_ms: Option<u64>) {
        let close = Close::new(self.protocol.dialect.close_code(code), reason, cause);
        self.outbox.ask_close(Close { after_ms, ..close });
    }

    /// Ends the connection as a control message asks for. An empty reason stands for the meaning of the code.
    pub fn close_on_control(&self, code: u16, reason: &str) {
        let code = CloseCode::from_number(code).unwrap_or(CloseCode::Disconnected);
        let cause = match code {
            CloseCode::Superseded => Disconnect::Superseded,
            CloseCode::UserInactive => Disconnect::Revoked,
            CloseCode::TooManyConnections => Disconnect::UserLimit,
            _ => Disconnect::Operator,
        };
        self.close(code, cause, if reason.is_empty() { code.meaning() } else { reason });
    }

    /// Does what is due, and returns when to check again, on the clock of `now_ms`.
    pub fn tick(&self, now_ms: u64, config: &KeepAliveConfig) -> u64 {
        let unix_ms = clock::unix_ms();
        self.outbox.release();
        let Progress { position: written, blocked, quiet_ms } = self.outbox.progress();
        let seen_ms = self.seen_ms.load(Ordering::Relaxed);
        let mut timing = self.timing.lock();
        let moved = timing.private.is_some_and(|slot| self.outbox.has_moved(slot));
        let facts = Facts { now_ms, unix_ms, seen_ms, written, quiet_ms: quiet_ms.into(), blocked, moved };
        let (actions, next_ms) = timing.keep_alive.check(&facts, config);
        if let Some((code, cause)) = actions.close {
            self.close(code, cause, code.meaning());
            return next_ms;
        }
        if actions != KeepAliveActions::default() {
            self.send_due(&actions, unix_ms, &mut timing);
            timing.keep_alive.sent(self.outbox.progress().position);
        }
        next_ms
    }

    fn send_due(&self, actions: &KeepAliveActions, unix_ms: u64, timing: &mut Timing) {
        let mut out = BytesMut::with_capacity(192);
        if let Some(expires_at) = actions.expiring {
            let expires_at = Timestamp::from_s(expires_at);
            self.protocol.notice(&mut out, &Reply::TokenExpiring(TokenExpiring { expires_at }), clock::stamp);
        }
        if actions.heartbeat {
            let moved = timing.private.and_then(|slot| self.outbox.take_moved(slot));
            let cursors = moved.map(|cursor| (USER_STREAM.into(), cursor)).into_iter().collect();
            let now = Timestamp::from_ms(unix_ms);
            let heartbeat = Heartbeat { timestamp: now, server_time: now, cursors };
            self.protocol.notice(&mut out, &Reply::Heartbeat(heartbeat), clock::stamp);
        }
        match actions.ping {
            // A reader can't answer on a one-way stream. One that is gone is noticed because it takes nothing.
            Some(number) if self.protocol.transport == Transport::EventStream => {
                timing.keep_alive.pong(number);
            }
            Some(number) => websocket::ping(&mut out, &number.to_be_bytes()),
            None => {}
        }
        self.outbox.send(out.freeze());
    }
}
