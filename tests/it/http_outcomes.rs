//! Responses of the HTTP API while Redis is down, frozen, and back: accepted, certainly not stored, or unknown.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tickgate::{
    api::{Addresses, Api, ApiState, ConnectionDetail, Lifecycle, LiveFigures, Operator, TraceSubject},
    auth::Verifier,
    config::Config,
    metrics::Metrics,
    publisher::{PublishLimits, Publisher},
    redis_link::{RedisLink, Topology},
    registry::{self, LocalReplica, Registry, ReplicaFigures},
    tasks::Tasks,
};
use tickgate_wire::model::{ReplicaId, Topic};
use tokio::sync::mpsc;

use crate::support::{
    eventually,
    follower::{backplane_over, impatient_redis_config},
    redis::RedisServer,
};

/// A replica without clients.
struct Nobody;

impl Operator for Nobody {
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
    fn connection(&self, _: &str) -> Option<ConnectionDetail> {
        None
    }
}

impl LiveFigures for Nobody {
    fn connections(&self) -> usize {
        0
    }

    fn subscriptions(&self) -> usize {
        0
    }

    fn topics(&self) -> usize {
        0
    }

    fn busiest(&self, _limit: usize) -> Vec<(Topic, usize)> {
        Vec::new()
    }

    fn queue_wait(&self) -> Duration {
        Duration::ZERO
    }
}

struct OutcomeReplica {
    api: Api,
    key: String,
    _tasks: Tasks,
}

impl OutcomeReplica {
    fn over(server: &RedisServer) -> Self {
        let (tasks, metrics, replica) = (Tasks::new(), Metrics::new(), ReplicaId::random());
        let mut config = Config::development();
        config.readiness.redis_grace = Duration::ZERO;
        let link = RedisLink::start(&impatient_redis_config(&server.url()), &tasks, Arc::clone(&metrics));
        let backplane = backplane_over(&link, &tasks);
        backplane.start(Box::new(|_| {}));
        let local = LocalReplica {
            replica: replica.clone(),
            session: config.session.clone(),
            control: Box::new(|_| {}),
            figures: Box::new(ReplicaFigures::default),
            answer: Box::new(|_, _| registry::ReplicaAnswer::Closed(0)),
        };
        let limits = PublishLimits {
            development: false,
            payload_bytes_max: config.limits.payload_bytes_max,
            json_depth_max: config.limits.json_depth_max,
        };
        let lifecycle = Lifecycle::new(&metrics);
        lifecycle.started();
        let key = config.auth.api_keys[0].expose().to_owned();
        let api = Api::new(ApiState {
            audit: Arc::default(),
            operator: Arc::new(Nobody),
            replica,
            registry: Registry::Redis(registry::Redis::start_on(&Topology::one(link), local, &tasks)),
            publisher: Publisher::new(backplane.clone(), config.topics.clone(), limits, Arc::clone(&metrics)),
            backplane,
            verifier: Arc::new(Verifier::new(&config.auth).expect("the generated secret")),
            config: Arc::new(config),
            metrics,
            figures: Arc::new(Nobody),
            lifecycle,
            addresses: Addresses { public: ([127, 0, 0, 1], 8000).into(), operations: ([127, 0, 0, 1], 8001).into() },
        });
        Self { api, key, _tasks: tasks }
    }

