//! HTTP without WebSockets: probes and status on the public listener; metrics, publishing, sessions and topics on the
//! operations listener.
//!
//! - `readiness` decides; `probes` and `status` respond.
//! - `publish` accepts single publications and batches, `stream` newline-delimited ones, which `lines` splits; `entry`
//!   is one publication.
//! - `send` reaches one connection; `sessions`, `users`, `topics` and `tickets` are for operators and backends; `admin`
//!   acts on this replica, and `trace` reports what happens on it.
//! - `access` authorizes, `observe` counts and renders every `problem`, `cors` allows browsers.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state, map_request},
    routing::{get, post, put},
};
use parking_lot::Mutex;
use tickgate_wire::{
    code::ProblemKind,
    model::{ReplicaId, Topic},
};
use tokio::sync::Semaphore;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{PropagateRequestIdLayer, SetRequestIdLayer},
};

use crate::{
    audit::Audit,
    auth::Verifier,
    backplane::Backplane,
    config::{Config, Rate, Right},
    metrics::{Metrics, RouteLabel},
    problem::{Problem, REQUEST_ID},
    publisher::Publisher,
    registry::Registry,
};

mod access;
mod admin;
mod body;
mod cors;
mod entry;
mod lines;
mod live;
mod observe;
mod probes;
mod publish;
mod readiness;
mod send;
mod sessions;
mod status;
mod stream;
mod throttle;
mod tickets;
mod topics;
mod trace;
mod unavailable;
mod users;

pub use admin::{ConnectionDetail, Operator, TraceSubject};
pub use readiness::{Check, Facts, Lifecycle, LifecyclePhase, NotReady, ReadinessReport};

use throttle::Throttle;

/// Maximum number of concurrent API requests; together with the maximum body size, this bounds their memory.
const REQUESTS_MAX: usize = 256;
/// Maximum number of open publishing streams.
const STREAMS_MAX: usize = 64;
/// Rate limit of tickets per user.
const TICKETS_PER_USER: Rate = Rate { per_second: 10, burst: 10 };

/// Figures of this replica that are available without I/O.
pub trait LiveFigures: Send + Sync {
    /// Open connections.
    fn connections(&self) -> usize;
    /// Subscriptions of all connections.
    fn subscriptions(&self) -> usize;
    /// Followed topics.
    fn topics(&self) -> usize;
    /// The topics with the most subscriptions, in descending order, at most `limit`.
    fn busiest(&self, limit: usize) -> Vec<(Topic, usize)>;
    /// Age of the oldest topic in the hub's work queue.
    fn queue_wait(&self) -> Duration;
}

/// The dependencies of the routes.
#[derive(Clone)]
pub struct ApiState {
    /// The settings at the start; a reload does not change them.
    pub config: Arc<Config>,
    /// The name shown in responses.
    pub replica: ReplicaId,
    /// Read for histories.
    pub backplane: Backplane,
    /// Queried about other replicas, and told to act on their clients.
    pub registry: Registry,
    /// Takes every publication of the HTTP API.
    pub publisher: Publisher,
    /// Verifies API keys, and tokens for tickets.
    pub verifier: Arc<Verifier>,
    /// Counts requests and their results.
    pub metrics: Arc<Metrics>,
    /// What the status routes report about this replica.
    pub figures: Arc<dyn LiveFigures>,
    /// Whether the replica starts, runs or drains.
    pub lifecycle: Lifecycle,
    /// Records the actions of operators.
    pub audit: Arc<Audit>,
    /// Executes operators' actions on this replica.
    pub operator: Arc<dyn Operator>,
    /// The bound listeners, named to each other's callers in development mode.
    pub addresses: Addresses,
}

/// The bound addresses of the two listeners.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Of the listener for clients.
    pub public: SocketAddr,
    /// Of the listener for publishers and operators.
    pub operations: SocketAddr,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// The HTTP routes of one replica.
#[derive(Clone, Debug)]
pub struct Api(Arc<ApiShared>);

/// State shared by all requests.
#[derive(Debug)]
struct ApiShared {
    state: ApiState,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    cluster: status::ClusterCache,
    tickets: Mutex<Throttle>,
    patience: SendTimeouts,
}

/// Timeouts for senders.
#[derive(Clone, Copy, Debug)]
struct SendTimeouts {
    /// For a whole body.
    body_timeout: Duration,
    /// Between two chunks of a publishing stream.
    idle_timeout: Duration,
}

impl SendTimeouts {
    const DEFAULT: Self = Self { body_timeout: Duration::from_secs(10), idle_timeout: Duration::from_secs(300) };
}

impl std::ops::Deref for ApiShared {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.state
    }
}

impl Api {
    /// Creates the routes.
    #[must_use]
    pub fn new(state: ApiState) -> Self {
        Self::with_patience(state, SendTimeouts::DEFAULT)
    }

    fn with_patience(state: ApiState, patience: SendTimeouts) -> Self {
        state.metrics.connections_max.set(i64::try_from(state.config.limits.connections_max).unwrap_or(i64::MAX));
        Self(Arc::new(ApiShared {
            state,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            cluster: status::ClusterCache::default(),
            tickets: Mutex::new(Throttle::new(TICKETS_PER_USER, Instant::now())),
            patience,
        }))
    }

