//! Publications by backends, single and in batches, and every refusal.

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use serde_json::{Value, json};

use super::{ApiReplica, call, read};
use crate::metrics::{PublicationClass, PublicationSource, PublishResult};

const PUBLISH: &str = "/api/v1/publish";

#[tokio::test]
async fn a_publication_is_answered_with_its_id_and_stored_unchanged() {
    let replica = ApiReplica::new();
    let body = r#"{"channel":"orders","user":"alice","data":{"z":1.10,  "a":"\u00e9","n":0.1e-7}}"#;
    let answer = replica.post(PUBLISH, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let accepted = answer.json();
    assert_eq!(accepted["duplicate"], false);

    let history = replica.ops_get("/api/v1/topics/orders/history?user=alice").await;
    assert!(history.text.contains(r#"{"z":1.10,  "a":"\u00e9","n":0.1e-7}"#), "{}", history.text);
    assert_eq!(history.json()["messages"][0]["id"], accepted["id"]);
}

#[tokio::test]
async fn parameters_next_to_a_body_are_refused_and_nothing_is_published() {
    let replica = ApiReplica::new();
    for path in [PUBLISH, "/api/v1/publish/batch", "/api/v1/send", "/api/v1/disconnect"] {
        let answer = replica.post(&format!("{path}?user=alice"), r#"{"channel":"logs","data":{}}"#).await;
        assert!(answer.status == 400 && answer.text.contains("everything is in the body"), "{path}: {}", answer.text);
    }
    let history = replica.ops_get("/api/v1/topics/logs/history").await.json();
    assert_eq!(history["messages"], json!([]));
}

#[tokio::test]
async fn the_same_msg_id_in_body_or_header_is_published_once() {
    let replica = ApiReplica::new();
    let body = r#"{"channel":"logs","data":{"n":1},"msg_id":"m-1"}"#;
    let first = replica.post(PUBLISH, body).await.json();
    let second = replica.post(PUBLISH, body).await.json();
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(first["id"], second["id"]);

    let mut ids = Vec::new();
    for duplicate in [false, true] {
        let request = Request::post(PUBLISH)
            .header("authorization", format!("Bearer {}", replica.key()))
            .header("content-type", "application/json; charset=utf-8")
            .header("idempotency-key", "m-2")
            .body(Body::from(r#"{"channel":"logs","data":{"n":2}}"#))
            .unwrap();
        let answer = read(call(replica.api.operations(), request).await).await.json();
        assert_eq!(answer["duplicate"], duplicate);
        ids.push(answer["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    let history = replica.ops_get("/api/v1/topics/logs/history").await.json();
    assert_eq!(history["messages"].as_array().unwrap().len(), 2);
    let duplicates = (PublicationSource::Http, PublicationClass::Reliable, PublishResult::Duplicate);
    assert_eq!(replica.state.metrics.publications_total.of(duplicates).get(), 2);
}

#[tokio::test]
async fn invalid_publications_are_refused_with_the_expected_form() {
    let replica = ApiReplica::new();
    let wrong = [
        "",
        "null",
        "[]",
        "{",
        "{}",
        r#"{"channel":"logs"}"#,
        r#"{"data":{}}"#,
        r#"{"channel":1,"data":{}}"#,
        r#"{"channel":"a,b","data":{}}"#,
        r#"{"channel":"","data":{}}"#,
        r#"{"channel":"a\u0000b","data":{}}"#,
        r#"{"channel":"@@alice","data":{}}"#,
        r#"{"channel":"logs","channel":"logs","data":{}}"#,
        r#"{"channel":"logs","data":1}"#,
        r#"{"channel":"logs","data":[]}"#,
        r#"{"channel":"logs","data":{"_meta":{}}}"#,
        r#"{"channel":"logs","data":{},"msgid":"a"}"#,
        r#"{"channel":"logs","data":{},"msg_id":""}"#,
        r#"{"channel":"logs","data":{},"msg_id":7}"#,
        r#"{"channel":"orders","data":{},"user":""}"#,
        r#"{"channel":"logs","data":{}} {}"#,
    ];
    for body in wrong {
        replica.post(PUBLISH, body).await.problem(400, "invalid_message");
    }
    let deep = format!(r#"{{"channel":"logs","data":{}1{}}}"#, r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    replica.post(PUBLISH, &deep).await.problem(400, "invalid_message");
    let history = replica.ops_get("/api/v1/topics/logs/history").await.json();
    assert_eq!(history["messages"], json!([]), "nothing was published");
}

#[tokio::test]
async fn type_and_size_of_the_body_are_checked() {
    let replica = ApiReplica::with(|config| {
        config.limits.body_bytes_max = 1_000;
        config.limits.payload_bytes_max = 500;
    });
    for form in [None, Some("text/plain"), Some("application/jsonx"), Some("application/x-www-form-urlencoded")] {
        let answer = replica.ops(Method::POST, PUBLISH, form, r#"{"channel":"logs","data":{}}"#).await;
        answer.problem(415, "unsupported_media_type");
    }
    let with_text = |bytes: usize| format!(r#"{{"channel":"logs","data":{{"t":"{}"}}}}"#, "x".repeat(bytes));
    assert_eq!(replica.post(PUBLISH, &with_text(492)).await.status, 200);
    replica.post(PUBLISH, &with_text(493)).await.problem(413, "message_too_big");
    replica.post(PUBLISH, &with_text(2_000)).await.problem(413, "message_too_big");

    // Without a declared length, the body is read only up to the limit.
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::convert::Infallible>("x".repeat(100)));
    let answer = replica.ops(Method::POST, PUBLISH, Some("application/json"), Body::from_stream(endless)).await;
    answer.problem(413, "message_too_big");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let replica = ApiReplica::new().impatient();
    let silent = futures_util::stream::pending::<Result<String, std::convert::Infallible>>();
    let answer = replica.ops(Method::POST, PUBLISH, Some("application/json"), Body::from_stream(silent)).await;
    answer.problem(408, "request_timeout");
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_one_failure_stops_nothing() {
    let replica = ApiReplica::new();
    let body = r#"{"publications":[
        {"channel":"logs","data":{"n":0}},
        {"channel":"logs"},
        {"channel":"logs","data":{"n":2}},
        7,
        {"channel":"no,way","data":{"n":4}},
        {"channel":"logs","data":{"n":5}}
    ]}"#;
    let answer = replica.post("/api/v1/publish/batch", body).await.json();
    let results = answer["results"].as_array().unwrap();
    let kinds: Vec<_> = results.iter().map(|result| result.get("error").map(|e| e.as_str().unwrap())).collect();
    let bad = Some("invalid_message");
    assert_eq!(kinds, [None, bad, None, bad, bad, None]);
    assert!(results.iter().all(|result| result.get("line").is_none()));

    let history = replica.ops_get("/api/v1/topics/logs/history").await.json();
    let messages = history["messages"].as_array().unwrap();
    let stored: Vec<_> = messages.iter().map(|message| (&message["data"]["n"], &message["id"])).collect();
    let answered = [(json!(0), &results[0]["id"]), (json!(2), &results[2]["id"]), (json!(5), &results[5]["id"])];
    assert_eq!(stored, answered.iter().map(|(n, id)| (n, *id)).collect::<Vec<(&Value, &Value)>>());
}

#[tokio::test]
async fn the_form_and_size_of_batches_are_checked() {
    let replica = ApiReplica::new();
    for body in ["[]", "{}", r#"{"publications":{}}"#, r#"{"publications":[],"x":1}"#] {
        replica.post("/api/v1/publish/batch", body).await.problem(400, "invalid_message");
    }
    let many = |count: usize| format!(r#"{{"publications":[{}]}}"#, vec!["1"; count].join(","));
    assert_eq!(replica.post("/api/v1/publish/batch", &many(1_000)).await.status, 200);
    replica.post("/api/v1/publish/batch", &many(1_001)).await.problem(413, "message_too_big");
}

#[tokio::test]
async fn an_invalid_idempotency_key_is_refused() {
    let replica = ApiReplica::new();
    let publish = async |keys: &[&[u8]]| {
        let mut request = Request::post("/api/v1/publish")
            .header("x-api-key", replica.key())
            .header(header::CONTENT_TYPE, "application/json");
        for key in keys {
            request = request.header("idempotency-key", *key);
        }
        let body = Body::from(r#"{"channel":"a:b","data":{}}"#);
        read(call(replica.api.operations(), request.body(body).unwrap()).await).await
    };
    publish(&["clé".as_bytes()]).await.problem(400, "invalid_message");
    publish(&[b"one", b"two"]).await.problem(400, "invalid_message");
    assert_eq!(publish(&[b"one"]).await.status, 200);
}
