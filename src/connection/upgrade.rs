//! Upgrades a request to a WebSocket. A browser cannot see the status of a failed upgrade, so its request is upgraded
//! and then closed with the reason, like that of every client that offers the sub-protocol; others get an HTTP
//! response, unless the endpoint closes all refused clients. Never decides who is admitted.

use std::{net::SocketAddr, time::Instant};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::BytesMut;
use hyper::{StatusCode, header, http::request::Parts, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tickgate_wire::{
    code::{CloseCode, ProblemKind},
    reply::{ClosingNotice, FailureReply, Reply},
    time::Timestamp,
    websocket::{self, FrameReader},
};

use super::{
    admission::{Admitted, ClientRefusal, Endpoint, no_descriptor},
    attempt::{self, Attempt, ConnectionId},
    handshake::{self, Handshake, HandshakeRefusal, RefusalDelivery, Upgrade, UpgradeRefusal},
    http_stream::HttpStream,
    opening,
    socket_io::{self, SocketIo},
    spares::SpareConnection,
    task::ConnectionTask,
};
use crate::{
    clock,
    hub::OutboxSocket,
    metrics::{self, HandshakeResult},
    problem::Problem,
};

/// Upgrades the request or refuses it.
pub(super) async fn open(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    answer(endpoint, peer, request, true).await
}

/// Refuses a request at a path without an endpoint. `endpoint` supplies the dialect.
pub(super) async fn open_nowhere(endpoint: Endpoint, peer: SocketAddr, request: Request) -> Response {
    answer(endpoint, peer, request, false).await
}

async fn answer(endpoint: Endpoint, peer: SocketAddr, request: Request, is_here: bool) -> Response {
    let started = Instant::now();
    let (mut parts, _) = request.into_parts();
    let metrics = endpoint.replica.metrics.clone();
    let address = endpoint.replica.address(peer.ip(), &parts.headers);
    let attempt = Attempt { connection_id: ConnectionId::random(), address };
    if parts.extensions.get::<SpareConnection>().is_some() {
        return endpoint.refuse(attempt, &parts.headers, no_descriptor());
    }
    let place = endpoint.take_place(attempt);
    let checked = handshake::check(&parts, &endpoint.replica.config.server.allowed_origins);
    let (place, handshake) = match (place, checked) {
        (Ok(place), Ok(handshake)) => (place, handshake),
        (Err(refused), checked) => {
            endpoint.note_refusal(attempt, refused.outcome, &refused);
            return match &checked {
                Ok(Handshake { upgrade, told, .. }) | Err(HandshakeRefusal::Refused { upgrade, told, .. }) => {
                    refuse(&endpoint, &mut parts, (upgrade, *told), refused)
                }
                Err(HandshakeRefusal::Malformed(_)) => refused.respond(&parts.headers),
            };
        }
        (Ok(_), Err(HandshakeRefusal::Malformed(malformed))) => {
            endpoint.note_refusal(attempt, HandshakeResult::BadRequest, malformed);
            let problem = Problem::new(malformed.kind(), malformed.to_string());
            return Problem { headers: malformed.headers(), ..problem }.respond(&parts.headers);
        }
        (Ok(_), Err(HandshakeRefusal::Refused { upgrade, told, why })) => {
            let (refused, reason) = match why {
                UpgradeRefusal::ForeignOrigin => (foreign_origin(), attempt::foreign_origin(&parts.headers)),
                UpgradeRefusal::Malformed(malformed) => {
                    (ClientRefusal::malformed(malformed.to_string(), malformed.field()), malformed.to_string())
                }
            };
            endpoint.note_refusal(attempt, refused.outcome, reason);
            return refuse(&endpoint, &mut parts, (&upgrade, told), refused);
        }
    };
    let to = (&handshake.upgrade, handshake.told);
    let nowhere = || Err("this path has no WebSocket endpoint".into());
    let param = match if is_here { endpoint.param(parts.uri.path()) } else { nowhere() } {
        Ok(param) => param,
        Err(reason) => {
            let refused =
                ClientRefusal::new(StatusCode::NOT_FOUND, CloseCode::NotFound, reason, HandshakeResult::BadRequest);
            endpoint.note_refusal(attempt, refused.outcome, &refused);
            return refuse(&endpoint, &mut parts, to, refused);
        }
    };
    let admitted = endpoint.admit(&handshake.credential, handshake.session, attempt, place).await;
    let explicit = handshake.told == RefusalDelivery::Notice;
    let begin = (handshake.begin, explicit);
    match admitted.and_then(|admitted| endpoint.may_begin(param.as_deref(), begin, admitted)) {
        Ok(admitted) => {
            metrics.handshakes_total.of(HandshakeResult::Accepted).inc();
            metrics.handshake_duration_seconds.observe(started.elapsed().as_secs_f64());
            let Handshake { upgrade, begin, ignored, .. } = handshake;
            let request = opening::OpenParameters { param, begin, ignored, explicit };
            accept(endpoint, &mut parts, &upgrade, request, admitted)
        }
        Err(refused) => {
            endpoint.note_refusal(attempt, refused.outcome, &refused);
            refuse(&endpoint, &mut parts, to, refused)
        }
    }
}

fn foreign_origin() -> ClientRefusal {
    ClientRefusal::new(StatusCode::FORBIDDEN, CloseCode::Policy, "Origin not allowed", HandshakeResult::Origin)
}

/// Refuses in a way that the client can see.
fn refuse(
    endpoint: &Endpoint,
    parts: &mut Parts,
    (upgrade, told): (&Upgrade, RefusalDelivery),
    refused: ClientRefusal,
) -> Response {
    if told == RefusalDelivery::Status && !endpoint.profile.closes_refused {
        return refused.respond(&parts.headers);
    }
    close_at_once(endpoint, parts, (upgrade, told), &refused)
}

/// Responds with 101. The connection opens once the response is sent and the socket is released by HTTP.
fn accept(
    endpoint: Endpoint,
    parts: &mut Parts,
    upgrade: &Upgrade,
    request: opening::OpenParameters,
    admitted: Admitted,
) -> Response {
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        endpoint.withdraw(&admitted);
        return cannot_upgrade(parts);
    };
    let tasks = endpoint.replica.tasks.clone();
    tasks.clone().spawn("upgrade", async move {
        let Some((stream, early)) = taken_over(on_upgrade).await else {
            endpoint.withdraw(&admitted);
            return;
        };
        // From here on the connection's own timeouts apply, which send the client a reason.
        let _ = stream.tcp().map(|tcp| SockRef::from(tcp).set_tcp_user_timeout(None));
        let message_bytes_max = endpoint.replica.config.limits.message_bytes_max;
        let reader = FrameReader::text(u32::try_from(message_bytes_max).unwrap_or(u32::MAX));
        let place = (admitted.secret, admitted.resumed);
        let mut connection = opening::open(endpoint, admitted, request, stream);
        let wire = SocketIo::new(connection.handle.outbox.clone(), reader);
        Box::pin(opening::start(&mut connection, place)).await;
        // A separate task, so that the state of the handshake is not kept for the life of the connection.
        tasks.spawn("connection", ConnectionTask::new(connection, wire, early));
    });
    switching(upgrade)
}

