//! From a request to a WebSocket: who is it, may it come in, and if not, how is it told. A browser can't see the status
//! of a failed upgrade, so it is upgraded and closed with the code; others get a plain HTTP answer.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
    routing::{any, get},
};
use hyper::{StatusCode, header, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tickgate_wire::{
    code::CloseCode,
    model::{ReplicaId, Start},
    reply::{self, Welcome, WelcomeLimits},
    websocket::Reader,
};
use tokio::net::TcpStream;

use super::{
    admission::{Admitted, Endpoint},
    event_stream,
    gateway::Gateway,
    handshake::{self, Handshake, Refusal, Upgrade},
    link::{Clock, Link},
    problem::Problem,
    pulse::Pulse,
    run::{Connection, Life, refusal, text},
    subscriptions::Subscriptions,
    wire::{self, Wire},
};
use crate::{
    config::Dialect,
    hub::{FormKind, Outbox, ReplayLimits, Socket},
    metrics::Handshake as Outcome,
    registry::{ConnectionInfo, SessionRecord},
    session::{Session, Wanted},
};

/// Routes of all configured endpoints.
pub fn router(gateway: &Arc<Gateway>) -> Router {
    let mut router = Router::new();
    for profile in &gateway.config.profiles {
        let endpoint = Endpoint {
            gateway: gateway.clone(),
            profile: profile.clone(),
            gauge: gateway.metrics.connections.resolve(&profile.name),
        };
        let route = match profile.dialect {
            Dialect::Json | Dialect::Envelope => any(upgrade),
            Dialect::EventStream => get(event_stream::open),
        };
        router = router.route(&profile.path, route.with_state(endpoint));
    }
    router
}

async fn upgrade(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (mut parts, _) = request.into_parts();
    let metrics = endpoint.gateway.metrics.clone();
    let handshake = match handshake::check(&parts, &endpoint.gateway.config.server.allowed_origins) {
        Ok(handshake) => handshake,
        Err(Refusal::Malformed(malformed)) => {
            metrics.handshakes_total.of(Outcome::BadRequest).inc();
            let detail = malformed.to_string();
            let problem = Problem { headers: malformed.headers(), ..Problem::new(malformed.status(), &detail) };
            return problem.into_response();
        }
        Err(Refusal::ForeignOrigin(upgrade)) => {
            metrics.handshakes_total.of(Outcome::Origin).inc();
            return endpoint.close_at_once(&mut parts, &upgrade, CloseCode::Policy, "Origin not allowed");
        }
    };
    let Ok(param) = endpoint.param(parts.uri.path()) else {
        metrics.handshakes_total.of(Outcome::BadRequest).inc();
        return Problem::new(StatusCode::NOT_FOUND, "the path's parameter is not a valid name").into_response();
    };
    let address = endpoint.gateway.address(peer.ip(), &parts.headers);
    match endpoint.admit(&handshake.credential, handshake.session, address).await {
        Ok(admitted) => {
            metrics.handshakes_total.of(Outcome::Accepted).inc();
            metrics.handshake_duration_seconds.observe(started.elapsed().as_secs_f64());
            endpoint.accept(&mut parts, &handshake, param, admitted)
        }
        Err(refused) => {
            metrics.handshakes_total.of(refused.outcome).inc();
            if handshake.browser {
                return endpoint.close_at_once(&mut parts, &handshake.upgrade, refused.code, refused.reason);
            }
            refused.into_response()
        }
    }
}

impl Endpoint {
    /// Answers 101 and lets the connection live.
    fn accept(
        self,
        parts: &mut axum::http::request::Parts,
        handshake: &Handshake,
        param: Option<Box<str>>,
        admitted: Admitted,
    ) -> Response {
        let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            self.never_came(&admitted);
            return Problem::new(StatusCode::UPGRADE_REQUIRED, "this connection can't be upgraded").into_response();
        };
        let since = handshake.since;
        let tasks = self.gateway.tasks.clone();
        tasks.spawn("upgrade", async move {
            let Some((stream, early)) = taken_over(on_upgrade).await else {
                self.never_came(&admitted);
                return;
            };
            let tasks = self.gateway.tasks.clone();
            let mut connection = self.connect(stream, param, admitted, since).await;
            if !early.is_empty() {
                connection.take_early(early).await;
            }
            // A task of its own: what the handshake needed is not kept for the life of the connection.
            tasks.spawn("connection", Life::of(connection));
        });
        switching(&handshake.upgrade)
    }

    /// The client left between its admission and the upgrade.
    fn never_came(&self, admitted: &Admitted) {
        let user = admitted.identity.as_ref().map(|identity| &identity.user);
        self.gateway.registry.closed(admitted.session, user);
    }

    /// Makes the connection, greets, and begins what is subscribed from the start.
    async fn connect(
        self,
        stream: TcpStream,
        param: Option<Box<str>>,
        admitted: Admitted,
        since: Option<tickgate_wire::model::StreamId>,
    ) -> Connection {
        let Admitted { since: came, identity, session: id, resumed, deferred, permit } = admitted;
        let gateway = self.gateway;
        let now_ms = gateway.clock.now_ms();
        let outbox = Outbox::new(Socket::Tcp(stream), gateway.outboxes.clone());
        let phase = id.low_byte();
        let mut pulse = Pulse::new(&gateway.config.session, now_ms, phase);
        let mut session = Session::new(id, self.profile.clone(), param);
        if let Some(identity) = &identity {
            pulse.set_expiry(identity.expires_at, phase);
        }
        if deferred {
            pulse.await_token(now_ms, &gateway.beats);
        }
        let dialect = self.profile.dialect;
        let link = Arc::new(Link::new(outbox.clone(), id, dialect, pulse, now_ms));
        let bucket = identity.as_ref().map(|identity| gateway.users.share(&identity.user));
        if let Some(identity) = identity {
            link.set_user(identity.user.clone());
            // A new session has no user yet to differ from.
            let _ = session.identify(identity);
        }
        session.set_private_since(since);
        let limits = &gateway.config.limits;
        let replay = ReplayLimits::new(limits.replay_entries_max, limits.replay_bytes_max);
        let reader = Reader::text(u32::try_from(limits.message_bytes_max).unwrap_or(u32::MAX));
        self.gauge.inc();
        let mut connection = Connection {
            subscriptions: Subscriptions::new(FormKind::WebSocket, replay),
            gateway: gateway.clone(),
            link: link.clone(),
            session,
            wire: Wire::new(outbox, reader),
            bucket,
            permit,
            gauge: self.gauge,
        };
        connection.take_over(came);
        gateway.wheel.add(&link, 1_000 + u64::from(phase) * 4_000 / 256);
        if dialect == Dialect::Json {
            connection.greet(resumed.is_some());
            Box::pin(connection.open(resumed)).await;
        }
        connection
    }

    /// Upgrades only to close: the one way to tell a browser why.
    fn close_at_once(
        &self,
        parts: &mut axum::http::request::Parts,
        upgrade: &Upgrade,
        code: CloseCode,
        reason: &'static str,
    ) -> Response {
        let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            return Problem::new(StatusCode::UPGRADE_REQUIRED, "this connection can't be upgraded").into_response();
        };
        self.gateway.metrics.close_frames_total.of(crate::metrics::Code::of(code.number())).inc();
        self.gateway.tasks.spawn("refusal", async move {
            if let Some((stream, _)) = taken_over(on_upgrade).await {
                wire::refuse(stream, refusal(code, reason)).await;
            }
        });
        switching(upgrade)
    }
}