    async fn ask(&self, public: bool, request: Request<Body>) -> (StatusCode, Value) {
        let routes = if public { self.api.public() } else { self.api.operations() };
        let response = TowerToHyperService::new(routes).call(request).await.expect("an answer");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn publish(&self, n: usize, msg_id: &str) -> (StatusCode, Value) {
        let body = json!({ "channel": "logs", "data": { "n": n }, "msg_id": msg_id }).to_string();
        let request = Request::post("/api/v1/publish").header("content-type", "application/json");
        self.ask(false, request.header("x-api-key", &self.key).body(Body::from(body)).expect("a request")).await
    }

    async fn get(&self, public: bool, path: &str) -> (StatusCode, Value) {
        let request = Request::get(path).header("x-api-key", &self.key).body(Body::empty());
        self.ask(public, request.expect("a request")).await
    }

    /// Publishes until Redis accepts it.
    async fn publish_at_last(&self, n: usize, msg_id: &str) -> Value {
        eventually("accepted", async || {
            let (status, answer) = self.publish(n, msg_id).await;
            (status == 200).then_some(answer)
        })
        .await
    }

    async fn history(&self) -> Vec<u64> {
        let history = eventually("a history", async || {
            let (status, history) = self.get(false, "/api/v1/topics/logs/history").await;
            (status == 200).then_some(history)
        })
        .await;
        let messages = history["messages"].as_array().expect("messages").clone();
        messages.iter().map(|message| message["data"]["n"].as_u64().expect("a number")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_publication_is_refused_and_accepted_once_redis_is_back() {
    let mut server = RedisServer::absent();
    let replica = OutcomeReplica::over(&server);
    let (status, problem) = replica.publish(1, "m-1").await;
    assert_eq!((status.as_u16(), &problem["error"]), (503, &json!("try_again_later")), "{problem}");
    assert!(problem["retry_after_ms"].as_u64().is_some_and(|wait| wait >= 1_000), "{problem}");
    let (status, health) = replica.get(true, "/health").await;
    assert_eq!((status.as_u16(), &health["reason"]), (503, &json!("redis_down")));
    assert_eq!(replica.get(true, "/livez").await.0, 200, "an outage of Redis restarts nobody");
    assert_eq!(replica.get(true, "/ws/status").await.1["status"], "degraded");

    server.restart();
    assert_eq!(replica.publish_at_last(1, "m-1").await["duplicate"], false, "what was refused was not stored");
    assert_eq!(replica.history().await, [1]);
    eventually("healthy", async || (replica.get(true, "/health").await.0 == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_reported_and_a_retry_with_the_same_msg_id_decides_it() {
    let server = RedisServer::durable();
    let replica = OutcomeReplica::over(&server);
    replica.publish_at_last(1, "m-1").await;

    server.freeze();
    let (status, problem) = replica.publish(2, "m-2").await;
    assert_eq!((status.as_u16(), &problem["error"]), (504, &json!("outcome_unknown")), "{problem}");
    assert_eq!(problem["msg_id"], "m-2", "what to send again");

    server.thaw();
    replica.publish_at_last(2, "m-2").await;
    assert_eq!(replica.history().await, [1, 2], "once, whether the first attempt was stored or not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_publications_reports_each_outcome_during_an_outage() {
    let server = RedisServer::durable();
    let replica = OutcomeReplica::over(&server);
    replica.publish_at_last(0, "warm").await;
    server.freeze();
    let line = |n: usize| format!("{{\"channel\":\"logs\",\"data\":{{\"n\":{n}}},\"msg_id\":\"s-{n}\"}}\n");
    let body: String = (1..=50).map(line).collect();
    let request = Request::post("/api/v1/publish").header("content-type", "application/x-ndjson");
    let request = request.header("x-api-key", &replica.key).body(Body::from(body)).expect("a request");
    let response = TowerToHyperService::new(replica.api.operations()).call(request).await.expect("an answer");
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("utf-8");
    let results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    server.thaw();

    assert_eq!(results.len(), 50, "each line has its result");
    for (at, result) in results.iter().enumerate() {
        assert_eq!(result["line"], at + 1);
        let error = result["error"].as_str().expect("nothing is accepted by a frozen Redis");
        assert!(["outcome_unknown", "try_again_later"].contains(&error), "{result}");
    }
    // Each is retried in order: none is missing and none is duplicated.
    for n in 1..=50 {
        replica.publish_at_last(n, &format!("s-{n}")).await;
    }
    let mut stored = replica.history().await;
    stored.sort_unstable();
    assert_eq!(stored, (0..=50).collect::<Vec<_>>());
}
