//! From a request to a WebSocket: who is it, may it come in, and if not, how is it told. A browser can't see the status
//! of a failed upgrade, so it is upgraded and closed with the code; others get a plain HTTP answer.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
    routing::any,
};
use hyper::{StatusCode, header, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    address::{Permit, RefusedBy},
    frame::Reader,
    gateway::Gateway,
    handshake::{self, Credential, Handshake, Refusal, Upgrade},
    link::{Clock, Link},
    problem::Problem,
    pulse::Pulse,
    run::{Connection, refusal, text},
    subscriptions::Subscriptions,
};
use crate::{
    auth::{Identity, TokenError},
    config::{Dialect, OverLimit, Profile, TokenRule},
    hub::{FormKind, Outbox, ReplayLimits, Socket},
    metrics::{Handshake as Outcome, RateScope},
    model::{SessionId, check_name},
    protocol::{
        code::CloseCode,
        reply::{self, Welcome, WelcomeLimits},
    },
    registry::{Admission, ConnectionInfo, SessionRecord, Verdict},
    session::Session,
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
        router = router.route(&profile.path, any(upgrade).with_state(endpoint));
    }
    router
}

/// One profile with all that it needs.
#[derive(Clone)]
struct Endpoint {
    gateway: Arc<Gateway>,
    profile: Arc<Profile>,
    gauge: prometheus::IntGauge,
}

/// A client that is let in.
struct Admitted {
    identity: Option<Identity>,
    session: SessionId,
    /// What it had subscribed before, when it resumes.
    resumed: Option<SessionRecord>,
    deferred: bool,
    permit: Permit,
}

/// A client that is not let in.
struct Refused {
    status: StatusCode,
    code: CloseCode,
    reason: &'static str,
    outcome: Outcome,
    retry_after_s: Option<u64>,
}

impl Refused {
    const fn new(status: StatusCode, code: CloseCode, reason: &'static str, outcome: Outcome) -> Self {
        Self { status, code, reason, outcome, retry_after_s: None }
    }

    const fn after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }
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
    let param = match endpoint.param(parts.uri.path()) {
        Ok(param) => param,
        Err(()) => {
            metrics.handshakes_total.of(Outcome::BadRequest).inc();
            return Problem::new(StatusCode::NOT_FOUND, "the path's parameter is not a valid name").into_response();
        }
    };
    let address = endpoint.gateway.address(peer.ip(), &parts.headers);
    match endpoint.admit(&handshake, address).await {
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
            let code = Some((refused.code.number(), refused.code.name()));
            let retry_after_s = refused.retry_after_s;
            Problem { code, retry_after_s, ..Problem::new(refused.status, refused.reason) }.into_response()
        }
    }
}

impl Endpoint {
    /// The value of the path's one parameter, which becomes part of a topic's name.
    fn param(&self, path: &str) -> Result<Option<Box<str>>, ()> {
        let Some(open) = self.profile.path.find('{') else { return Ok(None) };
        let tail = self.profile.path.find('}').map_or("", |close| &self.profile.path[close + 1..]);
        let value = path.get(open..).and_then(|rest| rest.strip_suffix(tail)).ok_or(())?;
        check_name(value).map_err(|_| ())?;
        Ok(Some(value.into()))
    }

    async fn admit(&self, handshake: &Handshake, address: std::net::IpAddr) -> Result<Admitted, Refused> {
        let gateway = &self.gateway;
        let permit = gateway.addresses.admit(address, Instant::now()).map_err(|refused| {
            gateway.metrics.rate_limited_total.of(RateScope::Address).inc();
            let (code, outcome) = match refused.by {
                RefusedBy::Rate => (CloseCode::RateLimited, Outcome::RateLimited),
                RefusedBy::Connections | RefusedBy::Addresses => (CloseCode::TryAgainLater, Outcome::AddressLimit),
            };
            let reason = "Too many connections from this address";
            Refused::new(StatusCode::TOO_MANY_REQUESTS, code, reason, outcome)
                .after(refused.retry_after.as_secs_f64().ceil() as u64)
        })?;
        if !gateway.has_room() {
            let draining = gateway.closing.load(Ordering::Relaxed);
            let (code, outcome) = if draining {
                (CloseCode::Restarting, Outcome::Draining)
            } else {
                (CloseCode::TryAgainLater, Outcome::Capacity)
            };
            return Err(
                Refused::new(StatusCode::SERVICE_UNAVAILABLE, code, "Replica is full or going away", outcome).after(2)
            );
        }
        let (identity, deferred) = self.identify(&handshake.credential).await?;
        let (session, resumed) = self.resume(handshake.session, identity.as_ref()).await;
        if let Some(identity) = &identity {
            self.admit_user(identity, session).await?;
        }
        Ok(Admitted { identity, session, resumed, deferred, permit })
    }

