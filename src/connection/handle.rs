//! The shared part of an open connection: its outbox, keep-alive state and user. Never reads from the socket.

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
    push::{PushMeta, TO_CONNECTION},
    reply::{ClosingNotice, HeartbeatNotice, Reply, TokenExpiring, USER_STREAM},
    time::Timestamp,
    transport::Transport,
    websocket,
};

use super::{
    attempt::ConnectionId,
    keep_alive::{ConnectionFacts, KeepAlive, KeepAliveActions, KeepAliveConfig},
};
use crate::{
    clock,
    config::Profile,
    hub::{Close, Outbox, OutboxProgress, SlotId, Traces},
    metrics::DisconnectReason,
    registry::{ConnectionInfo, SendResult},
};

/// One open connection, as seen by every module except its own task.
#[derive(Debug)]
pub struct ConnectionHandle {
    /// Everything that is sent to the client passes through it.
    pub outbox: Arc<Outbox>,
    /// The session, which may outlive the connection.
    pub session: SessionId,
    /// Boxed, because only operators and the log need it.
    pub origin: Box<ConnectionOrigin>,
    protocol: Protocol,
    user: OnceLock<UserId>,
    seen_ms: AtomicU64,
    timing: Mutex<Timing>,
}

/// Where a connection came from and which endpoint it uses, for operators.
#[derive(Debug)]
pub struct ConnectionOrigin {
    /// Identifies the connection in logs and to its client.
    pub id: ConnectionId,
    /// The client's address, behind proxies as they report it.
    pub address: IpAddr,
    /// The endpoint.
    pub profile: Arc<Profile>,
    /// The path parameter.
    pub param: Option<String>,
    /// Milliseconds since 1970.
    pub opened_ms: u64,
    /// The same time on the replica's monotonic clock.
    pub opened_uptime_ms: u64,
    /// The subscribed channels.
    pub channels: Mutex<Box<[Arc<str>]>>,
}

impl ConnectionOrigin {
    /// The initial value for the same connection, without subscriptions.
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
    /// The handle of a connection that opened `opened_ms` milliseconds after 1970.
    #[must_use]
    pub fn new(
        outbox: Arc<Outbox>,
        session: SessionId,
        protocol: Protocol,
        keep_alive: KeepAlive,
        now_ms: u64,
        origin: ConnectionOrigin,
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

    /// Identifies the connection in logs and to its client.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.origin.id
    }

