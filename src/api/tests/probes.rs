//! Health, probes, status and the root, as dashboards and Kubernetes read them.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::json;
use tickgate_wire::time::Timestamp;

use super::{ApiReplica, ApiResponse, call, read};
use crate::{
    api::Lifecycle,
    config::Jwks,
    metrics::{AuthFailure, RouteLabel, StatusClass},
    registry::ConnectionInfo,
};

#[tokio::test]
async fn health_has_the_shape_that_dashboards_of_the_old_server_read() {
    let replica = ApiReplica::new();
    replica.counted.connections.store(2, Relaxed);
    let answer = replica.get("/health").await;
    assert_eq!(answer.status, 200);
    let mut health = answer.json();
    let timestamp: Timestamp = serde_json::from_value(health["timestamp"].take()).unwrap();
    assert_eq!(health, json!({ "status": "healthy", "active_connections": 2, "timestamp": null }));
    assert!(timestamp > Timestamp::from_ms(1_700_000_000_000));
}

#[tokio::test]
async fn a_full_or_draining_replica_is_not_ready_but_alive() {
    let replica = ApiReplica::with(|config| config.limits.connections_max = 3);
    replica.counted.connections.store(3, Relaxed);
    let health = replica.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["reason"]), (503, &json!("overloaded")));

    replica.state.lifecycle.drain();
    let health = replica.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["reason"]), (503, &json!("draining")));
    let ready = replica.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.text.as_str()), (503, "not ready: the replica is draining\n"));
    assert_eq!(replica.get("/livez").await.status, 200);
    assert_eq!(replica.get("/ws/status").await.json()["status"], "draining");
}

#[tokio::test]
async fn a_replica_that_lost_a_vital_task_is_not_alive() {
    let replica = ApiReplica::new();
    replica.state.lifecycle.fail("shard");
    let alive = replica.get("/livez").await;
    assert_eq!((alive.status.as_u16(), alive.text.as_str()), (503, "not alive: the task \"shard\" panicked\n"));
}

#[tokio::test]
async fn a_started_replica_is_ready_and_lists_each_check_on_request() {
    let mut replica = ApiReplica::new();
    assert_eq!(replica.get("/readyz").await.text, "ready\n");
    replica.state.lifecycle = Lifecycle::new(&replica.state.metrics);
    replica.api = crate::api::Api::new(replica.state.clone());
    let verbose = replica.get("/readyz?verbose").await;
    assert_eq!(verbose.status, 503);
    let verdict = verbose.json();
    assert_eq!((&verdict["ready"], &verdict["reason"]), (&json!(false), &json!("starting")));
    let checks: Vec<_> = verdict["checks"].as_array().unwrap().iter().map(|c| (&c["name"], &c["ok"])).collect();
    let all = [
        ("lifecycle", false),
        ("keys", true),
        ("redis", true),
        ("redis_pubsub", true),
        ("redis_membership", true),
        ("work_queue", true),
        ("connections", true),
    ];
    assert_eq!(checks, all.map(|(name, ok)| (json!(name), json!(ok))).iter().map(|(n, o)| (n, o)).collect::<Vec<_>>());
    replica.state.lifecycle.started();
    assert_eq!(replica.get("/readyz?verbose").await.status, 200);
}

