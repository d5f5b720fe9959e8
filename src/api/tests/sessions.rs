//! Listing connections, disconnecting, revoking, and single-use tickets.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Method, Request},
};
use tickgate_wire::model::{IssuedAt, SessionId, UserId};

use super::{ApiReplica, ApiResponse, call, read};
use crate::{
    metrics::{AuthFailure, RateScope},
    registry::{Admission, AdmissionVerdict, ConnectionInfo, ControlInstruction, RevokedToken},
};

/// Admits and opens a connection.
async fn connect(replica: &ApiReplica, user: &str) -> SessionId {
    let session = SessionId::random();
    let admission = Admission {
        user: UserId::new(user).unwrap(),
        session,
        replaces: None,
        apart: None,
        connections_max: 5,
        evict_oldest: false,
        issued_at: Some(IssuedAt::in_second(1)),
    };
    let verdict = replica.state.registry.admit(&admission).await;
    assert!(matches!(verdict, AdmissionVerdict::Admitted { .. }));
    replica.state.registry.opened(ConnectionInfo {
        session: session.to_string(),
        replica: replica.state.replica.to_string(),
        user: Some(user.into()),
        profile: "trading".into(),
        connected_ms: 1_700_000_000_123,
    });
    session
}

#[tokio::test]
async fn a_listing_with_an_invalid_filter_is_refused() {
    let replica = ApiReplica::new();
    for query in [
        "limit=many",
        "limit=0",
        "limit=1001",
        "limit=1&limit=2",
        "user=",
        "user=a%00b",
        "endpoint=nowhere",
        "endpoint=",
        "param=",
        "param=a%2Cb",
        "topic=a%2Cb",
        "topic=",
        "idle_seconds=0",
        "idle_seconds=2592001",
        "idle_seconds=-1",
        "cursor=",
        "cursor=00c0ffee",
        "connection_id=00c0ffee",
        "cursor=00C0FFEE00C0FFEE",
        "session=6f2c3b0e-8a51-4a37-9c55-0a8c2f7f9d01",
        "users=alice",
    ] {
        let answer = replica.ops_get(&format!("/api/v1/connections?{query}")).await;
        answer.problem(400, "invalid_message");
    }
    for path in ["users/a%00b", "users/alice?topic=orders", "users/alice?limit=0", "topics?limits=1"] {
        replica.ops_get(&format!("/api/v1/{path}")).await.problem(400, "invalid_message");
    }
}