    /// Who comes, and whether its token is still to come by message.
    async fn identify(&self, credential: &Credential) -> Result<(Option<Identity>, bool), Refused> {
        let rule = self.profile.token;
        if rule == TokenRule::Ignored {
            return Ok((None, false));
        }
        if rule == TokenRule::Publisher
            && let Credential::Token(key) | Credential::ApiKey(key) = credential
            && self.gateway.verifier.is_api_key(key.expose())
        {
            return Ok((None, false));
        }
        match credential {
            Credential::Token(token) => self.verify(token.expose()).await.map(|identity| (Some(identity), false)),
            Credential::Ticket(ticket) => {
                let token = self.gateway.registry.take_ticket(ticket.expose()).await;
                match token {
                    Ok(Some(token)) => self.verify(&token).await.map(|identity| (Some(identity), false)),
                    Ok(None) => Err(self.unauthorized("Invalid token")),
                    Err(_) => Err(unavailable()),
                }
            }
            Credential::Deferred if rule == TokenRule::Required => Ok((None, true)),
            Credential::ApiKey(_) => Err(self.unauthorized("Invalid token")),
            Credential::None | Credential::Deferred => match rule {
                TokenRule::Required => Err(self.missing()),
                TokenRule::Publisher if !self.gateway.config.development => Err(self.missing()),
                _ => Ok((None, false)),
            },
        }
    }

    fn missing(&self) -> Refused {
        self.gateway.metrics.auth_failures_total.of(crate::metrics::AuthFailure::Missing).inc();
        self.unauthorized("Authentication required")
    }

    async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        let now = SystemTime::now();
        let verifier = &self.gateway.verifier;
        let verified = match verifier.verify_now(token, now) {
            Some(verified) => verified,
            None => verifier.verify(token, now).await,
        };
        let identity = verified.map_err(|error: TokenError| {
            self.gateway.metrics.auth_failures_total.of(error.reason()).inc();
            if error.is_ours() { unavailable() } else { self.unauthorized("Invalid token") }
        })?;
        if self.profile.token == TokenRule::Publisher && identity.rights.publish.is_empty() {
            let reason = "The token has no publish right";
            return Err(Refused::new(StatusCode::FORBIDDEN, CloseCode::Policy, reason, Outcome::Forbidden));
        }
        Ok(identity)
    }

    fn unauthorized(&self, reason: &'static str) -> Refused {
        let code = CloseCode::from_number(self.profile.refusal_code).unwrap_or(CloseCode::AuthRequired);
        Refused::new(StatusCode::UNAUTHORIZED, code, reason, Outcome::Unauthorized)
    }

    /// The session to go on with: an old one if it may be resumed, else a new one.
    async fn resume(
        &self,
        wanted: Option<SessionId>,
        identity: Option<&Identity>,
    ) -> (SessionId, Option<SessionRecord>) {
        let Some(session) = wanted else { return (SessionId::random(), None) };
        let recalled = self.gateway.registry.recall(session).await.ok().flatten();
        let user = identity.map(|identity| identity.user.as_str());
        let own = |record: &SessionRecord| record.profile == self.profile.name && record.user.as_deref() == user;
        match recalled.filter(own) {
            Some(record) => (session, Some(record)),
            None => (SessionId::random(), None),
        }
    }

    async fn admit_user(&self, identity: &Identity, session: SessionId) -> Result<(), Refused> {
        let limits = &self.gateway.config.limits;
        let admission = Admission {
            user: identity.user.clone(),
            session,
            connections_max: limits.connections_per_user_max,
            evict_oldest: limits.over_limit == OverLimit::EvictOldest,
            issued_at: identity.issued_at,
        };
        match self.gateway.registry.admit(&admission).await {
            Ok(Verdict::Admitted { .. }) => Ok(()),
            Ok(Verdict::Refused { .. }) => {
                let (code, reason) = (CloseCode::TooManyConnections, "Maximum connections exceeded");
                Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, code, reason, Outcome::UserLimit).after(5))
            }
            Ok(Verdict::Revoked) => {
                let (code, reason) = (CloseCode::UserInactive, "User not found or inactive");
                Err(Refused::new(StatusCode::FORBIDDEN, code, reason, Outcome::Forbidden))
            }
            // While Redis is away nobody can be counted; readiness tells. Who comes here all the same is let in, and
            // counted when Redis is back.
            Err(error) => {
                tracing::debug!(%error, "a connection could not be counted");
                Ok(())
            }
        }
    }

    /// Answers 101 and lets the connection live.
    fn accept(
        self,
        parts: &mut axum::http::request::Parts,
        handshake: &Handshake,
        param: Option<Box<str>>,
        admitted: Admitted,
    ) -> Response {
        let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            return Problem::new(StatusCode::UPGRADE_REQUIRED, "this connection can't be upgraded").into_response();
        };
        let since = handshake.since;
        let tasks = self.gateway.tasks.clone();
        tasks.spawn("connection", async move {
            let Some((stream, early)) = taken_over(on_upgrade).await else {
                self.never_came(&admitted);
                return;
            };
            let connection = self.connect(stream, param, admitted, since).await;
            connection.run(early).await;
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
        since: Option<crate::model::StreamId>,
    ) -> Box<Connection> {
        let Admitted { identity, session: id, resumed, deferred, permit } = admitted;
        let gateway = self.gateway;
        let now_ms = gateway.clock.now_ms();
        let outbox = Outbox::new(Socket::Tcp(stream), gateway.outboxes.clone());
        let jitter = f64::from(id.low_byte()) / 256.0;
        let mut pulse = Pulse::new(&gateway.config.session, now_ms, jitter);
        let mut session = Session::new(id, self.profile.clone(), param);
        if let Some(identity) = &identity {
            pulse.set_expiry(identity.expires_at);
        }
        if deferred {
            pulse.await_token(now_ms, &gateway.beats);
        }
        let dialect = self.profile.dialect;
        let link = Arc::new(Link::new(outbox, id, dialect, pulse, now_ms));
        let bucket = identity.as_ref().map(|identity| gateway.users.share(&identity.user));
        if let Some(identity) = identity {
            link.set_user(identity.user.clone());
            // A new session has no user yet to differ from.
            let _ = session.identify(identity);
        }
        session.set_private_since(since);
        let limits = &gateway.config.limits;
        let replay = ReplayLimits { entries_max: limits.replay_entries_max, bytes_max: limits.replay_bytes_max };
        let reader = Reader::text(u32::try_from(limits.message_bytes_max).unwrap_or(u32::MAX));
        self.gauge.inc();
        let mut connection = Box::new(Connection {
            subscriptions: Subscriptions::new(FormKind::WebSocket, replay),
            gateway: gateway.clone(),
            link: link.clone(),
            session,
            reader,
            bucket,
            permit,
            gauge: self.gauge,
        });
        connection.take_over();
        gateway.wheel.add(&link, 1_000 + (jitter * 4_000.0) as u64);
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
                super::run::refuse(stream, refusal(code, reason)).await;
            }
        });
        switching(upgrade)
    }
}

