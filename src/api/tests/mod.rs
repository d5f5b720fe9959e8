//! Tests of the routes from the view of a backend, an operator and a probe, over real parts in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde_json::Value;
use tickgate_wire::model::{IssuedAt, ReplicaId, Topic, UserId};
use tokio::sync::mpsc;

use super::{Addresses, Api, ApiState, ConnectionDetail, Lifecycle, LiveFigures, Operator, SendTimeouts, TraceSubject};
use crate::{
    auth::{NewToken, Rights, Verifier, mint},
    backplane::{Backplane, Memory},
    config::Config,
    metrics::Metrics,
    publisher::{PublishLimits, Publisher},
    registry::{self, ControlInstruction, LocalReplica, Registry, ReplicaFigures},
};

mod description;
mod probes;
mod publish;
mod sessions;
mod sockets;
mod streaming;
mod topics;

/// Fixed figures in place of the hub's and the sockets'.
#[derive(Debug, Default)]
struct FixedFigures {
    connections: AtomicUsize,
    subscriptions: AtomicUsize,
    topics: Mutex<Vec<(Topic, usize)>>,
    queue_wait: Mutex<Duration>,
    panics: AtomicBool,
}

impl LiveFigures for FixedFigures {
    fn connections(&self) -> usize {
        assert!(!self.panics.load(Ordering::Relaxed), "intended panic");
        self.connections.load(Ordering::Relaxed)
    }

    fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    fn topics(&self) -> usize {
        self.topics.lock().len()
    }

    fn busiest(&self, limit: usize) -> Vec<(Topic, usize)> {
        self.topics.lock().iter().take(limit).cloned().collect()
    }

    fn queue_wait(&self) -> Duration {
        *self.queue_wait.lock()
    }
}

/// The API of one running replica.
struct ApiReplica {
    api: Api,
    state: ApiState,
    counted: Arc<FixedFigures>,
    controls: Arc<Mutex<Vec<ControlInstruction>>>,
}

/// A response, read to its end.
struct ApiResponse {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl ApiReplica {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::development();
        change(&mut config);
        let (replica, metrics) = (ReplicaId::random(), Metrics::new());
        let controls = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&controls);
        let registry = Registry::Memory(registry::Memory::new(LocalReplica {
            replica: replica.clone(),
            session: config.session.clone(),
            control: Box::new(move |control| heard.lock().push(control)),
            figures: Box::new(ReplicaFigures::default),
            answer: Box::new(|_, _| registry::ReplicaAnswer::Closed(0)),
        }));
        let backplane = Backplane::Memory(Memory::new());
        backplane.start(Box::new(|_| {}));
        let limits = PublishLimits {
            development: false,
            payload_bytes_max: config.limits.payload_bytes_max,
            json_depth_max: config.limits.json_depth_max,
        };
        let publisher = Publisher::new(backplane.clone(), config.topics.clone(), limits, metrics.clone());
        let verifier = Arc::new(Verifier::new(&config.auth).unwrap());
        let (counted, lifecycle) = (Arc::new(FixedFigures::default()), Lifecycle::new(&metrics));
        lifecycle.started();
        let state = ApiState {
            audit: Arc::default(),
            operator: Arc::new(NoOperator),
            config: Arc::new(config),
            replica,
            backplane,
            registry,
            publisher,
            verifier,
            metrics,
            figures: Arc::clone(&counted) as Arc<dyn LiveFigures>,
            lifecycle,
            addresses: Addresses { public: ([127, 0, 0, 1], 8000).into(), operations: ([127, 0, 0, 1], 8001).into() },
        };
        Self { api: Api::new(state.clone()), state, counted, controls }
    }

    /// The same, with very short timeouts.
    fn impatient(mut self) -> Self {
        let wait = Duration::from_millis(20);
        self.api = Api::with_patience(self.state.clone(), SendTimeouts { body_timeout: wait, idle_timeout: wait });
        self
    }

    fn key(&self) -> String {
        self.state.config.auth.api_keys[0].expose().to_owned()
    }

    fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let auth = &self.state.config.auth;
        let new = NewToken {
            user: &UserId::new(user).unwrap(),
            // Certainly before any revocation of the test.
            issued_at: IssuedAt::in_second(now - 1),
            expires_at: now + 60,
            issuer: auth.issuer.as_deref(),
            audience: auth.audience.as_deref(),
            user_claim: None,
            rights: &Rights::default(),
        };
        mint(&auth.hs256_secrets[0], &new).unwrap()
    }

    /// Sends a GET request to the public listener.
    async fn get(&self, path: &str) -> ApiResponse {
        read(call(self.api.public(), Request::get(path).body(Body::empty()).unwrap()).await).await
    }

    /// Sends a request to the operations listener, with the API key.
    async fn ops(&self, method: Method, path: &str, form: Option<&str>, body: impl Into<Body>) -> ApiResponse {
        read(self.ops_response(method, path, form, body).await).await
    }

    async fn ops_response(&self, method: Method, path: &str, form: Option<&str>, body: impl Into<Body>) -> Response {
        let mut request = Request::builder().method(method).uri(path).header("x-api-key", self.key());
        if let Some(form) = form {
            request = request.header(header::CONTENT_TYPE, form);
        }
        call(self.api.operations(), request.body(body.into()).unwrap()).await
    }

    async fn ops_get(&self, path: &str) -> ApiResponse {
        self.ops(Method::GET, path, None, Body::empty()).await
    }

    async fn post(&self, path: &str, body: &str) -> ApiResponse {
        self.ops(Method::POST, path, Some("application/json"), body.to_owned()).await
    }
}

async fn call(router: Router, request: Request<Body>) -> Response {
    hyper::service::Service::call(&TowerToHyperService::new(router), request).await.unwrap()
}

async fn read(response: Response) -> ApiResponse {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    ApiResponse { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

impl ApiResponse {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a complete and consistent problem document with this status and name, and returns it.
    #[track_caller]
    fn problem(&self, status: u16, error: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["error"], error, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:tickgate:problem:{error}"));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert_eq!(problem.get("retry_after_ms").is_some(), self.headers.contains_key(header::RETRY_AFTER));
        if let Some(code) = problem.get("code") {
            let code = u16::try_from(code.as_u64().unwrap()).unwrap();
            assert_eq!(tickgate_wire::code::lookup(code).unwrap().name, error, "HTTP and WebSocket use the same name");
        }
        problem
    }
}

/// An operator for tests that do not use it: tests/it tests its actions on a whole replica.
struct NoOperator;

impl Operator for NoOperator {
    fn drain(&self) {}
    fn undrain(&self) {}
    fn rebalance(&self, _: f64, _: Duration) -> usize {
        0
    }
    fn log(&self, _: &str, _: Duration) -> Result<(), String> {
        Ok(())
    }
    fn trace(&self, _: TraceSubject, _: Duration) -> Option<mpsc::Receiver<Bytes>> {
        None
    }
    fn configuration(&self) -> Value {
        Value::Null
    }
    fn connection(&self, id: &str) -> Option<ConnectionDetail> {
        Some(ConnectionDetail {
            connection_id: id.to_owned(),
            user: None,
            session: "00000000…".into(),
            endpoint: "market".into(),
            address: "127.0.0.1".into(),
            age_seconds: 0,
            silent_seconds: 0,
            subscriptions: 0,
            waiting_messages: 0,
            waiting_bytes: 0,
            written_bytes: 0,
            behind: false,
            lagging: false,
        })
    }
}
