//! Refused requests to the HTTP API, each with its status and problem details.

use serde_json::{Value, json};

use crate::support::{
    bystander::Bystander,
    replica::{API_KEY, TestReplica, token},
    wire::RawConnection,
};

const KEY: (&str, &str) = ("x-api-key", API_KEY);
const JSON: (&str, &str) = ("content-type", "application/json");

fn good() -> Value {
    json!({"channel": "trades:OTHER", "data": {"type": "trade"}})
}

#[tokio::test]
async fn a_publication_without_the_right_is_refused() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let (bearer, basic) = (format!("Bearer {}", token("alice")), "Basic YWxpY2U6c2VjcmV0".to_owned());
    let almost = API_KEY[..API_KEY.len() - 1].to_owned();
    let credentials: [(&str, Vec<(&str, &str)>); 6] = [
        ("no key", vec![]),
        ("an empty key", vec![("x-api-key", "")]),
        ("a wrong key", vec![("x-api-key", "an-api-key-of-somebody-else-1234567890-1234567890")]),
        ("almost the key", vec![("x-api-key", &almost)]),
        ("a user's token", vec![("authorization", &bearer)]),
        ("a password", vec![("authorization", &basic)]),
    ];
    for (what, credential) in credentials {
        for (method, path) in [
            ("POST", "/api/v1/publish"),
            ("POST", "/api/v1/publish/batch"),
            ("POST", "/api/v1/disconnect"),
            ("GET", "/api/v1/connections"),
            ("GET", "/api/v1/users/alice"),
            ("GET", "/api/v1/topics"),
        ] {
            let headers: Vec<_> = credential.iter().copied().chain([JSON]).collect();
            let answer = replica.api(method, path, &headers, Some(good().to_string())).await;
            assert_eq!(answer.status, 401, "{method} {path} with {what}: {answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        }
        bystander.is_unharmed_by(what).await;
    }
}

#[tokio::test]
async fn a_body_of_the_wrong_size_type_or_content_is_refused() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let deep = format!(r#"{{"channel":"trades:CALM","data":{{"a":{}1{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let publication = |channel: &str, data: &str| format!(r#"{{"channel":"{channel}","data":{data}}}"#);
    let rows: Vec<(&str, (&str, &str), String, u16)> = vec![
        ("no content type", ("x-nothing", "x"), good().to_string(), 415),
        ("plain text", ("content-type", "text/plain"), good().to_string(), 415),
        ("a form", ("content-type", "application/x-www-form-urlencoded"), good().to_string(), 415),
        ("something like JSON", ("content-type", "application/jsonp"), good().to_string(), 415),
        ("a body over the limit", JSON, "x".repeat(1_048_577), 413),
        ("a body of 10 MB", JSON, "x".repeat(10_000_000), 413),
        (
            "a payload over its limit",
            JSON,
            publication("trades:CALM", &format!(r#"{{"x":"{}"}}"#, "x".repeat(65_536))),
            413,
        ),
        ("nothing", JSON, String::new(), 400),
        ("not JSON", JSON, "hello".into(), 400),
        ("a scalar", JSON, "42".into(), 400),
        ("two objects", JSON, format!("{0}{0}", good()), 400),
        ("a missing field", JSON, json!({"channel": "trades:CALM"}).to_string(), 400),
        ("an unknown field", JSON, json!({"channel": "trades:CALM", "data": {}, "msgid": "a"}).to_string(), 400),
        ("data that is a list", JSON, publication("trades:CALM", "[1]"), 400),
        ("data that is a number", JSON, publication("trades:CALM", "1"), 400),
        ("data nested too deeply", JSON, deep, 400),
        ("data with a key twice", JSON, publication("trades:CALM", r#"{"a":1,"a":2}"#), 400),
        ("data with 1e400", JSON, publication("trades:CALM", r#"{"a":1e400}"#), 400),
        ("data with _meta", JSON, publication("trades:CALM", r#"{"_meta":1}"#), 400),
        ("data with an escaped _meta", JSON, publication("trades:CALM", r#"{"\u005fmeta":1}"#), 400),
        ("a channel with a NUL", JSON, publication("trades:\\u0000", "{}"), 400),
        ("a channel with a line break", JSON, publication("trades:\\r\\nX", "{}"), 400),
        ("a channel that is a pattern", JSON, publication("trades:*", "{}"), 400),
        ("an inner name", JSON, publication("@@alice", "{}"), 400),
        ("a long channel", JSON, publication(&"x".repeat(201), "{}"), 400),
        ("a user that is none", JSON, json!({"channel": "orders", "user": "", "data": {}}).to_string(), 400),
        ("a user with a NUL", JSON, json!({"channel": "orders", "user": "a\0", "data": {}}).to_string(), 400),
        ("an empty msg_id", JSON, json!({"channel": "trades:CALM", "data": {}, "msg_id": ""}).to_string(), 400),
        (
            "a long msg_id",
            JSON,
            json!({"channel": "trades:CALM", "data": {}, "msg_id": "m".repeat(129)}).to_string(),
            400,
        ),
    ];
    for (what, kind, body, status) in rows {
        let answer = replica.api("POST", "/api/v1/publish", &[KEY, kind], Some(body)).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{what}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {problem}");
        bystander.is_unharmed_by(what).await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_blocks_nothing() {
    let replica = TestReplica::alone().await;
    let mut bystander = Bystander::at(&replica).await;
    let head = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {API_KEY}\r\nContent-Type: application/json\r\n"
    );
    let mut announced = RawConnection::connect(replica.operations()).await;
    announced.send(format!("{head}Content-Length: 9999999999\r\n\r\n").as_bytes()).await;
    assert_eq!(announced.answer_head().await.expect("an answer").0, 413);
    let mut half = RawConnection::connect(replica.operations()).await;
    half.send(format!("{head}Content-Length: 100\r\n\r\n{{\"channel\"").as_bytes()).await;
    half.finish().await;
    // Whatever the response, nothing was published and no one is affected.
    let _ = half.answer_head().await;
    let mut endless = RawConnection::connect(replica.operations()).await;
    endless.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    for _ in 0..20 {
        endless.send(chunk.as_bytes()).await;
    }
    assert_eq!(endless.answer_head().await.expect("an answer").0, 413);
    bystander.is_alone_after("bodies that did not come").await;
}

#[tokio::test]
async fn the_same_msg_id_is_published_once_over_any_transport() {
    let replica = TestReplica::alone().await;
    let mut market = replica.market().await;
    market.subscribe(&["trades:CALM"]).await;
    let mut publication = good();
    publication["channel"] = json!("trades:CALM");
    publication["msg_id"] = json!("m-1");
    let first = replica.api_post("/api/v1/publish", publication.clone()).await.json();
    let again = replica.api_post("/api/v1/publish", publication.clone()).await.json();
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(first["id"], again["id"]);
    let batch = json!({"publications": [publication, publication]});
    let results = replica.api_post("/api/v1/publish/batch", batch).await.json();
    for result in results["results"].as_array().expect("results") {
        assert_eq!((&result["duplicate"], &result["id"]), (&json!(true), &first["id"]), "{results}");
    }
    market.expect(json!({"type": "trade"})).await;
    market.expect_nothing().await;
    // Another publisher's is a different one.
    let right = crate::support::replica::TokenBuilder::of("engine").publish(&["trades:*"]).sign();
    let mut by_socket = publication.clone();
    by_socket["type"] = json!("publish");
    for duplicate in [false, true] {
        let mut engine = replica.connect("/ws/trading").token(&right).open().await;
        engine.greeted().await;
        let answer = engine.ask(by_socket.clone()).await;
        assert_eq!(answer["duplicate"], duplicate, "{answer}");
        assert_ne!(answer["publication_id"], first["id"], "{answer}");
    }
    market.expect(json!({"type": "trade"})).await;
    market.expect_nothing().await;
}