impl Connection {
    /// Takes its place among the connections; an older one of the same session gives way. One on another replica is
    /// told by the registry.
    fn take_over(&self) {
        if let Some(old) = self.gateway.links.add(&self.link) {
            let superseded = CloseCode::Superseded;
            old.close(superseded, crate::metrics::Disconnect::Superseded, superseded.meaning());
        }
        self.note_opened();
    }

    /// Tells the registry of the connection, or whose it is now.
    pub(super) fn note_opened(&self) {
        self.gateway.registry.opened(ConnectionInfo {
            session: self.session.id.to_string(),
            replica: self.gateway.replica.to_string(),
            user: self.link.user().map(ToString::to_string),
            profile: self.session.profile.name.clone(),
            connected_ms: self.link.opened_ms,
        });
    }

    fn greet(&self, resumed: bool) {
        let limits = &self.gateway.config.limits;
        let session = self.session.id.to_string();
        let welcome = Welcome {
            message: &self.session.profile.welcome,
            connection_id: &session[..8],
            session: Some(&session),
            user: self.link.user().map(crate::model::UserId::as_str),
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
                self.subscribe(None, wanted, Vec::new()).await;
            }
            None if self.session.awaits_token() => {}
            None => {
                let opening = self.session.view(&self.gateway.rules).on_connect();
                self.begin(opening).await;
            }
        }
    }
}

/// The TCP stream under an upgraded connection, and what was read ahead.
async fn taken_over(on_upgrade: OnUpgrade) -> Option<(TcpStream, Vec<u8>)> {
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    // A copy: the buffer itself would pin hyper's whole read buffer for the life of the connection.
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

fn switching(upgrade: &Upgrade) -> Response {
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

const fn unavailable() -> Refused {
    let reason = "Tokens can't be verified now";
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, CloseCode::TryAgainLater, reason, Outcome::Unavailable).after(2)
}
