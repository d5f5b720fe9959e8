//! Invalid tokens, or tokens for another gateway: never accepted in any place, and without a precise reason in
//! production.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::{
    bystander::Bystander,
    client::ConnectRequest,
    replica::{SECRET, TestReplica, TokenBuilder, token},
    wire::{RawConnection, TEXT, frame, upgrade_request},
};

const ELSEWHERE: &str = "another-secret-that-nobody-else-knows-1234567890";
/// A second in the year 2100.
const LATER: u64 = 4_102_444_800;

fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("a token")
}

/// A header and claims as given, with a signature that is valid for them if the algorithm is HS256.
fn spliced(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    format!("{message}.{signature}")
}

/// Invalid tokens for this gateway, by name.
fn bad_tokens() -> Vec<(&'static str, String)> {
    let alice = |more: Value| {
        let mut claims = json!({"sub": "alice", "exp": LATER});
        let more = more.as_object().expect("claims").clone();
        claims.as_object_mut().expect("claims").extend(more);
        claims
    };
    let hs256 = |more: Value| signed(Algorithm::HS256, SECRET, &alice(more));
    let plain = json!({"alg": "HS256", "typ": "JWT"});
    let good = token("alice");
    let (message, signature) = good.rsplit_once('.').expect("a token");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let claims = URL_SAFE_NO_PAD.encode(alice(json!({})).to_string());
    vec![
        ("garbage", "garbage".into()),
        ("three dots", "...".into()),
        ("expired", TokenBuilder::of("alice").expires_in(-60).sign()),
        ("none without a signature", format!("{none}.{claims}.")),
        ("none with a signature", format!("{none}.{claims}.{signature}")),
        ("no signature", format!("{message}.")),
        ("a cut signature", good[..good.len() - 4].into()),
        ("somebody else's signature", signed(Algorithm::HS256, ELSEWHERE, &alice(json!({})))),
        ("HS512 with the right secret", signed(Algorithm::HS512, SECRET, &alice(json!({})))),
        ("HS384 with the right secret", signed(Algorithm::HS384, SECRET, &alice(json!({})))),
        ("hs256 in small letters", spliced(&json!({"alg": "hs256"}), &alice(json!({})))),
        ("RS256 with the secret for a key", spliced(&json!({"alg": "RS256"}), &alice(json!({})))),
        (
            "an extension that must be understood",
            spliced(&json!({"alg": "HS256", "crit": ["x"], "x": 1}), &alice(json!({}))),
        ),
        ("an audience that is not us", hs256(json!({"aud": "somebody-else"}))),
        ("audiences that are not us", hs256(json!({"aud": ["a", "b"]}))),
        ("an end in quotes", hs256(json!({"exp": LATER.to_string()}))),
        ("an end that is negative", hs256(json!({"exp": -1}))),
        ("an end beyond all times", hs256(json!({"exp": 1e300}))),
        ("an end that is null", hs256(json!({"exp": null}))),
        ("no end", spliced(&plain, &json!({"sub": "alice"}))),
        ("a beginning in the future", hs256(json!({"nbf": LATER - 1}))),
        ("issued in the future", hs256(json!({"iat": LATER - 1}))),
        ("no user", spliced(&plain, &json!({"exp": LATER}))),
        ("an empty user", hs256(json!({"sub": ""}))),
        ("a user with a NUL", hs256(json!({"sub": "ali\0ce"}))),
        ("a user that is an object", hs256(json!({"sub": {"name": "alice"}}))),
        ("a user of 10 KB, still short enough for a head", hs256(json!({"sub": "a".repeat(7_000)}))),
        ("channels that are no list", hs256(json!({"channels": "orders"}))),
        ("claims that are no object", spliced(&plain, &json!(["alice"]))),
        ("a token over the limit", format!("{message}.{}", "A".repeat(9_000))),
    ]
}