#[tokio::test]
async fn a_user_or_a_session_can_be_disconnected() {
    let replica = ApiReplica::new();
    let session = connect(&replica, "alice").await;
    assert_eq!(replica.post("/api/v1/disconnect", r#"{"user":"alice","reason":"maintenance"}"#).await.status, 202);
    let by_session = format!(r#"{{"session":"{session}"}}"#);
    assert_eq!(replica.post("/api/v1/disconnect", &by_session).await.status, 202);
    let user = ControlInstruction::CloseUser { user: "alice".into(), code: 4500, reason: "maintenance".into() };
    let one = ControlInstruction::Close { session: session.to_string(), code: 4500, reason: "disconnected".into() };
    assert_eq!(*replica.controls.lock(), [user, one]);
}

#[tokio::test]
async fn a_revoked_user_is_disconnected_and_cannot_return_with_the_old_token() {
    let replica = ApiReplica::new();
    let own = connect(&replica, "alice").await;
    let answer = replica.post("/api/v1/disconnect", r#"{"user":"alice","revoke_seconds":60}"#).await;
    assert_eq!(answer.status, 202);
    let closed = replica.controls.lock().clone();
    assert!(
        matches!(&closed[..], [ControlInstruction::Close { session, code: 4002, .. }] if *session == own.to_string()),
        "{closed:?}"
    );
    let again = Admission {
        user: UserId::new("alice").unwrap(),
        session: SessionId::random(),
        replaces: None,
        apart: None,
        connections_max: 5,
        evict_oldest: false,
        issued_at: Some(IssuedAt::in_second(1)),
    };
    assert_eq!(replica.state.registry.admit(&again).await, AdmissionVerdict::Revoked(RevokedToken::Surely));
}

async fn report(replica: &ApiReplica, path: &str, body: &str) -> ApiResponse {
    let request = Request::builder().method(Method::PUT).uri(path).header("x-api-key", replica.key());
    let request = request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap();
    read(call(replica.api.operations(), request).await).await
}

#[tokio::test]
async fn a_report_says_only_whether_a_user_is_active() {
    let replica = ApiReplica::new();
    let alice = "/api/v1/users/alice";
    for body in [
        "{}",
        "true",
        r#"{"active":"no"}"#,
        r#"{"active":null}"#,
        r#"{"active":false,"seconds":0}"#,
        r#"{"active":false,"seconds":31536001}"#,
        r#"{"active":false,"seconds":-1}"#,
        r#"{"active":false,"seconds":1.5}"#,
        r#"{"active":true,"seconds":60}"#,
        r#"{"active":false,"reason":"left"}"#,
        r#"{"active":false,"active":true}"#,
    ] {
        report(&replica, alice, body).await.problem(400, "invalid_message");
    }
    report(&replica, "/api/v1/users/a%00b", r#"{"active":false}"#).await.problem(400, "invalid_message");
    assert_eq!(replica.ops_get(alice).await.json()["active"], true);
    let own = connect(&replica, "alice").await;
    assert_eq!(report(&replica, alice, r#"{"active":false,"seconds":60}"#).await.status, 202);
    assert!(
        matches!(&replica.controls.lock()[..], [ControlInstruction::Close { session, code: 4002, .. }] if *session == own.to_string())
    );
    assert_eq!(replica.ops_get(alice).await.json()["active"], false);
    let token = format!("Bearer {}", replica.token("alice"));
    ticket(&replica, Some(&token)).await.problem(403, "user_inactive");
    assert_eq!(report(&replica, alice, r#"{"active":true}"#).await.status, 202);
    assert_eq!(ticket(&replica, Some(&token)).await.status, 201);
}

#[tokio::test]
async fn a_disconnect_requires_exactly_one_target() {
    let replica = ApiReplica::new();
    let wrong = [
        "{}".to_owned(),
        r#"{"user":"a","session":"6f2c3b0e-8a51-4a37-9c55-0a8c2f7f9d01"}"#.to_owned(),
        r#"{"session":"not a uuid"}"#.to_owned(),
        r#"{"session":"6f2c3b0e-8a51-4a37-9c55-0a8c2f7f9d01","revoke_seconds":60}"#.to_owned(),
        r#"{"user":""}"#.to_owned(),
        r#"{"user":"a","revoke_seconds":0}"#.to_owned(),
        r#"{"user":"a","revoke_seconds":2592001}"#.to_owned(),
        r#"{"user":"a","revoke":true}"#.to_owned(),
        r#"{"user":"a","idle_seconds":60}"#.to_owned(),
        r#"{"connection_id":"00c0ffee"}"#.to_owned(),
        r#"{"connection_id":"00c0ffee00c0ffee","idle_seconds":60}"#.to_owned(),
        r#"{"connection_id":"00c0ffee00c0ffee","endpoint":"trading"}"#.to_owned(),
        r#"{"connection_id":"00c0ffee00c0ffee","revoke_seconds":60}"#.to_owned(),
        r#"{"idle_seconds":0}"#.to_owned(),
        r#"{"idle_seconds":60,"endpoint":"nowhere"}"#.to_owned(),
        r#"{"idle_seconds":60,"revoke_seconds":60}"#.to_owned(),
        r#"{"endpoint":"trading"}"#.to_owned(),
        format!(r#"{{"user":"a","reason":"{}"}}"#, "x".repeat(124)),
    ];
    for body in wrong {
        replica.post("/api/v1/disconnect", &body).await.problem(400, "invalid_message");
    }
    assert_eq!(*replica.controls.lock(), []);
}

async fn ticket(replica: &ApiReplica, authorization: Option<&str>) -> ApiResponse {
    let mut request = Request::builder().method(Method::POST).uri("/api/v1/tickets");
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    read(call(replica.api.operations(), request.body(Body::empty()).unwrap()).await).await
}

#[tokio::test]
async fn a_ticket_is_accepted_once() {
    let replica = ApiReplica::new();
    let token = replica.token("alice");
    let answer = ticket(&replica, Some(&format!("Bearer {token}"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (201, "no-store"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let given = answer.json();
    assert_eq!(given["expires_in"], replica.state.config.auth.ticket_ttl.as_secs());
    let text = given["ticket"].as_str().unwrap();
    assert_eq!(text.len(), 22, "128 bits");
    assert_eq!(replica.state.registry.take_ticket(text).await.unwrap().as_deref(), Some(token.as_str()));
    assert_eq!(replica.state.registry.take_ticket(text).await.unwrap(), None);
}

#[tokio::test]
async fn a_revoked_token_gets_no_ticket() {
    let replica = ApiReplica::new();
    let (alice, bob) = (replica.token("alice"), replica.token("bob"));
    replica.state.registry.revoke(&UserId::new("alice").unwrap(), Duration::from_secs(60)).await.done().unwrap();
    ticket(&replica, Some(&format!("Bearer {alice}"))).await.problem(403, "user_inactive");
    assert_eq!(ticket(&replica, Some(&format!("Bearer {bob}"))).await.status, 201);
}

#[tokio::test]
async fn tickets_require_a_valid_token() {
    let replica = ApiReplica::new();
    let token = replica.token("alice");
    let forged = format!("Bearer {token}x");
    let key = format!("Bearer {}", replica.key());
    for authorization in [None, Some("Bearer "), Some("Bearer garbage"), Some(forged.as_str()), Some(key.as_str())] {
        let answer = ticket(&replica, authorization).await;
        answer.problem(401, "auth_required");
        assert!(!answer.text.contains(&token[..20]), "a token is never repeated");
    }
    let failures = &replica.state.metrics.auth_failures_total;
    assert_eq!(failures.of(AuthFailure::Missing).get(), 2);
    assert_eq!(failures.of(AuthFailure::Malformed).get() + failures.of(AuthFailure::Signature).get(), 3);
}

#[tokio::test]
async fn tickets_per_user_are_rate_limited() {
    let replica = ApiReplica::new();
    let (alice, bob) = (format!("Bearer {}", replica.token("alice")), format!("Bearer {}", replica.token("bob")));
    let mut issued = 0;
    let refused = loop {
        let answer = ticket(&replica, Some(&alice)).await;
        if answer.status != 201 {
            break answer;
        }
        issued += 1;
        assert!(issued < 1_000, "tickets are not limited");
    };
    assert!(issued >= crate::api::TICKETS_PER_USER.burst, "{issued}");
    refused.problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(replica.state.metrics.rate_limited_total.of(RateScope::Api).get(), 1);
    assert_eq!(ticket(&replica, Some(&bob)).await.status, 201, "other users are not affected");
}
