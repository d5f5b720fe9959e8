//! From a request to a WebSocket. A browser can't see the status of a failed upgrade, so its request is upgraded and
//! closed with the reason; other clients get a plain HTTP answer. Never decides who is admitted.

use std::{net::SocketAddr, time::Instant};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use bytes::BytesMut;
use hyper::{StatusCode, header, http::request::Parts, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tickgate_wire::{
    code::{CloseCode, ProblemKind},
    model::SessionId,
    websocket::{self, Reader},
};
use tokio::net::TcpStream;

use super::{
    admission::{Admitted, Endpoint, no_descriptor},
    handshake::{self, Refusal, Upgrade},
    opening,
    refusal_log::{self, Attempt},
    spares::Spare,
    task::ConnectionTask,
    wire::{self, Wire},
};
use crate::{
    hub::Socket,
    metrics::{self, Handshake as Outcome},
    problem::Problem,
};

/// Becomes a WebSocket, or says why not.
pub(super) async fn open(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (mut parts, _) = request.into_parts();
    let metrics = endpoint.replica.metrics.clone();
    let address = endpoint.replica.address(peer.ip(), &parts.headers);
    let attempt = Attempt { session: SessionId::random(), address };
    if parts.extensions.get::<Spare>().is_some() {
        return endpoint.refuse(attempt, &parts.headers, no_descriptor());
    }
    let handshake = match handshake::check(&parts, &endpoint.replica.config.server.allowed_origins) {
        Ok(handshake) => handshake,
        Err(Refusal::Malformed(malformed)) => {
            endpoint.note_refusal(attempt, Outcome::BadRequest, malformed);
            let problem = Problem::new(malformed.kind(), malformed.to_string());
            return Problem { headers: malformed.headers(), ..problem }.respond(&parts.headers);
        }
        Err(Refusal::ForeignOrigin(upgrade)) => {
            endpoint.note_refusal(attempt, Outcome::Origin, refusal_log::foreign_origin(&parts.headers));
            return close_at_once(&endpoint, &mut parts, &upgrade, CloseCode::Policy, "Origin not allowed");
        }
    };
    let Ok(param) = endpoint.param(parts.uri.path()) else {
        let detail = "the path's parameter is not a valid name";
        endpoint.note_refusal(attempt, Outcome::BadRequest, detail);
        return Problem::new(ProblemKind::NotFound, detail).respond(&parts.headers);
    };
    match endpoint.admit(&handshake.credential, handshake.session, attempt).await {
        Ok(admitted) => {
            metrics.handshakes_total.of(Outcome::Accepted).inc();
            metrics.handshake_duration_seconds.observe(started.elapsed().as_secs_f64());
            accept(
                endpoint,
                &mut parts,
                &handshake.upgrade,
                opening::Request { param, since: handshake.since },
                admitted,
            )
        }
        Err(refused) => {
            if !handshake.browser {
                return endpoint.refuse(attempt, &parts.headers, refused);
            }
            endpoint.note_refusal(attempt, refused.outcome, &refused);
            close_at_once(&endpoint, &mut parts, &handshake.upgrade, refused.code, refused.reason)
        }
    }
}

/// Answers 101. The connection is opened once the answer is out and the socket is ours.
fn accept(
    endpoint: Endpoint,
    parts: &mut Parts,
    upgrade: &Upgrade,
    request: opening::Request,
    mut admitted: Admitted,
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
        let message_bytes_max = endpoint.replica.config.limits.message_bytes_max;
        let reader = Reader::text(u32::try_from(message_bytes_max).unwrap_or(u32::MAX));
        let resumed = admitted.resumed.take();
        let mut connection = opening::open(endpoint, admitted, request, Socket::Tcp(stream));
        let wire = Wire::new(connection.handle.outbox.clone(), reader);
        Box::pin(opening::start(&mut connection, resumed)).await;
        // A separate task, so that what the handshake needed is not kept for the life of the connection.
        tasks.spawn("connection", ConnectionTask::new(connection, wire, early));
    });
    switching(upgrade)
}

/// Upgrades only to close: the one way to tell a browser why.
fn close_at_once(
    endpoint: &Endpoint,
    parts: &mut Parts,
    upgrade: &Upgrade,
    code: CloseCode,
    reason: &'static str,
) -> Response {
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else { return cannot_upgrade(parts) };
    let code = endpoint.profile.protocol.dialect.close_code(code);
    endpoint.replica.metrics.close_frames_total.of(metrics::Code::of(code)).inc();
    endpoint.replica.tasks.spawn("refusal", async move {
        if let Some((stream, _)) = taken_over(on_upgrade).await {
            let mut close = BytesMut::with_capacity(reason.len() + 4);
            websocket::close(&mut close, Some(code), reason);
            wire::refuse(stream, close.freeze()).await;
        }
    });
    switching(upgrade)
}

fn cannot_upgrade(parts: &Parts) -> Response {
    Problem::new(ProblemKind::UpgradeRequired, "this connection can't be upgraded").respond(&parts.headers)
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