#[tokio::test]
async fn a_replica_whose_topics_wait_too_long_is_not_ready_but_alive() {
    let replica = ApiReplica::new();
    *replica.counted.queue_wait.lock() = replica.state.config.readiness.queue_grace;
    assert_eq!(replica.get("/readyz").await.status, 200);
    *replica.counted.queue_wait.lock() = Duration::from_secs(12);
    let ready = replica.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.text, "not ready: topics have waited to be read for 12 s\n");
    assert_eq!(replica.get("/health").await.json()["reason"], "work_queue_stalled");
    assert_eq!(replica.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_replica_without_any_key_for_tokens_is_not_ready() {
    let jwks = Jwks {
        url: "http://127.0.0.1:9/keys.json".into(),
        refresh_interval: Duration::from_secs(600),
        age_max: Duration::from_secs(86_400),
        ..Jwks::default()
    };
    let only = ApiReplica::with(|config| {
        (config.auth.jwks, config.auth.hs256_secrets) = (Some(jwks.clone()), Vec::new());
    });
    let ready = only.get("/readyz").await;
    let text = "not ready: no key set has arrived yet, so no token can be verified\n";
    assert_eq!((ready.status.as_u16(), ready.text.as_str()), (503, text));
    assert_eq!(only.get("/health").await.json()["reason"], "keys_missing");
    assert_eq!(only.get("/livez").await.status, 200);

    let one_of_two = ApiReplica::with(|config| config.auth.jwks = Some(jwks));
    assert_eq!(one_of_two.get("/readyz").await.status, 200, "other tokens can be verified");
}

#[tokio::test]
async fn the_root_names_the_service_and_its_endpoints() {
    let replica = ApiReplica::new();
    let root = replica.get("/").await.json();
    assert_eq!((&root["service"], &root["version"]), (&json!("tickgate"), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(root["endpoints"].as_array().unwrap().contains(&json!("/ws/trading")));
}

/// The response at `/` for a browser that opens the page.
async fn page(replica: &ApiReplica) -> ApiResponse {
    let request = Request::get("/").header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    read(call(replica.api.public(), request.body(Body::empty()).unwrap()).await).await
}

#[tokio::test]
async fn a_browser_receives_a_page_with_a_token_only_in_development_mode() {
    let replica = ApiReplica::new();
    let page_of = page(&replica).await;
    assert!(page_of.header("content-type").starts_with("text/html"));
    let policy = page_of.header("content-security-policy");
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page_of.text.contains(&format!("<script nonce=\"{nonce}\">")), "{policy}");
    assert!(!page(&replica).await.text.contains(nonce), "each page has a new nonce");
    assert_eq!((page_of.header("vary"), page_of.header("cache-control")), ("accept", "no-store"));
    let token = page_of.text.split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap();
    let identity = replica.state.verifier.verify(token, SystemTime::now()).await.unwrap();
    assert!(identity.user.as_str() == "demo" && identity.rights.may_publish("orders"));

    assert_eq!(replica.get("/").await.json()["service"], "tickgate", "programs");
    let production = ApiReplica::with(|config| config.development = false);
    assert_eq!(page(&production).await.json()["service"], "tickgate");
    let silent = ApiReplica::with(|config| config.server.service_information = false);
    page(&silent).await.problem(404, "not_found");
}

fn connection(session: &str, user: Option<&str>) -> ConnectionInfo {
    ConnectionInfo {
        session: session.into(),
        replica: "r".into(),
        user: user.map(str::to_owned),
        profile: "trading".into(),
        connected_ms: 1_700_000_000_123,
    }
}

#[tokio::test]
async fn user_ids_are_shown_only_with_a_key() {
    let replica = ApiReplica::with(|config| config.development = false);
    replica.counted.connections.store(15, Relaxed);
    replica.counted.subscriptions.store(25, Relaxed);
    for session in ["6f2c3b0e-8a51-4a37-9c55-0a8c2f7f9d01", "6f2c3b0e-8a51-4a37-9c55-0a8c2f7f9d02"] {
        replica.state.registry.opened(connection(session, Some("user_123")));
    }
    let status = replica.get("/ws/status").await.json();
    assert_eq!(status["status"], "active");
    assert_eq!((&status["active_connections"], &status["total_subscriptions"]), (&json!(15), &json!(25)));
    assert_eq!((&status["user_connections"], &status["replicas"]), (&json!({}), &json!(1)));
    assert_eq!((&status["backplane"], &status["replica"]["phase"]), (&json!("memory"), &json!("running")));

    for (name, value) in [("x-api-key", replica.key()), ("authorization", format!("bearer {}", replica.key()))] {
        let request = Request::get("/ws/status").header(name, value).body(Body::empty()).unwrap();
        let status = read(call(replica.api.public(), request).await).await.json();
        assert_eq!(status["user_connections"], json!({ "user_123": 2 }), "{name}");
    }
    let request = Request::get("/ws/status").header("x-api-key", "wrong").body(Body::empty()).unwrap();
    assert_eq!(read(call(replica.api.public(), request).await).await.json()["user_connections"], json!({}));
}

#[tokio::test]
async fn browsers_of_the_configured_origins_may_read_the_public_routes() {
    async fn origin(replica: &ApiReplica, method: Method, origin: &str) -> ApiResponse {
        let request = Request::builder()
            .method(method)
            .uri("/health")
            .header("origin", origin)
            .header("access-control-request-method", "GET");
        read(call(replica.api.public(), request.body(Body::empty()).unwrap()).await).await
    }
    let open = ApiReplica::with(|config| config.server.allowed_origins = vec!["*".into()]);
    assert_eq!(origin(&open, Method::GET, "https://a.example").await.header("access-control-allow-origin"), "*");

    let exact = ApiReplica::with(|config| config.server.allowed_origins = vec!["https://a.example".into()]);
    let allowed = origin(&exact, Method::GET, "https://a.example").await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://a.example");
    assert_eq!(allowed.header("vary"), "origin");
    for foreign in ["https://b.example", "https://a.example.evil", "null", "HTTPS://A.EXAMPLE"] {
        let refused = origin(&exact, Method::GET, foreign).await;
        assert_eq!((refused.status.as_u16(), refused.header("access-control-allow-origin")), (200, ""), "{foreign}");
        assert_eq!(refused.header("vary"), "origin", "a cache must not serve it to an allowed origin");
    }
    let preflight = origin(&exact, Method::OPTIONS, "https://a.example").await;
    assert_eq!(preflight.status, 200);
    assert!(preflight.header("access-control-allow-headers").contains("x-api-key"));
}

#[tokio::test]
async fn an_unknown_path_names_the_other_listener_only_in_development_mode() {
    let (trial, production) = (ApiReplica::new(), ApiReplica::with(|config| config.development = false));
    for (replica, names) in [(trial, true), (production, false)] {
        let public = replica.get("/metrics").await;
        let operations = replica.ops_get("/ws/market").await;
        for (answer, other) in [(public, "127.0.0.1:8001"), (operations, "127.0.0.1:8000")] {
            let problem = answer.problem(404, "not_found");
            assert_eq!(problem["detail"].as_str().unwrap().contains(other), names, "{problem}");
        }
    }
}

#[tokio::test]
async fn every_response_has_a_request_id_and_keeps_the_clients_if_it_is_harmless() {
    let replica = ApiReplica::new();
    let mut drawn = Vec::new();
    for (sent, kept) in
        [("trace-1.a:b_c", true), ("", false), ("a b", false), ("<script>", false), (&"x".repeat(65), false)]
    {
        let request = Request::get("/nowhere").header("x-request-id", sent).body(Body::empty()).unwrap();
        let answer = read(call(replica.api.public(), request).await).await;
        answer.problem(404, "not_found");
        assert_eq!(answer.header("x-request-id") == sent, kept, "{sent}");
        drawn.push(answer.header("x-request-id").to_owned());
    }
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 5, "each generated id is unique");
}

#[tokio::test]
async fn a_panic_of_a_route_is_answered_and_counted_as_a_failure() {
    let replica = ApiReplica::new();
    replica.counted.panics.store(true, Relaxed);
    replica.get("/health").await.problem(500, "internal_error");
    replica.counted.panics.store(false, Relaxed);
    assert_eq!(replica.get("/health").await.status, 200);
    let requests = |class| replica.state.metrics.http_requests_total.of((RouteLabel::Health, class)).get();
    assert_eq!((requests(StatusClass::ServerError), requests(StatusClass::Success)), (1, 1));
    assert_eq!(replica.state.metrics.http_request_duration_seconds.of(RouteLabel::Health).get_sample_count(), 2);
}

#[tokio::test]
async fn the_api_requires_a_key() {
    let replica = ApiReplica::new();
    let paths = ["/api/v1/connections", "/api/v1/topics", "/api/v1/users/alice", "/api/v1/topics/logs/history"];
    for path in paths {
        for (name, value) in
            [("x-unrelated", "1"), ("x-api-key", "wrong"), ("authorization", "Basic eDp5"), ("x-api-key", "")]
        {
            let request = Request::get(path).header(name, value).body(Body::empty()).unwrap();
            let answer = read(call(replica.api.operations(), request).await).await;
            answer.problem(401, "auth_required");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path} {name}");
            assert!(!answer.text.contains("wrong,"), "a key is never repeated");
        }
    }
    for path in ["/api/v1/publish", "/api/v1/publish/batch", "/api/v1/disconnect"] {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from("{}")).unwrap();
        read(call(replica.api.operations(), request).await).await.problem(401, "auth_required");
    }
    let failures = &replica.state.metrics.auth_failures_total;
    assert_eq!(failures.of(AuthFailure::ApiKey).get(), paths.len() as u64);
    assert_eq!(failures.of(AuthFailure::Missing).get(), 3 * paths.len() as u64 + 3);
}

#[tokio::test]
async fn the_operations_listener_serves_metrics_without_a_key() {
    let replica = ApiReplica::new();
    replica.get("/health").await;
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let answer = read(call(replica.api.operations(), request).await).await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(answer.text.contains("tickgate_http_requests_total{route=\"/health\",status=\"2xx\"} 1\n"));
    assert!(answer.text.contains("process_open_fds"));
    let max = replica.state.config.limits.connections_max;
    assert!(answer.text.contains(&format!("tickgate_connections_max {max}\n")));
}

#[tokio::test]
async fn responses_without_a_key_contain_no_user_data() {
    let replica = ApiReplica::new();
    let answer = replica.get("/").await;
    assert_eq!(answer.json()["service"], "tickgate");
    let private = (answer.header("cache-control"), answer.header("x-content-type-options"));
    assert_eq!(private, ("no-store", "nosniff"));
    let silent = ApiReplica::with(|config| config.server.service_information = false);
    silent.get("/").await.problem(404, "not_found");
}