/// Upgrades only to close: the only way to send a reason to a browser, and required by the sub-protocol.
fn close_at_once(
    endpoint: &Endpoint,
    parts: &mut Parts,
    (upgrade, told): (&Upgrade, RefusalDelivery),
    refused: &ClientRefusal,
) -> Response {
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else { return cannot_upgrade(parts) };
    let protocol = endpoint.profile.protocol;
    let code = protocol.dialect.close_code(refused.code);
    endpoint.replica.metrics.close_frames_total.of(metrics::CodeLabel::of(code)).inc();
    let mut last = BytesMut::with_capacity(256);
    let retry_after_ms = refused.retry_after_s.map(|s| s * 1_000);
    let mut closing = ClosingNotice::new(code, refused.told(), retry_after_ms);
    closing.object.details.field = refused.field.map(str::to_owned);
    if told == RefusalDelivery::Notice {
        protocol.notice(&mut last, &Reply::Closing(closing), clock::stamp);
    } else if endpoint.profile.closes_refused {
        let mut object = closing.object;
        object.details.retry_after_ms = retry_after_ms;
        let failure = FailureReply { object, id: None, timestamp: Timestamp::from_ms(clock::unix_ms()) };
        endpoint.replica.metrics.errors_total.of(metrics::CodeLabel::of(code)).inc();
        protocol.notice(&mut last, &Reply::Error(failure), clock::stamp);
    }
    websocket::close(&mut last, Some(code), &refused.reason);
    endpoint.replica.tasks.spawn("refusal", async move {
        if let Some((stream, _)) = taken_over(on_upgrade).await {
            socket_io::refuse(stream, last.freeze()).await;
        }
    });
    switching(upgrade)
}

fn cannot_upgrade(parts: &Parts) -> Response {
    Problem::new(ProblemKind::UpgradeRequired, "this connection cannot be upgraded").respond(&parts.headers)
}

/// The socket of an upgraded connection, and what was read ahead. `None` if the client left meanwhile.
pub async fn taken_over(on_upgrade: OnUpgrade) -> Option<(OutboxSocket, Vec<u8>)> {
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<HttpStream>>().ok()?;
    // Copied, because the buffer would keep hyper's whole read buffer for the life of the connection.
    Some((parts.io.into_inner().into_socket(), parts.read_buf.to_vec()))
}

/// The 101 response.
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
