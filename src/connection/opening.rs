//! Turns an admitted client into a connection, for every transport. Never refuses: `admission` does.

use std::{borrow::Cow, time::Instant};

use parking_lot::Mutex;
use tickgate_wire::{
    code::CloseCode,
    command::SubscribeOptions,
    model::{SessionId, SessionSecret, UserId},
    reply::{Reply, Welcome, WelcomeLimits},
    time::Timestamp,
};

use super::{
    admission::{Admitted, Endpoint},
    attempt::Attempt,
    handle::{ConnectionHandle, ConnectionOrigin},
    keep_alive::KeepAlive,
    state::{Connection, DeferredRequest},
    subscriptions::Subscriptions,
};
use crate::{
    auth::TokenIdentity,
    clock,
    hub::{Outbox, OutboxSocket, ReplayLimits},
    metrics::DisconnectReason,
    session::{Session, ViolationAllowance, names_rate},
};

/// Name and version of this program, sent to clients.
const SERVER: &str = concat!("tickgate/", env!("CARGO_PKG_VERSION"));
/// Features beyond the first release of the contract.
const FEATURES: &[&str] = &[];

/// The parameters with which a client connected.
#[derive(Debug)]
pub(super) struct OpenParameters {
    /// The path parameter.
    pub(super) param: Option<Box<str>>,
    /// Where channels that the endpoint subscribes automatically start.
    pub(super) begin: SubscribeOptions,
    /// Parameters of the URL without a meaning, which the welcome names.
    pub(super) ignored: Vec<String>,
    /// Explicit mode: the client receives only what it subscribes to.
    pub(super) explicit: bool,
}

/// Creates the connection and registers it: from here on it can be found, timed out and closed.
pub(super) fn open(
    endpoint: Endpoint,
    admitted: Admitted,
    request: OpenParameters,
    socket: OutboxSocket,
) -> Connection {
    let Admitted { since, identity, key, session: id, takes_over, deferred, permit, attempt, .. } = admitted;
    let Endpoint { replica, profile, outboxes, .. } = endpoint;
    let (now_ms, phase, protocol) = (replica.uptime.now_ms(), id.low_byte(), profile.protocol);
    let mut keep_alive = KeepAlive::new(&replica.config.session, now_ms, phase);
    if let Some(identity) = &identity {
        keep_alive.set_expiry(identity.expires_at, phase);
    }
    if deferred {
        keep_alive.await_token(now_ms, &replica.keep_alive);
    }
    let outbox = Outbox::new(socket, outboxes);
    let (address, opened_ms) = (attempt.address, clock::unix_ms());
    let param = request.param.as_deref().map(str::to_owned);
    let origin = ConnectionOrigin {
        id: attempt.connection_id,
        address,
        profile: profile.clone(),
        param,
        opened_ms,
        opened_uptime_ms: now_ms,
        channels: Mutex::default(),
    };
    let handle = ConnectionHandle::new(outbox, id, protocol, keep_alive, now_ms, origin).into();
    let session = Session::new(id, profile, request.param, request.explicit);
    let limits = &replica.config.limits;
    let replay = ReplayLimits::new(limits.replay_entries_max, limits.replay_bytes_max, permit.reader());
    let mut connection = Connection {
        subscriptions: Subscriptions::new(protocol, replay, request.explicit),
        handle,
        session,
        allowance: ViolationAllowance::default(),
        user_bucket: None,
        arrival: Some(Box::new(DeferredRequest { begin: request.begin, ignored: request.ignored, takes_over })),
        permit,
        replica,
    };
    if let Some(identity) = identity {
        connection.handle.set_user(identity.user.clone());
        connection.user_bucket = Some(connection.replica.users.share(&identity.user));
        connection.session.identify(identity);
    }
    if let Some(key) = key {
        connection.session.admit_key(key);
    }
    connection.handle.outbox.shared.figures.connections.inc();
    let (endpoint, user) = (&*connection.session.profile.name, connection.handle.user().map(UserId::as_str));
    let Attempt { connection_id, address } = attempt;
    tracing::debug!(%connection_id, endpoint, %address, user, "connection opened");
    take_place(&connection, since);
    connection
}