#[tokio::test]
async fn an_invalid_token_is_refused_in_every_place() {
    let replica = TestReplica::alone_with("[limits]\nhandshakes_per_address = { per_second = 0, burst = 1 }").await;
    let mut bystander = Bystander::at(&replica).await;
    for (what, bad) in bad_tokens() {
        for path in ["/ws/trading", "/ws", "/ws/backtest/run-1", "/ws/ingest"] {
            replica.connect(path).name(what).token(&bad).expect_refused(401).await;
            let refusal_code = if path == "/ws/trading" || path == "/ws/ingest" { 4001 } else { 1008 };
            let by_page = replica.connect(path).name(what).token(&bad).origin("https://app.example");
            assert_eq!(by_page.expect_closed(refusal_code).await, "Invalid token", "{what}");
        }
        let bearer = format!("Bearer {bad}");
        let refusal =
            replica.connect("/ws/trading").name(what).header("authorization", &bearer).expect_refused(401).await;
        assert!(!refusal.body.contains(&bad), "{what}: {refusal:?}");
        let protocols = format!("tickgate.v1, bearer.{bad}");
        replica
            .connect("/ws/trading")
            .name(what)
            .header("sec-websocket-protocol", &protocols)
            .expect_closed(4001)
            .await;

        let mut late = replica.connect("/ws/trading").name(what).query("auth", "message").open().await;
        late.send(json!({"type": "auth", "token": bad})).await;
        let answer = late.expect_error(4001).await;
        assert!(!answer.to_string().contains(&bad), "{what}: {answer}");
        late.expect_close(4001).await;

        let ticket = replica.api("POST", "/api/v1/tickets", &[("authorization", &bearer)], None).await;
        assert_eq!(ticket.status, 401, "{what}: {ticket:?}");
        bystander.is_alone_after(what).await;
    }
}

#[tokio::test]
async fn a_missing_token_is_requested() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let refusal = replica.connect("/ws/trading").expect_refused(401).await;
    assert!(refusal.body.contains("4001"), "{refusal:?}");
    replica.connect("/ws/trading").token("").expect_refused(401).await;
    replica.connect("/ws/trading").header("authorization", "Bearer ").expect_refused(401).await;
    replica.connect("/ws/trading").header("authorization", "Basic YWxpY2U6c2VjcmV0").expect_refused(401).await;
    replica.connect("/ws/trading").query("ticket", "never-given").expect_refused(401).await;
    bystander.is_alone_after("missing tokens").await;
}

/// Clients that expect close codes preceded by an error get both if the endpoint is configured so.
#[tokio::test]
async fn an_endpoint_can_close_every_client_that_it_refuses() {
    let settings = r#"
        [limits]
        connections_per_user_max = 1
        [[profiles]]
        name = "old"
        path = "/ws/old"
        token = "required"
        refusal_code = 1008
        refusals = "close"
        channels = [{ name = "ticker:*" }]
    "#;
    let replica = TestReplica::alone_with(settings).await;
    let closed = async |what: &str, request: ConnectRequest, code: u16, reason: &str| {
        let mut client = request.name(what).open().await;
        let error = client.expect_error(code).await;
        // In development mode it contains more.
        assert!(error["message"].as_str().unwrap().starts_with(reason), "{what}: {error}");
        assert_eq!(client.expect_close(code).await, reason, "{what}");
    };
    let at = || replica.connect("/ws/old");
    closed("without a token", at(), 1008, "Authentication required").await;
    closed("with a bad token", at().token("x.y.z"), 1008, "Invalid token").await;
    let page = at().token("x.y.z").origin("https://app.example");
    closed("a page with a bad token", page, 1008, "Invalid token").await;
    let mut alice = at().token(&token("alice")).open().await;
    alice.greeted().await;
    let again = at().token(&token("alice"));
    closed("over the limit of a user", again, 4003, "Maximum connections exceeded").await;
    let mut native = at().header("sec-websocket-protocol", "tickgate.v1, bearer.x.y.z").open().await;
    native.expect_type("closing").await;
    native.expect_close(1008).await;
    // An invalid handshake is answered like everywhere else.
    assert_eq!(replica.get("/ws/old").await.status, 400);
}

