//! Decodes a client's messages: rates, grammar, violations. Never decides what a command may do and never executes one:
//! `perform` does, in the order of the messages.

use parking_lot::Mutex;
use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    command::{self, Command, Request},
    dialect::Dialect,
    websocket::WebSocketEvent,
};

use super::{handle::ConnectionHandle, replica::Replica, state::Connection};
use crate::{
    bucket::Bucket,
    hub::Close,
    metrics::{DisconnectReason, RateScope},
    session::{MessageFault, ViolationAllowance},
};

/// One item to process.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Decided in its turn: earlier messages may change the client's rights.
    Command(Request),
    /// A refused message.
    Fault(MessageFault),
}

/// Decodes the events of one read.
pub(super) struct Decoder<'a> {
    replica: &'a Replica,
    handle: &'a ConnectionHandle,
    dialect: Dialect,
    allowance: &'a mut ViolationAllowance,
    user_bucket: Option<&'a Mutex<Bucket>>,
    now_ms: u64,
    inbound: Vec<Inbound>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(connection: &'a mut Connection) -> Self {
        let Connection { replica, handle, session, allowance, user_bucket, .. } = connection;
        let now_ms = replica.uptime.now_ms();
        handle.seen(now_ms);
        let (dialect, user_bucket) = (session.profile.protocol.dialect, user_bucket.as_deref());
        Self { replica, handle, dialect, allowance, user_bucket, now_ms, inbound: Vec::new() }
    }

    /// The decoded messages in order.
    pub(super) fn finish(self) -> Vec<Inbound> {
        self.inbound
    }

    /// Decodes an event. Returns the close that it causes, if any.
    pub(super) fn decode(&mut self, event: WebSocketEvent<'_>) -> Option<Close> {
        match event {
            WebSocketEvent::Text(text) => {
                self.replica.metrics.messages_received_total.inc();
                match self.message(text) {
                    Ok(request) => {
                        self.inbound.extend(request.map(Inbound::Command));
                        None
                    }
                    Err(fault) => {
                        let close = fault.close.map(|code| self.close(code));
                        self.inbound.push(Inbound::Fault(fault));
                        close
                    }
                }
            }
            WebSocketEvent::Pong(payload) => {
                self.handle.pong(payload);
                None
            }
            // The reader refuses binary frames; `wire` answers pings and closes.
            WebSocketEvent::Binary(_) | WebSocketEvent::Ping(_) | WebSocketEvent::Close(..) => None,
        }
    }

    fn message(&mut self, text: &str) -> Result<Option<Request>, MessageFault> {
        self.spend()?;
        let limits = &self.replica.config.limits;
        let bounds =
            command::MessageLimits { depth_max: limits.json_depth_max, channels_max: limits.subscriptions_max.max(1) };
        let request = self.dialect.decode(text, &bounds).map_err(|invalid| {
            let is_offence = invalid.code == ErrorCode::InvalidMessage;
            let close = is_offence.then(|| self.allowance.offend(self.now_ms, limits)).flatten();
            MessageFault {
                id: invalid.id,
                field: invalid.field,
                close,
                ..MessageFault::new(invalid.code, invalid.message)
            }
        })?;
        let count = request.as_ref().map_or(0, |request| names(&request.command));
        match self.allowance.spend_names(count, self.now_ms, limits) {
            Ok(()) => Ok(request),
            Err(fault) => {
                self.replica.metrics.rate_limited_total.of(RateScope::Connection).inc();
                Err(MessageFault { id: request.and_then(|request| request.id), ..fault })
            }
        }
    }

    /// Takes a token from the connection's bucket and one from its user's. A message that exceeds the connection's
    /// limit does not count against the user's.
    fn spend(&mut self) -> Result<(), MessageFault> {
        let Replica { config, metrics, .. } = self.replica;
        let refused = |scope| metrics.rate_limited_total.of(scope).inc();
        self.allowance.spend_message(self.now_ms, &config.limits).inspect_err(|_| refused(RateScope::Connection))?;
        let Some(bucket) = self.user_bucket else { return Ok(()) };
        self.allowance
            .spend_users(&mut bucket.lock(), self.now_ms, &config.limits)
            .inspect_err(|_| refused(RateScope::User))
    }

    /// The close after too many violations.
    fn close(&self, code: CloseCode) -> Close {
        let cause = if code == CloseCode::RateLimited {
            DisconnectReason::RateLimited
        } else {
            DisconnectReason::InvalidMessages
        };
        Close::new(self.dialect.close_code(code), code.meaning(), cause)
    }
}

/// How many channels a command names that the replica may have to follow.
fn names(command: &Command) -> usize {
    match command {
        Command::Subscribe { elements } => elements.len(),
        Command::SubscribeSymbols { symbols, .. } => symbols.len(),
        _ => 0,
    }
}
