//! How an admitted client becomes a connection, whatever its transport. Never refuses: that is `admission`'s.

use tickgate_wire::{
    code::CloseCode,
    model::{Start, StreamId, UserId},
    reply::{Reply, Welcome, WelcomeLimits},
    time::Timestamp,
};

use super::{
    admission::{Admitted, Endpoint},
    handle::ConnectionHandle,
    keep_alive::KeepAlive,
    state::Connection,
    subscriptions::Subscriptions,
};
use crate::{
    clock,
    hub::{Outbox, ReplayLimits, Socket},
    metrics::Disconnect,
    registry::SessionRecord,
    session::{Allowance, Session, Wanted},
};

/// What a client asked for when it connected.
#[derive(Debug)]
pub(super) struct Request {
    /// The value of the path's parameter.
    pub(super) param: Option<Box<str>>,
    /// The private stream continues after this cursor once it is subscribed.
    pub(super) since: Option<StreamId>,
}

/// Makes the connection and takes its place among the others: from here on it can be found, timed and closed.
pub(super) fn open(endpoint: Endpoint, admitted: Admitted, request: Request, socket: Socket) -> Connection {
    let Admitted { since, identity, session: id, deferred, permit, address, .. } = admitted;
    let Endpoint { replica, profile, gauge } = endpoint;
    let (now_ms, phase, protocol) = (replica.uptime.now_ms(), id.low_byte(), profile.protocol);
    let mut keep_alive = KeepAlive::new(&replica.config.session, now_ms, phase);
    if let Some(identity) = &identity {
        keep_alive.set_expiry(identity.expires_at, phase);
    }
    if deferred {
        keep_alive.await_token(now_ms, &replica.keep_alive);
    }
    let outbox = Outbox::new(socket, replica.outboxes.clone());
    let handle = ConnectionHandle::new(outbox, id, protocol, keep_alive, now_ms).into();
    let mut session = Session::new(id, profile, request.param);
    session.set_private_since(request.since);
    let limits = &replica.config.limits;
    let replay = ReplayLimits::new(limits.replay_entries_max, limits.replay_bytes_max);
    let mut connection = Connection {
        subscriptions: Subscriptions::new(protocol, replay),
        handle,
        session,
        allowance: Allowance::default(),
        user_bucket: None,
        permit,
        gauge,
        replica,
    };
    if let Some(identity) = identity {
        connection.handle.set_user(identity.user.clone());
        connection.user_bucket = Some(connection.replica.users.share(&identity.user));
        // A new session has no user yet from which the identity could differ.
        let _ = connection.session.identify(identity);
    }
    connection.gauge.inc();
    if let Some(old) = connection.replica.connections.add(&connection.handle, since) {
        // An older connection of the same session on this replica. The registry closes one on another replica.
        let superseded = CloseCode::Superseded;
        old.close(superseded, Disconnect::Superseded, superseded.meaning());
    }
    let (connection_id, endpoint) = (id.connection_id(), &*connection.session.profile.name);
    let user = connection.handle.user().map(UserId::as_str);
    tracing::debug!(%connection_id, endpoint, %address, user, "connection opened");
    connection.announce();
    connection.replica.wheel.add(&connection.handle, 1_000 + u64::from(phase) * 4_000 / 256);
    connection
}

/// Greets the client, and subscribes what a resumed session had or what the endpoint subscribes by itself.
pub(super) async fn start(connection: &mut Connection, resumed: Option<SessionRecord>) {
    greet(connection, resumed.is_some());
    match resumed {
        Some(record) => {
            let had = record.subscriptions.into_iter().map(|s| (s.channel, s.confirmed, s.max_rate));
            let wanted = connection.session.restore(&had.collect::<Vec<_>>(), &connection.replica.rules);
            resume(connection, wanted).await;
        }
        None if connection.session.awaits_token() => {}
        None => connection.subscribe_on_connect().await,
    }
}

fn greet(connection: &Connection, resumed: bool) {
    let limits = &connection.replica.config.limits;
    let session = connection.session.id;
    let now = Timestamp::from_ms(clock::unix_ms());
    let welcome = Welcome {
        timestamp: now,
        message: connection.session.profile.welcome.clone(),
        connection_id: session.connection_id(),
        session: Some(session),
        user: connection.handle.user().cloned(),
        server_time: now,
        heartbeat_interval: connection.replica.config.session.heartbeat_interval.as_secs(),
        limits: WelcomeLimits {
            message_bytes: limits.message_bytes_max as u64,
            messages_per_second: limits.messages_per_connection.per_second.into(),
            messages_burst: limits.messages_per_connection.burst.into(),
            subscriptions: limits.subscriptions_max as u64,
            queued_messages: limits.outbox_messages_max as u64,
        },
        resumed,
    };
    connection.handle.send(&Reply::ConnectionEstablished(welcome));
}

/// Continues the subscriptions of a resumed session. The backplane itself is asked how far the streams have come: this
/// replica may be behind the one from which the client comes.
async fn resume(connection: &mut Connection, mut wanted: Vec<Wanted>) {
    let resumed = |w: &&mut Wanted| matches!(w.start, Start::Resumed { .. });
    let topics: Vec<_> = wanted.iter_mut().filter(resumed).map(|w| w.resolved.topic.clone()).collect();
    let heads = connection.replica.backplane.heads(&topics).await;
    match heads.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(heads) => {
            for (wanted, head) in wanted.iter_mut().filter(resumed).zip(heads) {
                if let Start::Resumed { through, .. } = &mut wanted.start {
                    *through = head;
                }
            }
            connection.subscribe_or_close(wanted).await;
        }
        Err(error) => {
            tracing::debug!(%error, "can't resume a session now");
            connection.close_to_retry();
        }
    }
}