#[tokio::test]
async fn a_configured_audience_and_issuer_are_required() {
    let replica = TestReplica::alone_with("[auth]\naudience = \"gateway\"\nissuer = \"bank\"").await;
    let claims = |more: &Value| {
        let mut claims = json!({"sub": "alice", "exp": LATER});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        signed(Algorithm::HS256, SECRET, &claims)
    };
    for bad in [
        json!({}),
        json!({"aud": "gateway"}),
        json!({"iss": "bank"}),
        json!({"iss": "bank", "aud": "gateways"}),
        json!({"iss": "bank", "aud": []}),
        json!({"iss": "bank", "aud": {"gateway": 1}}),
        json!({"iss": ["bank"], "aud": "gateway"}),
        json!({"iss": "Bank", "aud": "gateway"}),
    ] {
        replica.connect("/ws/trading").token(&claims(&bad)).expect_refused(401).await;
    }
    for good in [json!({"iss": "bank", "aud": "gateway"}), json!({"iss": "bank", "aud": ["x", "gateway"]})] {
        replica.connect("/ws/trading").token(&claims(&good)).open().await.close().await;
    }
}

#[tokio::test]
async fn a_token_of_100_kb_is_refused_in_every_place() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let long = format!("{}.e30.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), "A".repeat(100_000));
    let requests = [
        upgrade_request(&format!("/ws/trading?token={long}"), ""),
        upgrade_request("/ws/trading", &format!("Authorization: Bearer {long}\r\n")),
        upgrade_request("/ws/trading", &format!("Sec-WebSocket-Protocol: tickgate.v1, bearer.{long}\r\n")),
    ];
    for request in requests {
        let mut wire = RawConnection::connect(replica.address()).await;
        wire.send(request.as_bytes()).await;
        let (status, _) = wire.answer_head().await.expect("an answer");
        assert!([414, 431].contains(&status), "{status}");
        bystander.is_alone_after("a long token in a head").await;
    }
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/trading?auth=message").await;
    wire.send(&frame(TEXT, json!({"type": "auth", "token": long}).to_string().as_bytes())).await;
    wire.expect_close(1009, "a long token in a message").await;
    bystander.is_alone_after("a long token in a message").await;
    let mut wire = RawConnection::upgraded(replica.address(), "/ws/trading?auth=message").await;
    let shorter = json!({"type": "auth", "token": long[..60_000]});
    wire.send(&frame(TEXT, shorter.to_string().as_bytes())).await;
    let said = wire.expect_close(4001, "a long token that fits a message").await;
    assert!(
        said.iter().any(|text| text.contains("4001")) && !said.iter().any(|text| text.contains("AAAA")),
        "{said:?}"
    );
    bystander.is_alone_after("a long token that fits a message").await;
}

/// In development mode the client receives the cause; in production only the log and the metric contain it.
#[tokio::test]
async fn the_cause_of_a_refusal_is_sent_in_development_only() {
    let expired = TokenBuilder::of("alice").expires_in(-600).sign();
    for (mode, detail) in [("development", "Invalid token: the token is expired"), ("production", "Invalid token")] {
        let replica = TestReplica::alone_with(&format!("[server]\nmode = \"{mode}\"\n")).await;
        let refusal = replica.connect("/ws/trading").token(&expired).expect_refused(401).await;
        let problem: Value = serde_json::from_str(&refusal.body).unwrap();
        assert_eq!(problem["detail"], detail);
        let page = replica.connect("/ws/trading").token(&expired).origin("https://app.example");
        assert_eq!(page.expect_closed(4001).await, "Invalid token");
        assert_eq!(replica.metric("tickgate_auth_failures_total{reason=\"expired\"}").await, 2.0);
    }
}