impl Connection {
    /// Takes its place among the connections; an older one of the same session gives way. One on another replica is
    /// told by the registry.
    fn take_over(&self, came: Instant) {
        if let Some(old) = self.gateway.links.add(&self.link, came) {
            let superseded = CloseCode::Superseded;
            old.close(superseded, crate::metrics::Disconnect::Superseded, superseded.meaning());
        }
        self.note_opened();
    }

    /// Tells the registry of the connection, or whose it is now.
    pub(super) fn note_opened(&self) {
        let info = info(&self.link, &self.gateway.replica, &self.session.profile.name);
        self.gateway.registry.opened(info);
    }

    fn greet(&self, resumed: bool) {
        let limits = &self.gateway.config.limits;
        let session = self.session.id.to_string();
        let welcome = Welcome {
            message: &self.session.profile.welcome,
            connection_id: &session[..8],
            session: Some(&session),
            user: self.link.user().map(tickgate_wire::model::UserId::as_str),
            heartbeat_interval: self.gateway.config.session.heartbeat_interval.as_secs(),
            limits: WelcomeLimits {
                message_bytes: limits.message_bytes_max as u64,
                messages_per_second: limits.messages_per_connection.per_second.into(),
                messages_burst: limits.messages_per_connection.burst.into(),
                subscriptions: limits.subscriptions_max as u64,
                queued_messages: limits.outbox_messages_max as u64,
            },
            resumed,
        };
        self.link.outbox.send(text(|out| reply::connection_established(out, &welcome, Clock::unix_ms())));
    }

    /// Begins what a resumed session had, or what the endpoint subscribes by itself.
    async fn open(&mut self, resumed: Option<SessionRecord>) {
        match resumed {
            Some(record) => {
                let had = record.subscriptions.into_iter().map(|s| (s.channel, s.confirmed, s.max_rate));
                let wanted = self.session.restore(&had.collect::<Vec<_>>(), &self.gateway.rules);
                self.resume(wanted).await;
            }
            None if self.session.awaits_token() => {}
            None => {
                let opening = self.session.view(&self.gateway.rules).on_connect();
                self.begin(opening).await;
            }
        }
    }

    /// Takes up again what a session had. Where the streams stand now is asked of the backplane itself: this replica
    /// may be behind the one that the client comes from.
    async fn resume(&mut self, mut wanted: Vec<Wanted>) {
        let resumed = |w: &&mut Wanted| matches!(w.start, Start::Resumed { .. });
        let topics: Vec<_> = wanted.iter_mut().filter(resumed).map(|w| w.resolved.topic.clone()).collect();
        match self.gateway.backplane.heads(&topics).await {
            Ok(heads) => {
                for (wanted, head) in wanted.iter_mut().filter(resumed).zip(heads) {
                    if let Start::Resumed { through, .. } = &mut wanted.start {
                        *through = head;
                    }
                }
                self.subscribe_or_close(wanted).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a session can't be resumed now");
                self.postpone();
            }
        }
    }
}

/// What the registry is told of a connection.
pub(super) fn info(link: &Link, replica: &ReplicaId, profile: &str) -> ConnectionInfo {
    ConnectionInfo {
        session: link.session.to_string(),
        replica: replica.to_string(),
        user: link.user().map(ToString::to_string),
        profile: profile.to_owned(),
        connected_ms: link.opened_ms,
    }
}

/// The TCP stream under an upgraded connection, and what was read ahead. `None` when the client left meanwhile.
pub async fn taken_over(on_upgrade: OnUpgrade) -> Option<(TcpStream, Vec<u8>)> {
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    // A copy: the buffer itself would pin hyper's whole read buffer for the life of the connection.
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

/// The answer that makes a request a WebSocket.
#[must_use]
pub fn switching(upgrade: &Upgrade) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, upgrade.accept.clone());
    if let Some(protocol) = upgrade.protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(protocol));
    }
    response
}