/// Sends the welcome to an admitted client and subscribes the endpoint's automatic channels. Deferred until
/// authentication if the token follows in a message.
pub(super) async fn start(connection: &mut Connection, place: (SessionSecret, bool)) {
    if !connection.session.awaits_token() {
        greet(connection, place);
        connection.subscribe_on_connect().await;
    }
}

/// Sends the welcome. `resumed`: it took over the session of another connection. `secret`: the session's secret, which
/// is not stored.
pub(super) fn greet(connection: &Connection, (secret, resumed): (SessionSecret, bool)) {
    let limits = &connection.replica.config.limits;
    let (messages, names) = (limits.messages_per_connection, names_rate(limits));
    let now = Timestamp::from_ms(clock::unix_ms());
    let welcome = Welcome {
        timestamp: now,
        message: connection.session.profile.welcome.clone(),
        connection_id: connection.handle.id().to_string(),
        session: Some(secret),
        user: connection.handle.user().cloned(),
        expires_at: connection.session.identity().map(|identity| Timestamp::from_s(identity.expires_at)),
        server_time: now,
        heartbeat_interval: connection.replica.config.session.heartbeat_interval.as_secs(),
        limits: WelcomeLimits {
            message_bytes: limits.message_bytes_max as u64,
            messages_per_second: messages.per_second.into(),
            messages_burst: messages.burst.into(),
            names_per_second: names.per_second.into(),
            names_burst: names.burst.into(),
            subscriptions: limits.subscriptions_max as u64,
            queued_messages: limits.outbox_messages_max as u64,
        },
        resumed,
        server: SERVER.into(),
        features: FEATURES.iter().map(|name| Cow::Borrowed(*name)).collect(),
    };
    let ignored = connection.arrival.as_ref().map_or(&[][..], |arrival| &arrival.ignored);
    connection.handle.send(&Reply::ConnectionEstablished(welcome), ignored);
}

/// Registers a connection that authenticated by its first message under its user and admitted session.
pub(super) fn identify(connection: &mut Connection, admitted: (TokenIdentity, SessionId), since: Instant) {
    let (identity, id) = admitted;
    let (replica, former) = (connection.replica.clone(), connection.handle.clone());
    let (now_ms, phase) = (replica.uptime.now_ms(), id.low_byte());
    replica.connections.remove(&former);
    replica.registry.closed(former.session);
    let mut keep_alive = KeepAlive::new(&replica.config.session, now_ms, phase);
    keep_alive.set_expiry(identity.expires_at, phase);
    let protocol = connection.session.profile.protocol;
    let handle = ConnectionHandle::new(former.outbox.clone(), id, protocol, keep_alive, now_ms, former.origin.again());
    handle.set_user(identity.user.clone());
    connection.handle = handle.into();
    connection.user_bucket = Some(replica.users.share(&identity.user));
    connection.session.id = id;
    connection.session.identify(identity);
    take_place(connection, since);
}

/// From here on the connection can be found, timed out and closed.
fn take_place(connection: &Connection, since: Instant) {
    let Connection { replica, handle, .. } = connection;
    if let Some(old) = replica.connections.add(handle, since) {
        // An older connection of the same session on this replica. The registry closes one on another replica.
        let superseded = CloseCode::Superseded;
        old.close(superseded, DisconnectReason::Superseded, superseded.meaning());
    }
    // After registering: a trace that starts now reports the connections that it finds in the table.
    handle.trace_opening(replica.hub.traces());
    connection.announce();
    // Recorded even before any subscription: after a crash, a client's own place must not block it.
    connection.record();
    connection.note_followed();
    let first_ms = handle.with_keep_alive(|keep_alive| keep_alive.first_check_ms(handle.session.low_byte()));
    replica.wheel.add(handle, first_ms);
}
