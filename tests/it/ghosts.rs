//! After a crash, the connections left by a dead replica do not block clients that return with a session, however they
//! authenticate, and whether they had subscriptions or not.

use serde_json::{Value, json};

use crate::support::{
    client::TestClient,
    eventually,
    redis::RedisServer,
    replica::{TestReplica, token},
};

/// Every way to pass a token, and whether the client uses the explicit mode.
const WAYS: [(&str, bool); 8] = [
    ("header", false),
    ("parameter", false),
    ("ticket", false),
    ("message", false),
    ("header", true),
    ("sub-protocol", true),
    ("ticket", true),
    ("message", true),
];

/// Connects; returns the welcome, or the refusal.
async fn enter(
    replica: &TestReplica,
    user: &str,
    (way, explicit): (&str, bool),
    session: Option<&str>,
) -> (TestClient, Value) {
    let token = token(user);
    let mut request = replica.connect("/ws/trading").name(&format!("{user} by {way}"));
    if let Some(session) = session {
        request = request.query("session", session);
    }
    request = match (way, explicit) {
        ("header", _) => request.header("authorization", &format!("Bearer {token}")),
        ("parameter", _) => request.query("token", &token),
        ("ticket", _) => request.query("ticket", &replica.ticket(&token).await),
        ("message", false) => request.query("auth", "message"),
        _ => request,
    };
    if explicit {
        let bearer = if way == "sub-protocol" { format!(", bearer.{token}") } else { String::new() };
        request = request.header("sec-websocket-protocol", &format!("tickgate.v1{bearer}"));
    } else {
        // Browsers receive a Close frame, too.
        request = request.origin("http://localhost");
    }
    let mut client = request.open().await;
    if way == "message" {
        client.send(json!({"type": "auth", "id": "auth", "token": token})).await;
    }
    let first = client
        .next_text()
        .await
        .map_or_else(|(code, _)| json!({ "code": code }), |text| serde_json::from_str(&text).unwrap());
    if first["type"] == "connection_established" && way == "message" {
        assert_eq!(client.next().await["type"], "authenticated");
    }
    (client, first)
}

#[tokio::test]
async fn a_client_with_a_session_returns_at_once_by_every_way_to_authenticate() {
    let server = RedisServer::start();
    // The left connections stay for longer than the test.
    let settings = "[session]\nreplica_ttl = \"60s\"\n[limits]\nconnections_per_user_max = 1";
    let (one, other) = (TestReplica::on_with(&server, settings).await, TestReplica::on_with(&server, settings).await);
    let mut ghosts = Vec::new();
    for (at, way) in WAYS.into_iter().enumerate() {
        let user = format!("user-{at}");
        let (mut client, welcome) = enter(&one, &user, way, None).await;
        assert_eq!(welcome["type"], "connection_established", "{way:?}: {welcome}");
        if at % 2 == 0 {
            client.subscribe(&["orders"]).await;
        }
        ghosts.push((user, way, welcome["session"].as_str().unwrap().to_owned(), client));
    }
    eventually("all on record", async || {
        let records: Vec<String> = server.run(&["KEYS", "*{s:*"]).await;
        let mut own = 0;
        for record in &records {
            let text: Option<String> = server.run(&["GET", record]).await;
            // A client that sends the token in a message is anonymous until then.
            own += usize::from(text.is_some_and(|text| text.contains("user-")));
        }
        (own == ghosts.len()).then_some(())
    })
    .await;
    one.kill();
    for (user, way, session, _ghost) in ghosts {
        let (_, refused) = enter(&other, &user, way, None).await;
        assert_eq!(refused["code"], 4003, "{way:?}: the ghost has the one place of {user}: {refused}");
        let (mut back, welcome) = enter(&other, &user, way, Some(&session)).await;
        let resumed = (&welcome["type"], &welcome["resumed"]);
        assert_eq!(resumed, (&json!("connection_established"), &json!(true)), "{way:?}: {welcome}");
        back.subscribe(&["orders"]).await;
        let id = other.publish_to(&user, "orders", json!({"of": user})).await;
        assert_eq!(back.expect(json!({"of": user})).await, json!({"channel": "orders", "id": id}), "{way:?}");
    }
}
