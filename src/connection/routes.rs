//! The routes of all configured endpoints. Never handles a request itself.

use std::sync::Arc;

use axum::{
    Router,
    routing::{any, get},
};

use tickgate_wire::transport::Transport;

use super::{admission::Endpoint, event_stream, replica::Replica, upgrade};

/// One route for each profile, by its transport.
pub fn router(replica: &Arc<Replica>) -> Router {
    let mut router = Router::new();
    for profile in &replica.config.profiles {
        let endpoint = Endpoint {
            replica: replica.clone(),
            profile: profile.clone(),
            gauge: replica.metrics.connections.resolve(&profile.name),
        };
        let route = match profile.protocol.transport {
            Transport::WebSocket => any(upgrade::open),
            Transport::EventStream => get(event_stream::open),
        };
        router = router.route(&profile.path, route.with_state(endpoint));
    }
    router
}
