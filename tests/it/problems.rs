//! Every refusal over HTTP is a problem document with the same fields.

use serde_json::Value;

use crate::support::{
    http::{self, TestResponse},
    replica::TestReplica,
};

const UPGRADE: &[(&str, &str)] = &[
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Checks that the response is a problem document; returns its `error`.
fn name(what: &str, answer: &TestResponse) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}: {answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}: {answer:?}");
    let problem = answer.json();
    let text = |field: &str| problem[field].as_str().unwrap_or_else(|| panic!("{what}: no {field} in {problem}"));
    let error = text("error");
    assert_eq!(text("type"), format!("urn:tickgate:problem:{error}"), "{what}");
    assert_eq!(problem["status"], answer.status, "{what}");
    assert!(!text("title").is_empty() && !text("detail").is_empty(), "{what}: {problem}");
    assert_eq!(Some(text("request_id")), answer.header("x-request-id"), "{what}");
    assert_eq!(problem["retry_after_ms"] == Value::Null, answer.header("retry-after").is_none(), "{what}: {problem}");
    error.to_owned()
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let settings = "[server]\nallowed_origins = [\"https://app.example\"]\n[limits]\nconnections_per_address_max = 1";
    let replica = TestReplica::alone_with(settings).await;
    let at = replica.address();
    let get = async |path: &str, headers: &[(&str, &str)]| http::send(at, "GET", path, headers, None).await;
    let upgrade = async |path: &str, more: &[(&str, &str)]| get(path, &[UPGRADE, more].concat()).await;
    let expected = |answer: TestResponse, what: &str, status: u16, error: &str, code: Option<u16>| {
        assert_eq!((answer.status, &*name(what, &answer)), (status, error), "{what}");
        assert_eq!(answer.json()["code"], code.map_or(Value::Null, Value::from), "{what}");
    };

    expected(get("/nowhere", &[]).await, "an unknown path", 404, "not_found", Some(4504));
    expected(replica.api_get("/api/v1/topics/no%2Cname/history").await, "the API", 400, "invalid_message", Some(4004));
    for no_text in [
        "/api/v1/topics/%FF/history",
        "/api/v1/users/%ED%A0%80",
        "/api/v1/presence?topic=%FF",
        "/api/v1/topics/orders/history?user=a%C3",
    ] {
        expected(replica.api_get(no_text).await, no_text, 400, "invalid_message", Some(4004));
    }
    expected(get("/ws/trading", &[]).await, "no upgrade", 400, "invalid_message", Some(4004));
    let version = [UPGRADE[0], UPGRADE[1], UPGRADE[3], ("sec-websocket-version", "8")];
    expected(get("/ws/trading", &version).await, "an old version", 426, "upgrade_required", None);
    expected(upgrade("/ws/backtest/a%2Cb", &[]).await, "a path that is no name", 404, "not_found", Some(4504));
    expected(upgrade("/ws/trading", &[]).await, "no token", 401, "auth_required", Some(4001));
    let bad = [("authorization", "Bearer x.y.z")];
    expected(upgrade("/ws", &bad).await, "a bad token where 1008 is the code", 401, "policy", Some(1008));
    expected(get("/sse", &[]).await, "a stream of nothing", 400, "invalid_message", Some(4004));
    let foreign = [("origin", "https://evil.example")];
    expected(get("/sse?channels=trades:A", &foreign).await, "a foreign page", 403, "policy", Some(1008));
    let _one = replica.market().await;
    expected(upgrade("/ws/market", &[]).await, "one connection too many", 429, "try_again_later", Some(1013));
}

#[tokio::test]
async fn a_clients_request_id_is_kept_if_it_is_plain() {
    let replica = TestReplica::alone().await;
    let ask = async |id: &str| {
        let headers = [UPGRADE, &[("x-request-id", id)]].concat();
        let answer = http::send(replica.address(), "GET", "/ws/trading", &headers, None).await;
        name(id, &answer);
        answer.header("x-request-id").map(str::to_owned)
    };
    assert_eq!(ask("order-42.a:b_c").await.as_deref(), Some("order-42.a:b_c"));
    assert_ne!(ask("<script>").await.as_deref(), Some("<script>"));
}
