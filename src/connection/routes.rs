//! The routes of all configured endpoints, merged with those of plain HTTP. Never decides who is admitted.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{any, get},
};
use tickgate_wire::{protocol::Protocol, transport::Transport};
use tokio::sync::Semaphore;

use super::{admission::Endpoint, event_stream, handshake, replica::Replica, upgrade};
use crate::{
    config::Profile,
    hub::{self, QueueLimits},
};

/// The path that an endpoint shares with the service information.
const ROOT: &str = "/";
/// The endpoint in log lines about requests that match none.
const NOWHERE: &str = "none";

/// The `plain` routes, and one route per profile.
pub fn router(replica: &Arc<Replica>, plain: Router) -> Router {
    let limits = &replica.config.limits;
    let queue = QueueLimits { messages_max: limits.outbox_messages_max, bytes_max: limits.outbox_bytes_max };
    let (mut router, mut at_root, mut nowhere) = (plain, None, None);
    for profile in &replica.config.profiles {
        let endpoint = Endpoint {
            replica: replica.clone(),
            profile: profile.clone(),
            outboxes: hub::EndpointOutboxes::new(queue, replica.metrics.clone(), &profile.name),
            places: profile.connections_max.map(|max| Arc::new(Semaphore::new(max as usize))),
        };
        if nowhere.is_none() && profile.protocol == Protocol::default() {
            let profile = Profile { name: NOWHERE.into(), closes_refused: false, ..Profile::clone(profile) };
            nowhere = Some(Endpoint { profile: Arc::new(profile), ..endpoint.clone() });
        }
        let route = match profile.protocol.transport {
            Transport::WebSocket if profile.path == ROOT => {
                at_root = Some(endpoint);
                continue;
            }
            Transport::WebSocket => any(upgrade::open),
            Transport::EventStream => get(event_stream::open),
        };
        router = router.route(&profile.path, route.with_state(endpoint));
    }
    if let Some(endpoint) = nowhere {
        router = router.layer(from_fn_with_state(endpoint, upgrade_nowhere));
    }
    match at_root {
        Some(endpoint) => router.layer(from_fn_with_state(endpoint, upgrade_at_root)),
        None => router,
    }
}

/// Passes WebSocket requests at the root to the endpoint; other requests get the plain response.
async fn upgrade_at_root(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path() == ROOT && handshake::asks_upgrade(request.headers()) {
        return upgrade::open(State(endpoint), ConnectInfo(peer), request).await;
    }
    next.run(request).await
}

/// Refuses WebSocket requests at unknown paths with a Close frame if the client can see only that: a page would
/// otherwise assume a network failure and retry for ever. Other requests get the plain response.
async fn upgrade_nowhere(
    State(endpoint): State<Endpoint>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if handshake::asks_upgrade(headers) && handshake::hears_closes(headers) {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let mut profiles = endpoint.replica.config.profiles.iter();
        let is_here = profiles
            .any(|profile| profile.protocol.transport == Transport::WebSocket && path == Some(profile.path.as_str()));
        if !is_here {
            return upgrade::open_nowhere(endpoint, peer, request).await;
        }
    }
    next.run(request).await
}