    /// The routes of the public listener, with the fallback for unknown paths. Routers merged into it must not have a
    /// fallback.
    pub fn public(&self) -> Router {
        let routes = Router::new()
            .route(RouteLabel::Root.as_str(), get(probes::root))
            .route(RouteLabel::Health.as_str(), get(probes::health))
            .route(RouteLabel::Livez.as_str(), get(probes::livez))
            .route(RouteLabel::Readyz.as_str(), get(probes::readyz))
            .route(RouteLabel::Status.as_str(), get(status::status));
        let elsewhere = self.elsewhere("publishing, metrics and administration", |addresses| addresses.operations);
        self.observed(routes, elsewhere)
            .layer(cors::layer(&self.0.config.server.allowed_origins))
            .with_state(Arc::clone(&self.0))
    }

    /// The routes of the operations listener.
    pub fn operations(&self) -> Router {
        let guarded = |routes: Router<Arc<ApiShared>>, right| {
            let guard = access::RouteGuard { shared: Arc::clone(&self.0), right };
            routes.route_layer(from_fn_with_state(guard, access::require_key))
        };
        let publishing = Router::new()
            .route(RouteLabel::Publish.as_str(), post(publish::publish))
            .route(RouteLabel::PublishBatch.as_str(), post(publish::batch))
            .route(RouteLabel::Send.as_str(), post(send::send));
        let reading = Router::new()
            .route(RouteLabel::Connections.as_str(), get(sessions::connections))
            .route(RouteLabel::User.as_str(), get(users::user))
            .route(RouteLabel::Replicas.as_str(), get(status::replicas))
            .route(RouteLabel::Presence.as_str(), get(topics::presence))
            .route(RouteLabel::Topics.as_str(), get(topics::topics))
            .route(RouteLabel::Topic.as_str(), get(topics::rule))
            .route(RouteLabel::History.as_str(), get(topics::history));
        let acting = Router::new()
            .route(RouteLabel::Disconnect.as_str(), post(sessions::disconnect))
            .route(RouteLabel::User.as_str(), put(users::report))
            .route(RouteLabel::AdminDrain.as_str(), post(admin::drain))
            .route(RouteLabel::AdminUndrain.as_str(), post(admin::undrain))
            .route(RouteLabel::AdminRebalance.as_str(), post(admin::rebalance))
            .route(RouteLabel::AdminLog.as_str(), post(admin::log))
            .route(RouteLabel::AdminTrace.as_str(), post(trace::trace))
            .route(RouteLabel::AdminConfig.as_str(), get(admin::configuration))
            .route(RouteLabel::AdminConnection.as_str(), get(admin::connection));
        let limited = guarded(publishing, Right::Publish)
            .merge(guarded(reading, Right::Read))
            .merge(guarded(acting, Right::Admin))
            .route(RouteLabel::Tickets.as_str(), post(tickets::issue))
            .route_layer(from_fn_with_state(Arc::clone(&self.0), access::limit_requests));
        let open = Router::new()
            .route(RouteLabel::Metrics.as_str(), get(probes::metrics))
            .route(RouteLabel::OpenApi.as_str(), get(probes::openapi));
        let elsewhere = self.elsewhere("WebSocket and event-stream endpoints", |addresses| addresses.public);
        self.observed(open.merge(limited), elsewhere).with_state(Arc::clone(&self.0))
    }

    /// Adds what every route needs: responses for unknown paths and methods, counting, request ids, rendered problems.
    fn observed(&self, routes: Router<Arc<ApiShared>>, elsewhere: Option<String>) -> Router<Arc<ApiShared>> {
        routes
            .fallback(async move || match elsewhere {
                Some(detail) => Problem::new(ProblemKind::NotFound, detail),
                None => nothing_here(),
            })
            .method_not_allowed_fallback(async || {
                Problem::new(ProblemKind::MethodNotAllowed, "this path does not support this method")
            })
            .layer(from_fn(observe::check_text))
            .layer(CatchPanicLayer::custom(observe::panicked))
            .layer(from_fn_with_state(Arc::clone(&self.0), observe::observe))
            .layer(PropagateRequestIdLayer::new(REQUEST_ID))
            .layer(SetRequestIdLayer::new(REQUEST_ID, observe::FreshId))
            .layer(map_request(observe::keep_plain_id))
    }
}

impl Api {
    /// The hint for a caller of an unknown path in development mode: where to find `what`. In production, callers of
    /// one listener must not learn the address of the other.
    fn elsewhere(&self, what: &str, listener: fn(Addresses) -> SocketAddr) -> Option<String> {
        let address = listener(self.0.addresses);
        self.0.config.development.then(|| format!("this path does not exist here; {what} are on {address}"))
    }
}

fn nothing_here() -> Problem {
    Problem::new(ProblemKind::NotFound, "this path does not exist")
}

#[cfg(test)]
mod tests;