    /// The user, once known.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.user.get()
    }

    /// Binds the connection permanently to its user.
    pub fn set_user(&self, user: UserId) {
        // A refreshed token has the same user; the session has checked that.
        let _ = self.user.set(user);
    }

    /// Reports the opening to traces of the user; no effect while the user is unknown.
    pub fn trace_opening(&self, traces: &Traces) {
        if traces.are_active()
            && let Some(user) = self.user()
        {
            let ConnectionOrigin { address, profile, .. } = &*self.origin;
            let fields = json!({ "endpoint": profile.name, "address": address });
            traces.opened(user, (&self.outbox, &self.id().to_string()), &fields);
        }
    }

    /// The connection's record in the registry.
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

    /// Age of the connection at `now_ms`, in milliseconds.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.origin.opened_uptime_ms)
    }

    /// Records that the client sent something.
    pub fn seen(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Time since the client last sent something, at `now_ms`.
    #[must_use]
    pub fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.seen_ms.load(Ordering::Relaxed))
    }

    /// Accesses the keep-alive state.
    pub fn with_keep_alive<R>(&self, act: impl FnOnce(&mut KeepAlive) -> R) -> R {
        act(&mut self.timing.lock().keep_alive)
    }

    /// Sets the subscription to the user's stream: a heartbeat contains its position if that advanced without a push.
    pub fn set_private(&self, slot: Option<SlotId>) {
        self.timing.lock().private = slot;
    }

    /// The names of the subscribed channels.
    #[must_use]
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.origin.channels.lock().to_vec()
    }

    /// Replaces the list of subscribed channels.
    pub fn set_channels(&self, channels: Vec<Arc<str>>) {
        *self.origin.channels.lock() = channels.into();
    }

    /// Sends a JSON object to this connection only. It belongs to no topic and is not stored.
    #[must_use]
    pub fn send_push(&self, payload: &[u8]) -> SendResult {
        let status = self.outbox.status();
        if status.shut || status.asked.is_some() {
            return SendResult::Unknown;
        }
        if self.outbox.waiting_bytes().saturating_add(payload.len()) > self.outbox.bytes_max() {
            return SendResult::Full;
        }
        let mut out = BytesMut::new();
        self.protocol.push(&mut out, &PushMeta::live(TO_CONNECTION, None), payload);
        self.outbox.send(out.freeze());
        SendResult::Taken
    }

    /// Handles a pong: the answer to a keep-alive ping, or to a ping that measures how far the client has read.
    pub fn pong(&self, payload: &[u8]) {
        if let Ok(number) = payload.try_into().map(u32::from_be_bytes) {
            self.timing.lock().keep_alive.pong(number);
        } else if let Ok(position) = payload.try_into().map(u64::from_be_bytes) {
            self.outbox.confirm(position);
        }
    }

    /// Sends a reply; no effect if the endpoint's dialect has no such message. `ignored` lists unknown fields of the
    /// command.
    pub fn send(&self, reply: &Reply, ignored: &[String]) {
        let mut out = BytesMut::with_capacity(256);
        self.protocol.reply(&mut out, reply, ignored, clock::stamp);
        self.outbox.send(out.freeze());
    }

    /// Sends a notice; no effect if the endpoint's dialect has no such message.
    pub fn notify(&self, notice: &Reply) {
        self.send(notice, &[]);
    }

    /// The notice before a Close frame; empty if the client closed the connection or the dialect has no such message.
    #[must_use]
    pub fn closing(&self, close: &Close) -> Bytes {
        let mut out = BytesMut::new();
        if close.code > 0 && close.cause != DisconnectReason::Client {
            let notice = ClosingNotice::new(close.code, close.reason.clone(), close.after_ms);
            self.protocol.notice(&mut out, &Reply::Closing(notice), clock::stamp);
        }
        out.freeze()
    }

    /// Requests the closing of the connection.
    pub fn close(&self, code: CloseCode, cause: DisconnectReason, reason: &str) {
        self.close_after(code, cause, reason, None);
    }

    /// Requests the closing of the connection, and asks the client to reconnect after a delay.
    pub fn close_after(&self, code: CloseCode, cause: DisconnectReason, reason: &str, after_ms: Option<u64>) {
        let close = Close::new(self.protocol.dialect.close_code(code), reason, cause);
        self.outbox.ask_close(Close { after_ms, ..close });
    }

    /// Closes the connection for a control message. An empty reason is replaced by the meaning of the code.
    pub fn close_on_control(&self, code: u16, reason: &str) {
        let code = CloseCode::from_number(code).unwrap_or(CloseCode::Disconnected);
        let cause = match code {
            CloseCode::Superseded => DisconnectReason::Superseded,
            CloseCode::UserInactive => DisconnectReason::Revoked,
            CloseCode::TooManyConnections => DisconnectReason::UserLimit,
            _ => DisconnectReason::Operator,
        };
        self.close(code, cause, if reason.is_empty() { code.meaning() } else { reason });
    }

    /// Performs keep-alive actions that are due. Returns when to check again, on the clock of `now_ms`.
    pub fn tick(&self, now_ms: u64, config: &KeepAliveConfig) -> u64 {
        let unix_ms = clock::unix_ms();
        self.outbox.release();
        let OutboxProgress { position: written, blocked, quiet_ms } = self.outbox.progress();
        let seen_ms = self.seen_ms.load(Ordering::Relaxed);
        let mut timing = self.timing.lock();
        let moved = timing.private.is_some_and(|slot| self.outbox.has_moved(slot));
        let facts = ConnectionFacts { now_ms, unix_ms, seen_ms, written, quiet_ms: quiet_ms.into(), blocked, moved };
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
            let heartbeat = HeartbeatNotice { timestamp: now, server_time: now, cursors };
            self.protocol.notice(&mut out, &Reply::Heartbeat(heartbeat), clock::stamp);
        }
        match actions.ping {
            // The client of a one-way stream cannot answer a ping. A disconnected one is detected because its socket
            // accepts no more data.
            Some(number) if self.protocol.transport == Transport::EventStream => {
                timing.keep_alive.pong(number);
            }
            Some(number) => websocket::ping(&mut out, &number.to_be_bytes()),
            None => {}
        }
        self.outbox.send(out.freeze());
    }
}
